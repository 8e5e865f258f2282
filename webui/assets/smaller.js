// A style made smaller: a few ranks or errors to choose from with their sizes, then a copy beside it in the library.
(() => {
  const { h, t } = difflora;
  const kept = difflora.store({}, "difflora.resize"); // what was asked for, by style: a reload finds it

  difflora.smaller = (s, server, added) => {
    const result = h("div", { class: "result", "aria-live": "polite" }), facts = h("p", { class: "facts", "aria-live": "polite" });
    const name = h("input", { type: "text", maxlength: 80, value: `${s.name} small`, onkeydown: (event) => { if (event.key === "Enter") press(); } });
    const button = h("button", { type: "button", disabled: true, onclick: press }, t("smaller.button"));
    const cuts = difflora.cuts({
      name: "smaller", label: t("smaller.title"), ways: ["rank", "error"], stop: server.stop, changed,
      ask: (cut) => server.foresee({ name: s.name, settings: cut }),
    });
    function changed() {
      const found = cuts.chosen(), whole = cuts.found()?.whole;
      button.disabled = !found || !Object.keys(cuts.cut()).length;
      facts.textContent = found && whole ? t("smaller.facts", { rank: found.rank, size: difflora.size(found.size), before: difflora.size(s.size), percent: difflora.percent(found.error) }) : "";
    }
    async function press() {
      const id = await difflora.call(server.shrink({ name: s.name, new: name.value, settings: cuts.cut() }));
      if (id) { kept.set({ ...kept.get(), [s.name]: id }); follow(id); }
    }
    async function follow(id) {
      button.disabled = true;
      const made = await difflora.job(id, (job) => difflora.fill(result, difflora.work(job, t("smaller.working"), server.stop)));
      button.disabled = false;
      const { [s.name]: _, ...rest } = kept.get();
      kept.set(rest);
      if (!made) return difflora.fill(result);
      const show = h("button", { type: "button", onclick: () => added(made.name) }, t("smaller.show"));
      difflora.fill(result, h("p", { class: "done" }, t("smaller.done", { name: made.name, size: difflora.size(made.size), percent: difflora.percent(made.error) })), show);
      difflora.loadStyles();
    }
    const fold = difflora.doctor.folded(t("smaller.title"), h("p", { class: "hint" }, t("smaller.help")), cuts.place, facts, h("div", { class: "save-row" }, h("label", {}, h("span", {}, t("smaller.name")), name), button), result);
    // Looking through a large file takes a while: only once somebody wants to know.
    fold.addEventListener("toggle", () => { if (fold.open && !cuts.found()) cuts.refresh(); });
    if (kept.get()[s.name]) { fold.open = true; follow(kept.get()[s.name]); }
    return fold;
  };
})();
