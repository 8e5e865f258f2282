// The frame: the name of the house, light or dark, signing out; Ctrl+Enter draws.
(() => {
  const { h, t } = difflora;
  difflora.widget("frame", ({ element, props, server }) => {
    const facts = props.value || {};
    if (difflora.live.get() === null) difflora.live.set(Boolean(facts.quick));
    const flip = () => {
      const dark = document.body.classList.toggle("dark");
      localStorage.setItem("difflora.theme", dark ? "dark" : "light");
    };
    // The next person at this browser starts with an empty table.
    const forget = () => Object.keys(localStorage).filter((key) => key.startsWith("difflora.") && key !== "difflora.theme").forEach((key) => localStorage.removeItem(key));
    const busy = h("span", { class: "busy", role: "status" });
    element.append(h("header", { class: "frame-head" }, h("a", { class: "brand", href: "/", "aria-label": t("title") }, h("span", { class: "mark", "aria-hidden": "true" }, h("i"), h("i"), h("i")), t("title")),
      h("span", { class: "spring" }), busy, difflora.basePicker(server, facts.mark),
      h("button", { type: "button", class: "icon theme", "aria-label": t("theme"), title: t("theme"), onclick: flip }, "◐"),
      facts.user && h("a", { class: "signout", href: "/logout", onclick: forget }, t("signout"))));
    difflora.now.on((now) => {
      const active = now.runs.filter((r) => ["running", "starting"].includes(r.state)).map((r) => r.name);
      busy.title = busy.textContent = active.length ? t("frame.training", { name: active.join(", ") }) : "";
    });
    // The prompt outlives a reload, as the mix does.
    const remembered = localStorage.getItem("difflora.prompt");
    const box = () => document.querySelector("#prompt textarea");
    const put = (tries) => {
      if (!box()) return tries && setTimeout(() => put(tries - 1), 100);
      if (remembered && !box().value) { box().value = remembered; box().dispatchEvent(new Event("input", { bubbles: true })); }
      box().addEventListener("input", () => localStorage.setItem("difflora.prompt", box().value));
    };
    put(50);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.closest("#prompt")) { event.preventDefault(); document.querySelector("#draw").click(); }
    });
  });
})();
