"""What was broken on purpose and holds now: strange names, strange values, two at once, the same name again."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from browser import loaded
from conftest import random_adapter
from PIL import Image

import difflora.drawing.batcher as room
from difflora.adapters.cards import cards
from difflora.adapters.edits import replace_style
from difflora.adapters.files import content_sha256, save_adapter
from difflora.config import DrawConfig, check_name
from difflora.drawing.admit import admit
from difflora.drawing.batcher import Batcher
from difflora.drawing.recipe import Recipe, parse_recipe
from difflora.drawing.request import free_name
from difflora.errors import RequestError
from difflora.training.waiting import Waiting
from difflora.training.watch import list_runs

pytest.importorskip("gradio")
pytest.importorskip("playwright")
from playwright.sync_api import expect  # noqa: E402

from webui import easel, trainings  # noqa: E402
from webui.history import History, throw_away  # noqa: E402
from webui.routes import Plain, library_version, picture  # noqa: E402


def asked(prompt: str = "a cat", **values: object) -> Recipe:
    return Recipe(prompt=prompt, width=64, height=64, **values)


@pytest.mark.parametrize(
    "wrong", [{"prompt": "\ud800 cat"}, {"negative": "\udfff"}, {"prompt": 5}, {"sampler": ["ddim"]}]
)
def test_what_would_fail_a_batch_is_refused_before_others_share_it(wrong, model):
    with pytest.raises(RequestError, match="expected"):
        admit([asked(**{"base": model.name} | wrong)], model)


def test_a_picture_and_a_style_of_the_longest_name_in_any_alphabet_can_be_written(tmp_path):
    for _ in range(3):
        path = free_name(tmp_path, asked("𝐀" * 70, seed=2**31 - 1))
        path.write_bytes(b"")
    assert len(list(tmp_path.iterdir())) == 3
    for name in ("𝐀" * 50, "あ" * 60):
        (tmp_path / f"{check_name(name)}-step-000200.safetensors").write_bytes(b"")
    for name in ("𝐀" * 80, " ", "ink ", " ink"):
        with pytest.raises(RequestError, match="name"):
            check_name(name)


def test_a_name_that_is_no_text_hides_nothing_else(model, tmp_path):
    save_adapter(tmp_path / "ink.safetensors", random_adapter(model, 4, 2.0, 0), {})
    Path(f"{tmp_path}/\udcff.safetensors").write_bytes(b"")
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "gone")
    assert [card.name for card in cards(tmp_path)] == ["ink"]
    desk = SimpleNamespace(config=SimpleNamespace(loras=tmp_path))
    before = library_version(desk)
    (tmp_path / "ink.safetensors").rename(tmp_path / "pen.safetensors")
    assert library_version(desk) != before
    for name in ("good", "\udcff", "deep"):
        Path(f"{tmp_path}/{name}").mkdir()
        Path(f"{tmp_path}/{name}/key.json").write_text("{}")
    (tmp_path / "deep" / "plan.json").write_text("[" * 100_000)
    assert {run.name for run in list_runs(tmp_path)} == {"good", "deep"}


def test_a_queue_entry_that_is_no_text_stops_no_other(tmp_path):
    (tmp_path / ".queue").mkdir()
    for name in ("ink", "\udcff"):
        Path(f"{tmp_path}/.queue/{name}.toml").write_text("")
    (tmp_path / ".queue" / "order.json").write_text('["\\udcff", 5, "ink"]')
    assert Waiting(tmp_path).names() == ["ink"]


def test_values_of_strangers_are_always_json_that_a_browser_reads():
    body = Plain({"loss": float("nan"), "rows": [(1, float("inf"))], "note": "\ud800<b>"}).body
    assert json.loads(body) == {"loss": None, "rows": [[1, None]], "note": "\ud800<b>"}
    assert b"NaN" not in body and b"Infinity" not in body


def test_a_style_whose_name_is_taken_by_a_new_training_lies_in_the_trash(model, tmp_path):
    path = tmp_path / "ink.safetensors"
    old = content_sha256(save_adapter(path, random_adapter(model, 4, 2.0, 0), {}))
    replace_style(path, random_adapter(model, 4, 2.0, 0), {"again": "the same numbers"})
    assert not list(tmp_path.glob(".trash/*"))
    replace_style(path, random_adapter(model, 4, 2.0, 1), {})
    assert [content_sha256(kept) for kept in tmp_path.glob(".trash/*")] == [old] != [content_sha256(path)]


def test_a_folder_of_thousands_is_refused_before_a_picture_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "MOST_PICTURES", 2)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    desk = SimpleNamespace(config=SimpleNamespace(images=(tmp_path,), datasets=tmp_path / "dropped"), datasets={})
    with pytest.raises(RequestError, match="^3 pictures there: expected"):
        trainings.open_folder(desk, ".")
    (tmp_path / "2.png").unlink()
    assert desk.datasets[trainings.open_folder(desk, ".")] == tmp_path.resolve()


def test_an_opened_folder_keeps_its_key_when_the_studio_is_opened_again(tmp_path):
    (tmp_path / "art").mkdir()

    def desk() -> SimpleNamespace:
        places = SimpleNamespace(images=(tmp_path / "art",), datasets=tmp_path / "dropped")
        return SimpleNamespace(config=places, datasets={})

    key = trainings.open_folder(desk(), str(tmp_path / "art"))
    later = desk()
    assert trainings.folder_of(later, key) == (tmp_path / "art").resolve()
    assert trainings.open_folder(later, str(tmp_path / "art")) == key
    with pytest.raises(RequestError, match="^no pictures are open"):
        trainings.folder_of(later, "guessed")
    (tmp_path / "art").rmdir()
    with pytest.raises(RequestError, match="^art is not there any more"):
        trainings.folder_of(later, key)


def test_two_that_drop_pictures_at_once_get_two_folders(tmp_path):
    desk = SimpleNamespace(datasets={}, config=SimpleNamespace(datasets=tmp_path / "datasets", uploads=50))
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(file)
    threads = [threading.Thread(target=trainings.drop, args=(desk, [file], None)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(list(folder.glob("*.png"))) for folder in desk.datasets.values()] == [1, 1, 1, 1]


@pytest.fixture
def pictures(tmp_path):
    """A desk that has pictures and nothing else."""
    return SimpleNamespace(pictures=lambda user: tmp_path)


def test_a_browser_is_never_shown_another_picture_of_the_same_name(pictures, tmp_path):
    path = tmp_path / "a-cat-0.png"

    def answer(**headers: str):
        request = SimpleNamespace(headers={k.replace("_", "-"): v for k, v in headers.items()})
        asked = picture(request, lambda: path, {"Cache-Control": "private, no-cache"})
        with ThreadPoolExecutor(1) as elsewhere:  # the browser's driver has a loop in this thread
            return elsewhere.submit(asyncio.run, asked).result()

    Image.new("RGB", (8, 8), "red").save(path)
    first = answer()
    assert (first.status_code, first.body, first.media_type) == (200, path.read_bytes(), "image/png")
    assert answer(if_none_match=first.headers["etag"]).status_code == 304
    Image.new("RGB", (8, 8), "blue").save(path)
    assert answer(if_none_match=first.headers["etag"]).body == path.read_bytes()


def test_the_name_of_a_deleted_picture_is_not_given_again(pictures, tmp_path):
    names = set()
    for _ in range(4):
        path = easel.new_name(tmp_path, asked(), aside=False)
        Image.new("RGB", (8, 8)).save(path)
        names.add(path.name)
        throw_away(pictures, "artist", path.name)
    assert len(names) == 4
    assert len({easel.new_name(tmp_path, asked(), aside=True) for _ in range(4)}) == 4


def test_a_history_lists_a_picture_that_came_in_the_same_instant(pictures, tmp_path):
    history = History(pictures)
    for count in range(1, 30):
        (tmp_path / f"{count}.png").write_bytes(b"")
        assert len(history.names("artist")) == count


def test_a_long_list_of_prompts_times_a_large_count_is_refused_before_it_is_made():
    config = DrawConfig(prompts=("a",) * 10_000, count=10_000)
    start = time.monotonic()
    with pytest.raises(RequestError, match="100000000 pictures: expected at most 200"):
        easel.draw(SimpleNamespace(), "artist", config, [])
    assert time.monotonic() - start < 1
    values = {"prompt": "a", "width": 64, "height": 64, "batch": 2**30, "row": 0}
    with pytest.raises(ValueError, match="range"):
        parse_recipe(json.dumps(values))


@pytest.mark.parametrize("state", [{"weights": 5}, {"weights": [1, 2], "spread": 0.5, "round": 0}, ["x"], {"which": 0}])
def test_a_blind_pick_of_other_styles_is_refused_in_one_line(state):
    with pytest.raises(RequestError, match="begin it again"):
        easel.resumed(state, 1, 0)


def test_closing_does_not_wait_for_a_turn_that_never_comes(model, monkeypatch):
    monkeypatch.setattr(room, "LEAVING_SECONDS", 0.2)
    never = threading.Event()

    @contextmanager
    def turn():
        never.wait(30)
        yield

    batcher = Batcher(model, turn=turn)
    ticket = batcher.submit("ann", [asked(base=model.name, steps=1)])
    start = time.monotonic()
    batcher.close()
    assert time.monotonic() - start < 5 and ticket.state == "cancelled"
    never.set()


def test_a_reload_and_a_change_of_the_library_draw_nothing(page, studio):
    def count() -> int:
        return httpx.get(f"{studio.url}/studio/now").json()["queue"]["drawn"]

    page.locator("#prompt textarea").fill("a cat")
    page.locator("#cards .card", has_text="ink").click()
    page.locator("#mixer .live input").check()
    page.wait_for_function("difflora.now.get().tickets.some((t) => t.kind === 'draft' && t.state === 'done')")
    before = count()
    page.reload()
    loaded(page)
    copied = studio.loras / "copied.safetensors"
    copied.write_bytes((studio.loras / "pastel.safetensors").read_bytes())
    expect(page.locator("#cards .card", has_text="copied")).to_be_visible(timeout=10_000)
    copied.unlink()
    page.wait_for_timeout(1000)
    assert count() == before


def test_a_strip_stays_when_the_server_has_forgotten_its_drawing(page):
    page.locator("#prompt textarea").fill("a cat")
    for name in ("ink", "gouache"):
        page.locator("#cards .card", has_text=name).click()
    page.locator("#strip-button").click()
    cells = page.locator(".strip .cell img:not(.look)")
    expect(cells).to_have_count(7, timeout=30_000)
    page.wait_for_function("difflora.now.get().tickets.some((t) => t.kind === 'strip' && t.state === 'done')")
    page.route(re.compile(r"/studio/now\?"), lambda route: route.continue_(url=re.sub(r"\?.*", "", route.request.url)))
    page.reload()
    loaded(page)
    page.wait_for_function("difflora.now.get().queue.drawn && !difflora.now.get().tickets.length")
    expect(cells).to_have_count(7)
