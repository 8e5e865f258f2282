// The pictures a style is learnt from, the plan, and the runs: they belong to the server, any page can watch them.
(() => {
  const { h, t } = difflora;

  difflora.widget("pictures", ({ element, props, watch, server }) => {
    const head = h("p", { class: "facts", "aria-live": "polite" });
    const wall = h("div", { class: "captions" });
    const kept = difflora.store("", "difflora.pictures");
    element.append(head, wall);
    difflora.given(props, watch, (value) => { kept.set(value.key); load(); });
    if (kept.get()) { props.value = { key: kept.get() }; load(); }
    async function load() {
      const found = await difflora.json(`/studio/wall/${encodeURIComponent(kept.get())}`);
      if (found.error) { kept.set(""); props.value = null; head.textContent = ""; return difflora.fill(wall); }
      const bad = found.rows.filter((row) => row.problem);
      head.textContent = t(bad.length ? "wall.faults" : "wall.fine", { count: found.rows.length, bad: bad.length, name: found.name });
      difflora.fill(wall, found.notes.map((note) => h("p", { class: "bad note" }, note)), [...bad, ...found.rows.filter((row) => !row.problem)].map((row) => one(found.key, row)));
    }
    function one(key, row) {
      const words = h("textarea", { rows: 2, value: row.caption, "aria-label": t("wall.caption", { name: row.path }) });
      const state = h("span", { class: "state" }, row.source ? t("wall.source", { source: row.source }) : "");
      words.addEventListener("change", async () => {
        state.textContent = t("wall.saving");
        const ok = await difflora.call(server.caption({ key, picture: row.path, text: words.value }));
        state.textContent = ok ? t("wall.saved") : t("wall.unsaved");
      });
      return h("div", { class: "caption" + (row.problem ? " faulty" : "") },
        h("img", { src: `/studio/wall/${encodeURIComponent(key)}/${row.path.split("/").map(encodeURIComponent).join("/")}`, alt: row.caption || row.path, loading: "lazy" }),
        h("div", {}, h("span", { class: "file" }, row.path, row.width ? ` · ${row.width} × ${row.height}` : ""), row.problem && h("p", { class: "bad" }, row.problem), words, state));
    }
  });

  difflora.widget("plan", ({ element, props, watch }) => {
    const place = h("div", { class: "plan", "aria-live": "polite" });
    element.append(place);
    difflora.given(props, watch, (p) => {
      const rows = [["name", p.name + (p.taken ? ` — ${t("plan.taken")}` : "")], ["pictures", `${p.pictures}, ${p.resolution} px`], ["captions", p.captions], ["trigger", p.trigger || t("plan.notrigger")],
        ["adapter", t("plan.rank", { rank: p.rank, alpha: difflora.number(p.alpha), layers: p.layers })], ["steps", t("plan.amount", { steps: p.steps, batch: p.batch, rate: p.learning_rate })], ["device", p.device]];
      difflora.fill(place, h("dl", {}, rows.map(([k, v]) => [h("dt", {}, t(`plan.${k}`)), h("dd", {}, String(v))])), h("ul", { class: "reasons" }, p.reasons.map((why) => h("li", {}, why))));
    });
  });

  difflora.widget("runs", ({ element, server }) => {
    const place = h("div", { class: "runs" });
    element.append(place);
    let seen = "", asking = false;
    const open = new Set();
    difflora.now.on(async (now) => {
      if (asking || !element.offsetParent && seen) return;
      asking = true;
      try {
        const { rows } = await difflora.json("/studio/runs");
        const key = JSON.stringify(rows);
        if (key !== seen) {
          seen = key;
          const focused = document.activeElement?.closest(".run")?.dataset.run, which = document.activeElement?.dataset?.act;
          difflora.fill(place, h("div", { class: "shelf-head" }, h("h2", {}, t("runs.title")), h("span", { class: "count" }, rows.length || "")), rows.some((r) => r.state === "running") && h("p", { class: "hint" }, t("about.turns")), rows.map((row) => run(row, server, open)), !rows.length && h("p", { class: "empty" }, t("runs.none")));
          if (focused && which) place.querySelector(`[data-run="${CSS.escape(focused)}"] [data-act="${which}"]`)?.focus();
        }
      } catch { /* the poller says when the studio is away */ }
      asking = false;
    });
  });

  function run(row, server, open) {
    const live = ["running", "starting"].includes(row.state);
    const say = (what) => async () => {
      if (what === "delete" && !confirm(t("runs.sure", { name: row.name }))) return;
      if (await difflora.call(server.speak({ name: row.name, what }))) { difflora.say(t(`runs.said.${what}`, { name: row.name })); difflora.poke(); }
    };
    const act = (what, extra = "") => h("button", { type: "button", class: extra, "data-act": what, onclick: say(what) }, t(`runs.${what}`));
    const acts = live ? [act("pause"), act("preview"), act("save"), act("stop")]
      : row.state === "queued" ? [act("sooner"), act("later"), act("remove")]
      : row.state === "paused" || row.state === "failed" ? [act("resume", "primary"), act("delete", "danger")]
      : [row.style && h("button", { type: "button", class: "primary", onclick: () => { location.hash = ""; difflora.goto("studio"); if (!difflora.mix.get().some((m) => m.name === row.style)) difflora.toggle(row.style); } }, t("runs.use")), act("delete", "danger")];
    const share = row.steps ? row.step / row.steps : 0;
    const older = !live && row.state !== "queued" && row.state !== "paused";
    const body = [
      row.error && h("p", { class: "bad" }, row.error),
      row.losses && row.losses.length > 1 && curve(row),
      row.previews && row.previews.length > 0 && previews(row),
      row.notes && row.notes.length > 0 && h("p", { class: "hint" }, row.notes.at(-1)),
    ];
    const details = older && h("details", { open: open.has(row.name), ontoggle: (e) => { e.target.open ? open.add(row.name) : open.delete(row.name); } }, h("summary", {}, t("runs.look")), body);
    return h("section", { class: `run ${row.state}`, "data-run": row.name, "aria-label": row.name },
      h("div", { class: "run-head" }, h("h3", {}, row.name), h("span", { class: `badge ${row.state}` }, t(`runs.state.${row.state}`)),
        h("span", { class: "figures" }, figures(row, live)), h("div", { class: "acts" }, acts)),
      row.steps > 0 && (live || row.state === "paused") && h("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": row.steps, "aria-valuenow": row.step, "aria-label": t("runs.progress", { name: row.name }) }, h("i", { style: `width:${share * 100}%` })),
      older ? details : body);
  }

  function figures(row, live) {
    const parts = [];
    if (row.steps) parts.push(t("runs.step", { step: row.step, steps: row.steps }));
    if (row.loss !== null && row.loss !== undefined && live) parts.push(t("runs.loss", { loss: row.loss.toFixed(3) }));
    if (live && row.speed) parts.push(t("runs.speed", { speed: difflora.number(row.speed, 1) }));
    if (live && row.eta !== null && row.eta !== undefined) parts.push(t("runs.left", { left: difflora.clock(row.eta) }));
    return parts.join(" · ");
  }

  // The loss of each bucket as dots, its running mean as the line: the noise is large and should look like noise.
  function curve(row) {
    const W = 600, H = 130, pad = 4, points = row.losses;
    const values = points.map((p) => p[1]).sort((a, b) => a - b);
    const low = values[0], high = values[Math.floor(values.length * 0.98)] || 1;
    const x = (step) => pad + ((W - 2 * pad) * step) / Math.max(1, row.steps), y = (loss) => pad + (H - 2 * pad) * (1 - (Math.min(loss, high) - low) / Math.max(1e-9, high - low));
    let mean = points[0][1];
    const line = points.map(([step, loss]) => { mean = 0.93 * mean + 0.07 * loss; return `${x(step).toFixed(1)},${y(mean).toFixed(1)}`; });
    return h("figure", { class: "curve" }, h("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": t("runs.curve", { first: points[0][1].toFixed(3), last: mean.toFixed(3) }) },
      points.map(([step, loss]) => h("circle", { cx: x(step), cy: y(loss), r: 1.6 })), h("polyline", { points: line.join(" ") })),
      h("figcaption", {}, t("runs.loss", { loss: `${high.toFixed(2)} – ${low.toFixed(2)}` })));
  }

  function previews(row) {
    return h("div", { class: "previews", tabindex: "0", role: "group", "aria-label": t("runs.previews") }, row.previews.map(({ step, files }) => h("figure", {},
      files.map((file, i) => h("img", { src: `/studio/previews/${encodeURIComponent(row.name)}/${encodeURIComponent(file.split("/").pop())}?v=${row.since}`, alt: row.prompts?.[i] ?? "", title: row.prompts?.[i] ?? "", loading: "lazy" })), h("figcaption", {}, t("runs.at", { step })))));
  }

  difflora.goto = (page) => document.querySelector(`#pages button[role=tab][data-tab-id="${page}"]`)?.click();
})();
