// The plan and the runs: they belong to the server, any page can watch them. A card is built once and mended where
// something changed, so that scrolled walls and half-typed numbers stay as they are.
(() => {
  const { h, t } = difflora;
  const LIVE = ["running", "starting"], RESTING = ["paused", "failed", "finished"];

  let begun = false; // a training was started on this page, and its card is yet to come

  difflora.widget("plan", ({ element, props, watch }) => {
    const place = h("div", { class: "plan", "aria-live": "polite" });
    element.append(place);
    let measured = null;
    watch("value", () => {
      let p = props.value;
      if (!p) return;
      if (p.error) { begun = false; difflora.fill(place); return difflora.say(p.error, true); }
      if (p.measuring) return difflora.fill(place, h("p", { class: "hint waiting" }, t("plan.measuring")));
      if (p.minutes) measured = p;
      // What starts as it was planned takes what was measured.
      else if (measured && ["pictures", "resolution", "rank", "steps", "batch", "layers"].every((k) => p[k] === measured[k])) p = { ...p, minutes: measured.minutes, memory: measured.memory };
      const rows = [
        ["name", p.name + (p.taken ? ` — ${t("plan.taken")}` : "")],
        ["pictures", `${p.pictures}, ${p.resolution} px` + (p.holdout ? ` — ${t("plan.kept", { count: p.holdout })}` : "")],
        p.buckets.includes(",") && ["sizes", p.buckets],
        ["captions", p.captions], ["trigger", p.trigger || t("plan.notrigger")],
        ["adapter", t("plan.rank", { rank: p.rank, alpha: difflora.number(p.alpha), layers: p.layers })],
        ["steps", t("plan.amount", { steps: p.steps, batch: p.batch, rate: p.learning_rate }) + (p.micro_batch < p.batch ? ` — ${t("plan.micro", { count: p.micro_batch })}` : "")],
        ["device", `${p.device}, ${p.precision}`],
        p.minutes && ["takes", t("plan.measured", { time: difflora.clock(p.minutes * 60), memory: p.memory.toFixed(1) })],
      ].filter(Boolean);
      difflora.fill(place, h("dl", {}, rows.map(([k, v]) => [h("dt", {}, t(`plan.${k}`)), h("dd", {}, String(v))])), h("ul", { class: "reasons" }, p.reasons.map((why) => h("li", {}, why))));
    });
  });

  difflora.widget("runs", ({ element, server }) => {
    const head = h("div"), list = h("div", { class: "runs" }), cards = new Map();
    element.append(head, list);
    let seen = "", asking = false, states = new Map();
    document.getElementById("start")?.addEventListener("click", () => { begun = true; });
    difflora.now.on(async (now) => {
      if (asking || !element.offsetParent && seen) return;
      asking = true;
      try {
        const { rows } = await difflora.json("/studio/runs");
        const key = JSON.stringify(rows);
        if (key !== seen) { seen = key; show(rows); }
      } catch { /* the poller says when the studio is away */ }
      asking = false;
    });
    function show(rows) {
      difflora.fill(head, h("div", { class: "shelf-head" }, h("h2", {}, t("runs.title")), h("span", { class: "count" }, rows.length || "")), rows.some((r) => r.state === "running") && h("p", { class: "hint" }, t("about.turns")), !rows.length && h("p", { class: "empty" }, t("runs.none")));
      const names = new Set(rows.map((row) => row.name));
      for (const [name, card] of cards) if (!names.has(name)) { card.node.remove(); cards.delete(name); }
      const fresh = rows.filter((row) => !LIVE.includes(states.get(row.name)) && [...LIVE, "queued"].includes(row.state)).map((row) => row.name);
      states = new Map(rows.map((row) => [row.name, row.state]));
      const newest = rows.find((row) => row.state === "finished")?.name;
      const held = list.contains(document.activeElement) ? document.activeElement : null;
      rows.forEach((row, i) => {
        if (!cards.has(row.name)) cards.set(row.name, card(row.name, server, row.name === newest));
        const one = cards.get(row.name);
        one.update(row);
        // What stands right already is left alone: to move it would scroll it back.
        if (list.children[i] !== one.node) list.insertBefore(one.node, list.children[i] ?? null);
        if (begun && fresh.includes(row.name)) { begun = false; one.node.scrollIntoView({ behavior: "smooth", block: "center" }); }
      });
      if (held?.isConnected && document.activeElement !== held) held.focus({ preventScroll: true });
    }
  });

  // A place that is filled anew only when what it shows has changed.
  function part(node) {
    let seen;
    return { node, show: (key, make) => { key = JSON.stringify(key); if (key !== seen) { seen = key; difflora.fill(node, make()); return true; } return false; } };
  }

  function card(name, server, open) {
    const node = h("section", { class: "run", "data-run": name, "aria-label": name });
    const head = part(h("div", { class: "run-head" })), figures = part(h("p", { class: "figures" })), bar = part(h("div"));
    const wall = part(h("div", { class: "board", tabindex: "0", role: "group", "aria-label": t("runs.previews") }));
    const why = part(h("div", { class: "why" })), graph = part(h("div")), taught = part(h("div", { class: "taught-place" }));
    const body = h("div", { class: "run-body" }, why.node, wall.node, graph.node, taught.node);
    const fold = h("details", { open }, h("summary", {}, t("runs.look")));
    const adding = h("form", { class: "adding", hidden: true });
    node.append(head.node, adding, figures.node, bar.node, body);

    const say = (what) => async () => {
      if (what === "delete" && !confirm(t("runs.sure", { name }))) return;
      if (await difflora.call(server.speak({ name, what }))) { difflora.say(t(`runs.said.${what}`, { name })); difflora.poke(); }
    };
    const act = (what, extra = "") => h("button", { type: "button", class: extra, "data-act": what, onclick: say(what) }, t(`runs.${what}`));
    const number = h("input", { type: "number", min: 1, max: 1000000, step: 1, "aria-label": t("runs.steps") });
    adding.append(number, h("span", {}, t("runs.steps")), h("button", { type: "submit", class: "primary" }, t("runs.add")), h("button", { type: "button", class: "quiet", onclick: () => { adding.hidden = true; } }, t("close")));
    adding.addEventListener("submit", async (event) => {
      event.preventDefault();
      const count = Number(number.value);
      if (await difflora.call(server.more({ name, count }))) { adding.hidden = true; difflora.say(t("runs.said.more", { name, count })); difflora.poke(); }
    });
    const more = (row) => row.steps > 0 && h("button", { type: "button", "data-act": "more", onclick: () => { adding.hidden = !adding.hidden; number.value = number.value || row.eighth; if (!adding.hidden) number.focus(); } }, t("runs.more"));
    const draw = (row) => row.style && h("button", { type: "button", class: "primary", "data-act": "use", onclick: () => { location.hash = ""; difflora.goto("studio"); if (!difflora.mix.get().some((m) => m.name === row.style)) difflora.toggle(row.style); } }, t("runs.use"));
    const acts = (row) => LIVE.includes(row.state) ? [act("pause"), act("preview"), act("save"), act("stop"), more(row)]
      : row.state === "queued" ? [act("sooner"), act("later"), act("remove")]
      : row.state === "finished" ? [draw(row), more(row), act("delete", "danger")]
      : [act("resume", "primary"), more(row), act("delete", "danger")];

    function update(row) {
      const live = LIVE.includes(row.state), folded = row.state === "finished" || row.state === "failed";
      node.className = `run ${row.state}`;
      fold.open ||= live; // What one has watched stays open at its end.
      const which = head.node.contains(document.activeElement) ? document.activeElement.dataset.act : null;
      const drawn = head.show([row.state, row.style, row.steps > 0], () => [h("h3", {}, name), h("span", { class: `badge ${row.state}` }, t(`runs.state.${row.state}`)), h("div", { class: "acts" }, acts(row))]);
      if (drawn && which) head.node.querySelector(`[data-act="${which}"]`)?.focus();
      if (row.state === "queued") adding.hidden = true;
      figures.show([live, row.step, row.steps, row.loss, row.speed, row.eta, row.rate, row.memory, row.busy], () => said(row, live));
      bar.show([row.step, row.steps, live, row.state], () => row.steps > 0 && (live || row.state === "paused") && progress(row));
      if (folded !== (fold.parentNode === node)) folded ? (fold.append(body), node.append(fold)) : (node.append(body), fold.remove());
      // At its end the best checkpoint's reason says it all.
      const note = row.state === "finished" && row.why ? "" : row.state === "starting" ? t("runs.starting") : row.notes.at(-1);
      why.show([row.error, note], () => [row.error && h("p", { class: "bad" }, row.error), note && h("p", { class: "hint" }, note)]);
      const end = wall.node.scrollLeft + wall.node.clientWidth >= wall.node.scrollWidth - 8;
      const shown = wall.show([row.checkpoints, row.best, row.why, row.used, row.state, row.prompts], () => row.checkpoints.some((c) => c.files.length) && board(row, server));
      if (shown && end && live) wall.node.scrollLeft = wall.node.scrollWidth;
      graph.show([row.losses, row.steps], () => row.losses.length > 1 && curve(row));
      taught.show([row.taught, row.key], () => lessons(row, server));
    }
    return { node, update };
  }

  function progress(row) {
    return h("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": row.steps, "aria-valuenow": row.step, "aria-label": t("runs.progress", { name: row.name }) }, h("i", { style: `width:${(row.step / row.steps) * 100}%` }));
  }

  function said(row, live) {
    const parts = [];
    if (row.steps) parts.push(t("runs.step", { step: row.step, steps: row.steps }));
    if (live && row.eta !== null && row.eta !== undefined) parts.push(t("runs.left", { left: difflora.clock(row.eta) }));
    if (live && row.loss !== null && row.loss !== undefined) parts.push(t("runs.loss", { loss: row.loss.toFixed(3) }));
    if (live && row.rate) parts.push(t("runs.rate", { rate: row.rate.toPrecision(2) }));
    if (live && row.speed) parts.push(t("runs.speed", { speed: difflora.number(row.speed, 1) }));
    if (live && row.memory) parts.push(t("runs.memory", { memory: row.memory.toFixed(1) }));
    if (live && row.busy !== null && row.busy !== undefined) parts.push(t("runs.busy", { percent: Math.round(row.busy * 100) }));
    return parts.join(" · ");
  }

  // A row a prompt, a column a checkpoint: the same seeds from before the first step to the last.
  function board(row, server) {
    const marks = row.checkpoints.filter((c) => c.files.length || c.scores), rows = Math.max(...marks.map((c) => c.files.length));
    const cls = (c) => [c.step === row.best && "best", c.step === row.used && "used"].filter(Boolean).join(" ") || null;
    const title = (c) => c.step === row.best ? row.why : null;
    const score = (key, value) => h("tr", {}, h("th", { scope: "row" }, t(`runs.score.${key}`)), marks.map((c) => h("td", { class: cls(c) }, c.scores && c.step ? value(c.scores) : "–")));
    // A half goes to the even number, as in the words that Python writes.
    const even = (value) => Math.round(value) - (value % 1 === 0.5 && Math.round(value) % 2);
    const percent = (share) => `${even(share * 100)}%`.replace("-", "−");
    const choose = (c) => async () => {
      const style = await difflora.call(server.use({ name: row.name, step: c.step }));
      if (style) { difflora.say(t("runs.said.used", { name: style, step: c.step })); difflora.poke(); }
    };
    return [h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("runs.prompt")), marks.map((c) => h("th", { scope: "col", class: cls(c), title: title(c) }, c.step === row.best && h("span", { class: "star", role: "img", "aria-label": t("runs.best") }, "★"), c.step ? t("runs.at", { step: c.step }) : t("runs.before"))))),
      h("tbody", {}, Array.from({ length: rows }, (_, i) => h("tr", {}, h("th", { scope: "row" }, row.prompts[i] ?? ""), marks.map((c) => h("td", { class: cls(c) }, c.files[i] && h("button", { type: "button", class: "cell", "aria-label": t("runs.enlarge", { prompt: row.prompts[i] ?? "", step: c.step }), onclick: () => enlarge(row, marks.filter((m) => m.files[i]), c, i) }, picture(row, c, i))))))),
      marks.some((c) => c.scores) && h("tfoot", {}, score("style", (s) => s.style > 1 ? t("runs.worse") : percent(1 - s.style)), score("followed", (s) => percent(s.followed)), score("copied", (s) => percent(s.copied)),
        RESTING.includes(row.state) && marks.some((c) => c.kept) && h("tr", {}, h("th", { scope: "row" }, t("runs.which")), marks.map((c) => h("td", { class: cls(c) }, c.step === row.used ? h("span", { class: "soft" }, t("runs.used")) : c.kept && h("button", { type: "button", class: "quiet", "data-step": c.step, onclick: choose(c) }, t("runs.choose"))))))),
      row.why && row.best !== null && h("p", { class: "hint chosen" }, h("span", { class: "star", "aria-hidden": "true" }, "★"), ` ${t("runs.why", { step: row.best, why: row.why })}`)];
  }

  function picture(row, mark, i) {
    return h("img", { src: `/studio/previews/${encodeURIComponent(row.name)}/${encodeURIComponent(mark.files[i])}?v=${row.since}`, alt: row.prompts[i] ?? "", loading: "lazy" });
  }

  // One picture large; the arrow keys and buttons go through the checkpoints.
  function enlarge(row, marks, mark, i) {
    const body = h("div", { class: "large" }), words = h("p", { class: "hint", "aria-live": "polite" });
    const step = (by) => () => { const next = marks[marks.indexOf(mark) + by]; if (next) { mark = next; show(); } };
    const back = h("button", { type: "button", "aria-label": t("runs.earlier"), onclick: step(-1) }, "←"), on = h("button", { type: "button", "aria-label": t("runs.afterwards"), onclick: step(1) }, "→");
    const box = h("dialog", { class: "viewer look-at", "aria-label": row.name }, h("button", { type: "button", class: "icon close", "aria-label": t("close"), onclick: () => box.close() }, "×"), body, h("div", { class: "acts" }, back, words, on));
    function show() {
      difflora.fill(body, picture(row, mark, i));
      words.textContent = `${row.prompts[i] ?? ""} — ${mark.step ? t("runs.at", { step: mark.step }) : t("runs.before")}${mark.step === row.best ? " ★" : ""}`;
      back.disabled = mark === marks[0];
      on.disabled = mark === marks.at(-1);
    }
    box.addEventListener("keydown", (event) => { if (event.key === "ArrowLeft") step(-1)(); if (event.key === "ArrowRight") step(1)(); });
    box.addEventListener("close", () => box.remove());
    show();
    document.body.append(box);
    box.showModal();
  }

  // The loss of each bucket as dots, its running mean as the line: the noise is large and should look like noise.
  function curve(row) {
    const W = 600, H = 130, pad = 4, points = row.losses;
    const values = points.map((p) => p[1]).sort((a, b) => a - b);
    const low = values[0], high = values[Math.floor(values.length * 0.98)] || 1;
    const x = (step) => pad + ((W - 2 * pad) * step) / Math.max(1, row.steps), y = (loss) => pad + (H - 2 * pad) * (1 - (Math.min(loss, high) - low) / Math.max(1e-9, high - low));
    let mean = points[0][1];
    const line = points.map(([step, loss]) => { mean = 0.93 * mean + 0.07 * loss; return `${x(step).toFixed(1)},${y(mean).toFixed(1)}`; });
    return h("figure", { class: "curve" }, h("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": t("runs.curve", { first: points[0][1].toFixed(3), last: mean.toFixed(3) }) },
      h("path", { d: points.map(([step, loss]) => `M${x(step).toFixed(1)} ${y(loss).toFixed(1)}h.01`).join("") }), h("polyline", { points: line.join(" ") })),
      h("figcaption", {}, t("runs.loss", { loss: `${high.toFixed(2)} – ${low.toFixed(2)}` })));
  }

  function lessons(row, server) {
    const groups = ["heart", "never", "most"].filter((kind) => row.taught[kind].length);
    if (!groups.length) return null;
    const leave = (lesson) => async (event) => {
      const button = event.currentTarget;
      if (await difflora.call(server.leave({ name: row.name, picture: lesson.picture }))) { button.replaceWith(h("span", { class: "soft" }, t("runs.left_out"))); difflora.say(t("runs.said.leave", { picture: lesson.picture })); }
    };
    const one = (kind, lesson) => h("figure", {},
      row.key && h("img", { src: `/studio/wall/${encodeURIComponent(row.key)}/${lesson.picture.split("/").map(encodeURIComponent).join("/")}`, alt: lesson.picture, loading: "lazy" }),
      h("figcaption", { title: lesson.picture }, h("b", {}, `${Math.round(lesson.learnt * 100)}%`.replace("-", "−")), ` ${lesson.picture}`),
      kind !== "most" && row.key && h("button", { type: "button", class: "quiet", onclick: leave(lesson) }, t("runs.leave")));
    return h("details", { class: "taught" }, h("summary", {}, t("runs.taught")), h("p", { class: "hint" }, t("runs.taughthelp")),
      groups.map((kind) => [h("h4", {}, t(`runs.taught.${kind}`)), h("div", { class: "lessons" }, row.taught[kind].map((lesson) => one(kind, lesson)))]));
  }
})();
