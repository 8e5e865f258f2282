"""The Train page in a real browser: from dropped files to a card, whoever reloads in between."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Studio, lines, loaded, turn_to
from PIL import Image

from difflora.adapters.cards import card
from difflora.training.data import read_excluded
from difflora.training.watch import view_run
from webui.words import text

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect  # noqa: E402

SAMPLES = Path(__file__).parent.parent / "sample_data"
EVIL = "<img src=x onerror=window.hacked=1>"


@pytest.fixture
def files(pictures_folder: Path, tmp_path: Path) -> list[Path]:
    """Nine captioned pictures, one picture that is spoilt, and one file that is neither picture nor caption."""
    spoilt, other = tmp_path / "spoilt.png", tmp_path / "readme.md"
    spoilt.write_bytes((pictures_folder / "cat.png").read_bytes()[:60])
    other.write_text("not a caption")
    return [*sorted(pictures_folder.iterdir()), spoilt, other]


def drop(page: Page, files: list[Path]) -> None:
    """Let files fall onto the Train page, as a person does: all of them in one go."""
    turn_to(page, "train")
    page.locator("#drop input[type=file]").set_input_files(files)


def caption(page: Page, name: str):
    return page.get_by_label(text("wall.caption").format(name=name), exact=True)


def dropped_into(studio: Studio) -> Path:
    """The newest folder of dropped pictures."""
    return max(studio.datasets.glob("[!.]*"), key=lambda folder: folder.stat().st_mtime_ns)


def run_of(page: Page, name: str):
    return page.locator("#runs").get_by_role("region", name=name, exact=True)


def state(page: Page, name: str, which: str):
    """The badge of a run, once it says so."""
    badge = run_of(page, name).locator(".badge")
    # A training measures real steps and what the base draws before its first step.
    expect(badge).to_have_text(text(f"runs.state.{which}"), timeout=90_000)
    return badge


def say(page: Page, name: str, what: str) -> None:
    """Press one of the buttons of a run."""
    run_of(page, name).get_by_role("button", name=text(f"runs.{what}"), exact=True).click()


def settings(page: Page, **values: object) -> None:
    """Fill the form of a training by the fields' names."""
    if not page.locator("#trainconfig-batch").is_visible():
        page.locator("#train-more > button").click()
    for name, value in values.items():
        place = page.locator(f"#trainconfig-{name.replace('_', '-')}")
        place.locator("input, textarea").first.fill(str(value))
        place.locator("input, textarea").first.press("Tab")


# Pictures


def test_dropped_pictures_are_shown_with_their_captions_and_what_was_refused_by_name(page, studio, files):
    drop(page, files)
    expect(caption(page, "cat.png")).to_have_value("a cat")
    expect(page.locator("#pictures textarea")).to_have_count(9)
    for refused in ("spoilt.png", "readme.md"):
        expect(page.get_by_text(refused).first).to_be_visible()
    assert len(list(dropped_into(studio).glob("*.png"))) == 9
    # Where the pictures lie is the server's; they are still open after a reload.
    page.reload()
    loaded(page)
    turn_to(page, "train")
    expect(caption(page, "cat.png")).to_have_value("a cat")


def test_an_edited_caption_is_in_the_file_beside_the_picture(page, studio, files):
    drop(page, files[:18])
    caption(page, "dog.png").fill(f"a small dog {EVIL}")
    caption(page, "dog.png").press("Tab")
    expect(page.locator("#pictures").get_by_text(text("wall.saved"), exact=True)).to_be_visible()
    assert (dropped_into(studio) / "dog.txt").read_text() == f"a small dog {EVIL}\n"
    page.reload()
    loaded(page)
    turn_to(page, "train")
    expect(caption(page, "dog.png")).to_have_value(f"a small dog {EVIL}")
    assert page.evaluate("window.hacked") is None


def test_a_folder_outside_the_given_ones_is_refused_without_saying_whether_it_exists(page, studio):
    turn_to(page, "train")
    said = []
    for place in (
        studio.loras,
        studio.place / "nothing",
        studio.images / ".." / "runs",
        Path("/etc/passwd"),
        f"/{EVIL}",
    ):
        page.locator("#folder input, #folder textarea").fill(str(place))
        page.locator("#open-folder").click()
        line = lines(page, str(place))
        expect(line).to_be_visible()
        said.append(line.inner_text().replace(str(place), "…"))
    assert len(set(said)) == 1
    assert page.evaluate("window.hacked") is None


@pytest.fixture
def spoilt(studio: Studio) -> Iterator[Path]:
    """Sixteen pictures of one hand, a copy of one of them, one far too small, and one with words of style."""
    folder = studio.images / "spoilt"
    folder.mkdir()
    for file in sorted((SAMPLES / "cartoon").iterdir())[:32]:
        shutil.copy(file, folder)
    first, second, third = sorted(folder.glob("*.webp"))[:3]
    Image.open(first).convert("RGB").save(folder / "again.jpg", quality=80)
    shutil.copy(first.with_suffix(".txt"), folder / "again.txt")
    Image.open(second).convert("RGB").resize((24, 24)).save(folder / "small.png")
    (folder / "small.txt").write_text("a small thing")
    third.with_suffix(".txt").write_text("an oil painting of a thing")
    yield folder
    shutil.rmtree(folder)


def test_pictures_that_should_go_are_left_out_with_one_click_and_taken_back_with_another(page, studio, spoilt):
    turn_to(page, "train")
    page.locator("#folder :is(input, textarea)").fill("spoilt")
    page.locator("#open-folder").click()
    wall = page.locator("#pictures")
    expect(wall.locator(".facts")).to_contain_text(text("wall.exclude").format(count=2))
    again, small = (wall.locator(f'[data-picture="{name}"]') for name in ("again.jpg", "small.png"))
    expect(again.locator(".faults")).to_contain_text("shows the same as")
    expect(small.locator(".faults")).to_contain_text("24 × 24")
    # What should go comes first, and copies stand beside what they were made from.
    expect(wall.locator(".caption").nth(1)).to_have_class(re.compile("exclude"))
    wall.locator('[data-only="twin"]').click()
    expect(wall.locator(".twins .caption")).to_have_count(2)
    wall.locator('[data-only="all"]').click()
    wall.locator('[data-act="leave-all"]').click()
    expect(wall.locator(".facts")).to_contain_text(text("wall.outcount").format(count=2))
    assert set(read_excluded(spoilt)) == {"again.jpg", "small.png"}
    small.get_by_role("button", name=text("wall.take"), exact=True).click()
    expect(small).not_to_have_class(re.compile(r"\bout\b"))
    assert set(read_excluded(spoilt)) == {"again.jpg"}
    assert len(list(spoilt.glob("*.*g"))) == 2 and len(list(spoilt.glob("*.webp"))) == 16
    page.reload()
    loaded(page)
    turn_to(page, "train")
    expect(wall.locator(".caption.out")).to_have_count(1)


def test_a_mended_caption_is_judged_anew(page, studio, spoilt):
    turn_to(page, "train")
    page.locator("#folder :is(input, textarea)").fill("spoilt")
    page.locator("#open-folder").click()
    name = sorted(path.name for path in spoilt.glob("*.webp"))[2]
    one = page.locator(f'#pictures [data-picture="{name}"]')
    expect(one.locator(".faults")).to_contain_text("“oil painting”")
    caption(page, name).fill("a thing on a table")
    caption(page, name).press("Tab")
    expect(one.locator(".faults")).not_to_contain_text("oil painting")
    notes = page.locator("#pictures .notes")
    expect(notes).to_contain_text("no trigger given")
    settings(page, trigger="zorvex")
    expect(notes).not_to_contain_text("no trigger given")


# Runs


def test_a_training_from_dropped_pictures_to_a_card_survives_a_reload_and_a_pause(page, studio, files):
    drop(page, files[:18])
    expect(page.locator("#pictures textarea")).to_have_count(9)
    settings(page, name="blobs", trigger="blobstyle", steps=40, rank=2, alpha=3, batch=2, preview_every=20)
    page.locator("#plan-button").click()
    expect(page.locator("#plan dl")).to_contain_text("blobs")
    expect(page.locator("#plan dl")).to_contain_text(text("plan.measured").rpartition("}")[2])
    expect(page.locator("#plan dl")).to_contain_text(text("plan.rank").format(rank=2, alpha=3, layers="").split(",")[0])
    page.locator("#start").click()
    figures = run_of(page, "blobs").locator(".figures")
    state(page, "blobs", "running")
    expect(figures).to_have_text(re.compile(r"[1-9]"))
    page.reload()
    loaded(page)
    turn_to(page, "train")
    state(page, "blobs", "running")
    say(page, "blobs", "preview")
    say(page, "blobs", "save")
    heads = run_of(page, "blobs").locator(".board thead th")
    expect(heads.filter(has_text=re.compile(r"step \d"))).not_to_have_count(0)
    say(page, "blobs", "pause")
    state(page, "blobs", "paused")
    stopped = view_run(studio.runs / "blobs")
    assert 0 < stopped.step < 40
    saved = [path.stem for path in studio.loras.glob("blobs-step-*.safetensors")]
    assert len(saved) == 1
    say(page, "blobs", "resume")
    state(page, "blobs", "finished")
    finished = card(studio.loras / "blobs.safetensors")
    assert (finished.rank, finished.trigger, finished.problem) == ("2", "blobstyle", "")
    run = run_of(page, "blobs")
    expect(run.locator(".board thead .star")).to_have_count(1)
    expect(run.locator(".board tfoot tr").first).to_contain_text(re.compile(r"%|" + text("runs.worse")))
    the_other_checkpoint_becomes_the_style(page, studio, run)
    steps_are_added(page, studio, run)
    run.get_by_role("button", name=text("runs.use"), exact=True).click()
    expect(page.get_by_label(text("mixer.weight").format(name="blobs"), exact=True)).to_be_visible()
    for path in studio.loras.glob("blobs*"):
        path.unlink()


def the_other_checkpoint_becomes_the_style(page: Page, studio: Studio, run) -> None:
    """Use the checkpoint that was not chosen: its very file is in the library then."""
    run.locator("button[data-step]").first.wait_for()
    button = run.locator("button[data-step]").first
    step = int(button.get_attribute("data-step"))
    button.click()
    expect(run.locator(f'button[data-step="{step}"]')).to_have_count(0)
    kept = studio.runs / "blobs" / "checkpoints" / f"step-{step:06}.safetensors"
    assert (studio.loras / "blobs.safetensors").read_bytes() == kept.read_bytes()


def steps_are_added(page: Page, studio: Studio, run) -> None:
    """A finished run goes on for four steps more."""
    run.locator('[data-act="more"]').click()
    run.get_by_label(text("runs.steps")).fill("4")
    run.get_by_role("button", name=text("runs.add"), exact=True).click()
    expect(run.locator(".figures")).to_have_text(text("runs.step").format(step=44, steps=44), timeout=90_000)
    state(page, "blobs", "finished")
    assert view_run(studio.runs / "blobs").step == 44


def test_a_second_training_waits_and_can_be_taken_out(page, studio, files):
    drop(page, files[:18])
    expect(page.locator("#pictures textarea")).to_have_count(9)
    for name in ("first", "second", "third"):
        settings(page, name=name, steps=500, batch=2, preview_every=0)
        page.locator("#start").click()
        expect(run_of(page, name)).to_be_visible()
    state(page, "third", "queued")
    say(page, "third", "sooner")
    expect(page.locator("#runs section").nth(0)).to_have_attribute("aria-label", "third")
    for name in ("second", "third"):
        say(page, name, "remove")
        expect(run_of(page, name)).to_have_count(0)
    state(page, "first", "running")
    say(page, "first", "stop")
    state(page, "first", "finished")
    assert 0 < view_run(studio.runs / "first").step < 500
    page.once("dialog", lambda dialog: dialog.accept())
    say(page, "first", "delete")
    expect(run_of(page, "first")).to_have_count(0)
    assert (studio.runs / ".trash" / "first").is_dir()
    (studio.loras / "first.safetensors").unlink()


def test_a_training_of_the_command_line_shows_up(page, studio):
    turn_to(page, "train")
    command = [sys.executable, "-m", "difflora.cli", "train", "--images", str(studio.images / "blobs"), "--json"]
    flags = ["--steps", "3", "--batch", "2", "--preview-every", "0", "--name", "typed", "--rank", "2"]
    places = ["--runs", str(studio.runs), "--out", str(studio.loras)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, *flags, *places], env=env, stdout=subprocess.DEVNULL) as process:
        expect(run_of(page, "typed")).to_be_visible()
        assert process.wait(60) == 0
    state(page, "typed", "finished")
    turn_to(page, "studio")
    expect(page.locator('#cards [data-card="typed"]')).to_be_visible()
    (studio.loras / "typed.safetensors").unlink()
