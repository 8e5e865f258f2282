// How small a file may become: a few ranks or a few errors to choose from, each with what it costs, or one's own.
(() => {
  const { h, t } = difflora;
  const GOOD = 0.05; // an error that one hardly sees: what is chosen until a person does

  const start = { rank: { rows: "ranks", field: "rank", typed: { min: 1, step: 1 } }, error: { rows: "errors", field: "max_error", typed: { min: 0, max: 99, step: 0.1 } } };
  const shown = { rank: (value) => t("cut.ranks", { rank: value }), error: (value) => t("cut.percent", { percent: difflora.percent(value) }) };
  const read = { rank: (text) => Math.round(Number(text)), error: (text) => Number(text) / 100 };

  // ask(cut) -> {ready} or {job}; changed() when another file is chosen, or more is known of it.
  difflora.cuts = ({ name, label, ways, ask, stop, changed }) => {
    const place = h("div", { class: "cuts" }), table = h("div", { class: "cut-place", "aria-live": "polite" });
    let way = ways[0], found = null, asked = 0, wrong = "";
    const value = { rank: null, error: null }, own = { rank: false, error: false };
    const cut = () => (way === "exact" || value[way] === null ? {} : { [start[way].field]: value[way] });
    const set = (next) => { way = next; if (found) settle(); render(); changed(); };
    const head = difflora.segments(name, label, ways.map((one) => [one, t(`cut.${one}`)]), way, set);
    if (ways.length > 1) place.append(head);
    place.append(table);

    // What stands in the table until something is chosen.
    function settle() {
      if (way === "exact" || value[way] !== null) return;
      const rows = found[start[way].rows];
      value[way] = (rows.find((row) => row.error <= GOOD && (way === "rank" || row.asked >= GOOD)) ?? rows.at(-1))?.asked ?? null;
    }
    async function refresh() {
      const mine = (asked += 1);
      wrong = "";
      const answer = await ask(cut()).catch(() => ({ error: t("away") }));
      if (mine !== asked) return;
      wrong = answer?.error ?? "";
      const told = answer?.ok?.ready ?? (answer?.ok?.job ? await follow(answer.ok.job, mine) : null);
      if (mine !== asked) return;
      const first = !found;
      found = told ?? found;
      if (found && first && way !== "exact" && value[way] === null) { settle(); return refresh(); }
      render();
      changed();
    }
    function follow(id, mine) {
      return difflora.job(id, (job) => {
        if (mine !== asked) return;
        wrong = job.error;
        difflora.fill(table, difflora.work(job, t("cut.looking"), stop));
      }, false);
    }
    function choose(number) {
      value[way] = number;
      render();
      changed();
      refresh();
    }
    function render() {
      for (const input of head.querySelectorAll("input")) input.checked = input.value === way;
      const sorry = wrong && h("p", { class: "bad" }, wrong);
      if (!found || way === "exact") return difflora.fill(table, sorry);
      const rows = found[start[way].rows];
      if (!rows.length) return difflora.fill(table, h("p", { class: "hint" }, t("cut.smallest")));
      const listed = rows.some((row) => row.asked === value[way]) && !own[way];
      const most = Math.max(...rows.map((row) => row.size), found.whole.size);
      const line = (row) => h("label", { class: "cut" + (listed && row.asked === value[way] ? " on" : "") },
        h("input", { type: "radio", name: `${name}-${way}`, checked: listed && row.asked === value[way], onchange: () => { own[way] = false; choose(row.asked); }, "aria-label": spoken(row) }),
        h("b", {}, shown[way](row.asked)), h("span", {}, way === "rank" ? t("cut.costs", { percent: difflora.percent(row.error) }) : t("cut.ranks", { rank: row.rank })),
        h("span", { class: "size" }, difflora.size(row.size)), h("i", { style: `width:${(100 * row.size) / most}%` }));
      const box = h("input", { type: "number", ...start[way].typed, value: listed || value[way] === null ? "" : way === "rank" ? value[way] : difflora.number(value[way] * 100, 3), placeholder: t("cut.own"), "aria-label": t(`cut.own.${way}`) });
      box.addEventListener("change", () => { const number = read[way](box.value); own[way] = box.value.trim() !== "" && Number.isFinite(number); choose(own[way] ? number : null); if (!own[way]) { settle(); choose(value[way]); } });
      difflora.fill(table, h("div", { class: "cut-list", role: "radiogroup", "aria-label": t(`cut.${way}`) }, rows.map(line)), sorry, h("label", { class: "cut own" + (listed ? "" : " on") }, h("span", {}, t(`cut.own.${way}`)), box));
    }
    const spoken = (row) => `${shown[way](row.asked)}: ${way === "rank" ? t("cut.costs", { percent: difflora.percent(row.error) }) : t("cut.ranks", { rank: row.rank })}, ${difflora.size(row.size)}`;
    return {
      place, cut, refresh, way: () => way,
      // What the chosen file would be, once that is known.
      chosen: () => (found && !wrong ? (way === "exact" ? found.whole : found[start[way].rows].find((row) => row.asked === value[way]) ?? found.own) : null),
      found: () => found,
      forget: () => { found = null; wrong = ""; asked += 1; render(); },
    };
  };
})();
