// How the styles of a mix act together: how strong the blend is, how far they keep out of each other's way, turns.
(() => {
  const { h, t } = difflora;

  const choose = (part) => difflora.way.set({ ...difflora.way.get(), ...part });

  difflora.together = (clash) => {
    const place = h("div", { class: "together" });
    let shown = "", amount = null, unfolded = false;
    function render() {
      const way = difflora.chosenWay(), names = difflora.mix.get().map((row) => row.name), held = document.activeElement;
      // The knob under the hand stays as it is. One style alone has nothing to be balanced with.
      const underHand = place.contains(held) && held.type === "range" && Number(held.value) === way.orthogonal;
      const key = JSON.stringify([way.budget, way.switch, names, difflora.facts.budgets]);
      const same = key === shown && (underHand || way.orthogonal === amount);
      amount = way.orthogonal;
      if (same) return order(names, way);
      shown = key;
      difflora.fill(place, names.length > 1 && budget(way.budget), names.length > 1 && apart(way.orthogonal, clash), names.length > 1 && turns(way.switch, unfolded, (open) => { unfolded = open; }));
      order(names, way);
    }
    // Which one stays as it is matters only when others make way for it.
    function order(names, way) {
      const line = place.querySelector(".order");
      if (line) line.textContent = way.orthogonal > 0 ? t("together.order", { first: names[0], rest: names.slice(1).join(", ") }) : t("together.apart.help");
    }
    difflora.mix.on(render, false);
    difflora.way.on(render);
    place.render = render;
    return place;
  };

  difflora.segments = (name, words, options, value, set) => h("div", { class: "segments", role: "radiogroup", "aria-label": words },
    options.map(([key, said, title]) => h("label", { title: title ?? null }, h("input", { type: "radio", name, value: key, "data-act": `${name}-${key}`, checked: key === value, onchange: () => set(key) }), h("span", {}, said))));

  const budget = (value) => h("div", { class: "budget" },
    difflora.segments("budget", t("together.budget"), difflora.facts.budgets.map((name) => [name, t(`budget.${name}`)]), value, (key) => choose({ budget: key })),
    h("p", { class: "hint" }, difflora.facts.help.budget));

  function apart(value, clash) {
    const set = (number, from) => choose({ orthogonal: Math.min(1, Math.max(0, Number.isFinite(number) ? number : 0)) }, from);
    const range = h("input", { type: "range", min: 0, max: 1, step: 0.05, value, "aria-label": t("together.apart"), title: difflora.facts.help.orthogonal });
    const box = h("input", { type: "number", min: 0, max: 1, step: 0.05, value: difflora.number(value), "aria-label": t("together.apart.number") });
    const paint = () => { range.style.setProperty("--from", "0%"); range.style.setProperty("--to", `${range.value * 100}%`); };
    range.addEventListener("input", () => { box.value = difflora.number(Number(range.value)); paint(); set(Number(range.value)); });
    box.addEventListener("change", () => set(Number(box.value)));
    paint();
    return h("div", { class: "apart" }, h("div", { class: "apart-head" }, h("span", {}, t("together.apart")), box), range, h("p", { class: "hint order" }),
      clash && h("button", { type: "button", class: "quiet clash", onclick: clash }, t("conflict.button")));
  }

  function turns(value, unfolded, toggled) {
    const box = h("input", { type: "number", min: 0, max: 1000, step: 1, value, id: "take-turns" });
    box.addEventListener("change", () => choose({ switch: Math.max(0, Math.round(Number(box.value) || 0)) }));
    return h("details", { class: "turns", open: value > 0 || unfolded, ontoggle: (event) => toggled(event.target.open) }, h("summary", {}, t("together.turns.title")),
      h("label", { class: "apart-head", for: "take-turns" }, h("span", {}, t("together.turns")), box), h("p", { class: "hint" }, difflora.facts.help.switch));
  }
})();
