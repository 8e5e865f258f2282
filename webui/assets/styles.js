// The shelf of style cards and the mixer: one list of {name, weight}, kept in the browser, sent with every drawing.
(() => {
  const { h, t } = difflora;
  const MOST = 8, NEAR = 2, FAR = 10;

  // A share of its own weight for each style: until a slider is moved, a mix of several is never overdriven.
  const usual = (name) => difflora.byName(name)?.weight ?? 1;
  const share = (name, count) => Math.round((usual(name) / count) * 100) / 100;
  const even = (rows) => rows.map((row) => ({ ...row, weight: share(row.name, rows.length) }));
  const isEven = (rows) => rows.every((row) => Math.abs(row.weight - share(row.name, rows.length)) < 1e-3);

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
      h("span", { class: "card-facts" }, style.problem ? t("cards.unfit") : [style.trigger && `“${style.trigger}”`, `× ${difflora.number(style.weight)}`].filter(Boolean).join(" · ")));
    }
    difflora.styles.on(render);
    difflora.mix.on(render, false);
  });

  difflora.widget("mixer", ({ element, props, watch }) => {
    let wide = false;
    const rows = h("div", { class: "faders" });
    const width = h("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => { wide = !wide; render(); } });
    const live = h("input", { type: "checkbox", onchange: () => { difflora.live.set(live.checked); drafted = ""; redraft(); } });
    const level = h("button", { type: "button", class: "quiet", title: t("mixer.even.help"), onclick: () => difflora.mix.set(even(difflora.mix.get())) }, t("mixer.even"));
    const clear = h("button", { type: "button", class: "quiet", onclick: () => difflora.mix.set([]) }, t("mixer.clear"));
    element.append(h("div", { class: "shelf-head" }, h("h2", {}, t("mixer.title")), h("span", { class: "tools" }, level, width, clear)), rows, h("label", { class: "tick live", title: t("mixer.live.help") }, live, t("mixer.live")));
    live.checked = difflora.live.get() ?? false;
    difflora.live.on((on) => { live.checked = Boolean(on); }, false);
    // Drafts while a slider moves: one at a time, a little after the hand rests.
    let soon = null, started = false, drafted = "";
    const redraft = () => {
      // Only a change is drawn: not the mix that a reload finds, nor the same one when the library is read again.
      const mix = JSON.stringify(difflora.mix.get()), same = mix === drafted;
      drafted = mix;
      if (same) return;
      clearTimeout(soon);
      if (started && live.checked) soon = setTimeout(() => document.querySelector("#live")?.click(), 180);
    };
    // Whoever asks for more than a draft does not want one on top of it.
    document.addEventListener("click", (event) => { if (event.target.closest?.("#draw, #another, #strip-button, #duel-button, #export-button")) clearTimeout(soon); }, true);
    const known = () => difflora.mix.get().filter((row) => !difflora.styles.get().length || difflora.byName(row.name));
    function send() { props.value = known().map(({ name, weight }) => ({ name, weight })); }
    function put(name, weight, from) {
      const limit = wide ? FAR : NEAR;
      const kept = Math.min(FAR, Math.max(-FAR, Number.isFinite(weight) ? weight : 0));
      if (Math.abs(kept) > limit) wide = true;
      difflora.mix.set(difflora.mix.get().map((row) => (row.name === name ? { ...row, weight: Math.round(kept * 1e4) / 1e4 } : row)), from);
    }
    function render() {
      const mix = known();
      wide = wide || mix.some((row) => Math.abs(row.weight) > NEAR);
      width.textContent = wide ? t("mixer.narrow") : t("mixer.wide");
      width.setAttribute("aria-pressed", String(wide));
      clear.hidden = width.hidden = !mix.length;
      level.hidden = mix.length < 2 || isEven(mix);
      difflora.fill(rows, mix.map(fader), !mix.length && h("p", { class: "empty" }, t("mixer.none")));
    }
    function fader(row) {
      const style = difflora.byName(row.name), limit = wide ? FAR : NEAR;
      let dragging = false;
      const range = h("input", { type: "range", min: -limit, max: limit, step: 0.01, value: row.weight, "aria-label": t("mixer.weight", { name: row.name }), title: t("mixer.help") });
      const box = h("input", { type: "number", min: -FAR, max: FAR, step: 0.01, value: difflora.number(row.weight), "aria-label": t("mixer.number", { name: row.name }) });
      const paint = () => {
        const x = ((Number(range.value) + limit) / (2 * limit)) * 100;
        range.style.setProperty("--from", `${Math.min(50, x)}%`);
        range.style.setProperty("--to", `${Math.max(50, x)}%`);
      };
      range.addEventListener("pointerdown", () => { dragging = true; });
      for (const end of ["pointerup", "pointercancel"]) range.addEventListener(end, () => { dragging = false; });
      range.addEventListener("input", () => {
        // By hand in steps of a twentieth, by keyboard of a hundredth.
        const value = dragging ? Math.round(Number(range.value) * 20) / 20 : Number(range.value);
        range.value = value; box.value = difflora.number(value); paint();
        put(row.name, value, "fader");
      });
      range.addEventListener("dblclick", () => put(row.name, usual(row.name)));
      box.addEventListener("change", () => put(row.name, Number(box.value)));
      paint();
      return h("div", { class: "fader", style: `--tint:${difflora.tint(row.name)}`, "data-style": row.name },
        difflora.thumb(style, "small"),
        h("div", { class: "fader-body" },
          h("div", { class: "fader-head" }, h("strong", {}, row.name),
            style && style.trigger && h("button", { type: "button", class: "chip", title: t("mixer.trigger"), onclick: () => difflora.addWords(style.trigger) }, style.trigger),
            box,
            h("button", { type: "button", class: "icon", "aria-label": t("mixer.remove", { name: row.name }), onclick: () => difflora.toggle(row.name) }, "×")),
          range));
    }
    difflora.mix.on((_, from) => { send(); if (from !== "fader") render(); redraft(); });
    started = true;
    difflora.styles.on(() => { send(); render(); }, false);
    watch("value", () => { if (Array.isArray(props.value)) difflora.mix.set(props.value); });
    difflora.setWeights = (names, weights) => {
      const mix = difflora.mix.get();
      const others = mix.filter((row) => !names.includes(row.name));
      const kept = mix.filter((row) => names.includes(row.name)).length === names.length;
      difflora.mix.set(kept
        ? mix.map((row) => { const i = names.indexOf(row.name); return i < 0 ? row : { ...row, weight: weights[i] }; })
        : [...others, ...names.map((name, i) => ({ name, weight: weights[i] }))]);
    };
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
