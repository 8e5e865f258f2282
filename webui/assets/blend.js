// The steps in between, and the blind pick.
(() => {
  const { h, t } = difflora;

  difflora.widget("strip", ({ element, props, watch, server }) => {
    const place = h("div", { class: "strip-place" }), picture = difflora.slots();
    const kept = difflora.store(null, "difflora.strip");
    element.append(place);
    let seen = "";
    // The server forgets a drawing after some minutes; the strip stays until the next one.
    const last = difflora.store(null, "difflora.strip.row");
    difflora.given(props, watch, (value) => { kept.set(value.ticket); last.set(null); difflora.follow(value.ticket); });
    difflora.now.on(render);
    difflora.mix.on(() => { seen = ""; render(); }, false);
    if (kept.get()) difflora.follow(kept.get());
    function render() {
      const found = kept.get() && difflora.ticket(kept.get());
      const ticket = found || (last.get()?.id === kept.get() ? last.get() : null);
      const key = JSON.stringify(ticket ?? null);
      if (key === seen) return;
      seen = key;
      if (found && difflora.over(found)) last.set(found);
      if (!ticket) return difflora.fill(place);
      const { names, cells } = ticket.facts;
      const focused = document.activeElement?.dataset?.cell;
      const shape = cells.some((c) => c.y > 0) ? "triangle" : "line";
      const box = h("div", { class: `strip ${shape}`, role: "group", "aria-label": t("strip.title") }, cells.map((cell, i) => piece(ticket, names, cell, i)));
      difflora.fill(place, shape === "line" && h("p", { class: "strip-ends" }, names.map((n) => h("span", { style: `--tint:${difflora.tint(n)}` }, n))), shape === "line" ? box : corners(box, names, cells), !difflora.over(ticket) && difflora.bar(ticket, server),
        ticket.state === "failed" && h("p", { class: "bad" }, ticket.error), difflora.over(ticket) && h("p", { class: "hint" }, t("strip.click")));
      if (focused) place.querySelector(`[data-cell="${focused}"]`)?.focus();
    }
    function corners(box, names, cells) {
      cells.forEach((cell) => {
        const only = cell.weights.filter((w) => w !== 0).length === 1 ? cell.weights.findIndex((w) => w !== 0) : -1;
        if (only >= 0) box.append(h("span", { class: "corner" + (cell.y === 0 ? " top" : ""), style: `--x:${cell.x};--y:${cell.y}` }, names[only]));
      });
      return box;
    }
    function piece(ticket, names, cell, i) {
      const words = difflora.weights(names, cell.weights);
      const now = names.every((name, k) => difflora.mix.get().some((row) => row.name === name && Math.abs(row.weight - cell.weights[k]) < 1e-3));
      return h("button", { type: "button", class: "cell" + (now ? " now" : ""), style: `--x:${cell.x};--y:${cell.y}`, title: words, "aria-label": words, "aria-pressed": String(now), "data-cell": String(i),
        onclick: () => { difflora.setWeights(names, cell.weights); difflora.say(t("strip.set", { weights: words })); } }, picture(ticket, i, { small: true }));
    }
  });

  difflora.widget("duel", ({ element, props, trigger, watch, server }) => {
    const body = h("div", { class: "duel-body" }), picture = difflora.slots();
    const box = h("dialog", { class: "viewer duel", "aria-label": t("duel.title") }, h("button", { type: "button", class: "icon close", "aria-label": t("close"), onclick: () => box.close() }, "×"), body);
    document.body.append(box);
    let state = null, seen = "", last = null;
    difflora.given(props, watch, (value) => {
      state = value;
      seen = "";
      difflora.setWeights(state.names, state.weights);
      difflora.follow(state.ticket);
      if (!box.open) box.showModal();
      render();
    });
    difflora.now.on(render, false);
    const choose = (which) => { trigger("select", { weights: state.weights, spread: state.spread, round: state.round, which }); state = { ...state, ticket: null }; render(); };
    function render() {
      if (!state || !box.open) return;
      // The server forgets a drawing after some minutes; two pictures may take longer to compare.
      const ticket = (state.ticket && difflora.ticket(state.ticket)) ?? (last?.id === state.ticket ? last : null);
      last = ticket;
      const key = JSON.stringify([ticket ?? null, state.round, state.ticket]);
      if (key === seen) return;
      seen = key;
      const done = ticket && ticket.state === "done";
      const side = (i) => h("button", { type: "button", class: "frame", disabled: !done, "aria-label": t(i ? "duel.right" : "duel.left"), onclick: () => choose(i) }, ticket ? picture(ticket, i) : h("span", { class: "blank waiting" }));
      difflora.fill(body, h("h2", {}, t("duel.title")), h("p", { class: "empty" }, t("duel.help", { round: state.round + 1 })), h("div", { class: "grid n2" }, side(0), side(1)),
        ticket && !difflora.over(ticket) && difflora.bar(ticket, server), ticket?.state === "failed" && h("p", { class: "bad" }, ticket.error),
        h("div", { class: "acts" }, h("button", { type: "button", disabled: !done, onclick: () => choose(null) }, t("duel.equal")), h("button", { type: "button", class: "primary", onclick: () => { box.close(); difflora.say(t("duel.set", { weights: difflora.weights(state.names, state.weights) })); } }, t("duel.take"))));
    }
  });
})();
