// What is being drawn, what was drawn, and one picture large: its recipe, redrawing, comparing.
(() => {
  const { h, t } = difflora;
  const MINE = ["pictures", "redraw", "draft"];

  // Places for pictures that come and change: what is shown stays until the next look or the picture itself has loaded.
  difflora.slots = () => {
    const slots = new Map();
    return (ticket, place, { key = `${ticket.id}/${place}`, small = false, keep = false } = {}) => {
      if (slots.size > 200) slots.clear();
      if (!slots.has(key)) slots.set(key, { node: h("span", { class: "slot" }), shown: "", loading: "", ticket: "" });
      const slot = slots.get(key), over = difflora.over(ticket), file = ticket.files[place];
      if (slot.ticket !== ticket.id && !(keep && slot.shown)) { slot.node.replaceChildren(h("span", { class: "blank" })); slot.shown = ""; }
      slot.ticket = ticket.id;
      slot.node.classList.toggle("waiting", !file && !over);
      const alt = small ? "" : file ? t("stage.picture", { prompt: ticket.prompt }) : t("stage.look");
      const want = file ? difflora.picture(file) : ticket.looks[place] && !over ? `/studio/look/${ticket.id}/${place}?v=${ticket.version}` : "";
      if (!want || want === slot.shown || (slot.loading && !file)) return slot.node;
      const next = h("img", { alt, class: file ? null : "look" });
      slot.loading = want;
      next.onload = () => { if (slot.loading === want && slot.ticket === ticket.id) { slot.node.replaceChildren(next); slot.shown = want; } if (slot.loading === want) slot.loading = ""; };
      next.onerror = () => { if (slot.loading === want) slot.loading = ""; };
      next.src = want;
      return slot.node;
    };
  };
  difflora.progress = (ticket) => {
    if (ticket.state === "waiting") return ticket.position ? t("stage.before", { count: ticket.position }) : t("stage.next");
    if (ticket.state === "drawing") return t("stage.drawing", { percent: Math.round(ticket.progress * 100), left: ticket.eta === null ? "" : difflora.clock(ticket.eta) });
    return ticket.state === "failed" ? ticket.error : ticket.state === "cancelled" ? ticket.error || t("stage.cancelled") : "";
  };
  // A line with a bar and a way out, for a ticket that is not over.
  difflora.bar = (ticket, server) => h("div", { class: "bar-row" },
    h("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(ticket.progress * 100), "aria-valuetext": difflora.progress(ticket), "aria-label": t("stage.progress") }, h("i", { style: `width:${ticket.progress * 100}%` })),
    h("span", { class: "bar-words" }, difflora.progress(ticket)),
    h("button", { type: "button", class: "quiet cancel", onclick: () => difflora.call(server.cancel({ id: ticket.id })).then(difflora.poke) }, t("stage.cancel")));

  difflora.widget("stage", stage);
  difflora.widget("history", history);

  function stage({ element, props, watch, server }) {
    const place = h("div", { class: "stage" }), cell = difflora.slots();
    element.append(place);
    difflora.given(props, watch, (value) => difflora.follow(value.ticket));
    const frame = (ticket, i) => h("button", { type: "button", class: "frame", disabled: !ticket.files[i], "aria-label": t("stage.open", { prompt: ticket.prompt }), onclick: () => difflora.open(ticket.files[i]) }, cell(ticket, i, { key: i, keep: ticket.kind === "draft" }));
    const one = (name) => h("div", { class: "grid n1" }, h("button", { type: "button", class: "frame", "aria-label": t("stage.latest"), onclick: () => difflora.open(name) }, h("img", { src: difflora.picture(name), alt: t("stage.latest") })));
    const welcome = () => h("div", { class: "welcome" }, h("h2", {}, t("stage.welcome")), h("p", {}, t("stage.hint")));
    let seen = "";
    difflora.now.on((now) => {
      const mine = now.tickets.filter((x) => MINE.includes(x.kind));
      const active = mine.filter((x) => !difflora.over(x));
      const order = difflora.mine.get();
      const last = mine.sort((a, b) => order.indexOf(a.id) - order.indexOf(b.id)).at(-1);
      const current = active.at(-1) ?? last;
      const key = JSON.stringify([current, active.map((x) => [x.id, x.version, x.position]), now.newest]);
      if (key === seen) return;
      seen = key;
      if (!current) return difflora.fill(place, now.newest ? one(now.newest) : welcome());
      const places = current.kind === "redraw" ? [current.facts.row] : current.files.map((_, i) => i);
      const grid = h("div", { class: `grid n${Math.min(places.length, 9)}`, style: `--ratio:${current.shape[0]}/${current.shape[1]}` }, places.map((i) => frame(current, i)));
      difflora.fill(place, grid, active.map((x) => difflora.bar(x, server)), difflora.over(current) && current.error && h("p", { class: "bad" }, current.error));
    });
  }

  function history({ element, trigger, server }) {
    const grid = h("div", { class: "wall" });
    const more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => load(names.length) }, t("history.more"));
    const count = h("span", { class: "count" });
    let names = [], state = "", shots = new Map(); // by name: a picture that is shown already stays as it is
    element.append(h("div", { class: "shelf-head" }, h("h2", {}, t("history.title")), count), grid, more);
    const shot = (name) => h("button", { type: "button", class: "shot", "data-name": name, "aria-label": t("history.open", { name }), onclick: () => difflora.open(name) },
      h("img", { src: difflora.picture(name, true), alt: "", loading: "lazy" }));
    async function load(start) {
      const page = await difflora.json(`/studio/history?start=${start}`);
      names = start ? [...names, ...page.names] : page.names;
      more.hidden = page.total <= names.length;
      count.textContent = page.total || "";
      shots = new Map(names.map((name) => [name, shots.get(name) ?? shot(name)]));
      difflora.fill(grid, ...shots.values(), !names.length && h("p", { class: "empty" }, t("history.none")));
    }
    difflora.now.on((now) => { const key = `${now.history} ${now.newest}`; if (key !== state) { state = key; load(0); } });
    difflora.open = viewer(element, trigger, server, () => names);
  }

  function viewer(element, trigger, server, names) {
    let first = null; // the picture that was put aside to compare with
    const body = h("div", { class: "viewer-body" });
    const box = h("dialog", { class: "viewer", "aria-label": t("viewer.title") }, h("button", { type: "button", class: "icon close", "aria-label": t("close"), onclick: () => box.close() }, "×"), body);
    box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], at = names().indexOf(box.dataset.name);
      if (step && at >= 0 && event.target.type !== "range" && names()[at + step]) show(names()[at + step]);
    });
    document.body.append(box);
    async function show(name) {
      const row = await difflora.json(`/studio/recipe/${name.split("/").map(encodeURIComponent).join("/")}`);
      box.dataset.name = name;
      if (row.error) difflora.say(row.error, true);
      difflora.fill(body, h("div", { class: "viewer-picture" }, h("img", { src: difflora.picture(name), alt: row.recipe ? row.recipe.prompt : name })), about(name, row));
      if (!box.open) box.showModal();
    }
    function about(name, row) {
      const r = row.recipe;
      const act = (words, what, extra = {}) => h("button", { type: "button", onclick: what, ...extra }, words);
      const facts = !r ? [] : [["prompt", r.prompt], ["negative", r.negative], ["styles", r.styles.length ? r.styles.map(one) : t("viewer.plain")],
        ["budget", r.styles.length > 1 ? t(`budget.${r.budget}`) : ""], ["orthogonal", r.orthogonal || ""], ["switch", r.switch ? t("viewer.turns", { steps: r.switch }) : ""],
        ["seed", r.seed], ["size", `${r.width} × ${r.height}`], ["steps", `${r.steps}, ${r.sampler || t("viewer.own")}`], ["guidance", r.guidance], ["base", r.base]].filter(([, value]) => value !== "");
      return h("div", { class: "viewer-about" }, h("dl", {}, facts.map(([key, value]) => [h("dt", {}, t(`recipe.${key}`)), h("dd", {}, Array.isArray(value) ? value : String(value))])),
        h("div", { class: "acts" },
          r && act(t("viewer.use"), () => { trigger("select", { name }); box.close(); }, { class: "primary" }),
          row.other && act(t("viewer.base", { base: row.other }), async () => { box.close(); if (await difflora.openBase(row.other)) show(name); }),
          r && !row.other && act(t("viewer.redraw"), async () => { const id = await difflora.call(server.redraw({ name })); if (id) { difflora.follow(id); difflora.compareWhenDone(id, name, show2); } }),
          first && first !== name ? act(t("viewer.compare"), () => show2(first, name)) : act(t("viewer.first"), () => { first = name; difflora.say(t("viewer.second")); box.close(); }),
          h("a", { class: "as-button", href: difflora.picture(name), download: name.split("/").pop() }, t("viewer.download")),
          !name.includes("/") && act(t("viewer.delete"), async () => { if (await difflora.call(server.throw_away({ name }))) { box.close(); difflora.poke(); } }, { class: "danger" })));
    }
    // A style of a recipe: as it was asked for, what of it has a weight of its own, and what the budget made of it.
    function one(s) {
      const acts = Math.abs(s.acts - s.weight) < 0.005 ? "" : t("mixer.acts", { weight: difflora.number(s.acts) });
      const rest = [s.here ? "" : t("viewer.gone"), acts, difflora.tuned(s)].filter(Boolean).join(" · ");
      return h("div", {}, `${s.name} ${difflora.number(s.weight)}`, rest && h("small", {}, rest));
    }
    function show2(a, b, words = "") {
      const top = h("img", { src: difflora.picture(b), alt: t("compare.right") });
      const slide = h("input", { type: "range", min: 0, max: 100, value: 50, class: "wipe", "aria-label": t("compare.slide") });
      const pair = h("div", { class: "pair", style: "--cut:50%" }, h("img", { src: difflora.picture(a), alt: t("compare.left") }), top, h("i"), slide);
      slide.addEventListener("input", () => pair.style.setProperty("--cut", `${slide.value}%`));
      box.dataset.name = "";
      difflora.fill(body, h("div", { class: "viewer-picture" }, pair), h("div", { class: "viewer-about" }, h("h2", {}, t("compare.title")), words && h("p", { class: "verdict" }, words),
        h("p", { class: "ab" }, h("b", {}, "A"), " ", a.split("/").pop(), h("br"), h("b", {}, "B"), " ", b.split("/").pop()), h("p", { class: "empty" }, t("compare.help")),
        h("div", { class: "acts" }, h("button", { type: "button", onclick: () => show2(b, a, words) }, t("compare.swap")), h("button", { type: "button", onclick: () => { first = null; show(b); } }, t("compare.done")))));
      if (!box.open) box.showModal();
    }
    difflora.compare = show2;
    return show;
  }

  // A picture drawn again from its recipe is the same one: say so, and show both.
  difflora.compareWhenDone = (id, name, show) => {
    difflora.say(t("viewer.redrawing"));
    const look = async (now) => {
      const ticket = now.tickets.find((x) => x.id === id);
      if (!ticket || !difflora.over(ticket) || look.done) return;
      look.done = true;
      const file = ticket.files[ticket.facts.row];
      if (file) show(name, file, t((await difference(name, file)) === 0 ? "compare.same" : "compare.differs"));
    };
    difflora.now.on(look);
  };
  async function difference(a, b) {
    const [x, y] = await Promise.all([a, b].map(pixels));
    let most = 0;
    for (let i = 0; i < x.length; i++) most = Math.max(most, Math.abs(x[i] - y[i]));
    return x.length === y.length ? most : 255;
  }
  async function pixels(name) {
    const bitmap = await createImageBitmap(await (await fetch(difflora.picture(name))).blob());
    const sheet = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    sheet.drawImage(bitmap, 0, 0);
    return sheet.getImageData(0, 0, bitmap.width, bitmap.height).data;
  }
  difflora.difference = difference;
})();
