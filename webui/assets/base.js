// What all widgets share: elements without innerHTML (text from files is only ever text), words, stores, one poller.
window.difflora ??= (() => {
  const widgets = {};
  const d = { widgets, words: {} };

  d.ready = fetch("/studio/assets/en.json").then((r) => r.json()).then((w) => { d.words = w; });
  d.widget = (name, fill) => { widgets[name] = (tools) => d.ready.then(() => fill(tools)); };

  d.t = (key, values = {}) => (d.words[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

  // h("button", {class: "x", onclick: f, "aria-label": "y"}, child, "text", …)
  d.h = (tag, attributes = {}, ...children) => {
    const svg = ["svg", "path", "line", "text", "rect", "circle", "g", "polyline"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "value" || name === "checked") node[name] = value;
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) node.append(child);
    return node;
  };

  d.json = async (url) => {
    const answer = await fetch(url, { headers: { Accept: "application/json" } });
    if (answer.status === 401) { location.reload(); throw new Error("signed out"); }
    return answer.json();
  };

  // A value with listeners; with a key it outlives a reload.
  d.store = (start, key = null) => {
    let value = start;
    const listeners = new Set();
    if (key) try { value = JSON.parse(localStorage.getItem(key)) ?? start; } catch { value = start; }
    const store = {
      get: () => value,
      set: (next, from = null) => {
        value = next;
        if (key) try { localStorage.setItem(key, JSON.stringify(next)); } catch { /* a full or private storage */ }
        // One widget that fails leaves the others as they should be.
        for (const listener of listeners) try { listener(value, from); } catch (error) { console.error(error); }
      },
      on: (listener, now = true) => { listeners.add(listener); if (now) listener(value, null); return () => listeners.delete(listener); },
    };
    return store;
  };

  d.mix = d.store([], "difflora.mix");
  d.way = d.store({}, "difflora.way"); // how styles act together, as far as it was chosen: budget, orthogonal, switch
  d.facts = { defaults: {}, help: {}, budgets: [], presets: {}, blocks: [] }; // what the server says of that
  d.chosenWay = () => ({ ...d.facts.defaults, ...d.way.get() });
  d.live = d.store(null, "difflora.live"); // draw drafts while sliders move; null: as the base allows
  d.styles = d.store([]);
  d.now = d.store({ tickets: [], queue: {}, base: { name: "", mark: "", at: null }, history: 0, newest: "", styles: "", runs: [], jobs: [] });
  d.base = d.store(null); // of the open base: mark, family, quick, blocks
  d.mine = d.store([], "difflora.tickets"); // tickets this browser asked for, newest last
  d.follow = (id) => { d.mine.set([...d.mine.get().filter((x) => x !== id), id].slice(-12)); d.poke(); };
  d.ticket = (id) => d.now.get().tickets.find((t) => t.id === id);

  let timer = null;
  let asking = false, again = false; // again: something was asked for meanwhile, which this answer may not know
  d.poke = () => { clearTimeout(timer); timer = setTimeout(poll, 30); };
  const poll = async () => {
    if (asking) { again = true; return; }
    asking = true;
    let wait = 4000;
    try {
      const now = await d.json("/studio/now?also=" + d.mine.get().map(encodeURIComponent).join(","));
      const before = d.now.get();
      d.now.set(now);
      if (now.base.mark && now.base.mark !== d.base.get()?.mark) await d.loadBase();
      else if (now.styles !== before.styles && now.base.mark) await d.loadStyles();
      if (now.base.at || now.tickets.some((t) => !over(t)) || now.jobs.some((job) => !ended(job))) wait = 350;
      else if (now.runs.some((r) => ["running", "starting", "queued"].includes(r.state))) wait = 1000;
      document.body.classList.remove("away");
    } catch { document.body.classList.add("away"); wait = 3000; }
    asking = false;
    clearTimeout(timer);
    timer = setTimeout(poll, again ? 30 : document.hidden ? 8000 : wait);
    again = false;
  };
  const over = (t) => ["done", "cancelled", "failed"].includes(t.state);
  d.over = over;
  const ended = (job) => ["done", "failed", "stopped"].includes(job.state);
  // Work in the background: `change` hears how it stands; the result, or null when it failed, was stopped or is gone.
  d.job = (id, change = () => {}, aloud = true) => new Promise((resolve) => {
    let missing = 0;
    const off = d.now.on(async (now) => {
      const job = now.jobs.find((one) => one.id === id);
      // What was asked for just now may not be in an answer that was on its way already.
      if (!job && (missing += 1) < 3) return d.poke();
      if (job) change(job);
      if (job && !ended(job)) return;
      off();
      if (job?.state === "failed" && aloud) d.say(job.error, true);
      resolve(job?.state === "done" ? (await d.json(`/studio/jobs/${id}`)).result ?? null : null);
    }, false);
    d.poke();
  });
  // A bar with a way out for such work.
  d.work = (job, words, stop) => d.h("div", { class: "bar-row" },
    d.h("div", { class: "bar", role: "progressbar", "aria-label": words, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": d.part(job), "aria-valuetext": d.standing(job) }, d.h("i", { style: `width:${d.part(job)}%` })),
    d.h("span", { class: "bar-words" }, d.standing(job)),
    stop && d.h("button", { type: "button", class: "quiet cancel", onclick: () => d.call(stop({ id: job.id })).then(d.poke) }, d.t("stage.cancel")));
  d.part = (job) => (job.total ? Math.round((100 * job.done) / job.total) : 0);
  d.standing = (job) => (job.state === "waiting" ? d.t("job.waiting") : d.t("job.working", { percent: d.part(job), left: job.eta === null ? "" : d.clock(job.eta) }));
  // While one base makes way for another there is nothing to load.
  d.loadStyles = async () => { const found = await d.json("/studio/styles"); if (found.rows) d.styles.set(found.rows); };
  d.loadBase = async () => {
    const found = await d.json("/studio/base");
    if (found.error) return;
    d.facts = { ...d.facts, blocks: found.blocks };
    d.base.set(found);
    await d.loadStyles();
  };
  // "sd1" -> "Stable Diffusion 1"; a family that has no name of its own stays as it is.
  d.family = (name) => { const said = d.t(`doctor.family.${name}`); return said.startsWith("doctor.") ? name : said; };
  document.addEventListener("visibilitychange", d.poke);
  d.ready.then(poll);

  d.say = (words, bad = false) => {
    // An open dialog covers everything that is not in it.
    const host = document.querySelector("dialog[open]") ?? document.body;
    let place = host.querySelector(":scope > .say");
    if (!place) host.append((place = d.h("div", { class: "say", role: "status", "aria-live": "polite" })));
    const line = d.h("p", { class: bad ? "bad" : "", role: bad ? "alert" : null }, words);
    place.append(line);
    setTimeout(() => line.remove(), bad ? 9000 : 4000);
  };
  // What an event gave a widget: its one line of what went wrong, or a value to go on with.
  d.given = (props, watch, go) => watch("value", () => {
    const value = props.value;
    if (value && value.error) d.say(value.error, true);
    else if (value) go(value);
  });
  // Call a server function; its one line of what went wrong is shown.
  d.call = async (asked) => {
    try {
      const answer = await asked;
      if (answer && answer.error) { d.say(answer.error, true); return null; }
      return answer ? answer.ok ?? true : true;
    } catch { d.say(d.t("away"), true); return null; }
  };

  // 0.000512 -> "0.051": of errors, in percent.
  d.percent = (share) => (share === 0 ? "0" : share < 0.00005 ? "< 0.01" : share >= 0.1 ? String(Math.round(share * 100)) : String(Number((share * 100).toPrecision(2))));
  d.number = (value, digits = 2) => (Math.round(value * 10 ** digits) / 10 ** digits).toString();
  d.weights = (names, weights) => names.map((name, i) => `${name} ${d.number(weights[i])}`).join(", ");
  d.size = (bytes) => bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  d.clock = (seconds) => {
    const s = Math.max(0, Math.round(seconds));
    return s >= 3600 ? `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min` : s >= 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s} s`;
  };
  // Colours of the chosen styles, by place: told apart by hue and lightness.
  d.tints = ["#e4572e", "#2e86ab", "#7a9e35", "#a44a9c", "#d99a1c", "#3b9c86", "#c2496b", "#5b6bc0"];
  d.tint = (name) => d.tints[Math.max(0, d.mix.get().findIndex((row) => row.name === name)) % d.tints.length];
  d.thumb = (style, size = "") => {
    if (style && style.thumb) return d.h("img", { class: "thumb " + size, src: `/studio/styles/${encodeURIComponent(style.name)}/thumb?v=${style.version}`, alt: "", loading: "lazy" });
    const letter = ((style && style.name) || "?")[0].toUpperCase();
    return d.h("span", { class: "thumb letter " + size, "aria-hidden": "true" }, letter);
  };
  d.picture = (name, thumb = false) => `/studio/pictures/${name.split("/").map(encodeURIComponent).join("/")}${thumb ? "?thumb=true" : ""}`;
  d.goto = (page) => document.querySelector(`#pages button[role=tab][data-tab-id="${page}"]`)?.click();
  d.byName = (name) => d.styles.get().find((s) => s.name === name);
  // Fill a place again; what takes the place of the focused control has the focus, or every poll would take it away.
  d.fill = (place, ...children) => {
    const held = place.contains(document.activeElement) ? document.activeElement : null;
    place.replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
    // A pressed button may look otherwise and a count beside its name may change.
    const called = (node) => node.dataset.only ?? node.dataset.act ?? [node.className, node.getAttribute("aria-label") ?? node.textContent].join("|");
    if (held) [...place.querySelectorAll(held.tagName)].find((node) => called(node) === called(held))?.focus({ preventScroll: true });
  };
  return d;
})();
