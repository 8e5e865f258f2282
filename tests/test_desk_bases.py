"""Another base for everybody who shares a studio: the old one has left the memory before the new one comes."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from bases import make_base
from conftest import random_adapter
from safetensors.torch import load_file, save_file

pytest.importorskip("gradio")
from difflora.adapters.files import save_adapter  # noqa: E402
from difflora.config import DrawConfig  # noqa: E402
from difflora.config_ui import UiConfig  # noqa: E402
from difflora.drawing.recipe import read_recipe  # noqa: E402
from difflora.errors import BaseModelError, RequestError  # noqa: E402
from difflora.events import Progress  # noqa: E402
from difflora.models.family import EMBEDDED, open_model  # noqa: E402
from webui import bases as opening  # noqa: E402
from webui import choices, easel, history, runs, server, styles  # noqa: E402
from webui.desk import Desk  # noqa: E402
from webui.jobs import Job  # noqa: E402
from webui.mixing import base_facts  # noqa: E402

SECONDS = 60
QUICK = {"steps": 2, "size": "32"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bases folder: another one of the embedded family, a Stable Diffusion, one that lacks a weight, and no base."""
    folder = tmp_path_factory.mktemp("shelf") / "bases"
    shutil.copytree(EMBEDDED["tiny"], folder / "pictograms")
    make_base("sd1", folder / "painterly")
    shutil.copytree(folder / "painterly", folder / "lacking")
    file = next((folder / "lacking" / "vae").glob("*.safetensors"))
    tensors = load_file(file)
    tensors.popitem()
    save_file(tensors, file)
    (folder / "nothing").mkdir()
    (folder / "nothing" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Path:
    """Two styles of the embedded base, one of the Stable Diffusion."""
    folder = tmp_path_factory.mktemp("library") / "loras"
    folder.mkdir()
    for seed, (name, base) in enumerate({"ink": "tiny", "chalk": "tiny", "gouache": str(shelf / "painterly")}.items()):
        model = open_model(base)
        adapter = random_adapter(model, 2, 3.0, seed, paths=model.targets("attention", False))
        save_adapter(folder / f"{name}.safetensors", adapter, {})
    return folder


@pytest.fixture
def config(tmp_path: Path, shelf: Path, library: Path) -> UiConfig:
    """A studio for this machine alone."""
    places = {name: tmp_path / name for name in ("runs", "out", "datasets", "merged")}
    return UiConfig(loras=library, bases=shelf, **places)


@pytest.fixture
def desk(config: UiConfig) -> Iterator[Desk]:
    """The studio without its pages."""
    desk = Desk(config)
    yield desk
    desk.close()


def ended(job: Job) -> Job:
    """The work, once it is over."""
    until = time.monotonic() + SECONDS
    while not job.over:
        assert time.monotonic() < until, job
        time.sleep(0.01)
    return job


def change(desk: Desk, name: str, user: str = "ann") -> Job:
    job = ended(desk.bases.open(user, name))
    assert job.state == "done", job.error
    return job


def until(holds: Callable[[], object]) -> None:
    """Wait for something."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def draw(desk: Desk, user: str = "ann", **more: object):
    asked = {"prompts": ("a cat",), "base": desk.config.base} | QUICK | more
    return easel.draw(desk, user, DrawConfig(**asked), [])


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The next base is opened when it is let: begun is set when its turn has come, go lets it."""
    hold = SimpleNamespace(begun=threading.Event(), go=threading.Event())
    own = opening.open_model

    def held(config: UiConfig, **how: object):
        hold.begun.set()
        while not hold.go.wait(0.01):
            how["report"](Progress("opening", 1, 4))
        return own(config, **how)

    monkeypatch.setattr(opening, "open_model", held)
    yield hold
    hold.go.set()


# One after the other


def test_the_old_base_has_left_the_memory_before_the_new_one_is_opened(desk, monkeypatch):
    refs, own = [], opening.open_model

    def watched(config: UiConfig, **how: object):
        assert [ref for ref in refs if ref() is not None] == []
        return own(config, **how)

    monkeypatch.setattr(opening, "open_model", watched)
    for name in ("painterly", "pictograms", "tiny"):
        assert draw(desk).wait(SECONDS)
        refs += desk.base.watched()
        assert all(ref() is not None for ref in refs[-4:])
        change(desk, name)
        assert [ref for ref in refs if ref() is not None] == []
        assert desk.config.base == desk.model.name == name


def test_what_still_works_with_the_old_base_is_waited_for(desk):
    kept, gone = [desk.model], weakref.ref(desk.model)
    job = desk.bases.open("ann", "painterly")
    until(lambda: desk.bases.at is not None and desk.bases.at.phase == "wait")
    time.sleep(0.3)
    assert gone() is not None and not job.over
    with pytest.raises(RequestError, match="painterly is being opened"):
        draw(desk)
    kept.clear()
    assert ended(job).state == "done" and gone() is None


def test_everything_that_hangs_on_the_base_follows(desk):
    before = base_facts(desk)
    assert {card.path.stem for card in desk.cards() if not card.problem} == {"ink", "chalk"}
    assert draw(desk).recipes[0].width == 32
    change(desk, "painterly")
    after = base_facts(desk)
    assert after["mark"] != before["mark"] and after["family"] == "sd-32"
    assert {card.path.stem for card in desk.cards() if not card.problem} == {"gouache"}
    assert [row["kind"] for row in styles.rows(desk) if row["problem"]] == ["tiny", "tiny"]
    assert desk.doctor.opened.family == desk.batcher.shelf.family == "sd-32"
    assert desk.batcher.model is desk.balance.model is desk.model
    [recipe] = draw(desk, size=None).recipes
    assert (recipe.base, recipe.width) == ("painterly", desk.model.side)
    ticket = draw(desk)
    assert ticket.wait(SECONDS) and ticket.state == "done", ticket.error


def test_a_training_learns_on_the_base_that_is_open(desk, config, pictures_folder):
    from difflora.config import TrainConfig
    from webui import trainings

    key = trainings.remember(desk, shutil.copytree(pictures_folder, config.datasets / "blobs"))
    change(desk, "painterly")
    asked = runs.settle(desk, TrainConfig(images=Path("."), name="x"), key)
    assert (asked.base, asked.bases, asked.vae) == ("painterly", config.bases, None)


def test_an_autoencoder_given_at_the_start_belongs_to_that_base_alone(config, monkeypatch):
    desk = Desk(replace(config, vae="an autoencoder"), open_model("tiny"))
    asked, own = [], opening.open_model
    monkeypatch.setattr(
        opening, "open_model", lambda config, **how: asked.append(config.vae) or own(replace(config, vae=None), **how)
    )
    change(desk, "painterly")
    change(desk, "tiny")
    desk.close()
    assert asked == [None, "an autoencoder"]


def test_what_was_drawn_before_is_still_known(desk):
    ticket = draw(desk)
    assert ticket.wait(SECONDS)
    change(desk, "painterly")
    assert desk.ticket(ticket.id) is ticket and ticket.state == "done" and (ticket.position, ticket.eta) == (0, 0.0)
    [name] = desk.drawings[ticket.id].files
    row = history.recipe_row(desk, "ann", name)
    assert (row["here"], row["other"]) == (False, "tiny")
    with pytest.raises(RequestError, match="drawn with base tiny: expected it open, not painterly"):
        easel.redraw(desk, "ann", name)
    change(desk, "tiny")
    assert history.recipe_row(desk, "ann", name)["other"] == ""
    again = easel.redraw(desk, "ann", name)
    assert again.wait(SECONDS) and again.state == "done"


# While somebody draws


def test_ones_own_drawings_are_given_up_the_batch_of_others_is_finished_and_who_waits_is_told(desk):
    others = draw(desk, "bob", steps=12, count=2)
    until(lambda: others.state == "drawing")
    waits = draw(desk, "bob", prompts=("a dog",), steps=3)
    own = draw(desk, "ann", steps=5)
    change(desk, "painterly")
    assert others.state == "done" and all(desk.drawings[others.id].files)
    assert read_recipe(desk.pictures("bob") / desk.drawings[others.id].files[0]).base == "tiny"
    for ticket in (waits, own):
        assert ticket.state == "cancelled" and "the base was changed to painterly" in ticket.error


def test_of_a_request_of_many_batches_the_one_under_way_is_kept(desk):
    many = draw(desk, "bob", steps=6, count=10)
    until(lambda: many.state == "drawing")
    change(desk, "painterly")
    kept = [name for name in desk.drawings[many.id].files if name]
    assert many.state == "cancelled" and "painterly" in many.error and len(kept) == 8


def test_who_draws_alone_does_not_wait_for_what_is_given_up(desk):
    own = draw(desk, steps=1000, count=8)
    until(lambda: own.state == "drawing")
    start = time.monotonic()
    change(desk, "pictograms")
    assert own.state == "cancelled" and time.monotonic() - start < SECONDS / 2


# When it does not work


def test_a_base_that_cannot_be_opened_brings_the_old_one_back(desk, config):
    mark = desk.base.mark
    job = ended(desk.bases.open("ann", "lacking"))
    assert job.state == "failed" and "lacking" in job.error and "\n" not in job.error
    assert str(config.bases) not in job.error
    assert desk.config.base == desk.model.name == "tiny" and desk.base.mark != mark
    ticket = draw(desk)
    assert ticket.wait(SECONDS) and ticket.state == "done"
    change(desk, "painterly")


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_whatever_goes_wrong_is_one_line_and_holds_nothing(error, desk, monkeypatch):
    own, parts = opening.open_model, []

    def failing(config: UiConfig, **how: object):
        if config.base != "tiny":
            half = open_model("tiny")
            parts.append(weakref.ref(half))
            raise error("a bug")
        gc.collect()
        assert parts[0]() is None
        return own(config, **how)

    monkeypatch.setattr(opening, "open_model", failing)
    job = ended(desk.bases.open("ann", "painterly"))
    assert job.state == "failed" and "expected" in job.error and "\n" not in job.error
    assert desk.model.name == "tiny"


def test_when_neither_can_be_opened_the_studio_says_so_and_another_one_helps(desk, monkeypatch):
    own = opening.open_model

    def failing(config: UiConfig, **how: object):
        if config.base in ("tiny", "painterly"):
            raise BaseModelError(f"base {config.base} is gone; expected it")
        return own(config, **how)

    monkeypatch.setattr(opening, "open_model", failing)
    job = ended(desk.bases.open("ann", "painterly"))
    assert "base painterly is gone" in job.error and "base tiny is gone" in job.error
    assert desk.bases.row() == {"name": "tiny", "mark": "", "at": None} and desk.status() == {}
    for asked in (lambda: draw(desk), lambda: styles.rows(desk), lambda: base_facts(desk)):
        with pytest.raises(RequestError, match="no base is open: expected one"):
            asked()
    assert any(row["name"] == "pictograms" for row in choices.rows(desk)["here"])
    change(desk, "pictograms")
    assert draw(desk).wait(SECONDS)


def test_who_stops_it_keeps_the_base_that_never_left(desk):
    kept = desk.model
    job = desk.bases.open("ann", "painterly")
    until(lambda: desk.bases.at is not None and desk.bases.at.phase == "wait")
    desk.jobs.stop("ann", job.id)
    assert ended(job).state == "stopped"
    until(lambda: desk.opened is not None)
    assert desk.model is kept and draw(desk).wait(SECONDS)


def test_who_stops_it_later_gets_the_old_one_opened_again(desk, waiting):
    job = desk.bases.open("ann", "painterly")
    assert waiting.begun.wait(SECONDS)
    desk.jobs.stop("ann", job.id)
    waiting.go.set()
    assert ended(job).state in ("stopped", "done")
    assert draw(desk).wait(SECONDS)


# Two people


def test_one_base_is_opened_at_a_time_and_every_page_sees_which(desk, waiting):
    job = desk.bases.open("ann", "painterly")
    with pytest.raises(RequestError, match="painterly is being opened: expected one base at a time"):
        desk.bases.open("bob", "pictograms")
    assert waiting.begun.wait(SECONDS)
    until(lambda: (desk.bases.row()["at"] or {}).get("done") == 1)
    row = desk.bases.row()
    assert row["mark"] == "" and row["at"] | {"eta": None} == {
        "name": "painterly", "size": row["at"]["size"], "by": "ann", "phase": "open", "done": 1, "total": 4,
        "eta": None, "note": "",
    }  # fmt: skip
    waiting.go.set()
    assert ended(job).state == "done"
    change(desk, "pictograms", "bob")
    with pytest.raises(RequestError, match="pictograms is open: expected another"):
        desk.bases.open("ann", "pictograms")


def test_many_who_ask_at_once_get_one_base_and_a_line_each(desk):
    names, jobs, lines = ["painterly", "pictograms"] * 4, [], []

    def ask(name: str, user: str) -> None:
        try:
            jobs.append(desk.bases.open(user, name))
        except RequestError as error:
            lines.append(str(error))

    threads = [threading.Thread(target=ask, args=(name, f"user {i}")) for i, name in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert jobs and len(jobs) + len(lines) == len(names)
    assert all(ended(job).state == "done" for job in jobs)
    assert desk.model.name in names and draw(desk).wait(SECONDS)


def test_requests_at_any_moment_of_a_change_are_drawn_or_told(desk):
    stop, tickets, lines = threading.Event(), [], []

    def ask() -> None:
        while not stop.is_set():
            try:
                tickets.append(draw(desk, "bob", steps=1))
            except RequestError as error:
                lines.append(str(error))
            time.sleep(0.002)

    thread = threading.Thread(target=ask)
    thread.start()
    for name in ("painterly", "tiny", "painterly"):
        change(desk, name)
    stop.set()
    thread.join()
    assert all(ticket.wait(SECONDS) for ticket in tickets)
    assert {ticket.state for ticket in tickets} <= {"done", "cancelled"}
    assert all("the base was changed" in ticket.error for ticket in tickets if ticket.state == "cancelled")
    assert all("expected" in line for line in lines)


# What may be opened


def test_the_list_says_of_each_base_what_it_is_and_what_fits(desk):
    rows = {row["name"]: row for row in choices.rows(desk)["here"]}
    assert {"tiny", "pictograms", "painterly", "nothing"} <= set(rows)
    assert rows["tiny"]["open"] and not rows["painterly"]["open"]
    assert [rows[name]["fits"] for name in ("tiny", "pictograms", "painterly")] == [2, 2, 1]
    assert (rows["painterly"]["family"], rows["tiny"]["side"]) == ("sd-32", 64)
    assert rows["painterly"]["size"] > 10**6
    assert rows["nothing"]["problem"] and rows["nothing"]["fits"] is None
    assert not any("path" in row for row in rows.values())
    with pytest.raises(RequestError):
        desk.bases.open("ann", "nothing")


def test_a_base_from_elsewhere_stays_in_the_list_under_its_last_name(config, tmp_path):
    place = make_base("sd1", tmp_path / "elsewhere")
    desk = Desk(server.settled(replace(config, base=str(place))))
    assert choices.rows(desk)["here"][-1]["name"] == "elsewhere" == desk.bases.row()["name"]
    change(desk, "tiny")
    rows = {row["name"]: row["open"] for row in choices.rows(desk)["here"]}
    assert rows["tiny"] and not rows["elsewhere"]
    change(desk, "elsewhere")
    assert desk.config.base == str(place)
    desk.close()


def test_a_base_named_by_its_path_is_the_one_of_the_list(config):
    desk = Desk(server.settled(replace(config, base=str(config.bases / "painterly"))))
    assert [row["open"] for row in choices.rows(desk)["here"] if row["name"] == "painterly"] == [True]
    desk.close()


def test_two_bases_of_one_name_are_told_apart(desk, config):
    shutil.copytree(config.bases / "pictograms", config.bases / "tiny")
    try:
        names = [row["name"] for row in choices.rows(desk)["here"]]
        assert {"tiny", "bases/tiny"} <= set(names) and len(set(names)) == len(names)
        change(desk, "bases/tiny")
        assert desk.config.base == str(config.bases / "tiny")
    finally:
        shutil.rmtree(config.bases / "tiny")


@pytest.mark.parametrize("text", ["", "/etc", "../bases", "somebody", "owner/name/more", "a b/c"])
def test_nothing_outside_the_bases_folder_is_opened(text, desk):
    with pytest.raises(RequestError, match="expected one of the list"):
        desk.bases.open("ann", text)


def test_a_path_inside_the_bases_folder_may_be_typed(desk, config):
    shutil.copytree(config.bases / "painterly", config.bases / "shelf" / "deep", dirs_exist_ok=True)
    try:
        change(desk, "shelf/deep")
        assert desk.config.base == str(config.bases / "shelf" / "deep")
    finally:
        shutil.rmtree(config.bases / "shelf")


@pytest.mark.parametrize("how", ["listen", "share"])
def test_where_others_can_reach_the_studio_nothing_is_downloaded_or_typed(how, config, monkeypatch):
    monkeypatch.setattr(opening, "download", lambda *how: pytest.fail("downloaded"))
    desk = Desk(replace(config, auth=("ann:password1",), **{how: True}))
    found = choices.rows(desk)
    assert (found["offers"], found["local"], found["kept"]) == ([], False, "")
    for text in ("owner/name", "sd15", str(config.bases / "painterly")):
        with pytest.raises(RequestError, match="expected one of the list"):
            desk.bases.open("ann", text)
    change(desk, "painterly")
    desk.close()


def test_a_download_leaves_everybody_at_work_until_it_is_here(desk, monkeypatch, tmp_path):
    begun, go, places = threading.Event(), threading.Event(), []

    def download(located, report):
        begun.set()
        report(Progress("downloading", 5, 10, 2.0))
        assert go.wait(SECONDS)
        raise BaseModelError("sd15: the connection broke off; expected all of it; ask again")

    monkeypatch.setattr(opening, "download", download)
    monkeypatch.setattr(desk, "online", lambda: nullcontext(places.append("online")))
    monkeypatch.setattr("difflora.models.hub.cache_folder", lambda: tmp_path / "hub")
    offers = {row["name"]: row for row in choices.rows(desk)["offers"]}
    assert offers["sd15"]["family"] == "sd1" and offers["sd15"]["fits"] == 0
    kept, job = desk.model, desk.bases.open("ann", "sd15")
    assert begun.wait(SECONDS) and draw(desk, "bob").wait(SECONDS)
    at = desk.bases.row()["at"]
    assert (at["phase"], at["done"], at["total"]) == ("download", 5, 10) and places == ["online"]
    go.set()
    assert "the connection broke off" in ended(job).error and desk.model is kept


def test_a_running_training_keeps_its_memory(desk, monkeypatch):
    monkeypatch.setattr(desk.runs, "list", lambda: [SimpleNamespace(name="slow", state="running")])
    monkeypatch.setattr(opening, "free_memory", lambda opened: 10**6)
    with pytest.raises(RequestError, match=r"painterly takes 0\.0 GB .* while slow is trained: expected room"):
        desk.bases.open("ann", "painterly")
    monkeypatch.setattr(opening, "free_memory", lambda opened: None)
    change(desk, "painterly")
