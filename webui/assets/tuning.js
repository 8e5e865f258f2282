// One style in detail: words apart from pictures, parts of the network, the steps in which it acts. Left alone it shows nothing.
(() => {
  const { h, t } = difflora;
  const FAR = 10;

  // A row as it is sent: what was not touched is not there.
  difflora.rowOf = ({ name, weight, text, blocks, start, end }) => ({
    name, weight, ...(text === undefined || text === null ? {} : { text }), ...(blocks && Object.keys(blocks).length ? { blocks } : {}),
    ...((start ?? 0) > 0 || (end ?? 1) < 1 ? { start: start ?? 0, end: end ?? 1 } : {}),
  });
  const isTuned = (row) => Object.keys(difflora.rowOf(row)).length > 2;
  // "down2" -> "down 2"; names that only a recipe has stay as they are.
  const called = (name) => {
    const [, word, number] = /^([a-z]+?)(\d*)$/.exec(name) ?? [null, name, ""];
    const known = t(`block.${word}`);
    return [known.startsWith("block.") ? word : known, number].filter(Boolean).join(" ");
  };
  const percent = (share) => Math.round(share * 100);
  difflora.tuned = (row) => {
    const sent = difflora.rowOf(row), said = [];
    if (sent.text !== undefined) said.push(`${t("tune.text")} ${difflora.number(sent.text)}`);
    for (const [name, weight] of Object.entries(sent.blocks ?? {})) said.push(`${called(name)} ${difflora.number(weight)}`);
    if (sent.end !== undefined) said.push(`${t("tune.steps")} ` + t("tune.window", { start: percent(sent.start), end: percent(sent.end) }));
    return said.join(" · ");
  };

  // A part's weight of its own: a preset is put before what is more exact, which then has the last word.
  const withBlock = (blocks, name, weight) => {
    const rest = { ...(blocks ?? {}) };
    if (weight === undefined) delete rest[name];
    else if (name in rest || !(name in difflora.facts.presets)) rest[name] = weight;
    else return { [name]: weight, ...rest };
    return rest;
  };

  // change(part, from) puts a part of the row into the mix; from "tune" leaves the panel as it stands, under the hand.
  difflora.tuning = (row, limit, change) => {
    const followers = [];
    let now = row;
    const plain = h("button", { type: "button", class: "quiet", onclick: () => put({ text: undefined, blocks: undefined, start: undefined, end: undefined }) }, t("tune.plain"));
    const put = (part, from = null) => { now = { ...now, ...part }; plain.hidden = !isTuned(now); change(part, from); };
    plain.hidden = !isTuned(row);
    const slider = (label, title, value, set) => {
      const words = `${label}, ${row.name}`;
      const range = h("input", { type: "range", min: -limit, max: limit, step: 0.01, value: value ?? now.weight, "aria-label": words, title });
      const box = h("input", { type: "number", min: -FAR, max: FAR, step: 0.01, value: value === undefined ? "" : difflora.number(value), placeholder: difflora.number(now.weight), "aria-label": t("tune.number", { name: words }), title: t("tune.blank") });
      const reset = h("button", { type: "button", class: "icon small", "aria-label": t("tune.reset", { name: words }), title: t("tune.reset.help"), onclick: () => set(undefined) }, "×");
      const line = h("div", { class: "tune" }, h("span", { title }, label), range, box, reset);
      const paint = (own) => { line.classList.toggle("own", own); reset.disabled = !own; difflora.paint(range, limit); };
      let dragging = false, own = value !== undefined;
      range.addEventListener("pointerdown", () => { dragging = true; });
      for (const end of ["pointerup", "pointercancel"]) range.addEventListener(end, () => { dragging = false; });
      range.addEventListener("input", () => {
        const weight = dragging ? Math.round(Number(range.value) * 20) / 20 : Number(range.value);
        range.value = weight; box.value = difflora.number(weight); own = true;
        paint(true);
        set(weight, "tune");
      });
      box.addEventListener("change", () => set(box.value.trim() === "" ? undefined : Math.min(FAR, Math.max(-FAR, Number(box.value) || 0))));
      followers.push((weight) => { box.placeholder = difflora.number(weight); if (!own) { range.value = weight; paint(false); } });
      paint(own);
      return line;
    };
    const block = (name) => slider(called(name), difflora.facts.presets[name] ? t("tune.preset", { parts: difflora.facts.presets[name].map(called).join(", ") }) : t("tune.part"), row.blocks?.[name], (weight, from) => put({ blocks: withBlock(now.blocks, name, weight) }, from));
    const presets = Object.keys(difflora.facts.presets);
    const strange = Object.keys(row.blocks ?? {}).filter((name) => !presets.includes(name) && !difflora.facts.blocks.includes(name));
    const parts = [...difflora.facts.blocks, ...strange];
    const opened = parts.some((name) => row.blocks && name in row.blocks);
    const panel = h("div", { class: "tuning", role: "group", "aria-label": t("mixer.tune", { name: row.name }) },
      slider(t("tune.text"), t("tune.text.help"), row.text ?? undefined, (text, from) => put({ text }, from)),
      presets.map(block), when(row, put),
      parts.length > 0 && h("details", { open: opened }, h("summary", {}, t("tune.parts")), parts.map(block)),
      plain);
    panel.follow = (weight) => { now = { ...now, weight }; followers.forEach((follow) => follow(weight)); };
    return panel;
  };

  // From which share of the steps until which: two knobs on one rail.
  function when(row, put) {
    const knob = (key, value) => h("input", { type: "range", min: 0, max: 100, step: 5, value, "aria-label": t(`tune.${key}`, { name: row.name }), title: t("tune.steps.help") });
    const from = knob("from", percent(row.start ?? 0)), until = knob("until", percent(row.end ?? 1));
    const words = h("output", {});
    const rail = h("div", { class: "when" }, from, until), line = h("div", { class: "tune steps" }, h("span", { title: t("tune.steps.help") }, t("tune.steps")), rail, words);
    const paint = () => {
      rail.style.setProperty("--from", `${from.value}%`);
      rail.style.setProperty("--to", `${until.value}%`);
      // Both knobs at the right end: the one that can still move lies on top.
      rail.classList.toggle("right", Number(from.value) > 50);
      line.classList.toggle("own", Number(from.value) > 0 || Number(until.value) < 100);
      words.textContent = t("tune.window", { start: from.value, end: until.value });
    };
    const moved = (mine, other, sign) => () => {
      if (sign * (Number(other.value) - Number(mine.value)) < 5) mine.value = Number(other.value) - sign * 5;
      paint();
      put({ start: Number(from.value) / 100, end: Number(until.value) / 100 }, "tune");
    };
    from.addEventListener("input", moved(from, until, 1));
    until.addEventListener("input", moved(until, from, -1));
    paint();
    return line;
  }

  // The part of a rail between nothing and the knob.
  difflora.paint = (range, limit) => {
    const x = ((Number(range.value) + limit) / (2 * limit)) * 100;
    range.style.setProperty("--from", `${Math.min(50, x)}%`);
    range.style.setProperty("--to", `${Math.max(50, x)}%`);
  };
})();
