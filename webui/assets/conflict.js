// Where the styles of a mix clash: for each pair and each part of the network what agrees, what is undone, what collides.
(() => {
  const { h, t } = difflora;
  const KINDS = ["agree", "cancel", "collide"];

  let box = null, body = null, before = null; // before: the mix as it was until a suggestion was taken
  const open = () => {
    if (!box) {
      body = h("div", { class: "clash-body" });
      box = h("dialog", { class: "viewer clash-box", "aria-label": t("conflict.title") }, h("button", { type: "button", class: "icon close", "aria-label": t("close"), onclick: () => box.close() }, "×"), body);
      box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
      document.body.append(box);
    }
    if (!box.open) box.showModal();
  };

  difflora.conflict = async (server, mix) => {
    const id = await difflora.call(server.clash({ mix }));
    if (!id) return;
    open();
    difflora.fill(body, h("h2", {}, t("conflict.title")), h("p", { class: "hint" }, t("conflict.waiting")));
    const found = await difflora.job(id);
    if (!found) return box.close();
    show(found);
  };

  const put = (mix) => {
    difflora.way.set({ ...difflora.way.get(), ...(mix.budget === undefined ? {} : { budget: mix.budget }), ...(mix.orthogonal === undefined ? {} : { orthogonal: mix.orthogonal }) });
    const rows = new Map(difflora.mix.get().map((row) => [row.name, row]));
    const changed = mix.styles.map((row) => ({ ...row }));
    const others = [...rows.values()].filter((row) => !changed.some((one) => one.name === row.name));
    difflora.mix.set([...changed, ...others]);
  };
  const take = (mix) => {
    before = { mix: difflora.mix.get(), way: difflora.way.get() };
    put(mix);
    box.close();
    difflora.say(t("conflict.applied"));
  };
  const back = () => {
    difflora.way.set(before.way);
    difflora.mix.set(before.mix);
    before = null;
    box.close();
  };

  const percent = (share) => String(Math.round(share * 100));
  function show(found) {
    const help = found.suggestions.filter((one) => one.mix);
    const most = Math.max(...found.pairs.flatMap((one) => one.parts).flatMap((part) => KINDS.map((kind) => part[kind].value)));
    const full = [0.1, 0.25, 0.5, 1].find((share) => most <= share) ?? 1;
    difflora.fill(body, h("h2", {}, t("conflict.title")), h("p", { class: "level" }, found.conflict >= 0.01 ? t("conflict.level", { percent: difflora.percent(found.conflict) }) : t("conflict.none")),
      help.length > 0 && h("section", { class: "advice", "aria-label": t("conflict.advice") }, h("h3", {}, t("conflict.advice")), help.map(suggestion)),
      before && h("button", { type: "button", class: "quiet back", onclick: back }, t("conflict.back")),
      h("p", { class: "legend" }, KINDS.map((kind) => h("span", { class: kind }, t(`conflict.${kind}`))), h("span", { class: "chance" }, t("conflict.chance")), h("span", { class: "full" }, t("conflict.full", { percent: percent(full) }))),
      found.pairs.map((one, i) => pair(one, full, i > 0)));
  }
  // The whole in a sentence, then the parts that a painter knows; single blocks, and all but the worst pair, are folded.
  function pair(one, full, folded) {
    const whole = one.parts.at(-1), parts = one.parts.slice(0, -1).filter((part) => part.verdict !== "absent");
    const within = new Set(parts.flatMap((part) => part.blocks)), single = parts.filter((part) => within.has(part.part));
    const head = [h("span", { class: "pair-names" }, one.styles.map((name) => h("span", { style: `--tint:${difflora.tint(name)}` }, name))), h("span", { class: "whole" }, whole.sentence)];
    const inside = [h("div", { class: "clash-parts" }, parts.filter((part) => !single.includes(part)).map((part) => line(part, full))),
      single.length > 0 && h("details", {}, h("summary", {}, t("tune.parts")), h("div", { class: "clash-parts" }, single.map((part) => line(part, full))))];
    const words = { class: "clash-pair", "aria-label": t("conflict.pair", { a: one.styles[0], b: one.styles[1] }) };
    return folded ? h("details", words, h("summary", {}, head), inside) : h("section", words, h("div", { class: "pair-head" }, head), inside);
  }
  function line(part, full) {
    const name = part.kind === "preset" ? t(`block.${part.part}`) : part.part;
    const words = t("conflict.bars", { part: name, agree: percent(part.agree.value), cancel: percent(part.cancel.value), collide: percent(part.collide.value) });
    return h("div", { class: `clash-part ${part.verdict}` }, h("span", { class: "name" }, name, part.blocks.length > 0 && h("small", {}, part.blocks.join(", "))),
      h("span", { class: "bars", role: "img", "aria-label": words, title: words }, KINDS.map((kind) => h("span", { class: `rail ${kind}` }, h("i", { style: `width:${(100 * part[kind].value) / full}%` }), h("b", { style: `left:${(100 * part[kind].chance) / full}%` })))),
      part.verdict !== "alone" && h("p", {}, part.sentence));
  }
  const suggestion = (one) => h("div", { class: "advice-row" }, h("p", {}, h("b", {}, said(one.mix)), h("span", {}, one.sentence)), h("button", { type: "button", onclick: () => take(one.mix) }, t("conflict.apply")));
  // What would be changed, in the mixer's own words.
  function said(mix) {
    const now = new Map(difflora.mix.get().map((row) => [row.name, row]));
    const rows = mix.styles.filter((row) => JSON.stringify(difflora.rowOf(row)) !== JSON.stringify(difflora.rowOf(now.get(row.name) ?? row)));
    const words = rows.map((row) => `${row.name}: ${difflora.tuned(row) || difflora.number(row.weight)}`);
    if (mix.orthogonal !== undefined) words.push(`${t("together.apart")}: ${difflora.number(mix.orthogonal)}`);
    if (mix.budget !== undefined) words.push(t(`budget.${mix.budget}`));
    return words.join("; ");
  }
})();
