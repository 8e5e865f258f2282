// The library: every style with what its file says, its weight by block, and what can be changed.
(() => {
  const { h, t } = difflora;

  difflora.widget("library", ({ element, props, watch, server }) => {
    const list = h("div", { class: "cards roomy", role: "group", "aria-label": t("library.title") });
    const about = h("div", { class: "about", "aria-live": "polite" });
    const find = h("input", { type: "search", class: "find", placeholder: t("cards.search"), "aria-label": t("cards.search"), oninput: render });
    element.append(h("div", { class: "library" }, h("div", {}, h("div", { class: "shelf-head" }, h("h2", {}, t("library.title")), find), list), about));
    let chosen = null, shown = "", mended = null;
    difflora.given(props, watch, (value) => (value.offer ? offered(value.offer) : difflora.loadStyles().then(() => choose(value.chosen))));
    difflora.styles.on(() => { render(); if (chosen && !difflora.byName(chosen)) choose(null); else if (chosen) choose(chosen); });
    function render() {
      const word = find.value.toLowerCase();
      const rows = difflora.styles.get().filter((s) => `${s.name} ${s.trigger} ${s.family}`.toLowerCase().includes(word));
      difflora.fill(list, rows.map((s) => h("button", { type: "button", class: "card" + (s.name === chosen ? " on" : "") + (s.problem ? " unfit" : ""), "aria-pressed": String(s.name === chosen), onclick: () => choose(s.name) },
        difflora.thumb(s), h("span", { class: "card-name" }, s.name), h("span", { class: "card-facts" }, s.problem ? difflora.unfit(s) : t("library.facts", { rank: s.rank, size: difflora.size(s.size) })))),
        !difflora.styles.get().length && h("p", { class: "empty" }, t("cards.none")));
    }
    async function choose(name) {
      if (mended && mended.name !== name) mended = null;
      chosen = name;
      render();
      if (!name) { shown = ""; return difflora.fill(about, h("p", { class: "empty" }, t("library.pick"))); }
      const found = await difflora.json(`/studio/styles/${encodeURIComponent(name)}/detail`);
      // Gone since the list was read: the next list says so.
      if (found.error) return difflora.byName(name) && chosen === name ? difflora.say(found.error, true) : undefined;
      const key = JSON.stringify(found);
      if (key === shown || chosen !== name) return;
      shown = key;
      difflora.fill(about, page(found));
    }
    // A damaged file that was dropped: nothing is installed unless it is asked for.
    function offered(offer) {
      choose(null);
      difflora.fill(about, difflora.doctor.offer(offer, server, (name) => (name ? difflora.loadStyles().then(() => { difflora.say(t("library.added", { name })); choose(name); }) : choose(null))));
    }
    function page(s) {
      const doctor = difflora.doctor, show = (name) => difflora.loadStyles().then(() => choose(name));
      const parts = { verdict: h("div"), norms: h("div"), programs: h("div") };
      const judge = (v, numbers) => difflora.fill(parts.verdict, doctor.verdict(s, v, numbers, acts(s, v, numbers)));
      const judged = (rows) => difflora.fill(parts.programs, rows.length > 0 && doctor.programs(rows));
      judge(s.verdict, !s.about);
      const header = h("header", {}, difflora.thumb(s, "large"), h("div", {}, h("h2", {}, s.name), parts.verdict));
      const facts = h("dl", { class: "facts-row" }, doctor.facts(s).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
      const article = h("article", {}, header, facts, form(s), parts.norms, parts.programs, s.about && doctor.recipe(s.about.made_by), s.about && s.about.kind && s.verdict.kind !== "refused" && doctor.converter(s, server, show), s.about && s.about.kind && s.verdict.here && s.verdict.kind !== "refused" && difflora.smaller(s, server, show), s.about && doctor.inside(s),
        doctor.folded(t("library.metadata", { count: Object.keys(s.metadata).length }), doctor.listing(Object.entries(s.metadata), "metadata")));
      if (s.about) { judged(s.about.programs); measure(); }
      // The numbers of a large file take a while: all that the header says is there before.
      async function measure() {
        const found = await difflora.json(`/studio/styles/${encodeURIComponent(s.name)}/numbers`).catch(() => null);
        if (!found || !article.isConnected) return;
        if (found.error) return judge({ kind: "refused", problems: [...s.verdict.problems, { text: found.error, grave: true }], mends: false }, true);
        judge(found.verdict, true);
        judged(found.programs);
        difflora.fill(facts.querySelector(".alpha"), found.alpha || t("doctor.none"));
        difflora.fill(parts.norms, Object.keys(found.norms).length > 0 && chart(found.norms));
      }
      return article;
    }
    function acts(s, v, numbers) {
      const repaired = mended && mended.name === s.name ? h("div", { class: "mended" }, h("p", {}, t(mended.count ? "doctor.repaired.lost" : "doctor.repaired", { count: mended.count })), mended.count > 0 && difflora.doctor.left(mended)) : null;
      if (!v.mends || !numbers) return repaired;
      const press = async (event) => {
        const button = event.currentTarget;
        button.disabled = true;
        const found = await difflora.call(server.mend({ name: s.name }));
        button.disabled = false;
        if (!found) return;
        mended = { name: s.name, ...found };
        shown = "";
        await difflora.loadStyles();
      };
      return [repaired, h("div", { class: "acts" }, h("button", { type: "button", class: v.kind === "refused" ? "primary" : null, onclick: press }, t("doctor.repair")), h("p", { class: "hint" }, t(v.kind === "refused" ? "doctor.repair.grave" : "doctor.repair.help")))];
    }
    function form(s) {
      const name = h("input", { type: "text", value: s.name, maxlength: 80, "aria-label": t("library.name") });
      const trigger = h("input", { type: "text", value: s.trigger, maxlength: 120, "aria-label": t("library.trigger") });
      const weight = h("input", { type: "number", step: 0.05, min: -10, max: 10, value: s.weight, "aria-label": t("library.weight") });
      const change = async () => {
        if (!(await difflora.call(server.change({ name: s.name, trigger: trigger.value, weight: weight.value })))) return;
        if (name.value.trim() !== s.name) {
          const called = await difflora.call(server.rename({ name: s.name, new: name.value }));
          if (!called) return;
          difflora.mix.set(difflora.mix.get().map((row) => (row.name === s.name ? { ...row, name: called } : row)));
          chosen = called;
        }
        shown = "";
        await difflora.loadStyles();
        difflora.say(t("library.saved"));
      };
      const throwAway = async () => { if (confirm(t("library.sure", { name: s.name })) && (await difflora.call(server.throw_away({ name: s.name })))) { difflora.say(t("library.thrown", { name: s.name })); chosen = null; difflora.loadStyles(); } };
      return h("form", { class: "edit", onsubmit: (e) => { e.preventDefault(); change(); } }, label("library.name", name), label("library.trigger", trigger), label("library.weight", weight),
        h("div", { class: "acts" }, h("button", { class: s.verdict.kind === "refused" ? "plain" : "primary", type: "submit" }, t("library.save")), h("a", { class: "as-button", href: `/studio/styles/${encodeURIComponent(s.name)}/file`, download: `${s.name}.safetensors` }, t("library.download")), h("button", { type: "button", class: "danger", onclick: throwAway }, t("library.delete"))));
    }
    const label = (key, control) => h("label", {}, h("span", {}, t(key)), control);
    function chart(norms) {
      const most = Math.max(...Object.values(norms), 1e-9);
      return h("section", { class: "norms", "aria-label": t("library.norms") }, h("h3", {}, t("library.norms")), h("p", { class: "hint" }, t("library.normshelp")),
        Object.entries(norms).map(([block, norm]) => h("div", { class: "norm" }, h("span", {}, block), h("span", { class: "rail" }, h("i", { style: `width:${(norm / most) * 100}%` })), h("span", { class: "value" }, norm.toFixed(norm < 10 ? 2 : 1)))));
    }
  });
})();
