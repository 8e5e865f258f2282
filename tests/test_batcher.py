"""One model, many callers: who is drawn when, with whom, and what is left when it goes wrong."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_adapter, random_model
from PIL import Image

import difflora.drawing.batcher as room
from difflora.adapters.files import save_adapter
from difflora.config import DrawConfig
from difflora.drawing.batcher import Batcher
from difflora.drawing.recipe import Recipe, Style, save_picture
from difflora.drawing.request import draw_files
from difflora.drawing.shelf import Shelf
from difflora.drawing.styles import find_style
from difflora.drawing.tickets import Line, Ticket
from difflora.errors import AdapterFileError, RequestError
from difflora.models.attach import attached
from difflora.models.samplers import SAMPLERS
from difflora.models.sd import StableDiffusion

LONG = 30.0


class Quick:
    """The toy model with a stand-in for its sampler: grey pictures, each pass and each decode as slow as told."""

    def __init__(self, model: StableDiffusion, pass_seconds: float = 0.0, decode_seconds: float = 0.0) -> None:
        self._model = model
        self.pass_seconds, self.decode_seconds = pass_seconds, decode_seconds
        self.decodes, self.passes, self.batches = [0.0], 0, []
        self.fault: Exception | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def encode_prompts(self, texts, clip_skip=None, least=1) -> dict[str, torch.Tensor]:
        """Nothing but the texts kept."""
        self.texts = list(texts)
        return {}

    def sample(self, cond, *, seeds, steps, guidance, size, sampler, on_step) -> torch.Tensor:
        """As slow as told, and raising what is set as its fault."""
        self.batches.append(self.texts[-len(seeds) :])
        for i in range(steps):
            on_step(i, torch.zeros(len(seeds), 4, size[1] // 4, size[0] // 4))
            self.passes += 1
            time.sleep(self.pass_seconds)
            if self.fault is not None:
                raise self.fault
        return torch.ones(len(seeds), 4, size[1] // 4, size[0] // 4)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Grey, after a while where it is not finished."""
        if latents.any():
            return torch.zeros(len(latents), 3, latents.shape[2] * 4, latents.shape[3] * 4)
        start = time.monotonic()
        time.sleep(self.decode_seconds)
        self.decodes.append(time.monotonic() - start)
        return torch.zeros(len(latents), 3, latents.shape[2] * 4, latents.shape[3] * 4)


class Hold:
    """Turns that begin only when let: the queue can be filled in peace."""

    def __init__(self) -> None:
        self.open = threading.Semaphore(0)
        self.taken = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.open.acquire()
        self.taken += 1
        yield


@pytest.fixture
def serve(model) -> Iterator[Callable[..., Batcher]]:
    """Batchers that are closed at the end; with `hold`, their turns begin when the test says."""
    made: list[tuple[Batcher, Hold | None]] = []

    def start(on=model, hold: Hold | None = None, **how) -> Batcher:
        how.setdefault("preview_seconds", 0)
        made.append((Batcher(on, **({"turn": hold} if hold else {}), **how), hold))
        return made[-1][0]

    yield start
    for batcher, hold in made:
        if hold:
            hold.open.release(1000)
        batcher.close()


@pytest.fixture
def library(tmp_path: Path, model) -> Path:
    """Two styles as files, alpha unlike rank, ranks unlike each other."""
    folder = tmp_path / "loras"
    folder.mkdir()
    for name, rank, alpha, seed in (("ink", 4, 2.0, 1), ("gouache", 2, 5.0, 2)):
        save_adapter(folder / f"{name}.safetensors", random_adapter(model, rank, alpha, seed), {"ss_output_name": name})
    return folder


def asked(prompt: str = "cat", count: int = 1, **changes) -> list[Recipe]:
    """Recipes of one request, seeds counting up."""
    values = {"steps": 3, "guidance": 3.0, "width": 32, "height": 32, "base": "toy"} | changes
    return [Recipe(prompt=prompt, seed=i, **values) for i in range(count)]


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that must come."""
    end = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def trace(model: StableDiffusion) -> tuple[int, float]:
    """What an adapter would leave behind: hooks and moved weights."""
    modules = [m for part in model.parts.values() for m in part.modules()]
    weights = sum(float(p.double().abs().sum()) for part in model.parts.values() for p in part.parameters())
    return sum(len(m._forward_hooks) for m in modules), weights


def test_every_picture_of_a_shared_batch_redraws_itself_bit_for_bit(serve, model, library, tmp_path):
    hold = Hold()
    batcher = serve(hold=hold)
    blends = [("ink:0.7", "gouache:-0.4"), ("gouache:1.2", "ink:-0.3"), ("gouache:0.5", "ink:0.5")]
    tickets = [
        batcher.submit(f"user {i}", asked(f"thing {i}", styles=tuple(find_style(text, library) for text in blend)))
        for i, blend in enumerate(blends)
    ]
    hold.open.release(9)
    for i, ticket in enumerate(tickets):
        assert ticket.wait(LONG) and ticket.state == "done", ticket.error
        recipe, picture = ticket.pictures[0]
        assert (recipe.batch, recipe.row, recipe.folded) == (3, i, False)
        assert [style.name for style in recipe.styles] == ["gouache", "ink"]
        path = tmp_path / f"{i}.png"
        save_picture(picture, recipe, path)
        again = draw_files(DrawConfig(like=path, loras=library, out=tmp_path / "again"), model=model)
        assert again[0][0].read_bytes() == path.read_bytes()


def test_a_redrawing_is_bit_for_bit_the_picture_whoever_else_waits(serve, model, library, tmp_path):
    batcher = serve()
    styles = (find_style("ink:-0.6", library), find_style("gouache:0.5", library))
    many = draw_files(
        DrawConfig(prompts=("a", "b", "c"), lora=("ink:-0.6", "gouache:0.5"), loras=library, out=tmp_path, steps=3,
                   size="32", base=model.name), model=model,
    )  # fmt: skip
    recipe = many[1][1]
    assert (recipe.batch, recipe.row, [s.name for s in recipe.styles]) == (3, 1, ["ink", "gouache"])
    others = [batcher.submit(f"user {i}", asked(f"thing {i}", styles=styles)) for i in range(3)]
    ticket = batcher.submit("ann", recipe.copies(), alone=True)
    assert all(t.wait(LONG) and t.state == "done" for t in (*others, ticket)), ticket.error
    drawn, picture = ticket.pictures[1]
    with Image.open(many[1][0]) as original:
        assert picture.tobytes() == original.convert("RGB").tobytes()
    assert (drawn.batch, drawn.row, drawn.folded) == (3, 1, recipe.folded)


def test_one_blend_for_a_whole_batch_is_folded_and_still_redraws_itself(serve, model, library, tmp_path):
    before = trace(model)
    batcher = serve()
    nameless = replace(find_style("ink:-0.6", library), sha256="")
    ticket = batcher.submit("ann", asked(count=2, styles=(nameless, find_style("gouache:0.5", library))))
    assert ticket.wait(LONG) and ticket.state == "done", ticket.error
    assert trace(model) == before
    for recipe, picture in ticket.pictures:
        assert recipe.folded
        path = tmp_path / f"{recipe.seed}.png"
        save_picture(picture, recipe, path)
        again = draw_files(DrawConfig(like=path, loras=library, out=tmp_path / "again"), model=model)
        assert again[0][0].read_bytes() == path.read_bytes()


def test_requests_that_do_not_fit_are_drawn_apart(serve, library, model):
    hold, quick = Hold(), Quick(model)
    batcher = serve(quick, hold)
    ink, gouache = find_style("ink", library), find_style("gouache", library)
    kinds = [{}, {"steps": 4}, {"guidance": 2.0}, {"width": 40}, {"sampler": "euler"}, {"styles": (ink,)},
             {"styles": (ink, gouache)}]  # fmt: skip
    tickets = [batcher.submit("ann", asked(f"{i}", **kind)) for i, kind in enumerate(kinds)]
    hold.open.release(len(kinds))
    assert all(ticket.wait(LONG) and ticket.state == "done" for ticket in tickets)
    assert quick.batches == [[f"{i}"] for i in range(len(kinds))]


def test_users_take_turns_and_a_free_place_goes_to_whoever_fits(serve, model):
    hold, quick = Hold(), Quick(model)
    batcher = serve(quick, hold, batch=4)
    requests = [("ann", "long", {}, 6), ("bob", "other", {"steps": 2}, 1), ("cay", "one", {}, 1), ("dan", "two", {}, 2)]
    tickets = [batcher.submit(user, asked(word, count, **how)) for user, word, how, count in requests]
    assert [ticket.position for ticket in tickets] == [0, 1, 2, 3]
    assert batcher.status()["waiting"] == 4
    hold.open.release(9)
    assert all(ticket.wait(LONG) for ticket in tickets)
    assert quick.batches == [["long"] * 4, ["other"], ["one", "two", "long", "two"], ["long"]]


def test_a_larger_picture_takes_the_places_of_several(serve, model):
    quick = Quick(model)
    ticket = serve(quick, batch=8).submit("ann", asked(count=4, width=64, height=64))
    assert ticket.wait(LONG)
    assert [len(batch) for batch in quick.batches] == [2, 2]


def test_nobody_starves_however_the_others_push():
    line, dice = Line(), random.Random(0)
    lonely = Ticket(None, "lonely", asked(steps=99, count=3), [1.0] * 3)
    for turn in range(200):
        for user in range(10):
            if len(line.users.get(f"{user}", [])) < 8:
                line.add(Ticket(None, f"{user}", asked(count=dice.randint(1, 30)), [1.0] * 30))
        if turn == 20:
            line.add(lonely)
        drawn = line.pick(lambda recipe: 2)
        assert len(drawn) == 2 or drawn[0][0] is lonely
    assert not lonely.left
    assert line.position(lonely) == 0


def test_a_request_waits_at_most_for_one_turn_of_each_other_user():
    line = Line()
    for user in range(6):
        for _ in range(3):
            line.add(Ticket(None, f"{user}", asked(count=50, steps=user + 2), [1.0] * 50))
    late = Ticket(None, "late", asked(steps=9), [1.0])
    line.add(late)
    assert line.position(late) == 6
    heads = [line.pick(lambda recipe: 8)[0][0].user for _ in range(7)]
    assert heads == ["0", "1", "2", "3", "4", "5", "late"]


def test_a_cancelled_request_frees_its_place_at_once(serve, model):
    hold, quick = Hold(), Quick(model)
    batcher = serve(quick, hold)
    first, second = batcher.submit("ann", asked("a", steps=2)), batcher.submit("bob", asked("b"))
    assert second.position == 1
    version = second.version
    first.cancel()
    assert first.over and first.state == "cancelled" and first.wait(0)
    assert second.position == 0 and second.version > version
    assert batcher.tickets("ann") == [] and batcher.status()["waiting"] == 1
    hold.open.release(2)
    assert second.wait(LONG)
    assert quick.batches == [["b"]]


def test_a_batch_stops_at_the_next_step_when_all_its_requests_are_cancelled(serve, model, library):
    before = trace(model)
    quick = Quick(model, pass_seconds=0.02)
    batcher = serve(quick)
    ticket = batcher.submit("ann", asked(count=2, steps=900, styles=(find_style("ink", library),)))
    until(lambda: quick.passes > 2)
    ticket.cancel()
    passes = quick.passes
    assert batcher.submit("ann", asked(steps=1)).wait(LONG)
    assert quick.passes <= passes + 3
    assert ticket.pictures == [None, None] and 0 < ticket.progress < 0.5
    assert trace(model) == before


def test_a_cancelled_request_does_not_take_its_batch_along(serve, model):
    hold, quick, kept = Hold(), Quick(model, pass_seconds=0.005), []
    batcher = serve(quick, hold)

    def keep(recipe, picture):
        kept.append(recipe.prompt)

    going, staying = (batcher.submit(user, asked(user, steps=30), finished=keep) for user in ("ann", "bob"))
    hold.open.release(2)
    until(lambda: quick.passes > 2)
    going.cancel()
    assert staying.wait(LONG) and staying.state == "done"
    assert going.pictures == [None] and kept == ["bob"]


def test_a_fault_fails_its_requests_and_leaves_the_model_and_the_worker_as_they_were(serve, model, library, caplog):
    before = trace(model)
    quick = Quick(model)
    batcher = serve(quick)
    quick.fault = ValueError("two\nlines")
    ticket = batcher.submit("ann", asked(styles=(find_style("ink:0.5", library),)))
    assert ticket.wait(LONG) and ticket.state == "failed"
    assert "ValueError" in ticket.error and "\n" not in ticket.error
    assert "two" in caplog.text
    assert trace(model) == before
    quick.fault = None
    after = batcher.submit("ann", asked())
    assert after.wait(LONG) and after.state == "done"


def test_a_turn_that_cannot_be_had_fails_the_request_in_one_line(serve, model):
    @contextmanager
    def broken() -> Iterator[None]:
        raise RequestError("no turns here")
        yield

    ticket = serve(Quick(model), turn=broken).submit("ann", asked())
    assert ticket.wait(LONG) and (ticket.state, ticket.error) == ("failed", "no turns here")


def test_a_style_that_went_away_fails_only_who_asked_for_it(serve, model, library):
    hold = Hold()
    batcher = serve(Quick(model), hold)
    gone = batcher.submit("ann", asked(styles=(find_style("ink", library),)))
    other = batcher.submit("bob", asked())
    (library / "ink.safetensors").unlink()
    hold.open.release(4)
    assert gone.wait(LONG) and gone.state == "failed" and "ink" in gone.error
    assert other.wait(LONG) and other.state == "done"


def test_a_listener_that_fails_fails_only_its_own_request(serve, model):
    hold = Hold()
    batcher = serve(Quick(model), hold)

    def full(recipe, picture):
        raise RequestError("the disk is full")

    one, other = batcher.submit("ann", asked(), finished=full), batcher.submit("bob", asked())
    hold.open.release(2)
    assert one.wait(LONG) and (one.state, one.error) == ("failed", "the disk is full")
    assert other.wait(LONG) and other.state == "done"


def test_every_batch_takes_a_turn_and_whoever_came_while_it_waited_fits_in(serve, model):
    hold, quick = Hold(), Quick(model)
    batcher = serve(quick, hold, batch=2)
    tickets = [batcher.submit(user, asked(user)) for user in ("ann", "bob", "cay")]
    assert quick.batches == []
    hold.open.release(2)
    assert all(ticket.wait(LONG) for ticket in tickets)
    assert hold.taken == 2 and quick.batches == [["ann", "bob"], ["cay"]]


def test_previews_come_while_drawing_and_cost_little(serve, model, monkeypatch):
    monkeypatch.setattr("difflora.drawing.admit.LARGEST", 100)
    quick = Quick(model, pass_seconds=0.01, decode_seconds=0.01)
    batcher = serve(quick, preview_seconds=0.01)
    seen = []
    started = time.monotonic()
    ticket = batcher.submit("ann", asked(count=2, steps=60, width=320, height=160))
    while not ticket.wait(0.005):
        seen += [look.size for look in ticket.previews if look]
    assert set(seen) == {(256, 128)}
    assert ticket.previews == [None, None]
    assert 0 < sum(quick.decodes) < 0.1 * (time.monotonic() - started) + max(quick.decodes)


def test_a_picture_too_large_for_the_base_is_refused_before_it_takes_the_memory(serve, model):
    serve().submit("ann", asked(width=128, height=128)).cancel()
    with pytest.raises(RequestError, match="at most 16 times the pixels of 32x32"):
        serve().submit("ann", asked(width=128, height=160))


def test_no_previews_are_made_when_they_are_off(serve, model):
    quick = Quick(model, pass_seconds=0.005)
    assert serve(quick, preview_seconds=0).submit("ann", asked(steps=20)).wait(LONG)
    assert quick.decodes == [0.0]


def test_progress_and_version_only_grow_and_the_eta_is_measured(serve, model):
    batcher = serve(Quick(model, pass_seconds=0.005), batch=1)
    ticket = batcher.submit("ann", asked(count=3, steps=10))
    rows, etas = [], []
    while not ticket.wait(0.005):
        rows.append((ticket.version, ticket.progress))
        etas.append(ticket.eta)
    rows.append((ticket.version, ticket.progress))
    assert rows == sorted(rows) and rows[-1][1] == 1.0 and ticket.eta == 0.0
    known = [eta for eta in etas if eta is not None]
    assert len(known) > 3 and all(0 <= eta < 2 for eta in known)
    assert 1 < batcher.status()["pictures_per_second"] < 20
    assert batcher.status()["drawn"] == 3


def test_what_is_over_lets_go_of_its_pictures(serve, model, monkeypatch):
    monkeypatch.setattr(room, "KEPT_TICKETS", 5)
    batcher = serve(Quick(model))
    tickets = [batcher.submit("ann", asked(steps=1)) for _ in range(8)]
    assert all(ticket.wait(LONG) for ticket in tickets)
    assert [batcher.ticket(ticket.id) is ticket for ticket in tickets] == [False] * 3 + [True] * 5
    assert tickets[0].pictures == [None] and tickets[-1].pictures != [None]
    monkeypatch.setattr(room, "KEPT_SECONDS", 0.0)
    assert batcher.ticket(tickets[-1].id) is None
    assert tickets[-1].pictures == [None]
    assert batcher.ticket("guessed") is None


def test_one_user_cannot_fill_the_queue(serve, model):
    hold = Hold()
    batcher = serve(Quick(model), hold, waiting=2)
    tickets = [batcher.submit("ann", asked()) for _ in range(2)]
    with pytest.raises(RequestError, match="2 requests wait: expected at most 2"):
        batcher.submit("ann", asked())
    assert batcher.submit("bob", asked()).state == "waiting"
    tickets[0].cancel()
    assert batcher.submit("ann", asked()).state == "waiting"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 50}, "multiples of 8"),
        ({"width": 0}, "8 to 4096"),
        ({"width": 32.0}, "a number"),
        ({"sampler": "magic"}, "expected one of ddim"),
        ({"sampler": "lcm", "steps": 60}, "60 steps with lcm"),
        ({"steps": 0}, "1 to 1000"),
        ({"guidance": float("nan")}, "0 to 100"),
        ({"base": "tiny"}, "the one that is open"),
        ({"prompt": "x" * 20_000}, "20000 letters"),
        ({"styles": (Style("ink", 11.0, "x", "y"),)}, "from -10 to 10"),
        ({"styles": (Style("ink", float("nan"), "x", "y"),)}, "from -10 to 10"),
        ({"styles": (Style("ink", 1.0, "x", "y"), Style("ink", 0.5, "x", "z"))}, "two files are called ink"),
    ],
)
def test_a_wrong_request_is_refused_before_it_waits(serve, model, change, words):
    batcher = serve(Quick(model))
    with pytest.raises(RequestError, match=words) as error:
        batcher.submit("ann", [*asked(), replace(asked()[0], **change)])
    assert "\n" not in str(error.value)
    assert batcher.tickets("ann") == []


def test_a_request_without_pictures_or_after_the_end_is_refused(serve, model):
    batcher = serve(Quick(model))
    with pytest.raises(RequestError, match="0 pictures"):
        batcher.submit("ann", [])
    batcher.close()
    with pytest.raises(RequestError, match="closing"):
        batcher.submit("ann", asked())


def test_closing_cancels_everything_at_once(serve, model):
    quick = Quick(model, pass_seconds=0.01)
    batcher = serve(quick, batch=1)
    tickets = [batcher.submit("ann", asked(count=5, steps=900)) for _ in range(3)]
    until(lambda: quick.passes > 0)
    start = time.monotonic()
    batcher.close()
    assert time.monotonic() - start < 2
    assert all(ticket.state == "cancelled" for ticket in tickets)


def test_many_callers_at_once_all_get_their_own_pictures(serve, model):
    batcher = serve(batch=4)
    found, faults = {}, []

    def caller(user: int) -> None:
        try:
            for i in range(2):
                recipe = replace(asked(f"{user}")[0], seed=10 * user + i, steps=2)
                ticket = batcher.submit(f"{user}", [recipe])
                assert ticket.wait(LONG) and ticket.state == "done", ticket.error
                drawn, picture = ticket.pictures[0]
                assert (drawn.prompt, drawn.seed) == (recipe.prompt, recipe.seed)
                found[drawn.seed] = np.asarray(picture)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=caller, args=(user,)) for user in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and len(found) == 12
    for seed, drawn in list(found.items())[:3]:
        alone = model.draw([f"{seed // 10}"], [""], seeds=[seed], steps=2, guidance=3.0, size=(32, 32))
        expected = (alone[0].permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(drawn - expected).max() < 2


def test_the_shelf_reads_a_style_once_and_keeps_what_fits(model, library, monkeypatch):
    ink, gouache = find_style("ink", library), find_style("gouache", library)
    shelf = Shelf(model)
    first = shelf.get(ink)
    assert shelf.get(replace(ink, name="other", weight=-0.5)) is first
    small = Shelf(model, limit_bytes=1)
    again = small.get(ink)
    assert small.get(ink) is again
    small.get(gouache)
    assert small.get(ink) is not again
    assert small.bytes < shelf.bytes * 1.01


def test_the_shelf_never_gives_a_changed_file_for_the_style_that_was_meant(model, library):
    ink = find_style("ink", library)
    shelf, late = Shelf(model), Shelf(model)
    nameless = replace(ink, sha256="")
    first = shelf.get(ink)
    old = shelf.get(nameless)
    save_adapter(Path(ink.path), random_adapter(model, 3, 7.0, 9), {})
    assert shelf.get(ink) is first
    assert shelf.get(nameless) is not old
    with pytest.raises(RequestError, match="not the file"):
        late.get(ink)
    Path(ink.path).unlink()
    with pytest.raises(AdapterFileError):
        shelf.get(nameless)


class Knowing(StableDiffusion):
    """A model that sees the finished latents in any noise."""

    def predict(self, noisy, times, cond):
        """The exact answer for latents of 0.5 everywhere."""
        alpha = self.alphas[times.long()]
        clean, noise = torch.full_like(noisy, 0.5), (noisy - 0.5 * alpha.sqrt()) / (1 - alpha).sqrt()
        return noise if self.scheduler.config.prediction_type == "epsilon" else (
            alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        )  # fmt: skip


@pytest.mark.parametrize("name", [*SAMPLERS, None])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_sampler_shows_what_it_takes_the_finished_latents_to_be(name, prediction):
    toy = random_model(prediction)
    knowing = Knowing(**{field: getattr(toy, field) for field in toy.__dataclass_fields__})
    seen = []

    def on_step(i, clean):
        seen.append(clean.clone())

    knowing.draw(["cat"], [""], seeds=[0], steps=8, guidance=2.0, size=(32, 32), sampler=name, on_step=on_step)
    assert seen[0].std() > 0.5
    errors = [float((clean - 0.5).abs().max()) for clean in seen[1:]]
    # Heun's own rounding at the noisiest step of a schedule without any signal is the largest.
    assert max(errors) < 0.3 and errors[-1] < 0.05, errors


def test_drawing_that_is_broken_off_leaves_the_model_clean(model, adapters):
    before = trace(model)

    def stop(i, clean):
        if i == 1:
            raise KeyError("enough")

    with pytest.raises(KeyError), attached(model.parts, adapters) as stack:
        stack.fold([0.5, -0.3, 1.2])
        model.draw(["cat"], [""], seeds=[0], steps=3, guidance=2.0, size=(32, 32), on_step=stop)
    assert trace(model) == before
    assert not torch.is_inference_mode_enabled()
