// The shelf of style cards, and what stands in the mix: one list, kept in the browser, sent with every drawing.
(() => {
  const { h, t } = difflora;
  const MOST = 8;

  // A share of its own weight for each style: until a slider is moved, a mix of several is never overdriven.
  const usual = (name) => difflora.byName(name)?.weight ?? 1;
  const share = (name, count) => Math.round((usual(name) / count) * 100) / 100;
  const even = (rows) => rows.map((row) => ({ ...row, weight: share(row.name, rows.length) }));
  const isEven = (rows) => rows.every((row) => Math.abs(row.weight - share(row.name, rows.length)) < 1e-3);

  difflora.shares = { usual, even, isEven };

  difflora.toggle = (name) => {
    const mix = difflora.mix.get(), untouched = isEven(mix);
    if (mix.some((row) => row.name === name)) {
      const rest = mix.filter((row) => row.name !== name);
      return difflora.mix.set(untouched ? even(rest) : rest);
    }
    if (mix.length >= MOST) return difflora.say(t("cards.most", { most: MOST }), true);
    const all = [...mix, { name, weight: usual(name) }];
    difflora.mix.set(untouched ? even(all) : all);
  };

  // Why a card is grey, in a few words.
  difflora.unfit = (style) => (style.kind && style.kind !== difflora.base.get()?.family ? t("cards.madefor", { family: difflora.family(style.kind) }) : t("cards.unfit"));

  difflora.widget("cards", ({ element }) => {
    const find = h("input", { type: "search", class: "find", placeholder: t("cards.search"), "aria-label": t("cards.search"), oninput: render });
    const fits = h("input", { type: "checkbox", checked: true, onchange: render });
    const grid = h("div", { class: "cards", role: "group", "aria-label": t("cards.title") });
    const count = h("span", { class: "count" });
    element.append(
      h("div", { class: "shelf-head" }, h("h2", {}, t("cards.title")), count),
      h("div", { class: "shelf-tools" }, find, h("label", { class: "tick" }, fits, t("cards.fits"))), grid);
    function render() {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const all = difflora.styles.get();
      const shown = all.filter((s) => (!fits.checked || !s.problem) && words.every((w) => `${s.name} ${s.trigger} ${s.family}`.toLowerCase().includes(w)));
      count.textContent = all.length ? `${shown.length}/${all.length}` : "";
      const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.card : null;
      difflora.fill(grid, shown.map(card), !all.length && empty(t("cards.none")), all.length > 0 && !shown.length && empty(t("cards.nothing")));
      if (focused) grid.querySelector(`[data-card="${CSS.escape(focused)}"]`)?.focus();
    }
    const empty = (words) => h("p", { class: "empty" }, words);
    function card(style) {
      const on = difflora.mix.get().some((row) => row.name === style.name);
      return h("button", {
        class: "card" + (on ? " on" : ""), "aria-pressed": String(on), "data-card": style.name, type: "button",
        style: on ? `--tint:${difflora.tint(style.name)}` : null, disabled: Boolean(style.problem), title: style.problem || null,
        onclick: () => difflora.toggle(style.name),
      }, difflora.thumb(style), h("span", { class: "card-name" }, style.name),
      h("span", { class: "card-facts" }, style.problem ? difflora.unfit(style) : [style.trigger && `“${style.trigger}”`, `× ${difflora.number(style.weight)}`].filter(Boolean).join(" · ")));
    }
    difflora.styles.on(render);
    difflora.mix.on(render, false);
  });

  // Put a style's trigger before the prompt, once.
  difflora.addWords = (words) => {
    const box = document.querySelector("#prompt textarea");
    if (!box || box.value.toLowerCase().includes(words.toLowerCase())) return;
    box.value = [words, box.value].filter(Boolean).join(", ");
    box.dispatchEvent(new Event("input", { bubbles: true }));
    box.focus();
  };
})();
