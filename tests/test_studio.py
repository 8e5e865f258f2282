"""The Studio page in a real browser, on the embedded base: what a person does, and what is on the disk after it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from browser import STYLES, Studio, loaded, values_in, wording

from difflora.adapters.cards import card
from difflora.drawing.recipe import Recipe, read_recipe
from webui.words import text

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect  # noqa: E402

FEW, MANY = 3, 100


def pick(page: Page, *names: str) -> None:
    """Put styles into the mix."""
    for name in names:
        page.locator(f'#cards [data-card="{name}"]').click()
        expect(slider(page, name)).to_be_visible()


def slider(page: Page, name: str):
    return page.get_by_label(text("mixer.weight").format(name=name), exact=True)


def box(page: Page, name: str):
    return page.get_by_label(text("mixer.number").format(name=name), exact=True)


def weights(page: Page, *names: str) -> dict[str, float]:
    """What the mixer shows."""
    return {name: float(box(page, name).input_value()) for name in names}


def weigh(page: Page, name: str, weight: float) -> None:
    """Type a weight."""
    box(page, name).fill(str(weight))
    box(page, name).press("Enter")
    expect(box(page, name)).to_have_value(str(weight))


def ask(page: Page, prompt: str, steps: int = FEW, **fields: object) -> None:
    """Fill the form: the prompt, the steps, and any other number by its field's name."""
    page.locator("#prompt textarea").fill(prompt)
    if not page.locator("#drawconfig-steps").is_visible():
        page.locator("#settings-more > button").click()
    for name, value in {"steps": steps, **fields}.items():
        number = page.locator(f"#drawconfig-{name} input[type=number]")
        # A control that has just come up may put its default back once.
        for _ in range(5):
            number.fill(str(value))
            number.press("Tab")
            page.wait_for_timeout(40)
            inputs = page.locator(f"#drawconfig-{name} input:not([type=hidden])").all()
            if all(box.input_value() == str(value) for box in inputs):
                break


def drawn(page: Page, studio: Studio, button: str = "#draw") -> Path:
    """Press the button; the new picture of the history."""
    before = {path.name for path in studio.pictures.glob("*.png")}
    page.locator(button).click()
    return arrived(page, studio, before)


def arrived(page: Page, studio: Studio, before: set[str]) -> Path:
    """The first picture of the history that was not there before."""
    page.wait_for_function(
        "names => [...document.querySelectorAll('#history [data-name]')].some((n) => !names.includes(n.dataset.name))",
        arg=sorted(before),
    )
    return next(path for path in studio.pictures.glob("*.png") if path.name not in before)


def open_picture(page: Page, picture: Path):
    """The viewer with a picture of the history."""
    page.locator(f'#history [data-name="{picture.name}"]').click()
    viewer = page.get_by_role("dialog", name=text("viewer.title"))
    expect(viewer).to_be_visible()
    return viewer


def blend_of(recipe: Recipe) -> dict[str, float]:
    return {style.name: style.weight for style in recipe.styles}


def cells(page: Page):
    return page.get_by_role("group", name=text("strip.title")).get_by_role("button")


def strip_files(page: Page, studio: Studio, count: int) -> list[Path]:
    """The pictures of a finished strip, by cell."""
    images = page.locator('#strip [data-cell] img[src^="/studio/pictures/"]')
    expect(images).to_have_count(count)
    return [studio.pictures / image.get_attribute("src").removeprefix("/studio/pictures/") for image in images.all()]


def pixels(path: Path):
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def drafts_of(studio: Studio) -> list[Path]:
    return list((studio.pictures / "aside").glob("a-draft-*.png"))


# Mixing


def test_a_draft_is_drawn_while_a_slider_moves_and_is_not_kept_in_the_history(page, studio):
    ask(page, "a draft")
    kept = {path.name for path in studio.pictures.glob("*.png")}
    pick(page, "ink")
    live = page.get_by_label(text("mixer.live"))
    live.set_checked(True)
    drafts = set(drafts_of(studio))
    weigh(page, "ink", -0.4)
    until = time.monotonic() + 30
    while -0.4 not in [blend_of(read_recipe(path))["ink"] for path in set(drafts_of(studio)) - drafts]:
        assert time.monotonic() < until
        page.wait_for_timeout(100)
    shown = page.locator('#stage img[src^="/studio/pictures/aside/a-draft-"]')
    expect(shown).to_be_visible()
    live.set_checked(False)
    count = len(drafts_of(studio))
    weigh(page, "ink", 0.3)
    finished = drawn(page, studio)
    assert blend_of(read_recipe(finished)) == {"ink": 0.3}
    assert {path.name for path in studio.pictures.glob("*.png")} == kept | {finished.name}
    assert len(drafts_of(studio)) == count


def test_a_drawing_has_the_weights_the_sliders_were_dragged_to(page, studio):
    pick(page, "ink", "gouache")
    rail = slider(page, "gouache").bounding_box()
    y = rail["y"] + rail["height"] / 2
    # From where the knob is, at 0.5 of -2 … 2.
    page.mouse.move(rail["x"] + rail["width"] * 0.625, y)
    page.mouse.down()
    page.mouse.move(rail["x"] + rail["width"] * 0.8, y, steps=5)
    page.mouse.up()
    shown = weights(page, "ink", "gouache")
    assert shown["ink"] == 0.4
    assert 1 < shown["gouache"] < 1.4
    assert (shown["gouache"] * 20) % 1 == pytest.approx(0, abs=1e-6)
    ask(page, "a red apple")
    recipe = read_recipe(drawn(page, studio))
    assert blend_of(recipe) == pytest.approx(shown)
    assert (recipe.prompt, recipe.steps, recipe.base) == ("a red apple", FEW, "tiny")
    expect(page.locator("#stage img")).to_be_visible()


def test_arrow_keys_move_a_slider_by_hundredths(page):
    pick(page, "gouache")
    slider(page, "gouache").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    expect(box(page, "gouache")).to_have_value("0.97")


def test_a_double_click_puts_a_styles_own_weight_back(page):
    pick(page, "ink")
    weigh(page, "ink", -1.3)
    slider(page, "ink").dblclick()
    expect(box(page, "ink")).to_have_value("0.8")


def test_the_wider_range_reaches_ten_both_ways(page):
    pick(page, "pastel")
    slider(page, "pastel").press("End")
    expect(box(page, "pastel")).to_have_value("2")
    page.get_by_role("button", name=text("mixer.wide"), exact=True).click()
    slider(page, "pastel").press("End")
    expect(box(page, "pastel")).to_have_value("10")
    slider(page, "pastel").press("Home")
    expect(box(page, "pastel")).to_have_value("-10")


def test_a_style_of_another_base_is_shown_with_the_reason_and_cannot_be_picked(page):
    expect(page.locator('#cards [data-card="foreign"]')).to_have_count(0)
    page.locator("#cards").get_by_label(text("cards.fits")).uncheck()
    stranger = page.locator('#cards [data-card="foreign"]')
    expect(stranger).to_be_disabled()
    assert "toy" in stranger.get_attribute("title")


# Blends


def test_the_strip_of_two_styles_is_one_batch_and_a_click_sets_the_sliders(page, studio):
    pick(page, "ink", "gouache")
    ask(page, "a cat", seed=5)
    page.locator("#strip-button").click()
    recipes = [read_recipe(path) for path in strip_files(page, studio, 7)]
    assert [(r.batch, r.row, r.seed) for r in recipes] == [(7, i, 5) for i in range(7)]
    assert [blend_of(recipes[0]), blend_of(recipes[6])] == [{"ink": 0.8, "gouache": 0}, {"ink": 0, "gouache": 1}]
    cells(page).nth(2).click()
    expect(cells(page).nth(2)).to_have_attribute("aria-pressed", "true")
    assert weights(page, "ink", "gouache") == pytest.approx(blend_of(recipes[2]), abs=0.006)


def test_three_styles_make_a_triangle(page, studio):
    pick(page, *STYLES)
    ask(page, "a house")
    page.locator("#strip-button").click()
    blends = [blend_of(read_recipe(path)) for path in strip_files(page, studio, 10)]
    assert {sum(weight != 0 for weight in blend.values()) for blend in blends} == {1, 2, 3}
    inside = next(i for i, blend in enumerate(blends) if all(blend.values()))
    cells(page).nth(inside).click()
    expect(cells(page).nth(inside)).to_have_attribute("aria-pressed", "true")
    assert weights(page, *STYLES) == pytest.approx(blends[inside], abs=0.006)


def test_an_exported_blend_is_what_was_foretold_and_draws_what_the_sliders_draw(page, studio):
    pick(page, "ink", "gouache")
    weigh(page, "ink", 1.2)
    weigh(page, "gouache", -0.6)
    ask(page, "a dog", seed=11)
    stack = drawn(page, studio)
    page.locator("#export-box > button").click()
    facts = page.locator("#export .facts")
    expect(facts).to_have_text(wording("export.facts"))
    said = values_in("export.facts", facts.inner_text())
    page.locator("#export-name input, #export-name textarea").fill("both")
    page.locator("#export-button").click()
    expect(page.locator("#export .verdict")).to_have_text(wording("export.verdict"))
    assert int(values_in("export.verdict", page.locator("#export .verdict").inner_text())["levels"]) <= 2
    written = card(studio.loras / "both.safetensors")
    assert (said["rank"], int(said["layers"])) == (written.rank, written.layers) == ("6", written.layers)
    number, unit = said["size"].split()
    assert float(number) * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(written.size, rel=0.03)
    page.get_by_role("button", name=text("mixer.clear"), exact=True).click()
    pick(page, "both")
    assert weights(page, "both") == {"both": 1}
    alone = drawn(page, studio)
    assert blend_of(read_recipe(alone)) == {"both": 1}
    assert abs(pixels(stack) - pixels(alone)).max() <= 2
    (studio.loras / "both.safetensors").unlink()


def test_a_blind_pick_moves_the_weights_towards_the_choice(page, studio):
    pick(page, "ink", "gouache")
    ask(page, "a tree")
    before = weights(page, "ink", "gouache")
    page.locator("#duel-button").click()
    duel = page.get_by_role("dialog", name=text("duel.title"))
    left = duel.get_by_role("button", name=text("duel.left"))
    expect(left).to_be_enabled()
    file = left.locator("img").get_attribute("src").removeprefix("/studio/pictures/")
    chosen = blend_of(read_recipe(studio.pictures / file))
    left.click()
    expect(duel).to_contain_text(text("duel.help").format(round=2).split(".")[0])
    duel.get_by_role("button", name=text("duel.take")).click()
    expect(duel).to_be_hidden()
    assert weights(page, "ink", "gouache") == pytest.approx(chosen, abs=0.006)
    assert weights(page, "ink", "gouache") != before


# History


def test_a_recipe_of_the_history_goes_back_into_the_controls(page, studio):
    pick(page, "ink", "pastel")
    weigh(page, "pastel", -0.7)
    ask(page, "a blue fish", steps=4, seed=41, guidance=5)
    picture = drawn(page, studio)
    page.get_by_role("button", name=text("mixer.clear"), exact=True).click()
    ask(page, "something else", steps=9, seed=0, guidance=2)
    open_picture(page, picture).get_by_role("button", name=text("viewer.use")).click()
    expect(page.locator("#prompt textarea")).to_have_value("a blue fish")
    expect(box(page, "pastel")).to_have_value("-0.7")
    assert weights(page, "ink", "pastel") == {"ink": 0.4, "pastel": -0.7}
    for name, value in {"seed": "41", "steps": "4", "guidance": "5"}.items():
        expect(page.locator(f"#drawconfig-{name} input[type=number]")).to_have_value(value)
    again = drawn(page, studio)
    assert (pixels(again) == pixels(picture)).all()


def test_a_redrawn_picture_is_the_same_file_bit_for_bit(page, studio):
    pick(page, "ink", "gouache")
    ask(page, "a moon", count=3)
    before = {path.name for path in studio.pictures.glob("*.png")}
    drawn(page, studio)
    expect(page.locator('#stage img[src^="/studio/pictures/"]')).to_have_count(3)
    # One row of a batch of three: it is drawn in a batch of three again.
    middle = next(p for p in studio.pictures.glob("*.png") if p.name not in before and read_recipe(p).row == 1)
    before = {path.name for path in studio.pictures.glob("*.png")}
    viewer = open_picture(page, middle)
    viewer.get_by_role("button", name=text("viewer.redraw")).click()
    expect(viewer.locator(".verdict")).to_have_text(text("compare.same"))
    again = arrived(page, studio, before)
    assert again.read_bytes() == middle.read_bytes()


def test_comparing_shows_both_pictures_and_a_line_to_drag(page, studio):
    ask(page, "a star")
    first = drawn(page, studio)
    second = drawn(page, studio, "#another")
    open_picture(page, first).get_by_role("button", name=text("viewer.first")).click()
    viewer = open_picture(page, second)
    viewer.get_by_role("button", name=text("viewer.compare"), exact=True).click()
    for key, picture in (("compare.left", first), ("compare.right", second)):
        expect(viewer.get_by_alt_text(text(key))).to_have_attribute("src", f"/studio/pictures/{picture.name}")
    cut = viewer.locator(".pair")
    before = cut.get_attribute("style")
    viewer.get_by_label(text("compare.slide")).press("ArrowRight")
    expect(cut).not_to_have_attribute("style", before)


def test_history_mix_and_strip_survive_a_reload(page, studio):
    pick(page, "ink", "gouache")
    weigh(page, "ink", 0.33)
    ask(page, "a car")
    picture = drawn(page, studio)
    page.locator("#strip-button").click()
    files = strip_files(page, studio, 7)
    page.reload()
    loaded(page)
    expect(page.locator(f'#history [data-name="{picture.name}"]')).to_be_visible()
    assert weights(page, "ink", "gouache") == {"ink": 0.33, "gouache": 0.5}
    assert strip_files(page, studio, 7) == files
    # And what survived is what is drawn.
    ask(page, "a car")
    assert blend_of(read_recipe(drawn(page, studio))) == {"ink": 0.33, "gouache": 0.5}


# Waiting


def test_what_is_being_drawn_is_still_shown_after_a_reload(page):
    ask(page, "a long one", steps=MANY, count=8)
    page.locator("#draw").click()
    progress = page.get_by_role("progressbar", name=text("stage.progress"))
    expect(progress).to_be_visible()
    page.reload()
    loaded(page)
    expect(progress).to_be_visible()
    expect(page.locator("#stage .frame")).to_have_count(8)
    page.get_by_role("button", name=text("stage.cancel"), exact=True).click()
    expect(progress).to_have_count(0)


def test_looks_at_a_picture_are_shown_while_it_is_drawn_and_cancel_ends_it_at_once(page, studio):
    ask(page, "never finished", steps=MANY, count=8)
    page.locator("#draw").click()
    expect(page.get_by_alt_text(text("stage.look")).first).to_be_visible()
    started = time.monotonic()
    page.get_by_role("button", name=text("stage.cancel"), exact=True).click()
    expect(page.get_by_role("progressbar", name=text("stage.progress"))).to_have_count(0)
    assert time.monotonic() - started < 3
    ask(page, "drawn next", count=1)
    drawn(page, studio)
    assert not list(studio.pictures.glob("never-finished*"))


def test_two_browsers_draw_at_once_and_the_second_sees_that_it_waits(page, visit, studio):
    other = visit()
    pick(other, "gouache")
    ask(page, "from the first", steps=30, count=4)
    ask(other, "from the second", count=2)
    page.locator("#draw").click()
    expect(page.get_by_role("progressbar", name=text("stage.progress"))).to_be_visible()
    other.locator("#draw").click()
    waits = re.compile("|".join(wording(key).pattern for key in ("stage.before", "stage.next")))
    expect(other.get_by_role("progressbar", name=text("stage.progress")).last).to_have_attribute(
        "aria-valuetext", waits
    )
    for each in (page, other):
        expect(each.get_by_role("progressbar", name=text("stage.progress"))).to_have_count(0)
    assert len(list(studio.pictures.glob("from-the-first-*"))) == 4
    assert len(list(studio.pictures.glob("from-the-second-*"))) == 2
