// The pictures a style is learnt from, with the doctor's verdicts: they belong to the server. What is seen first are the
// captions; the verdicts come when every picture was looked at.
(() => {
  const { h, t } = difflora;
  const WORST = ["exclude", "look", "keep"];

  difflora.widget("pictures", ({ element, props, watch, server }) => {
    const facts = h("p", { class: "facts", "aria-live": "polite" }), worst = h("div"), head = h("div", { class: "wall-head" }, facts, worst), notes = h("ul", { class: "notes" });
    const tools = h("div", { class: "sieve", role: "group", "aria-label": t("wall.show") }), wall = h("div", { class: "captions" });
    const kept = difflora.store("", "difflora.pictures");
    element.append(head, notes, tools, wall);
    let found = null, checkup = null, order = null, only = "all", asking = false, again = false, failed = false, cards = new Map(), boxes = new Map();
    difflora.given(props, watch, (value) => { kept.set(value.key); load(); });
    if (kept.get()) { props.value = { key: kept.get() }; load(); }
    // With another trigger captions are judged otherwise.
    document.addEventListener("change", (event) => { if (found && event.target.closest?.("#trainconfig-trigger")) check(); });

    async function load() {
      const key = kept.get();
      let answer;
      try { answer = await difflora.json(`/studio/wall/${encodeURIComponent(key)}`); } catch { return; } // the poller says when the studio is away
      if (key !== kept.get()) return;
      found = checkup = order = null;
      failed = false;
      only = "all";
      if (answer.error) { difflora.say(answer.error, true); kept.set(""); props.value = null; facts.textContent = ""; return [worst, notes, tools, wall].forEach((place) => difflora.fill(place)); }
      found = answer;
      cards = new Map(found.rows.map((row) => [row.path, card(row)]));
      boxes = new Map();
      show();
      if (found.rows.length) check();
    }

    // Verdicts again, after every change: what was looked at before costs nothing. One request at a time, as a browser
    // has few, and captions must be saved meanwhile.
    async function check() {
      if (asking) { again = true; return; }
      asking = true;
      const key = kept.get(), trigger = document.querySelector("#trainconfig-trigger :is(input, textarea)")?.value ?? "";
      let answer = null;
      try { answer = await difflora.json(`/studio/verdicts/${encodeURIComponent(key)}?trigger=${encodeURIComponent(trigger)}`); } catch { /* the poller says when the studio is away */ }
      asking = false;
      if (again || key !== kept.get()) { again = false; return found && check(); }
      failed = !answer || Boolean(answer.error);
      if (failed) { if (answer) difflora.say(answer.error, true); return show(); }
      // A picture that came into the folder since it was opened.
      if (answer.verdicts.some((v) => !cards.has(v.path))) return load();
      checkup = answer;
      for (const verdict of checkup.verdicts) cards.get(verdict.path)?.judge(verdict);
      // The worst first, those left out already last; what is changed now stays where it is.
      order ??= new Map(checkup.verdicts.map((v) => [v.path, v.excluded ? 3 : WORST.indexOf(v.kind)]));
      show();
    }

    function show() {
      const rows = found.rows, verdicts = checkup?.verdicts ?? [], out = rows.filter((row) => cards.get(row.path).out()).length;
      const refused = rows.filter((row) => row.refused && !cards.get(row.path).out()).length;
      const count = (kind) => verdicts.filter((v) => v.kind === kind && !cards.get(v.path)?.out()).length;
      const said = [t("wall.count", { name: found.name, count: rows.length })];
      if (!checkup) said.push(refused ? t("wall.refused", { count: refused }) : "", failed || !rows.length ? "" : t("wall.looking"));
      else if (!count("exclude") && !count("look")) said.push(t("wall.fine"));
      else said.push(count("exclude") ? t("wall.exclude", { count: count("exclude") }) : "", count("look") ? t("wall.look", { count: count("look") }) : "");
      if (out) said.push(t("wall.outcount", { count: out }));
      facts.textContent = said.filter(Boolean).join(" · ");
      difflora.fill(notes, (checkup?.notes ?? found.notes).map((note) => h("li", {}, note)));
      sieve(verdicts, count("exclude"), out);
      const rank = (row) => order?.get(row.path) ?? (row.excluded ? 3 : row.problem ? 0 : 2);
      const sorted = rows.map((row, i) => [rank(row), i, row]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , row]) => row);
      const groups = only === "twin" ? checkup.groups.map((paths) => box(paths)) : null;
      place(groups ?? sorted.filter((row) => cards.get(row.path).is(only)).map((row) => cards.get(row.path).node));
    }

    // Copies side by side, in a box that stays the same as long as it holds the same.
    function box(paths) {
      const key = paths.join("\n");
      if (!boxes.has(key)) boxes.set(key, h("div", { class: "twins", role: "group", "aria-label": t("wall.group") }));
      const node = boxes.get(key), nodes = paths.map((path) => cards.get(path).node);
      if (nodes.some((one) => one.parentNode !== node)) node.replaceChildren(...nodes);
      return node;
    }

    // Cards move only where their order changed, so that a half-typed caption keeps its focus.
    function place(nodes) {
      const same = nodes.length === wall.children.length && nodes.every((node, i) => node === wall.children[i]);
      if (!same) difflora.fill(wall, nodes.length ? nodes : h("p", { class: "empty" }, t("wall.none")));
    }

    function sieve(verdicts, exclude, out) {
      const alive = verdicts.filter((v) => !cards.get(v.path)?.out()), names = new Map();
      for (const v of alive) for (const name of new Set(v.faults.map((f) => f.name))) names.set(name, (names.get(name) ?? 0) + 1);
      const kinds = [["all", found.rows.length], ["exclude", exclude], ["look", alive.filter((v) => v.kind === "look").length], ["out", out], ...[...names].sort((a, b) => b[1] - a[1])];
      const there = kinds.filter(([name, n]) => n || name === "all");
      if (!there.some(([name]) => name === only)) only = "all";
      const label = (name) => difflora.words[`wall.only.${name}`] ?? name;
      const chips = there.map(([name, n]) => h("button", { type: "button", class: "chip" + (name === only ? " on" : ""), "aria-pressed": String(name === only), "data-only": name, onclick: () => { only = name; show(); } }, `${label(name)} `, h("i", {}, String(n))));
      difflora.fill(worst, exclude > 0 && h("button", { type: "button", class: "primary", "data-act": "leave-all", onclick: () => leave(alive.filter((v) => v.kind === "exclude").map((v) => v.path)) }, t(exclude === 1 ? "wall.leaveone" : "wall.leaveall", { count: exclude })));
      difflora.fill(tools, there.length > 1 ? chips : []);
    }

    async function leave(paths) {
      const why = Object.fromEntries(paths.map((path) => [path, cards.get(path).reason()]));
      if (await difflora.call(server.leave_out({ key: found.key, why }))) { paths.forEach((path) => cards.get(path).put(true)); difflora.say(t("wall.said.out", { count: paths.length })); show(); check(); }
    }

    async function take(path) {
      if (await difflora.call(server.take_back({ key: found.key, pictures: [path] }))) { cards.get(path).put(false); show(); check(); }
    }

    function card(row) {
      let out = row.excluded, verdict = null;
      const words = h("textarea", { rows: 2, value: row.caption, "aria-label": t("wall.caption", { name: row.path }) });
      const state = h("span", { class: "state" }, row.source ? t("wall.source", { source: row.source }) : "");
      words.addEventListener("change", async () => {
        state.textContent = t("wall.saving");
        const ok = await difflora.call(server.caption({ key: found.key, picture: row.path, text: words.value }));
        state.textContent = ok ? t("wall.saved") : t("wall.unsaved");
        if (ok) check();
      });
      const badge = h("span", { class: "verdict-badge", hidden: true }), why = h("ul", { class: "faults" }), act = h("button", { type: "button", class: "quiet", onclick: () => out ? take(row.path) : leave([row.path]) });
      const node = h("div", { class: "caption", "data-picture": row.path },
        h("div", { class: "shown" }, !row.width ? h("span", { class: "unseen" }, t("wall.unseen")) : h("img", { src: `/studio/wall/${encodeURIComponent(found.key)}/${row.path.split("/").map(encodeURIComponent).join("/")}`, alt: row.caption || row.path, loading: "lazy" }), badge),
        h("div", { class: "words" }, h("span", { class: "file" }, row.path, row.width ? ` · ${row.width} × ${row.height}` : ""), why, words, h("div", { class: "foot" }, state, act)));
      function draw() {
        const faults = verdict?.faults ?? (row.problem ? [{ name: "", text: row.problem }] : []), kind = out ? "out" : verdict?.kind ?? (row.problem ? "exclude" : "keep");
        node.className = `caption ${kind}`;
        badge.hidden = kind === "keep";
        badge.textContent = kind === "keep" ? "" : t(`wall.only.${kind}`);
        difflora.fill(why, faults.map((fault) => h("li", {}, fault.text)));
        act.textContent = t(out ? "wall.take" : "wall.leave");
      }
      draw();
      const is = (name) => name === "all" || (name === "out" ? out : !out && (verdict?.kind === name || verdict?.faults.some((fault) => fault.name === name)));
      return { node, is, out: () => out, reason: () => verdict?.faults[0]?.text ?? row.problem ?? "", put: (value) => { out = value; draw(); }, judge: (value) => { verdict = value; out = value.excluded; draw(); } };
    }
  });
})();
