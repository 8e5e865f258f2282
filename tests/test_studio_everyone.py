"""The pages for everyone: on a phone, by keyboard, by ear, in light and in dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import STYLES, Studio, tab_to, turn_to
from test_studio import arrived, ask, blend_of, drawn, open_picture, pick, slider, strip_files

from difflora.drawing.recipe import read_recipe
from webui.words import text

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect  # noqa: E402

PAGES = "studio", "train", "styles"
CONTROLS = {
    "button", "textbox", "searchbox", "spinbutton", "slider", "checkbox", "radio", "combobox", "link", "tab", "dialog",
    "progressbar",
}  # fmt: skip
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

# Every text that is seen, against the ground it lies on: at least 4.5 to 1, as WCAG's AA asks of small text.
CONTRAST = """() => {
  const sheet = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    sheet.clearRect(0, 0, 1, 1);
    sheet.fillStyle = color;
    sheet.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = sheet.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reduceRight((under, layer) => over(layer, under), [255, 255, 255, 1]);
  };
  const boxes = "textarea,input:not([type=range],[type=checkbox],[type=radio],[type=file])";
  const shown = { visibilityProperty: true, opacityProperty: true };
  const faint = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    const words = own || (node.matches(boxes) ? node.value : "");
    if (!words || !node.checkVisibility(shown) || node.getBoundingClientRect().width < 3) continue;
    if (node.closest("[aria-hidden=true],:disabled,script,style")) continue;
    const back = ground(node), ink = over(rgba(getComputedStyle(node).color), back);
    const [low, high] = [light(ink), light(back)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${node.tagName} ${node.className}: ${words.slice(0, 40)}`);
  }
  return faint;
}"""
# Controls that stick out of the window where nothing scrolls sideways.
OUTSIDE = """() => [...document.querySelectorAll("button,input,select,textarea,a,summary")].filter((node) => {
  const box = node.getBoundingClientRect();
  if (!node.checkVisibility({ visibilityProperty: true }) || !box.width || box.width < 3) return false;
  for (let at = node.parentElement; at; at = at.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(at).overflowX) && at.scrollWidth > at.clientWidth) return false;
  return box.left < -1 || box.right > innerWidth + 1;
}).map((node) => node.outerHTML.slice(0, 160))"""


def filled(page: Page, studio: Studio) -> Path:
    """A page with something in every place: a mix of three, a picture, a strip, open boxes, a folder, a style."""
    pick(page, *STYLES)
    ask(page, "a red apple")
    picture = drawn(page, studio)
    page.locator("#strip-button").click()
    strip_files(page, studio, 10)
    page.get_by_role("button", name=text("mixer.tune").format(name="ink"), exact=True).click()
    page.locator("#export-box > button").click()
    page.locator("#export .segments label").filter(has_text=text("cut.rank")).click()
    expect(page.locator("#export .cut-list .cut")).not_to_have_count(0)
    for summary in page.locator("#mixer summary, #export summary").all():
        summary.click()
    turn_to(page, "train")
    page.locator("#folder input, #folder textarea").fill(str(studio.images / "blobs"))
    page.locator("#open-folder").click()
    expect(page.get_by_label(text("wall.caption").format(name="cat.png"))).to_be_visible()
    page.locator("#train-more > button").click()
    page.locator("#plan-button").click()
    expect(page.locator("#plan dl")).to_be_visible()
    turn_to(page, "styles")
    page.get_by_role("group", name=text("library.title")).get_by_role("button").filter(has_text="ink").click()
    expect(page.get_by_role("region", name=text("library.norms"))).to_be_visible()
    for summary in page.locator("#library .fold > summary").all():
        summary.click()
    turn_to(page, "studio")
    return picture


def test_nothing_sticks_out_sideways_on_a_phone(visit, studio):
    page = visit(**PHONE)
    picture = filled(page, studio)
    for name in PAGES:
        turn_to(page, name)
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth"), name
        assert page.evaluate("innerWidth") == 390, name
        assert page.evaluate(OUTSIDE) == [], name
    turn_to(page, "studio")
    viewer = open_picture(page, picture)
    assert page.evaluate(OUTSIDE) == []
    viewer.get_by_role("button", name=text("viewer.use")).click()
    expect(viewer).to_be_hidden()


def test_with_the_keyboard_alone_one_can_mix_draw_and_look(page, studio):
    before = {path.name for path in studio.pictures.glob("*.png")}
    tab_to(page, '#cards [data-card="gouache"]')
    page.keyboard.press("Enter")
    expect(slider(page, "gouache")).to_be_visible()
    tab_to(page, "#mixer input[type=range]")
    page.keyboard.press("ArrowRight")
    tab_to(page, "#prompt textarea", "Shift+Tab")
    page.keyboard.type("a fish")
    page.keyboard.press("Control+Enter")
    picture = arrived(page, studio, before)
    assert blend_of(read_recipe(picture)) == {"gouache": 1.01}
    expect(page.locator("#stage button.frame")).to_be_enabled()
    tab_to(page, "#stage button.frame")
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog", name=text("viewer.title"))
    expect(viewer).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    assert page.evaluate("document.activeElement.matches('#stage button.frame')")


def test_the_focus_stays_on_cancel_while_the_page_follows_the_drawing(page):
    ask(page, "a long one", steps=100, count=4)
    page.locator("#draw").click()
    cancel = page.get_by_role("button", name=text("stage.cancel"), exact=True)
    cancel.focus()
    before = page.locator("#stage .bar-words").inner_text()
    expect(page.locator("#stage .bar-words")).not_to_have_text(before)
    expect(cancel).to_be_focused()
    page.keyboard.press("Enter")
    expect(cancel).to_have_count(0)


def test_every_control_has_a_name_that_is_read_out(page, studio):
    picture = filled(page, studio)
    assert unnamed(page) == []
    for name in PAGES[1:]:
        turn_to(page, name)
        assert unnamed(page) == [], name
    turn_to(page, "studio")
    open_picture(page, picture)
    assert unnamed(page) == []


def unnamed(page: Page) -> list[str]:
    """Controls that the browser's own accessibility tree has no name for, or only the placeholder's."""
    client = page.context.new_cdp_session(page)
    found = []
    for node in client.send("Accessibility.getFullAXTree")["nodes"]:
        role, name = node.get("role", {}).get("value"), node.get("name", {})
        named = next((s for s in name.get("sources", []) if "value" in s and not s.get("superseded")), {})
        fine = name.get("value", "").strip() and named.get("type") != "placeholder"
        if role in CONTROLS and not node["ignored"] and not fine:
            about = client.send("DOM.describeNode", {"backendNodeId": node["backendDOMNodeId"]})["node"]
            found.append(f"{role} {about['localName']} {' '.join(about.get('attributes', []))[:160]}")
    client.detach()
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(scheme, visit, studio):
    page = visit(color_scheme=scheme)
    if page.evaluate("document.body.classList.contains('dark')") != (scheme == "dark"):
        page.get_by_role("button", name=text("theme")).click()
    picture = filled(page, studio)
    for name in PAGES:
        turn_to(page, name)
        assert page.evaluate(CONTRAST) == [], name
    turn_to(page, "studio")
    open_picture(page, picture)
    assert page.evaluate(CONTRAST) == []
