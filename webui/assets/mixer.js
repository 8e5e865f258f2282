// The mixer: a slider a style, what the budget makes of it, and a draft of the picture while it moves.
(() => {
  const { h, t } = difflora;
  const NEAR = 2, FAR = 10;

  difflora.widget("mixer", ({ element, props, watch, server }) => {
    difflora.facts = { ...(props.value?.facts ?? difflora.facts), ...(difflora.base.get() ? { blocks: difflora.base.get().blocks } : {}) };
    let wide = false, sent = "";
    const open = new Set(), panels = new Map();
    const rows = h("div", { class: "faders" });
    const width = h("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => { wide = !wide; render(); } });
    const live = h("input", { type: "checkbox", onchange: () => { difflora.live.set(live.checked); drafted = ""; redraft(); } });
    const level = h("button", { type: "button", class: "quiet", title: t("mixer.even.help"), onclick: () => difflora.mix.set(difflora.shares.even(difflora.mix.get())) }, t("mixer.even"));
    const clear = h("button", { type: "button", class: "quiet", onclick: () => difflora.mix.set([]) }, t("mixer.clear"));
    const together = difflora.together(() => difflora.conflict(server, value()));
    element.append(h("div", { class: "shelf-head" }, h("h2", {}, t("mixer.title")), h("span", { class: "tools" }, level, width, clear)), rows, together, h("label", { class: "tick live", title: t("mixer.live.help") }, live, t("mixer.live")));
    live.checked = difflora.live.get() ?? false;
    difflora.live.on((on) => { live.checked = Boolean(on); }, false);
    // Drafts while a slider moves: one at a time, a little after the hand rests.
    let soon = null, started = false, drafted = "";
    const redraft = () => {
      // Only a change is drawn: not the mix that a reload finds, nor the same one when the library is read again.
      const mix = JSON.stringify([difflora.mix.get(), difflora.chosenWay()]), same = mix === drafted;
      drafted = mix;
      if (same) return;
      clearTimeout(soon);
      if (started && live.checked) soon = setTimeout(() => document.querySelector("#live")?.click(), 180);
    };
    // Whoever asks for more than a draft does not want one on top of it.
    document.addEventListener("click", (event) => { if (event.target.closest?.("#draw, #another, #strip-button, #duel-button, #export-button")) clearTimeout(soon); }, true);
    const known = () => difflora.mix.get().filter((row) => !difflora.styles.get().length || difflora.byName(row.name));
    const value = () => ({ styles: known().map(difflora.rowOf), ...difflora.chosenWay() });
    difflora.mixed = value;
    function send() {
      const next = JSON.stringify(value());
      if (next === sent) return;
      sent = next;
      props.value = JSON.parse(next);
      weigh();
    }
    function change(name, part, from) {
      difflora.mix.set(difflora.mix.get().map((row) => (row.name === name ? { ...row, ...part } : row)), from);
    }
    function put(name, weight, from) {
      const limit = wide ? FAR : NEAR;
      const kept = Math.min(FAR, Math.max(-FAR, Number.isFinite(weight) ? weight : 0));
      if (Math.abs(kept) > limit) wide = true;
      change(name, { weight: Math.round(kept * 1e4) / 1e4 }, from);
    }
    const far = (row) => [row.weight, row.text ?? 0, ...Object.values(row.blocks ?? {})].some((weight) => Math.abs(weight) > NEAR);
    function render() {
      const mix = known();
      wide = wide || mix.some(far);
      width.textContent = wide ? t("mixer.narrow") : t("mixer.wide");
      width.setAttribute("aria-pressed", String(wide));
      clear.hidden = width.hidden = !mix.length;
      level.hidden = mix.length < 2 || difflora.shares.isEven(mix);
      panels.clear();
      difflora.fill(rows, mix.map(fader), !mix.length && h("p", { class: "empty" }, t("mixer.none")));
      show();
    }
    function fader(row, place) {
      const style = difflora.byName(row.name), limit = wide ? FAR : NEAR;
      let dragging = false;
      const range = h("input", { type: "range", min: -limit, max: limit, step: 0.01, value: row.weight, "aria-label": t("mixer.weight", { name: row.name }), title: t("mixer.help") });
      const box = h("input", { type: "number", min: -FAR, max: FAR, step: 0.01, value: difflora.number(row.weight), "aria-label": t("mixer.number", { name: row.name }) });
      range.addEventListener("pointerdown", () => { dragging = true; });
      for (const end of ["pointerup", "pointercancel"]) range.addEventListener(end, () => { dragging = false; });
      range.addEventListener("input", () => {
        // By hand in steps of a twentieth, by keyboard of a hundredth.
        const weight = dragging ? Math.round(Number(range.value) * 20) / 20 : Number(range.value);
        range.value = weight; box.value = difflora.number(weight); difflora.paint(range, limit);
        panels.get(row.name)?.follow(weight);
        put(row.name, weight, "fader");
      });
      range.addEventListener("dblclick", () => put(row.name, difflora.shares.usual(row.name)));
      box.addEventListener("change", () => put(row.name, Number(box.value)));
      difflora.paint(range, limit);
      const unfolded = open.has(row.name), said = difflora.tuned(row);
      const toggle = () => { unfolded ? open.delete(row.name) : open.add(row.name); render(); };
      const panel = unfolded ? difflora.tuning(row, limit, (part, from) => change(row.name, part, from)) : null;
      if (panel) panels.set(row.name, panel);
      return h("div", { class: "fader", style: `--tint:${difflora.tint(row.name)}`, "data-style": row.name },
        difflora.thumb(style, "small"),
        h("div", { class: "fader-body" },
          h("div", { class: "fader-head" }, h("strong", {}, row.name),
            style && style.trigger && h("button", { type: "button", class: "chip", title: t("mixer.trigger"), onclick: () => difflora.addWords(style.trigger) }, style.trigger),
            box, place > 0 && sooner(row.name),
            h("button", { type: "button", class: "icon tune-button" + (said ? " own" : ""), "aria-expanded": String(unfolded), "aria-label": t("mixer.tune", { name: row.name }), title: t("mixer.tune.help"), onclick: toggle }, knobs()),
            h("button", { type: "button", class: "icon", "aria-label": t("mixer.remove", { name: row.name }), onclick: () => difflora.toggle(row.name) }, "×")),
          range,
          h("p", { class: "fader-foot" }, h("span", { class: "tuned" }, unfolded ? "" : said), h("span", { class: "acts-as", "data-acts": row.name }))),
        panel);
    }
    const knobs = () => h("svg", { viewBox: "0 0 20 20", width: 18, height: 18, "aria-hidden": "true" }, [[5, 13], [10, 7], [15, 11]].map(([y, x]) => [h("line", { x1: 3, x2: 17, y1: y, y2: y }), h("circle", { cx: x, cy: y, r: 2.4 })]));
    // Their order means something only where one makes way for another, or they take turns.
    function sooner(name) {
      const up = () => {
        const mix = [...difflora.mix.get()], at = mix.findIndex((row) => row.name === name);
        mix.splice(at - 1, 0, ...mix.splice(at, 1));
        difflora.mix.set(mix);
      };
      return h("button", { type: "button", class: "icon sooner", hidden: !ordered(), "aria-label": t("mixer.sooner", { name }), title: t("mixer.sooner.help"), onclick: up }, "↑");
    }
    const ordered = () => difflora.chosenWay().orthogonal > 0 || difflora.chosenWay().switch > 0;
    // What the budget makes of the weights, a little after the hand rests.
    let acts = {}, later = null, asked = 0;
    function weigh() {
      clearTimeout(later);
      const mine = (asked += 1), mix = value();
      if (!mix.styles.length || mix.budget === "sum") { acts = {}; return show(); }
      later = setTimeout(async () => {
        const found = await difflora.json(`/studio/acts?mix=${encodeURIComponent(JSON.stringify(mix))}`).catch(() => null);
        if (mine !== asked || !found) return;
        acts = Object.fromEntries((found.acts ?? []).map(({ name, weight }) => [name, weight]));
        show();
      }, 250);
    }
    function show() {
      const weight = Object.fromEntries(difflora.mix.get().map((row) => [row.name, row.weight]));
      for (const place of rows.querySelectorAll("[data-acts]")) {
        const found = acts[place.dataset.acts];
        const same = found === undefined || Math.abs(found - weight[place.dataset.acts]) < 0.005;
        place.textContent = same ? "" : t("mixer.acts", { weight: difflora.number(found) });
      }
    }
    const quietly = ["fader", "tune"];
    difflora.mix.on((_, from) => { send(); if (!quietly.includes(from)) render(); redraft(); });
    difflora.way.on(() => { send(); for (const button of rows.querySelectorAll(".sooner")) button.hidden = !ordered(); redraft(); }, false);
    started = true;
    difflora.styles.on(() => { send(); render(); }, false);
    watch("value", () => {
      const given = props.value;
      if (!Array.isArray(given?.styles) || JSON.stringify(given) === sent) return;
      const { styles, ...way } = given;
      difflora.way.set({ budget: way.budget, orthogonal: way.orthogonal, switch: way.switch });
      difflora.mix.set(styles);
    });
    difflora.setWeights = (names, weights) => {
      const mix = difflora.mix.get();
      const others = mix.filter((row) => !names.includes(row.name));
      const kept = mix.filter((row) => names.includes(row.name)).length === names.length;
      difflora.mix.set(kept
        ? mix.map((row) => { const i = names.indexOf(row.name); return i < 0 ? row : { ...row, weight: weights[i] }; })
        : [...others, ...names.map((name, i) => ({ name, weight: weights[i] }))]);
    };
  });
})();
