// The base: which one is open, which are here, opening another one. Everybody in a studio shares it.
(() => {
  const { h, t } = difflora;
  const ended = (job) => ["done", "failed", "stopped"].includes(job.state);

  // What belongs to a base is put aside when another one comes, and is back with it: the mix, and drafts while dragging.
  const family = difflora.store(null, "difflora.family"), mixes = difflora.store({}, "difflora.mixes"), quick = difflora.store(null, "difflora.quick");
  function follow(base) {
    if (quick.get() !== base.quick && (quick.get() !== null || difflora.live.get() === null)) difflora.live.set(base.quick);
    quick.set(base.quick);
    const before = family.get();
    family.set(base.family);
    if (!before || before === base.family) return;
    const kept = mixes.get()[base.family] ?? [];
    mixes.set({ ...mixes.get(), [before]: difflora.mix.get() });
    difflora.mix.set(kept);
  }
  // Sizes and samplers to choose from are the page's own controls.
  const press = (tries) => { const button = document.querySelector("#base-changed"); if (button) button.click(); else if (tries) setTimeout(() => press(tries - 1), 100); };

  // The name in the head of the page, and the dialog behind it. built: the base that the page's controls were made for.
  difflora.basePicker = (server, built) => {
    const name = h("span", { class: "base-name" }), caret = h("svg", { viewBox: "0 0 10 6", width: 10, height: 6, "aria-hidden": "true" }, h("path", { d: "M1 1l4 4 4-4" }));
    const chip = h("button", { type: "button", class: "base", "aria-haspopup": "dialog", title: t("bases.title"), onclick: () => open() }, name, caret);
    const body = h("div", { class: "bases-body" });
    const box = h("dialog", { class: "viewer bases-box", "aria-label": t("bases.title") }, h("button", { type: "button", class: "icon close", "aria-label": t("close"), onclick: () => box.close() }, "×"), body);
    box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
    document.body.append(box);
    let list = null, failure = null, asked = "", typed = "", seen = "", mine = false, known = "";

    difflora.base.on((base) => {
      if (!base) return;
      follow(base);
      if (base.mark !== built) press(50);
      const { name: now } = difflora.now.get().base;
      if (known && known !== now && !mine) difflora.say(t("bases.changed", { name: now }));
      built = base.mark;
      known = now;
      if (box.open) load();
    });

    function open() {
      failure = null;
      asked = "";
      render();
      if (!box.open) box.showModal();
      load();
    }
    async function load() {
      const found = await difflora.json("/studio/bases").catch(() => null);
      if (found && !found.error) list = found;
      render();
    }
    // Ends when the base is open, or is not: then the dialog says why. Whoever asks again gets a new answer.
    difflora.openBase = async (wanted) => {
      failure = null;
      asked = "";
      mine = true;
      if (!box.open) open();
      const id = await difflora.call(server.open_base({ name: wanted }));
      let last = null;
      const done = id && await difflora.job(id, (job) => { last = job; }, false);
      if (done) {
        await difflora.loadBase();
        box.close();
        difflora.say(t("bases.opened", { name: done.name }));
      } else if (last?.state === "failed") {
        failure = { name: wanted, why: last.error.startsWith(`base ${wanted}: `) ? last.error.slice(wanted.length + 7) : last.error };
      }
      mine = false;
      await load();
      return Boolean(done);
    };

    function render() {
      const { base, queue, jobs } = difflora.now.get(), at = base.at;
      name.textContent = at ? t(`bases.chip.${at.phase}`, { name: at.name }) : base.mark ? t("bases.chip", { name: base.name }) : t("bases.none");
      chip.classList.toggle("opening", Boolean(at));
      if (!box.open && !list) return;
      const job = jobs.find((one) => one.kind === "base" && !ended(one)), busy = (queue.waiting ?? 0) + (queue.drawing ?? 0) > 0;
      const key = JSON.stringify([list, failure, asked, at, job?.id, busy, base.name]);
      if (key === seen) return;
      seen = key;
      difflora.fill(body, h("h2", {}, t("bases.title")), h("p", { class: "hint" }, t("bases.help")),
        h("div", { class: "bases-state", "aria-live": "polite" }, at ? progress(at, job) : failure && failed(base)),
        list ? [rows(list.here, at), busy && !at && h("p", { class: "hint" }, t("bases.queue")), h("p", { class: "hint" }, t("bases.own", { folder: list.folder })), list.offers.length > 0 && more(at), list.local ? another(at) : h("p", { class: "hint" }, t("bases.remote"))] : h("p", { class: "hint waiting" }, t("bases.looking")));
    }
    const rows = (found, at) => h("ul", { class: "base-list" }, found.map((one) => row(one, at, badge(one, at) ?? (!one.problem && h("button", { type: "button", disabled: Boolean(at), "aria-label": t("bases.openone", { name: one.name }), onclick: () => difflora.openBase(one.name) }, t("bases.openit"))))));
    // While one makes way for another neither is open.
    const changing = (at) => at && at.phase !== "download";
    const badge = (one, at) => (changing(at) && at.name === one.name ? h("span", { class: "badge here" }, t("bases.opening")) : one.open ? h("span", { class: "badge here" }, changing(at) ? "" : t("bases.open")) : null);
    const fits = (count) => (count === null ? "" : count === 0 ? t("bases.fits.none") : count === 1 ? t("bases.fits.one") : t("bases.fits.many", { count }));
    function row(one, at, act, below = null) {
      const facts = one.problem ? "" : [one.family && difflora.family(one.family), one.side && t("bases.side", { side: one.side }), one.size && difflora.size(one.size)].filter(Boolean).join(" · ");
      return h("li", { class: "base-row" + ((changing(at) ? at.name === one.name : one.open) ? " on" : "") + (one.problem ? " unfit" : ""), "data-base": one.name },
        h("div", { class: "base-words" }, h("strong", {}, one.name), facts && h("span", { class: "base-facts" }, facts), one.about && h("span", { class: "base-facts" }, one.about),
          one.problem ? h("span", { class: "base-problem" }, one.problem) : h("span", { class: "base-fits" + (one.fits ? " some" : "") }, fits(one.fits))), act, below);
    }
    // What is not here: how much it is and where it stays is said before it comes.
    function more(at) {
      const offer = (one) => {
        const sure = asked === one.name;
        const button = !sure && h("button", { type: "button", disabled: Boolean(at), "aria-label": t("bases.getone", { name: one.name }), onclick: () => { asked = one.name; render(); } }, t("bases.get"));
        const below = sure && h("div", { class: "base-sure" }, h("p", {}, t(one.size ? "bases.kept.size" : "bases.kept", { size: difflora.size(one.size), folder: list.kept })), h("div", { class: "acts" },
          h("button", { type: "button", class: "primary", disabled: Boolean(at), onclick: () => difflora.openBase(one.name) }, t("bases.sure")), h("button", { type: "button", onclick: () => { asked = ""; render(); } }, t("bases.no"))));
        return row(one, at, button, below);
      };
      return h("section", { class: "base-offers", "aria-label": t("bases.offers") }, h("h3", {}, t("bases.offers")), h("ul", { class: "base-list" }, list.offers.map(offer)));
    }
    function another(at) {
      const input = h("input", { type: "text", maxlength: 400, value: typed, "aria-label": t("bases.another.name"), placeholder: t("bases.another.such"), oninput: () => { typed = input.value; } });
      const go = (event) => { event.preventDefault(); if (input.value.trim()) difflora.openBase(input.value.trim()); };
      return h("details", { class: "more-of-it", open: Boolean(typed) }, h("summary", {}, t("bases.another")), h("form", { class: "more", onsubmit: go }, h("p", { class: "hint" }, t("bases.another.help", { folder: list.folder, kept: list.kept })),
        h("div", { class: "save-row" }, input, h("button", { type: "submit", disabled: Boolean(at) }, t("bases.openit")))));
    }
    function progress(at, job) {
      const part = at.total ? Math.round((100 * at.done) / at.total) : null, known = part !== null;
      const words = !known ? "" : at.phase === "download" ? t(at.eta === null ? "bases.bytes" : "bases.bytes.left", { done: difflora.size(at.done), total: difflora.size(at.total), left: at.eta === null ? "" : difflora.clock(at.eta) }) : t("bases.parts", { done: at.done, total: at.total });
      const title = t(`bases.phase.${at.phase}`, { name: at.name });
      return h("section", { class: "base-progress" }, h("p", { class: "base-title" }, title, at.size > 0 && h("span", {}, difflora.size(at.size))),
        h("div", { class: "bar-row" }, h("div", { class: "bar" + (known ? "" : " unknown"), role: "progressbar", "aria-label": title, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": known ? part : null }, h("i", { style: known ? `width:${part}%` : null })),
          words && h("span", { class: "bar-words" }, words), job && at.phase !== "back" && h("button", { type: "button", class: "quiet cancel", onclick: () => difflora.call(server.stop({ id: job.id })).then(difflora.poke) }, t("stage.cancel"))),
        at.note && h("p", { class: "hint" }, at.note));
    }
    const failed = (base) => h("section", { class: "verdict-box refused", role: "alert" }, h("h3", {}, t("bases.failed", { name: failure.name })), h("p", {}, failure.why), h("p", { class: "hint" }, base.mark ? t("bases.still", { name: base.name }) : t("bases.nothing")));
    difflora.now.on(render);
    return chip;
  };
})();
