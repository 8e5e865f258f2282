"""Runs that belong to no page: taken in turns, watched from files, spoken to, queued in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difflora.adapters.files import load_adapter, read_header
from difflora.config import TrainConfig
from difflora.errors import OutputError, RequestError
from difflora.events import Event, Note, Preview, Saved, Started, Step
from difflora.locks import Lock, held
from difflora.models.sd import StableDiffusion
from difflora.training.control import add_steps, alive, ask, holding, wanted
from difflora.training.queue import RunQueue
from difflora.training.runs import Run
from difflora.training.train import Loop, Result, prepare, train
from difflora.training.waiting import Waiting
from difflora.training.watch import Watch, list_runs, view_run
from difflora.turns import Turns

STYLE = "blobs"


@pytest.fixture
def config(tmp_path: Path, pictures_folder: Path) -> TrainConfig:
    """Five steps on small pictures, alpha unlike the rank."""
    places = {"images": pictures_folder, "out": tmp_path / "loras", "runs": tmp_path / "runs"}
    sizes = {"rank": 2, "alpha": 3.0, "steps": 5, "batch": 2, "resolution": 16, "learning_rate": 0.02}
    return TrainConfig(name=STYLE, preview_every=0, preview_prompts=("a cat",), text_encoder=False, **sizes, **places)


def run(config: TrainConfig, model: StableDiffusion, asks: dict[int, str] | None = None) -> tuple[Result, list[Event]]:
    """One training, spoken to when a step was told of, so that the next one is under way; result and events."""
    seen: list[Event] = []

    def report(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Step) and asks and event.step in asks:
            for what in asks[event.step].split():
                ask(config.runs / STYLE, what)

    return train(prepare(config, model=model), report), seen


def wait_for(holds: Callable[[], bool], seconds: float = 90) -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


# locks and turns


def test_a_lock_is_free_again_when_its_process_is_killed(tmp_path):
    code = "import sys; from pathlib import Path; from difflora.locks import Lock\n"
    code += "print(Lock(Path(sys.argv[1])).take(), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        assert held(tmp_path / "lock") and not Lock(tmp_path / "lock").take(seconds=0)
        process.kill()
        process.wait()
    assert not held(tmp_path / "lock") and Lock(tmp_path / "lock").take(seconds=0)


def test_asking_whether_a_lock_is_held_makes_no_file_and_disturbs_no_other_who_asks(tmp_path):
    assert not held(tmp_path / "lock") and not list(tmp_path.iterdir())
    (tmp_path / "lock").touch()
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.extend(held(tmp_path / "lock") for _ in range(500))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 2000 and not any(seen)


def test_two_that_both_want_turns_have_them_in_strict_alternation(tmp_path):
    order: list[str] = []
    both = threading.Barrier(2)

    def want(name: str) -> None:
        turns = Turns(tmp_path / ".turns")
        both.wait()
        for _ in range(8):
            with turns():
                order.append(name)
                time.sleep(0.005)

    threads = [threading.Thread(target=want, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Who comes first may have a turn before the other is there at all.
    assert all(a != b for a, b in zip(order[1:15], order[2:15], strict=False)), order


def test_a_turn_is_passed_on_after_a_second_and_only_when_someone_waits(tmp_path, monkeypatch):
    monkeypatch.setattr("difflora.turns.TURN_SECONDS", 0.1)
    training, drawing = Turns(tmp_path / ".turns"), Turns(tmp_path / ".turns")
    drew = threading.Event()

    def draw() -> None:
        with drawing():
            drew.set()

    with training():
        thread = threading.Thread(target=draw)
        thread.start()
        training.pass_on()
        assert not drew.is_set()
        time.sleep(0.15)
        training.pass_on()
        assert drew.is_set()
        room = training.room
        time.sleep(0.15)
        training.pass_on()
        assert training.room is room
        thread.join()
    assert not held(tmp_path / ".turns" / "room") and not held(tmp_path / ".turns" / "door")


def test_a_folder_that_cannot_be_made_gives_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError), Turns(tmp_path / "file" / ".turns")():
        pass


# one process a run, and what it can be asked


def test_previews_and_saves_that_were_asked_for_change_no_number_of_the_result(config, model):
    run(config, model)
    style = config.out / f"{STYLE}.safetensors"
    alone, metadata = style.read_bytes(), dict(read_header(style).metadata)
    (config.runs / STYLE).rename(config.runs / "aside")
    _, events = run(config, model, {1: "save", 2: "preview", 3: "save preview"})
    assert [event.step for event in events if isinstance(event, Preview)] == [0, 2, 3, 4, 5]
    again = dict(read_header(style).metadata)
    assert {key for key in metadata if metadata[key] != again[key]} <= {"modelspec.date"}
    assert style.read_bytes()[-len(alone) // 2 :] == alone[-len(alone) // 2 :]
    saved = [event.path.name for event in events if isinstance(event, Saved)]
    assert saved == [f"{STYLE}-step-000002.safetensors", f"{STYLE}-step-000004.safetensors", f"{STYLE}.safetensors"]
    partial = read_header(config.out / saved[0]).metadata
    assert (partial["ss_steps"], partial["ss_output_name"]) == ("2", f"{STYLE}-step-000002")
    early, late = (load_adapter(config.out / name, model.shapes()) for name in (saved[0], saved[2]))
    assert any(not torch.equal(early.layers[path].delta(), late.layers[path].delta()) for path in late.layers)
    assert not list((config.runs / STYLE).glob(".ask*"))


def test_pause_goes_on_to_the_same_numbers_and_stop_finishes_the_style_as_it_is(config, model, tmp_path):
    paused, events = run(config, model, {1: "pause"})
    assert paused.file is None and paused.step == 2
    assert view_run(config.runs / STYLE).state == "paused"
    finished, _ = run(config, model)
    other = replace(config, out=tmp_path / "loras2", runs=tmp_path / "runs2")
    whole = load_adapter(train(prepare(other, model=model)).file, model.shapes())
    resumed = load_adapter(finished.file, model.shapes())
    assert all(torch.equal(whole.layers[path].delta(), resumed.layers[path].delta()) for path in whole.layers)
    (config.runs / STYLE).rename(config.runs / "aside")
    stopped, events = run(config, model, {2: "stop"})
    assert stopped.step == 3 and read_header(stopped.file).metadata["ss_steps"] == "3"
    assert view_run(config.runs / STYLE).state == "finished"
    assert any(isinstance(event, Note) and "after step 3 of 5" in event.text for event in events)


def test_a_run_is_trained_by_one_process_and_asked_only_while_it_runs(config, model, monkeypatch):
    training = prepare(config, model=model)
    monkeypatch.setattr("difflora.training.control.PATIENCE_SECONDS", 0.05)
    with holding(config.runs / STYLE):
        assert alive(config.runs / STYLE)
        for work in (lambda: train(training), lambda: prepare(config, model=model)):
            with pytest.raises(RequestError, match="another process"):
                work()
        with pytest.raises(RequestError, match="one of pause"):
            ask(config.runs / STYLE, "sing")
    assert not alive(config.runs / STYLE)
    with pytest.raises(RequestError, match="not being trained"):
        ask(config.runs / STYLE, "pause")


def test_requests_left_by_a_process_that_died_are_forgotten(config, model):
    training = prepare(config, model=model)
    (training.run.folder / ".ask-stop").touch()
    assert train(training).step == 5


def test_training_lets_drawing_have_a_turn_between_its_steps(config, model, monkeypatch):
    monkeypatch.setattr("difflora.turns.TURN_SECONDS", 0.0)
    drawn: list[int] = []
    seen: list[int] = []
    over = threading.Event()

    def draw() -> None:
        while not over.is_set():
            with Turns(config.runs / ".turns")():
                drawn.append(seen[-1] if seen else 0)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        train(prepare(config, model=model), lambda event: isinstance(event, Step) and seen.append(event.step))
    finally:
        over.set()
        thread.join()
    assert {1, 2, 3, 4} <= set(drawn)


def test_a_run_that_fails_says_so_in_its_folder_and_goes_on_when_mended(config, model, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(Loop, "gradients", lambda self, step: torch.full((2,), float("nan")))
        with pytest.raises(RequestError):
            run(config, model)
    view = view_run(config.runs / STYLE)
    assert view.state == "failed" and "the loss is nan" in view.error and "\n" not in view.error
    run(config, model)
    view = view_run(config.runs / STYLE)
    assert (view.state, view.error) == ("finished", "")


def test_the_config_in_a_run_folder_means_the_same_from_any_working_directory(
    config, model, toy_folder, tmp_path, monkeypatch
):
    import tomllib

    def close(path: Path) -> Path:
        return Path(os.path.relpath(path))

    monkeypatch.chdir(tmp_path)
    near = replace(config, images=close(config.images), out=Path("loras"), runs=Path("runs"), base=str(toy_folder))
    near = replace(near, base=os.path.relpath(toy_folder))
    prepare(near, model=model)
    row = tomllib.loads((tmp_path / "runs" / STYLE / "config.toml").read_text())
    assert all(Path(row[name]).is_absolute() for name in ("images", "out", "runs", "base"))
    paths = {name: Path(row.pop(name)) for name in ("images", "out", "runs")}
    monkeypatch.chdir(toy_folder)
    far = TrainConfig(**paths, **row | {"preview_prompts": tuple(row["preview_prompts"])})
    assert prepare(far, model=model).run.folder == tmp_path / "runs" / STYLE


# watching


def write_events(folder: Path, rows: list[dict | str]) -> None:
    """A run as its files are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.json").write_text("{}")
    (folder / "config.toml").write_text(f'images = "/pictures/{folder.name}"\n')
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    with (folder / "events.jsonl").open("a") as log:
        log.write("".join(f"{line}\n" for line in lines))


def step(number: int, steps: int = 100, loss: float = 0.5, when: float | None = None) -> dict:
    """One step's row, a second a step."""
    time = 1000.0 + number if when is None else when
    return {"time": time, **Step(number, steps, loss, 20.0, 3.0).row()}


def test_a_view_tells_all_of_a_run(config, model):
    assert list_runs(config.runs) == []
    run(config, model)
    (view,) = list_runs(config.runs)
    assert (view.name, view.state, view.step, view.steps) == (STYLE, "finished", 5, 5)
    assert [number for number, _ in view.losses] == [1, 2, 3, 4, 5] and view.loss == view.losses[-1][1]
    assert [number for number, _ in view.previews] == [0, 5]
    assert all(path.is_file() for _, paths in view.previews for path in paths)
    assert view.prompts == ("a cat",) and view.eta is None and view.minutes > 0
    assert view.file == config.out / f"{STYLE}.safetensors"
    assert view.plan["steps"] == 5 and view.config["rank"] == 2
    assert view.plan["minutes"] is not None and view.plan["memory"] > 0
    assert [(mark.step, mark.file is not None) for mark in view.checkpoints] == [(0, False), (5, True)]
    assert all(
        set(mark.scores) == {"style", "followed", "copied", "harm", "loss", "total"} for mark in view.checkpoints
    )
    assert view.best == 5 and "style" in view.why and view.rate > 0 and view.memory > 0
    assert len(view.pictures) == 9
    with pytest.raises(RequestError, match="no run"):
        view_run(config.runs / "nothing")
    with pytest.raises(RequestError, match="expected the name"):
        Watch(config.runs).view("../loras")


def test_the_style_of_a_run_that_was_begun_elsewhere_is_found(config, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(replace(config, out=Path("here")), model)
    monkeypatch.chdir("/")
    assert view_run(config.runs / STYLE).file == tmp_path / "here" / f"{STYLE}.safetensors"


def test_a_run_goes_from_starting_through_running_to_its_end(config, model):
    states = []
    watch = Watch(config.runs)
    train(prepare(config, model=model), lambda event: states.append((type(event), watch.view(STYLE).state)))
    assert [state for kind, state in states if kind is Started] == ["starting"]
    assert {state for kind, state in states if kind in (Step, Preview)} == {"running"}
    assert watch.view(STYLE).state == "finished"


def test_half_written_and_foreign_lines_are_passed_over_and_steps_made_again_count_once(tmp_path):
    folder = tmp_path / "ink"
    write_events(folder, [{"time": 1000.0, "event": "started", "name": "ink"}, *(step(i) for i in range(1, 21))])
    with (folder / "events.jsonl").open("a") as log:
        log.write('{"time": 1021.0, "event": "st')
    watch = Watch(tmp_path)
    assert watch.view("ink").state == "paused"
    Run(folder, "").mend_log()
    Run(folder, "").mend_log()
    foreign = ["[1]", "null", '{"time": "x"}', '{"event": "step", "step": "x"}', '{"event": "step", "step": 1e999}']
    write_events(folder, [*foreign, "\x00\x01", step(10, loss=9.0, when=1100), step(21, when=1101)])
    view = watch.view("ink")
    assert view.step == 21 and len(view.losses) == 21
    assert [loss for _, loss in view.losses] == [0.5] * 21
    assert (folder / "events.jsonl").read_bytes().count(b"\n\n") == 0


def test_pauses_do_not_count_as_time_spent(tmp_path):
    rows = [{"time": 1000.0, "event": "started"}, step(1, when=1060.0), {"time": 1061.0, "event": "paused", "step": 1}]
    write_events(tmp_path / "ink", [*rows, {"time": 9000.0, "event": "started"}, step(2, when=9059.0)])
    assert view_run(tmp_path / "ink").minutes == pytest.approx(2)


def test_a_style_saved_on_the_way_ends_no_run(tmp_path):
    write_events(tmp_path / "ink", [step(200), {"time": 1300.0, **Saved(Path("ink-step-000200.safetensors")).row()}])
    assert view_run(tmp_path / "ink").state == "paused"
    write_events(tmp_path / "ink", [{"time": 1400.0, **Saved(Path("ink.safetensors")).row()}])
    assert view_run(tmp_path / "ink").state == "finished"


def test_a_log_that_was_put_aside_is_not_mixed_with_the_new_one(tmp_path):
    write_events(tmp_path / "ink", [step(i) for i in range(1, 40)])
    watch = Watch(tmp_path)
    assert watch.view("ink").step == 39
    (tmp_path / "ink").rename(tmp_path / "ink-1")
    write_events(tmp_path / "ink", [step(i, loss=0.25) for i in range(1, 80)])
    assert watch.view("ink").losses[0] == (1, 0.25) and len(watch.view("ink").losses) == 79
    assert watch.view("ink-1").step == 39


def test_a_foreign_folder_is_no_run_and_hidden_ones_are_left_out(tmp_path):
    (tmp_path / "holiday").mkdir()
    write_events(tmp_path / ".trash", [step(1)])
    write_events(tmp_path / "ink", [step(1)])
    write_events(tmp_path / "oil", [step(2)])
    assert [view.name for view in list_runs(tmp_path)] == ["oil", "ink"]


def test_ten_thousand_steps_are_at_most_300_points_and_read_once(tmp_path):
    write_events(tmp_path / "ink", [step(i, 10_000, loss=i / 10_000) for i in range(1, 10_001)])
    watch = Watch(tmp_path)
    view = watch.view("ink")
    assert len(view.losses) <= 300 and view.losses[-1][0] == 10_000
    assert sum(loss for _, loss in view.losses) / len(view.losses) == pytest.approx(0.5, abs=0.01)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert watch.view("ink") == view
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02


# the queue


class Stand:
    """What the queue starts instead of a process; it works until it is told to end."""

    def __init__(self, code: int | None = None) -> None:
        self.code, self.ended = code, threading.Event()

    def end(self, code: int) -> None:
        self.code = code
        self.ended.set()

    def wait(self, seconds: float | None = None) -> int:
        if self.code is None and not self.ended.wait(seconds):
            raise subprocess.TimeoutExpired("train", seconds)
        return self.code

    def terminate(self) -> None:
        self.end(130)


@pytest.fixture
def stands(monkeypatch) -> list[tuple[str, Stand]]:
    """The processes a queue started, as (name, stand)."""
    started: list[tuple[str, Stand]] = []

    def popen(command: list[str], stdout, **how) -> Stand:
        started.append((Path(command[command.index("--config") + 1]).stem, Stand()))
        return started[-1][1]

    monkeypatch.setattr("difflora.training.queue.subprocess.Popen", popen)
    monkeypatch.setattr("difflora.training.queue.LOOK_SECONDS", 0.01)
    return started


@pytest.fixture
def queue(tmp_path, stands):
    """An empty queue."""
    made = RunQueue(tmp_path / "runs")
    yield made
    made.close()


def named(config: TrainConfig, *names: str) -> list[TrainConfig]:
    return [replace(config, name=name) for name in names]


def test_trainings_run_one_after_the_other_in_the_order_that_was_set(queue, stands, config):
    for each in named(config, "a", "b", "c", "d"):
        queue.add(each)
    wait_for(lambda: len(stands) == 1)
    queue.move("d", -9)
    queue.move("b", 1)
    assert queue.names() == ["a", "d", "c", "b"]
    queue.remove("c")
    watch = Watch(queue.runs)
    assert [(view.name, view.state) for view in watch.list()] == [("d", "queued"), ("b", "queued"), ("a", "starting")]
    assert watch.view("d").config["rank"] == 2
    for count in (1, 2, 3):
        wait_for(lambda count=count: len(stands) == count)
        stands[-1][1].end(0)
    wait_for(lambda: queue.names() == [])
    assert [name for name, _ in stands] == ["a", "d", "b"]
    for wrong in (lambda: queue.move("x", 1), lambda: queue.remove("x"), lambda: queue.pause("x")):
        with pytest.raises(RequestError, match="does not wait"):
            wrong()


def test_a_finished_run_with_added_steps_is_paused_and_the_queue_goes_on_with_it(queue, stands, config, model):
    run(config, model)
    folder = queue.runs / STYLE
    assert view_run(folder).state == "finished"
    with pytest.raises(RequestError, match="finished"):
        queue.resume(STYLE)
    add_steps(folder, 2)
    add_steps(folder, 1)
    assert view_run(folder).state == "paused" and wanted(folder) == 3
    queue.resume(STYLE)
    wait_for(lambda: len(stands) == 1)
    result, _ = run(config, model)
    assert result.step == 8 and wanted(folder) == 0
    stands[0][1].end(0)
    wait_for(lambda: queue.names() == [])
    view = view_run(folder)
    assert (view.state, view.step, view.steps) == ("finished", 8, 8)
    assert [mark.step for mark in view.checkpoints] == [0, 5, 8]


def test_what_was_finished_elsewhere_stays_in_the_queue_only_for_steps_that_were_added(queue, config, model):
    training = prepare(config, model=model)
    with holding(training.run.folder):
        queue.add(config)
        os.utime(queue.waiting.file(STYLE), (0, 0))
        (training.run.folder / f"{STYLE}.safetensors").touch()
        assert queue._done(STYLE)
        add_steps(training.run.folder, 3)
        assert not queue._done(STYLE)


def test_steps_are_added_to_the_newest_run_of_a_name_only(tmp_path):
    write_events(tmp_path / "ink", [step(1)])
    (tmp_path / "ink").rename(tmp_path / "ink-1")
    with pytest.raises(RequestError, match="put aside: expected ink"):
        add_steps(tmp_path / "ink-1", 5)
    with pytest.raises(RequestError, match="has not begun"):
        add_steps(tmp_path / "oil", 5)


def test_a_name_is_queued_once_and_never_over_an_unfinished_run_with_other_settings(queue, stands, config, model):
    queue.add(config)
    with pytest.raises(RequestError, match="queued already"):
        queue.add(config)
    wait_for(lambda: len(stands) == 1)
    stands[0][1].end(130)
    wait_for(lambda: queue.names() == [])
    prepare(config, model=model)
    with pytest.raises(RequestError, match="rank 2 there, 7 asked"):
        queue.add(replace(config, rank=7))
    assert queue.add(config) == STYLE


def test_what_failed_keeps_its_reason_and_can_be_tried_again_or_thrown_away(queue, stands, config):
    queue.add(config)
    wait_for(lambda: len(stands) == 1)
    log = '{"event": "note"}\ndifflora: pictures: found nothing there, expected a folder\n'
    (queue.waiting.folder / f"{STYLE}.log").write_text(log)
    stands[0][1].end(2)
    wait_for(lambda: queue.names() == [])
    view = Watch(queue.runs).view(STYLE)
    assert (view.state, view.error) == ("failed", "pictures: found nothing there, expected a folder")
    queue.resume(STYLE)
    wait_for(lambda: len(stands) == 2)
    assert Watch(queue.runs).view(STYLE).state == "starting"
    stands[1][1].end(-9)
    wait_for(lambda: queue.names() == [])
    assert "signal 9" in Watch(queue.runs).view(STYLE).error
    queue.delete(STYLE)
    assert Watch(queue.runs).list() == []


def test_a_run_trained_from_elsewhere_is_waited_for_and_not_done_twice(queue, stands, config, model):
    training = prepare(config, model=model)
    with holding(training.run.folder):
        queue.add(config)
        time.sleep(0.1)
        assert not stands and queue.names() == [STYLE]
        with pytest.raises(RequestError, match="queued already"):
            queue.delete(STYLE)
        time.sleep(0.05)
        (training.run.folder / f"{STYLE}.safetensors").touch()
    wait_for(lambda: queue.names() == [])
    assert not stands


def test_a_run_thrown_away_lies_in_the_trash(queue, config, model):
    for number in ("", "-1"):
        training = prepare(config, model=model)
        with holding(training.run.folder), pytest.raises(RequestError, match="being trained"):
            queue.delete(STYLE)
        assert queue.delete(STYLE) == queue.runs / ".trash" / f"{STYLE}{number}"
    assert (queue.runs / ".trash" / STYLE / "config.toml").is_file() and list_runs(queue.runs) == []
    for name in ("", "..", ".queue", "a/b", "a\x00"):
        with pytest.raises(RequestError):
            queue.delete(name)


def test_a_training_paused_before_its_first_step_leaves_the_queue(queue, stands, config):
    queue.add(config)
    wait_for(lambda: len(stands) == 1)
    queue.pause(STYLE)
    wait_for(lambda: queue.names() == [])
    assert Watch(queue.runs).list() == []


def test_two_queues_of_one_folder_start_nothing_twice(queue, stands, config):
    second = RunQueue(queue.runs)
    second.add(config)
    wait_for(lambda: len(stands) == 1)
    time.sleep(0.1)
    assert len(stands) == 1
    second.close()


def test_an_entry_that_its_order_lacks_is_not_lost(tmp_path):
    waiting = Waiting(tmp_path)
    waiting.folder.mkdir()
    waiting.put("b", {"images": "b"})
    (waiting.folder / "a.toml").write_text('images = "a"\n')
    assert waiting.names() == ["b", "a"]
    (waiting.folder / "order.json").write_text('["a", 7, nonsense')
    assert waiting.names() == ["a", "b"]


def test_real_trainings_outlive_the_queue_that_began_them_and_end_with_the_same_numbers(
    config, model, toy_folder, monkeypatch, tmp_path
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    long = replace(config, base=str(toy_folder), name="long", steps=4000)
    short = replace(long, name="short", steps=3)
    watch = Watch(config.runs)

    def state(name: str) -> str:
        with suppress(RequestError):
            return watch.view(name).state
        return ""

    queue = RunQueue(config.runs)
    assert (queue.add(long), queue.add(short)) == ("long", "short")
    assert state("short") == "queued"
    wait_for(lambda: watch.view("long").step >= 3)
    queue.close()
    reached = watch.view("long")
    assert (state("long"), queue.names()) == ("queued", ["long", "short"]) and reached.notes[-1].startswith("paused")
    again = RunQueue(config.runs)
    wait_for(lambda: watch.view("long").step > reached.step)
    again.pause("long")
    wait_for(lambda: state("short") == "finished" and not again.names())
    assert state("long") == "paused"
    again.resume("long")
    wait_for(lambda: state("long") == "running")
    ask(config.runs / "long", "stop")
    wait_for(lambda: state("long") == "finished" and not again.names())
    again.close()
    assert read_header(watch.view("long").file).metadata["ss_steps"] == str(watch.view("long").step)
    alone = replace(short, out=tmp_path / "o", runs=tmp_path / "r")
    whole = load_adapter(train(prepare(alone)).file, model.shapes())
    queued = load_adapter(watch.view("short").file, model.shapes())
    assert all(torch.equal(whole.layers[path].delta(), queued.layers[path].delta()) for path in whole.layers)
