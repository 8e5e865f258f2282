// The library: every style with what its file says, its weight by block, and what can be changed.
(() => {
  const { h, t } = difflora;

  difflora.widget("library", ({ element, props, watch, server }) => {
    const list = h("div", { class: "cards roomy", role: "group", "aria-label": t("library.title") });
    const about = h("div", { class: "about", "aria-live": "polite" });
    const find = h("input", { type: "search", class: "find", placeholder: t("cards.search"), "aria-label": t("cards.search"), oninput: render });
    element.append(h("div", { class: "library" }, h("div", {}, h("div", { class: "shelf-head" }, h("h2", {}, t("library.title")), find), list), about));
    let chosen = null, shown = "";
    difflora.given(props, watch, (value) => difflora.loadStyles().then(() => choose(value.chosen)));
    difflora.styles.on(() => { render(); if (chosen && !difflora.byName(chosen)) choose(null); else if (chosen) choose(chosen); });
    function render() {
      const word = find.value.toLowerCase();
      const rows = difflora.styles.get().filter((s) => `${s.name} ${s.trigger} ${s.family}`.toLowerCase().includes(word));
      difflora.fill(list, rows.map((s) => h("button", { type: "button", class: "card" + (s.name === chosen ? " on" : "") + (s.problem ? " unfit" : ""), "aria-pressed": String(s.name === chosen), onclick: () => choose(s.name) },
        difflora.thumb(s), h("span", { class: "card-name" }, s.name), h("span", { class: "card-facts" }, s.problem ? t("cards.unfit") : t("library.facts", { rank: s.rank, size: difflora.size(s.size) })))),
        !difflora.styles.get().length && h("p", { class: "empty" }, t("cards.none")));
    }
    async function choose(name) {
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
    function page(s) {
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
      const facts = [["rank", s.rank], ["layers", s.layers], ["size", difflora.size(s.size)], ["family", s.family], ["base", s.base], ["made", s.made.slice(0, 10)], ["pictures", s.pictures]].filter(([, v]) => v !== "" && v !== null && v !== "not said");
      return h("article", {}, h("header", {}, difflora.thumb(s, "large"), h("div", {}, h("h2", {}, s.name), s.problem && h("p", { class: "bad" }, s.problem), h("dl", { class: "short" }, facts.map(([k, v]) => [h("dt", {}, t(`library.${k}`)), h("dd", {}, String(v))])))),
        h("form", { class: "edit", onsubmit: (e) => { e.preventDefault(); change(); } }, label("library.name", name), label("library.trigger", trigger), label("library.weight", weight),
          h("div", { class: "acts" }, h("button", { class: "primary", type: "submit" }, t("library.save")), h("a", { class: "as-button", href: `/studio/styles/${encodeURIComponent(s.name)}/file`, download: `${s.name}.safetensors` }, t("library.download")), h("button", { type: "button", class: "danger", onclick: throwAway }, t("library.delete")))),
        Object.keys(s.norms).length > 0 && chart(s.norms), h("details", {}, h("summary", {}, t("library.metadata", { count: Object.keys(s.metadata).length })), h("dl", { class: "metadata" }, Object.entries(s.metadata).map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]))));
    }
    const label = (key, control) => h("label", {}, h("span", {}, t(key)), control);
    function chart(norms) {
      const most = Math.max(...Object.values(norms), 1e-9);
      return h("section", { class: "norms", "aria-label": t("library.norms") }, h("h3", {}, t("library.norms")), h("p", { class: "hint" }, t("library.normshelp")),
        Object.entries(norms).map(([block, norm]) => h("div", { class: "norm" }, h("span", {}, block), h("span", { class: "rail" }, h("i", { style: `width:${(norm / most) * 100}%` })), h("span", { class: "value" }, norm.toFixed(norm < 10 ? 2 : 1)))));
    }
  });
})();
