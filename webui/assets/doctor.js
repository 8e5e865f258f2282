// What the doctor says of a style file: its verdict, how other programs load it, how it was made, a copy in another format.
(() => {
  const { h, t } = difflora;
  const known = (said, plain) => (said.startsWith("doctor.") ? plain : said);
  const listing = (rows, className = "") => h("dl", { class: className }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  const folded = (summary, ...inside) => h("details", { class: "fold" }, h("summary", {}, summary), ...inside);
  const { family } = difflora;

  // The verdict in one sentence, then each problem in words. numbers: whether the numbers have been looked at as well.
  function verdict(s, v, numbers, acts) {
    const kind = v.kind === "fine" && !numbers ? "reading" : v.kind;
    const where = s.about && s.about.kind ? family(s.about.kind) : s.family;
    const title = kind === "elsewhere" && !where ? t("doctor.verdict.stranger") : t(`doctor.verdict.${kind}`, { family: where });
    return h("section", { class: `verdict-box ${kind}`, "aria-label": t("doctor.title") }, h("h3", {}, title),
      v.problems.length > 0 && problems(v.problems), acts);
  }
  // What is wrong comes first, which modules it is stands after it in small.
  const problems = (rows) => h("ul", { class: "problems" }, rows.map((row) => {
    const [what, which] = row.text.split(/: (.*)/s);
    return h("li", { class: row.grave ? "grave" : null }, h("span", {}, what), which && h("span", { class: "which" }, `: ${which}`));
  }));
  const left = (found) => h("ul", { class: "problems" }, found.lost.map((line) => h("li", {}, line)), found.count > found.lost.length && h("li", {}, t("doctor.lost.more", { count: found.count - found.lost.length })));

  // A dropped file that is damaged: what is wrong with it, what a sound copy is without, and the choice.
  function offer(o, server, over) {
    const answer = (asked) => async (event) => {
      const button = event.currentTarget;
      button.disabled = true;
      const done = await difflora.call(asked({ key: o.key }));
      button.disabled = false;
      if (done !== null) over(typeof done === "string" ? done : null);
    };
    return h("article", { class: "offer" }, h("h2", {}, o.name), h("section", { class: "verdict-box refused", "aria-label": t("doctor.title") },
      h("h3", {}, t("doctor.offer")), problems(o.verdict.problems.filter((row) => row.grave).map((row) => ({ ...row, text: row.text.split(": ")[0] }))),
      h("p", {}, o.count ? t("doctor.offer.lost", { kept: o.kept }) : t("doctor.offer.whole")), o.count > 0 && left(o),
      h("div", { class: "acts" }, h("button", { type: "button", class: "primary", onclick: answer(server.add_kept) }, t("doctor.offer.add")), h("button", { type: "button", onclick: answer(server.forget) }, t("doctor.offer.no"))),
      h("p", { class: "hint" }, t("doctor.offer.hint"))));
  }

  function programs(rows) {
    const whole = rows.filter((row) => row.loads === "yes" && row.strength === "1");
    const strength = (row) => (row.strength === "1" ? t("doctor.full") : row.strength && t("doctor.times", { strength: row.strength }));
    const head = ["program", "loads", "strength", "why"].map((name) => h("th", { scope: "col" }, t(`doctor.head.${name}`)));
    return folded(t("doctor.programs", { count: whole.length, all: rows.length }), h("p", { class: "hint" }, t("doctor.programs.help")),
      h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": t("doctor.programs.title") }, h("table", { class: "programs" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map((row) =>
        h("tr", {}, h("th", { scope: "row" }, row.program), h("td", { class: `loads ${row.loads}` }, known(t(`doctor.loads.${row.loads}`), row.loads)), h("td", {}, strength(row)), h("td", {}, row.why)))))));
  }

  // How it was made, the last step first.
  function recipe(steps) {
    if (!steps.length) return folded(t("doctor.made"), h("p", { class: "hint" }, t("doctor.made.unknown")));
    return folded(t("doctor.made"), steps.map((step) => h("section", { class: "made" }, h("h3", {}, step.what === "converted" ? t("doctor.made.converted", { to: format(step.to), precision: step.precision }) : t(`doctor.made.${step.what}`)),
      step.sources && h("ul", {}, step.sources.map((one) => h("li", {}, one.name, one.weight && h("strong", {}, ` × ${one.weight}`), one.sha && h("code", { title: t("doctor.sha") }, one.sha)))),
      step.rows && listing(step.rows.map(([name, value]) => [t(`doctor.trained.${name}`), value])),
      step.settings && step.settings.length > 0 && h("details", {}, h("summary", {}, t("doctor.settings", { count: step.settings.length })), listing(step.settings, "metadata")))));
  }
  const format = (name) => known(t(`doctor.format.${name}`), name);
  const counts = (rows) => Object.entries(rows).map(([name, count]) => `${name} ${count}`).join(", ");

  // The short facts; the alpha is put in when the numbers have been read.
  function facts(s) {
    const a = s.about;
    const rows = a ? [["format", a.formats.map(format).join(", ") || t("doctor.unknown")], ["family", a.kind ? family(a.kind) : s.family || t("doctor.unknown")], ["kinds", Object.keys(a.kinds).join(", ")], ["rank", a.rank || t("doctor.none")], ["alpha", h("span", { class: "alpha" }, "…")]] : [];
    return [...rows, ["size", difflora.size(s.size)], ["made", s.made.slice(0, 10)], ["pictures", s.pictures]].filter(([, value]) => value !== "" && value !== null).map(([name, value]) => [t(`library.${name}`), value]);
  }
  function inside(s) {
    const a = s.about;
    const rows = [["layers", `${s.layers}: ${counts(a.networks)}`], ["kinds", counts(a.kinds)], ["stored", counts(a.stored)], ["base", s.base]];
    return folded(t("doctor.inside"), listing(rows.filter(([, value]) => value).map(([name, value]) => [t(`library.${name}`), value])));
  }

  const choice = (name, options) => {
    const box = h("select", { "aria-label": t(`doctor.convert.${name}`) }, options.map(([value, words]) => h("option", { value }, words)));
    return [box, h("label", {}, h("span", {}, t(`doctor.convert.${name}`)), box)];
  };

  // A copy in another format: what it costs is said before it is downloaded or added.
  function converter(s, server, added) {
    const [to, toLabel] = choice("to", ["kohya", "diffusers", "peft"].map((name) => [name, t(`doctor.to.${name}`)]));
    const [precision, precisionLabel] = choice("precision", ["", "fp16", "bf16", "fp32"].map((name) => [name, name || t("doctor.convert.same")]));
    const plain = h("input", { type: "checkbox", checked: !s.about.plain });
    const result = h("div", { class: "result", "aria-live": "polite" });
    const add = (made) => async () => {
      const name = await difflora.call(server.add_kept({ key: made.key }));
      if (name) { difflora.say(t("library.added", { name })); added(name); }
    };
    const press = async (event) => {
      const button = event.currentTarget;
      button.disabled = true;
      difflora.fill(result, h("p", { class: "hint waiting" }, t("doctor.convert.waiting")));
      const made = await difflora.call(server.convert({ name: s.name, to: to.value, precision: precision.value, plain: plain.checked && !s.about.plain }));
      button.disabled = false;
      difflora.fill(result, made && copy(made));
    };
    const copy = (made) => [h("p", {}, made.error ? t("doctor.convert.differs", { percent: (made.error * 100).toPrecision(2) }) : t("doctor.convert.same.numbers")),
      made.approximation > 0 && h("p", { class: "hint" }, t("doctor.convert.plainly", { percent: (made.approximation * 100).toPrecision(2), worst: (made.worst * 100).toPrecision(2) })),
      h("div", { class: "acts" }, h("a", { class: "as-button", href: `/studio/converted/${encodeURIComponent(made.key)}`, download: made.file }, t("doctor.convert.download", { file: made.file, size: difflora.size(made.size) })), made.adds && h("button", { type: "button", onclick: add(made) }, t("doctor.convert.add")))];
    return folded(t("doctor.convert"), h("div", { class: "convert" }, toLabel, precisionLabel, h("button", { type: "button", onclick: press }, t("doctor.convert.go"))),
      !s.about.plain && h("label", { class: "tick" }, plain, t("doctor.convert.plain")), result);
  }

  difflora.doctor = { verdict, offer, left, programs, recipe, facts, inside, converter, listing, folded };
})();
