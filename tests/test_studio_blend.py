"""Blending on the Studio page: budget, styles out of each other's way, parts of a style, files foretold and written."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Studio, lines, loaded, tab_to, turn_to, values_in, wording
from test_studio import ask, box, drafts_of, drawn, open_picture, pick, pixels, weigh
from test_studio_everyone import OUTSIDE, PHONE
from test_studio_library import chosen

from difflora.adapters.adapter import Adapter
from difflora.adapters.cards import card
from difflora.adapters.checkpoint import open_checkpoint
from difflora.adapters.conflict_advice import Suggestion
from difflora.adapters.files import load_adapter, save_adapter
from difflora.adapters.networks import modules
from difflora.drawing.recipe import Recipe, Style, read_recipe
from difflora.errors import RequestError
from difflora.events import Progress
from difflora.models.family import EMBEDDED
from webui.clash import mix_from, suggestion_row
from webui.jobs import MOST_WAITING, Jobs
from webui.mixing import mix_of, parts, way_of
from webui.words import text

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect  # noqa: E402

PAIR = "ink", "gouache"


@pytest.fixture
def spare(studio: Studio) -> Iterator[Path]:
    """The library; what a test adds is called spare."""
    yield studio.loras
    for left in studio.loras.glob("spare*"):
        left.unlink()


def budget(page: Page, name: str) -> None:
    page.locator("#mixer .segments label").filter(has_text=text(f"budget.{name}")).click()
    expect(page.get_by_role("radio", name=text(f"budget.{name}"))).to_be_checked()


def apart(page: Page):
    return page.get_by_label(text("together.apart.number"), exact=True)


def keep_apart(page: Page, amount: float) -> None:
    apart(page).fill(str(amount))
    apart(page).press("Enter")


def tune(page: Page, name: str) -> None:
    page.get_by_role("button", name=text("mixer.tune").format(name=name), exact=True).click()
    expect(page.get_by_role("group", name=text("mixer.tune").format(name=name))).to_be_visible()


def part(page: Page, style: str, label: str):
    """The number of one part of a style."""
    return page.get_by_label(text("tune.number").format(name=f"{label}, {style}"), exact=True)


def put(page: Page, style: str, label: str, weight: float) -> None:
    part(page, style, label).fill(str(weight))
    part(page, style, label).press("Enter")
    expect(part(page, style, label)).to_have_value(str(weight))


def open_export(page: Page, way: str = "exact") -> None:
    page.locator("#export-box > button").click()
    page.locator("#export .segments label").filter(has_text=text(f"cut.{way}")).click()


def number(words: str) -> float:
    """3.4 MB, 2 % or < 0.01 as a number."""
    found = float(re.search(r"[\d.]+", words)[0])
    return found * {"kB": 1e3, "MB": 1e6}.get(words.split()[-1], 1)


def drafted(page: Page, studio: Studio, before: set[Path], fits) -> Recipe:
    """The recipe of the draft that was waited for."""
    until = time.monotonic() + 30
    while not (found := [r for p in set(drafts_of(studio)) - before if fits(r := read_recipe(p))]):
        assert time.monotonic() < until
        page.wait_for_timeout(100)
    return found[0]


# How styles act together


def test_the_budget_changes_the_picture_and_is_in_its_recipe(page, studio):
    pick(page, *PAIR)
    for name in PAIR:
        weigh(page, name, 0.9)
    ask(page, "a red apple", seed=2)
    pictures = {}
    for name in ("sum", "normalised", "matched"):
        budget(page, name)
        pictures[name] = drawn(page, studio)
        recipe = read_recipe(pictures[name])
        assert recipe.budget == name and [style.weight for style in recipe.styles] == [0.9, 0.9]
        for style in recipe.styles:
            acts = text("mixer.acts").format(weight=f"{round(style.strength.image, 2):g}") if name != "sum" else ""
            expect(page.locator(f'[data-acts="{style.name}"]')).to_have_text(acts)
    shots = [pixels(path) for path in pictures.values()]
    assert all((a != b).any() for a, b in ((shots[0], shots[1]), (shots[0], shots[2])))
    viewer = open_picture(page, pictures["normalised"])
    expect(viewer).to_contain_text(text("budget.normalised"))


def test_keeping_out_of_the_way_redraws_the_draft_survives_a_reload_and_minds_the_order(page, studio):
    ask(page, "a draft")
    pick(page, *PAIR)
    live = page.get_by_label(text("mixer.live"))
    live.set_checked(True)
    before = set(drafts_of(studio))
    keep_apart(page, 0.6)
    recipe = drafted(page, studio, before, lambda r: r.orthogonal == 0.6)
    assert [style.name for style in recipe.styles] == list(PAIR)
    expect(page.locator("#mixer .order")).to_contain_text("ink stays")
    before = set(drafts_of(studio))
    page.get_by_role("button", name=text("mixer.sooner").format(name="gouache")).click()
    expect(page.locator("#mixer .order")).to_contain_text("gouache stays")
    recipe = drafted(page, studio, before, lambda r: r.orthogonal == 0.6)
    assert [style.name for style in recipe.styles] == ["gouache", "ink"]
    page.reload()
    loaded(page)
    expect(apart(page)).to_have_value("0.6")
    expect(page.locator("#mixer .order")).to_contain_text("gouache stays")
    live.set_checked(False)
    ask(page, "a strip")
    page.locator("#strip-button").click()
    cell = page.locator('#strip [data-cell] img[src^="/studio/pictures/"]').first
    path = studio.pictures / cell.get_attribute("src").removeprefix("/studio/pictures/")
    assert read_recipe(path).orthogonal == 0.6


def test_parts_words_steps_and_turns_are_drawn_with_and_come_back_with_the_recipe(page, studio):
    pick(page, *PAIR)
    tune(page, "ink")
    put(page, "ink", text("tune.text"), 0.3)
    put(page, "ink", text("block.composition"), 0)
    page.locator("#mixer .tuning summary").click()
    put(page, "ink", "up 2", 0.7)
    until = page.get_by_label(text("tune.until").format(name="ink"))
    for _ in range(8):
        until.press("ArrowLeft")
    page.locator("#mixer .turns summary").click()
    page.locator("#take-turns").fill("1")
    page.locator("#take-turns").press("Enter")
    budget(page, "sum")
    ask(page, "a fish", steps=4)
    picture = drawn(page, studio)
    recipe = read_recipe(picture)
    ink = recipe.styles[0]
    assert (ink.text, dict(ink.blocks), ink.start, ink.end) == (0.3, {"composition": 0, "up2": 0.7}, 0, 0.6)
    assert (recipe.switch, recipe.budget) == (1, "sum")
    page.get_by_role("button", name=text("mixer.clear"), exact=True).click()
    pick(page, "pastel")
    ask(page, "something else")
    page.evaluate("difflora.way.set({})")
    open_picture(page, picture).get_by_role("button", name=text("viewer.use")).click()
    expect(box(page, "gouache")).to_be_visible()
    expect(page.locator('[data-style="ink"] .tuned, [data-style="ink"] .tuning')).to_have_count(2)
    expect(part(page, "ink", "up 2")).to_have_value("0.7")
    expect(page.locator("#take-turns")).to_have_value("1")
    again = drawn(page, studio)
    assert (pixels(again) == pixels(picture)).all()
    assert read_recipe(again).styles == recipe.styles
    page.get_by_role("button", name=text("tune.plain"), exact=True).click()
    expect(part(page, "ink", "up 2")).to_have_value("")
    assert read_recipe(drawn(page, studio)).styles[0].blocks == ()


# As one file


def test_a_file_cut_by_error_is_what_was_foretold(page, studio, spare):
    pick(page, *PAIR)
    budget(page, "sum")
    ask(page, "a dog")
    open_export(page, "error")
    expect(page.locator("#export .cut-list .cut")).not_to_have_count(0)
    page.locator("#export .cut-list .cut").filter(has_text=re.compile("^20 %")).click()
    facts = page.locator("#export .facts")
    expect(facts).to_have_text(wording("export.cut"))
    said = values_in("export.cut", facts.inner_text())
    assert number(said["percent"]) <= 20
    page.locator("#export-name input").fill("spare")
    page.locator("#export-button").click()
    expect(page.locator("#export .verdict")).to_have_text(wording("export.verdict"))
    written = card(spare / "spare.safetensors")
    assert (said["rank"], int(said["layers"])) == (written.rank, written.layers)
    assert number(said["size"]) == pytest.approx(written.size, rel=0.05)
    cost = page.locator("#export .cost").inner_text()
    lost, differs = (number(words) for words in re.findall(r"[\d.]+ %", cost))
    assert lost == pytest.approx(number(said["percent"]), abs=0.5) and differs == pytest.approx(lost, abs=0.5)
    # The rank of one's own, one that is too large, and a name that is taken.
    mine = page.get_by_label(text("cut.own.rank"), exact=True)
    page.locator("#export .segments label").filter(has_text=text("cut.rank")).click()
    for rank, said in (("9999", ""), ("3", re.compile("^" + text("export.cut").split("{")[0] + "3,"))):
        mine.fill(rank)
        mine.press("Enter")
        expect(facts).to_have_text(said)
    expect(page.locator("#export .cut-place .bad")).to_have_count(0)
    page.locator("#export-button").click()
    expect(lines(page, "spare")).to_be_visible()


def test_a_style_is_made_smaller_and_a_whole_model_is_written(page, studio, spare):
    article = chosen(page, "ink")
    article.locator(".fold > summary").filter(has_text=text("smaller.title")).click()
    page.locator("#library .cut-list .cut").filter(has_text=text("cut.ranks").format(rank=2)).click()
    facts = article.locator(".facts").filter(has_text=text("smaller.facts").split("{")[0])
    expect(facts).to_have_text(wording("smaller.facts"))
    said = values_in("smaller.facts", facts.inner_text())
    page.get_by_label(text("smaller.name"), exact=True).fill("spare")
    page.get_by_role("button", name=text("smaller.button"), exact=True).click()
    done = article.locator(".done")
    expect(done).to_have_text(wording("smaller.done"))
    small = card(spare / "spare.safetensors")
    assert small.rank == said["rank"] == "2" and small.size == pytest.approx(number(said["size"]), rel=0.08)
    told = number(values_in("smaller.done", done.inner_text())["percent"])
    assert told == pytest.approx(number(said["percent"]), abs=0.5)
    page.get_by_role("button", name=text("smaller.show"), exact=True).click()
    expect(page.locator("#library").get_by_role("heading", level=2, name="spare", exact=True)).to_be_visible()

    turn_to(page, "studio")
    pick(page, "gouache")
    open_export(page)
    page.locator("#export .merging > summary").click()
    page.get_by_label(text("merge.name"), exact=True).fill("spare")
    page.locator("#merge-button").click()
    expect(page.locator("#export .merging .done")).to_have_text(wording("merge.done"))
    found = open_checkpoint(studio.merged / "spare")
    plain = load_adapter(studio.loras / "gouache.safetensors", modules("tiny"))
    own = next(path for path in plain.layers if path.startswith("unet."))
    moved = found.weight(own) - open_checkpoint(EMBEDDED["tiny"]).weight(own)
    assert (moved - plain.layers[own].delta()).abs().max() < 1e-2
    page.locator("#merge-button").click()
    expect(lines(page, "spare")).to_be_visible()


def contrary(studio: Studio, out: Path) -> None:
    """A style that undoes ink in the second half of the network and does nothing there otherwise."""
    ink, other = (load_adapter(studio.loras / f"{name}.safetensors", modules("tiny")) for name in ("ink", "pastel"))
    turned = {path: replace(f, up=-f.up) for path, f in ink.layers.items() if ".up_blocks." in path}
    save_adapter(out, Adapter({**other.layers, **turned}), {})


def test_where_they_clash_is_shown_and_a_suggestion_changes_the_mix_and_is_taken_back(page, studio, spare):
    contrary(studio, spare / "spare <b>.safetensors")
    page.evaluate("difflora.loadStyles()")
    pick(page, "spare <b>", "ink")
    for name in ("spare <b>", "ink"):
        weigh(page, name, 1)
    page.locator("#mixer .clash").click()
    shown = page.get_by_role("dialog", name=text("conflict.title"))
    pair = shown.locator(".clash-pair")
    expect(pair).to_contain_text("undo each other")
    level = shown.locator(".level")
    said = number(values_in("conflict.level", level.inner_text())["percent"])
    assert 50 < said < 80
    bars = pair.get_by_role("img", name=re.compile(f"^{text('block.colour')}: 0 % pull the same way, 100 % undo each"))
    expect(bars).to_be_visible()
    help = shown.get_by_role("region", name=text("conflict.advice")).locator(".advice-row")
    help.filter(has_text=text("together.apart")).get_by_role("button", name=text("conflict.apply")).click()
    expect(shown).to_be_hidden()
    expect(apart(page)).to_have_value("0.5")
    page.locator("#mixer .clash").click()
    assert number(values_in("conflict.level", level.inner_text())["percent"]) < said
    shown.get_by_role("button", name=text("conflict.back")).click()
    expect(apart(page)).to_have_value("0")


def test_a_suggestion_is_read_as_a_mix_and_what_cannot_be_is_left_out():
    styles = [Style("ink", 0.7), Style("a b", 1.0)]
    flags = "--lora 'a b:1@up=0.3' --lora ink:0.7 --orthogonal 0.5"
    tuned = {"name": "a b", "weight": 1.0, "blocks": {"up": 0.3}}
    found = mix_from(flags, styles)
    assert found == {"styles": [tuned, {"name": "ink", "weight": 0.7}], "orthogonal": 0.5}
    assert mix_from("--lora ink:0.7 --lora 'a b:1' --budget normalised", styles)["budget"] == "normalised"
    kept = Suggestion(flags, "conflict", 0.5, 0.2, ())
    assert suggestion_row(kept, styles, 0.0)["mix"] == found and suggestion_row(kept, styles, 0.5)["mix"] is None
    for wrong in (
        "--lora ink:0.7",
        "--lora ink:0.7 --lora 'a b",
        "--lora x:1 --lora ink:1",
        "--lora ink:1 --lora 'a b:1' --x y",
    ):
        assert suggestion_row(replace(kept, flags=wrong), styles, 0.0)["mix"] is None


# For everyone


def test_on_a_phone_and_with_the_keyboard_every_new_part_is_reached_and_nothing_sticks_out(visit):
    page = visit(**PHONE)
    pick(page, *PAIR)
    tune(page, "gouache")
    page.locator("#mixer .tuning summary").click()
    keep_apart(page, 0.4)
    open_export(page, "rank")
    expect(page.locator("#export .cut-list .cut")).not_to_have_count(0)
    for summary in page.locator("#export summary, #mixer .turns summary").all():
        summary.click()
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate(OUTSIDE) == []
    page.locator("#mixer .tune-button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#mixer .tuning")).to_have_count(2)
    assert page.evaluate("document.activeElement.matches('.tune-button')")
    tab_to(page, "#mixer .tuning input[type=range]")
    page.keyboard.press("ArrowRight")
    expect(part(page, "ink", text("tune.text"))).to_have_value("0.41")
    tab_to(page, "#mixer .segments input")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#mixer .segments input:checked")).to_be_focused()


# Work in the background


def done(job) -> None:
    until = time.monotonic() + 10
    while not job.over:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_work_is_seen_by_its_own_user_only_and_ends_when_it_is_not_wanted():
    jobs, going, steps = Jobs(), threading.Event(), []

    def work(report) -> dict:
        for step in range(10_000):
            report(Progress("x", step, 10_000, 1.0))
            steps.append(step)
            going.set()
            time.sleep(0.001)
        return {}

    job = jobs.start("ada", "export", "ink", work)
    assert going.wait(5)
    second = jobs.start("ada", "merge", "ink", lambda report: {"x": 1})
    assert [row["state"] for row in jobs.rows("ada")] == ["working", "waiting"] and jobs.rows("bob") == []
    # What only looks does not wait behind what writes, and a newer question takes an older one's place.
    looks = [jobs.start("ada", "conflict", "", lambda report: {"found": 2}) for _ in range(2)]
    done(looks[1])
    assert looks[1].result == {"found": 2}
    for user, id in (("bob", job.id), ("ada", "nothing")):
        with pytest.raises(RequestError, match="no longer kept"):
            jobs.stop(user, id)
    jobs.stop("ada", job.id)
    done(job)
    done(second)
    assert (job.state, second.state, second.result) == ("stopped", "done", {"x": 1}) and len(steps) < 10_000
    jobs.close()


def test_work_that_fails_says_why_in_one_line_and_nobody_waits_for_too_much(caplog):
    jobs = Jobs()

    def refused(report) -> dict:
        raise RequestError("--rank 99: expected 1 to 4")

    def broken(report) -> dict:
        raise ZeroDivisionError

    for work, words in ((refused, "rank 99: expected 1 to 4"), (broken, "ZeroDivisionError")):
        job = jobs.start("ada", "resize", "ink", work)
        done(job)
        assert job.state == "failed" and words in job.error and "\n" not in job.error
    assert "resize failed" in caplog.text
    held = threading.Event()
    for _ in range(MOST_WAITING):
        jobs.start("ada", "merge", "", lambda report: {"waited": held.wait(5)})
    with pytest.raises(RequestError, match="wait already"):
        jobs.start("ada", "merge", "", refused)
    jobs.start("bob", "foretell", "", refused)
    held.set()
    jobs.close()


@pytest.mark.parametrize("value", [[], "x", 3, {"styles": 3}, {"styles": {"name": "ink"}}])
def test_a_mix_of_another_shape_is_refused_in_one_line(value):
    with pytest.raises(RequestError, match="not readable"):
        mix_of(value)


def test_the_way_of_a_mix_is_read_by_its_fields_kinds():
    assert mix_of(None) == mix_of({}) == []
    assert way_of({"budget": "matched", "orthogonal": "0.5", "switch": 2}) == {
        "budget": "matched", "orthogonal": 0.5, "switch": 2,
    }  # fmt: skip
    assert way_of(None) == way_of({"budget": None}) == {}
    for wrong in ({"budget": "much"}, {"orthogonal": "far"}, {"switch": 1.5}):
        with pytest.raises(RequestError, match="expected"):
            way_of(wrong)


def test_the_parts_of_a_base_are_named_in_the_order_a_picture_passes_them():
    assert parts(modules("sd1")) == ["down1", "down2", "down3", "down4", "mid", "up1", "up2", "up3", "up4"]
    assert parts(modules("sdxl"))[:4] == ["text1", "text2", "down1", "down2"]
