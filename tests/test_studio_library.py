"""The Styles page in a real browser: what is in a file is shown as text, and every change is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import UNFIT, Studio, lines, turn_to

from difflora.adapters.adapter import Adapter
from difflora.adapters.cards import card
from difflora.adapters.files import content_sha256, load_adapter, save_adapter
from difflora.adapters.metadata import TRIGGER
from difflora.models.family import open_model
from webui.words import text

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect  # noqa: E402

SCRIPT, IMAGE = "<script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>"
QUOTES = "\"'><b onmouseover=window.hacked=1>"


@pytest.fixture(scope="module")
def plain(studio: Studio) -> Adapter:
    """One of the studio's styles, to make others of."""
    tiny = open_model("tiny")
    return load_adapter(studio.loras / "pastel.safetensors", tiny.shapes(), tiny.family)


@pytest.fixture
def spare(studio: Studio, plain: Adapter) -> Iterator[Path]:
    """A style that may be changed and thrown away."""
    path = save_adapter(studio.loras / "spare.safetensors", plain, {TRIGGER: "before"})
    yield path
    for left in studio.loras.glob("spare*"):
        left.unlink()


def chosen(page: Page, name: str):
    """The details of a style on the Styles page."""
    turn_to(page, "styles")
    page.get_by_role("group", name=text("library.title")).get_by_role("button").filter(has_text=name).click()
    article = page.locator("#library").get_by_role("article")
    expect(article.get_by_role("heading", level=2)).to_have_text(name)
    return article


def drop(page: Page, file: Path) -> None:
    turn_to(page, "styles")
    page.locator("#drop-style input[type=file]").set_input_files(file)


def save(page: Page, **fields: str) -> None:
    """Fill the details' form by the words' keys and save it."""
    for key, value in fields.items():
        page.get_by_label(text(f"library.{key}"), exact=True).fill(value)
    page.get_by_role("button", name=text("library.save"), exact=True).click()


def press_delete(page: Page) -> None:
    """Delete, and say yes."""
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name=text("library.delete"), exact=True).click()


def test_what_a_file_says_is_shown_as_text_and_runs_nothing(page, studio, plain):
    rows = {TRIGGER: f"{IMAGE} {QUOTES}", "modelspec.title": SCRIPT, "ss_output_name": IMAGE, f"key {IMAGE}": SCRIPT}
    written = save_adapter(studio.loras / "spare.safetensors", plain, rows)
    name = f"{IMAGE}{QUOTES}"
    evil = written.rename(studio.loras / f"{name}.safetensors")
    shown = page.locator("#cards button").filter(has_text=IMAGE)
    shown.click()
    mixed = page.locator("#mixer [data-style]").filter(has_text=IMAGE)
    mixed.get_by_role("button").first.click()
    expect(page.locator("#prompt textarea")).to_have_value(f"{IMAGE} {QUOTES}")
    page.locator("#strip-button").click()
    page.locator("#draw").click()
    article = chosen(page, name)
    article.locator("summary").filter(has_text=text("library.metadata").split("} ")[1]).click()
    expect(article.get_by_text(SCRIPT).first).to_be_visible()
    expect(article.get_by_text(f"key {IMAGE}")).to_be_visible()
    save(page, name=f"spare {SCRIPT}")
    expect(lines(page, SCRIPT)).to_be_visible()
    save(page, name=name, weight="0.5")
    expect(lines(page, text("library.saved"))).to_be_visible()
    press_delete(page)
    expect(lines(page, IMAGE).last).to_be_visible()
    expect(shown).to_have_count(0)
    assert not evil.exists()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x], b[onmouseover]").count() == 0


def test_a_changed_trigger_and_weight_are_in_the_file_and_its_numbers_stay(spare, page, studio):
    before = content_sha256(spare)
    chosen(page, "spare")
    save(page, trigger="after  rain", weight="-1.25")
    expect(lines(page, text("library.saved"))).to_be_visible()
    assert (card(spare).trigger, card(spare).weight, content_sha256(spare)) == ("after rain", -1.25, before)
    turn_to(page, "studio")
    expect(page.locator('#cards [data-card="spare"]')).to_contain_text("-1.25")


def test_a_renamed_style_keeps_its_place_in_the_mix(spare, page, studio):
    page.locator('#cards [data-card="spare"]').click()
    chosen(page, "spare")
    save(page, name="spare two")
    expect(lines(page, text("library.saved"))).to_be_visible()
    assert (studio.loras / "spare two.safetensors").exists()
    assert not spare.exists()
    turn_to(page, "studio")
    expect(page.get_by_label(text("mixer.weight").format(name="spare two"), exact=True)).to_be_visible()


def test_a_name_that_is_taken_or_none_is_refused_in_one_line_and_nothing_changes(spare, page, studio):
    chosen(page, "spare")
    for wrong in ("ink", "../spare", ".hidden"):
        save(page, name=wrong)
        expect(lines(page, wrong).last).to_be_visible()
    assert spare.exists()
    assert card(studio.loras / "ink.safetensors").trigger == "inkstyle"


def test_a_deleted_style_lies_in_the_trash_folder(spare, page, studio):
    data = spare.read_bytes()
    chosen(page, "spare")
    press_delete(page)
    expect(lines(page, text("library.thrown").format(name="spare"))).to_be_visible()
    assert not spare.exists()
    assert data in [path.read_bytes() for path in (studio.loras / ".trash").glob("spare*")]
    expect(page.locator("#library [aria-pressed=true]")).to_have_count(0)


def test_a_broken_file_is_refused_in_one_line(page, studio, tmp_path):
    broken = tmp_path / "spare.safetensors"
    broken.write_bytes((studio.loras / "ink.safetensors").read_bytes()[:5000])
    drop(page, broken)
    expect(lines(page, "spare.safetensors")).to_be_visible()
    foreign = tmp_path / "stranger.safetensors"
    foreign.write_bytes((studio.loras / f"{UNFIT}.safetensors").read_bytes())
    drop(page, foreign)
    expect(lines(page, "stranger")).to_be_visible()
    assert not list(studio.loras.glob("spare*")) + list(studio.loras.glob("stranger*"))


def test_a_dropped_style_becomes_a_card_and_its_download_is_the_same_file(page, studio, tmp_path):
    file = tmp_path / "spare.safetensors"
    file.write_bytes((studio.loras / "ink.safetensors").read_bytes())
    drop(page, file)
    expect(page.get_by_text(text("library.added").format(name="spare"))).to_be_visible()
    expect(page.locator("#library").get_by_role("article").get_by_role("heading", level=2)).to_have_text("spare")
    with page.expect_download() as waiting:
        page.get_by_role("link", name=text("library.download"), exact=True).click()
    assert waiting.value.suggested_filename == "spare.safetensors"
    assert Path(waiting.value.path()).read_bytes() == file.read_bytes()
    turn_to(page, "studio")
    expect(page.locator('#cards [data-card="spare"]')).to_be_visible()
    (studio.loras / "spare.safetensors").unlink()
