// The blend as one file: its rank, size and error before it is written, the proof after it; and the base with the mix in it.
(() => {
  const { h, t } = difflora;
  const DENSE = ["ties", "dare", "magnitude", "knots"];

  const field = (words, control, help) => h("label", { class: "field" }, h("span", {}, words), control, help && h("span", { class: "hint" }, help));
  const select = (options, value, words, onchange) => h("select", { "aria-label": words, onchange }, options.map(([key, said]) => h("option", { value: key, selected: key === value }, said)));

  difflora.widget("export", ({ element, props, trigger, watch, server }) => {
    const about = props.value.facts;
    const asked = { method: about.defaults.method, density: about.defaults.density, seed: about.defaults.seed, precision: about.defaults.precision };
    const facts = h("p", { class: "facts", "aria-live": "polite" }), check = h("div", { class: "check" }), more = h("div", { class: "more" });
    const name = h("input", { type: "text", maxlength: 80, onkeydown: (event) => { if (event.key === "Enter") save(); } });
    const button = h("button", { type: "button", class: "primary", id: "export-button", onclick: save }, t("export.button"));
    const cuts = difflora.cuts({
      name: "export-way", label: t("export.accordion"), ways: ["exact", "rank", "error"], stop: server.stop, changed: () => { say(); if (seen && !cuts.found()) look(); },
      ask: (cut) => server.foretell({ mix: difflora.mixed(), settings: { ...settings(), ...cut } }),
    });
    element.append(h("div", { class: "export" }, cuts.place, facts, h("details", { class: "more-of-it" }, h("summary", {}, t("settings.more")), more),
      h("div", { class: "save-row" }, h("label", { id: "export-name" }, h("span", {}, t("export.name")), name), button), check, difflora.merging(server)));

    const settings = () => ({ method: asked.method, precision: asked.precision, ...(DENSE.includes(asked.method) ? { density: asked.density, orthogonal: 0 } : {}), ...(asked.method === "dare" ? { seed: asked.seed } : {}) });
    // The exact sum in half precision is known from headers alone.
    const plainly = () => cuts.way() === "exact" && asked.method === "sum" && asked.precision === "fp16" && !difflora.chosenWay().orthogonal;
    function options() {
      const dense = DENSE.includes(asked.method);
      const put = (key, value) => { asked[key] = value; options(); again(); };
      difflora.fill(more,
        field(t("export.method"), select(about.methods.map((one) => [one, one]), asked.method, t("export.method"), (event) => put("method", event.target.value)), about.about[asked.method]),
        dense && field(t("export.density"), h("input", { type: "number", min: 0.01, max: 1, step: 0.05, value: asked.density, onchange: (event) => put("density", Number(event.target.value) || about.defaults.density) }), about.help.density),
        asked.method === "dare" && field(t("export.seed"), h("input", { type: "number", min: 0, step: 1, value: asked.seed, onchange: (event) => put("seed", Math.max(0, Math.round(Number(event.target.value) || 0))) }), about.help.seed),
        field(t("export.precision"), select(about.precisions.map((one) => [one, one]), asked.precision, t("export.precision"), (event) => put("precision", event.target.value)), about.help.precision));
    }
    options();

    // Asked for a little after the hand rests, and only where somebody sees it.
    let seen = false, later = null, key = "", headers = null;
    new IntersectionObserver(([entry]) => { seen = entry.isIntersecting; if (seen && !cuts.found() && !plainly()) look(); }).observe(element);
    const acting = (mix) => mix.styles.some((row) => row.weight || row.text || Object.values(row.blocks ?? {}).some(Boolean));
    const look = () => { clearTimeout(later); later = setTimeout(() => { if (seen && !plainly() && acting(difflora.mixed())) cuts.refresh(); }, 400); };
    const again = () => { cuts.forget(); say(); look(); };
    async function mixed() {
      const mix = difflora.mixed?.(), next = JSON.stringify(mix ?? null);
      if (!mix || next === key) return;
      key = next;
      again();
      if (!acting(mix)) { headers = null; return say(); }
      const found = await difflora.json(`/studio/facts?mix=${encodeURIComponent(next)}`);
      if (key === next) { headers = found; say(); }
    }
    function say() {
      const mix = difflora.mixed?.(), found = cuts.chosen();
      if (!mix || !acting(mix)) { facts.textContent = t("export.none"); return; }
      // No file acts at some steps only: what would be refused is said before.
      if (mix.styles.some((row) => row.end !== undefined)) { facts.textContent = t("export.steps"); return; }
      if (plainly()) facts.textContent = headers ? headers.error ?? t("export.facts", { rank: headers.rank, size: difflora.size(headers.size), layers: headers.layers }) : "";
      else facts.textContent = found ? told(found) : "";
      if (mix.switch > 0 && facts.textContent) facts.textContent += ` ${t("export.turns")}`;
    }
    function told(found) {
      const size = { rank: found.rank, size: difflora.size(found.size), layers: found.layers, percent: difflora.percent(found.error) };
      const words = [t(found.error ? "export.cut" : "export.whole", size)];
      const away = { method: asked.method, percent: difflora.percent(cuts.found().distance) };
      if (cuts.found().distance) words.push(t(asked.method === "sum" ? "export.distance.apart" : "export.distance", away));
      return words.join(" ");
    }
    difflora.mix.on(mixed);
    difflora.way.on(mixed, false);
    difflora.styles.on(() => { key = ""; mixed(); }, false);

    function save() { trigger("select", { name: name.value, settings: { ...settings(), ...cuts.cut() } }); }
    const kept = difflora.store(null, "difflora.export");
    difflora.given(props, watch, (value) => { if (value.job) { kept.set(value.job); follow(value.job); } });
    const picture = difflora.slots();
    let made = null, stand = "";
    async function follow(id) {
      button.disabled = true;
      made = await difflora.job(id, (job) => difflora.fill(check, difflora.work(job, t("export.working"), server.stop)));
      button.disabled = false;
      stand = "";
      if (!made) { kept.set(null); return difflora.fill(check); }
      made.tickets.forEach(difflora.follow);
      proof();
    }
    difflora.now.on((now) => { if (kept.get() && !made && !button.disabled && now.jobs.some((job) => job.id === kept.get() && job.state !== "done")) follow(kept.get()); proof(); }, false);
    // What is in the library now, and the same seed from the sliders and from the file.
    async function proof() {
      if (!made) return;
      const [a, b] = made.tickets.map(difflora.ticket);
      const now = JSON.stringify([a, b]);
      if (now === stand || !a || !b) return;
      stand = now;
      const both = [a, b].map((one, i) => h("figure", {}, picture(one, 0), h("figcaption", {}, t(i ? "export.file" : "export.stack"))));
      const failed = [a, b].find((one) => one.state === "failed");
      const words = h("p", { class: "verdict", role: "status" }, failed ? failed.error : t("export.checking"));
      difflora.fill(check, h("p", {}, t("export.saved", { name: made.name, size: difflora.size(made.size) })), h("p", { class: "hint cost" }, cost()), h("div", { class: "two" }, both), words, [a, b].filter((one) => !difflora.over(one)).map((one) => difflora.bar(one, server)));
      if (!a.files[0] || !b.files[0]) return;
      const most = await difflora.difference(a.files[0], b.files[0]);
      words.textContent = t("export.verdict", { levels: most });
      check.append(h("button", { type: "button", class: "quiet", onclick: () => difflora.compare(a.files[0], b.files[0], words.textContent) }, t("export.compare")));
    }
    function cost() {
      const words = [];
      if (made.distance) words.push(t("export.cost.distance", { percent: difflora.percent(made.distance) }));
      if (made.error) words.push(t("export.cost.error", { percent: difflora.percent(made.error) }));
      words.push(t("export.cost.measured", { percent: difflora.percent(made.measured) }));
      return words.join(" ");
    }
  });

  // A whole model with the mix in its weights, for programs that draw without styles.
  difflora.merging = (server) => {
    const name = h("input", { type: "text", maxlength: 80 }), result = h("div", { class: "result", "aria-live": "polite" });
    const kinds = select([["", t("merge.same")], ...["fp16", "bf16", "fp32"].map((one) => [one, one])], "", t("export.precision"));
    const button = h("button", { type: "button", id: "merge-button", onclick: press }, t("merge.button"));
    const kept = difflora.store(null, "difflora.merge");
    async function press() {
      const id = await difflora.call(server.merge({ name: name.value, mix: difflora.mixed(), precision: kinds.value }));
      if (id) { kept.set(id); follow(id); }
    }
    async function follow(id) {
      button.disabled = true;
      const made = await difflora.job(id, (job) => difflora.fill(result, difflora.work(job, t("merge.working"), server.stop)));
      button.disabled = false;
      kept.set(null);
      difflora.fill(result, made && h("p", { class: "done" }, t("merge.done", { name: made.name, folder: made.folder, size: difflora.size(made.bytes), layers: made.modules })), made && h("p", { class: "hint" }, t("merge.cost", { precision: made.precision, percent: difflora.percent(made.rounding) })));
    }
    // A reload finds what is under way.
    const off = difflora.now.on((now) => { if (!now.tickets || !kept.get()) return; off(); if (now.jobs.some((job) => job.id === kept.get())) follow(kept.get()); else kept.set(null); }, false);
    return h("details", { class: "more-of-it merging" }, h("summary", {}, t("merge.title")), h("div", { class: "more" }, h("p", { class: "hint" }, t("merge.help")),
      h("div", { class: "save-row" }, field(t("merge.name"), name), field(t("export.precision"), kinds)), button, result));
  };
})();
