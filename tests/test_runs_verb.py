"""`difflora runs`: what it lists, what it tells of a run, what it does to one, what it refuses; and the live view."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from difflora import cli, render_runs
from difflora.adapters.files import load_adapter, save_tensors
from difflora.config import TrainConfig
from difflora.events import Best, Event, Note, Paused, Progress, Saved, Scored, Started, Step
from difflora.render import Person
from difflora.render_training import Bars, clock, plan_rows, score_words, sparkline
from difflora.training.control import add_steps, asked, holding, wanted
from difflora.training.train import prepare, train
from difflora.training.waiting import Waiting
from difflora.training.watch import Watch

PLAN = {
    "base": "tiny", "device": "cpu", "precision": "fp32", "pictures": 45, "holdout": 5, "captions": "50 from txt",
    "trigger": "inky", "resolution": 64, "buckets": "64 x 64: 40, 80 x 48: 5", "rank": 8, "alpha": 4.0, "layers": 116,
    "learning_rate": 0.001, "batch": 16, "micro_batch": 4, "steps": 200, "reasons": ["rank 8: room for one style"],
    "minutes": 3.2, "memory": 0.91,
}  # fmt: skip
SCORED = (
    Scored(100, 0.31, 0.875, 0.125, 0.021, 0.4, 0.5),
    Scored(200, 0.45, 0.75, 0.0, 0.0, 0.41, 0.7),
)
WHY = "style 0.31 of the base's distance, prompts followed 88%, copied 12%"
FINISHED: tuple[Event, ...] = (
    Started("ink"),
    *(Step(i, 200, 1 / i, 20.0, 3.0, 0.001, 0.75, 0.9) for i in range(1, 201)),
    *SCORED,
    Best(100, WHY),
    Note("the style is checkpoint 100, not the last one"),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(name: str, *events: Event, when: float | None = None) -> Path:
    """A run as its files are."""
    folder = Path("runs") / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "key.json").write_text("{}")
    (folder / "plan.json").write_text(json.dumps(PLAN))
    (folder / "config.toml").write_text(f'images = "/pictures/{name}"\nout = "{Path("loras").absolute()}"\n')
    rows = [{"time": float(when or time.time())} | event.row() for event in events]
    (folder / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def finished(name: str = "ink") -> Path:
    """A run at its end, whose first checkpoint was the best."""
    file = Path("loras").absolute() / f"{name}.safetensors"
    folder = written(name, *FINISHED, Saved(file))
    for path, step in ((file, 100), *((folder / "checkpoints" / f"step-{s:06}.safetensors", s) for s in (100, 200))):
        path.parent.mkdir(exist_ok=True)
        save_tensors(path, {"x": torch.full((2,), float(step))}, {"ss_steps": str(step)})
    return folder


def paused(name: str = "ink") -> Path:
    """A run on its way."""
    return written(name, Started(name), Step(40, 200, 0.5, 20.0, 3.0), Paused(40))


def told(capsys, *argv: str) -> str:
    """What a command prints."""
    cli.main(["runs", *argv])
    return capsys.readouterr().out


def refused(capsys, *argv: str) -> str:
    """The one line that a wrong command gets; it exits with 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["runs", *argv])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("difflora: ") and line.count("\n") == 1
    return line


# looking


def test_all_runs_are_listed_newest_first_with_what_counts(place, capsys):
    assert "no runs in runs" in told(capsys)
    finished()
    written("oil", Step(1, 200, 0.5, 20.0, 3.0), when=time.time() - 7200)
    head, *rows = told(capsys).splitlines()
    assert head.split() == ["run", "state", "steps", "loss", "pictures/s", "left", "best", "when"]
    assert [row.split() for row in rows] == [
        ["ink", "finished", "200/200", "0.005", "20.0", "★", "100", "just", "now"],
        ["oil", "paused", "1/200", "0.500", "20.0", "2", "h", "ago"],
    ]
    rows = [json.loads(line) for line in told(capsys, "--json").splitlines()]
    assert [(row["name"], row["state"], row["best"]) for row in rows] == [
        ("ink", "finished", 100),
        ("oil", "paused", None),
    ]


def test_one_run_is_told_with_its_plan_its_checkpoints_in_words_and_what_to_do_next(place, capsys):
    finished()
    out = told(capsys, "ink")
    assert "ink  finished, step 200 of 200 (100%)" in out
    assert "rank 8, alpha 4, in 116 layers" in out and f"★ step 100: {WHY}" in out
    (best,) = (line for line in out.splitlines() if "★ 100" in line)
    assert "style 0.31 of the way left, 88% of prompts followed, 12% near copies, plain prompts 2% worse" in best
    assert best.rstrip().endswith("kept")
    assert "the style is checkpoint 100, not the last one" in out
    assert "ink.safetensors, the checkpoint of step 100" in out
    assert "difflora runs ink --use 200" in out and "difflora generate" in out
    row = json.loads(told(capsys, "ink", "--json"))
    assert row["plan"]["rank"] == 8 and [mark["step"] for mark in row["checkpoints"]] == [100, 200]
    assert row["checkpoints"][0]["scores"]["followed"] == 0.875 and len(row["losses"]) == 200


def test_what_to_do_next_fits_the_state_and_the_folder(place, capsys):
    folder = paused("my ink")
    assert "difflora runs 'my ink' --resume" in told(capsys, "my ink")
    with holding(folder):
        out = told(capsys, "my ink", "--runs", str(Path("runs").absolute()))
        assert f"difflora runs 'my ink' --runs {Path('runs').absolute()} --pause" in out


def test_words_from_files_are_shown_as_they_are(place, capsys):
    written("[red]ink", Step(1, 200, 0.5, 20.0, 3.0), Note("[bold]a note[/bold] [/]"))
    assert "[red]ink" in told(capsys) and "[bold]a note[/bold] [/]" in told(capsys, "[red]ink")


def test_a_run_of_an_earlier_version_is_shown_without_what_it_lacks(place, capsys):
    folder = paused()
    (folder / "plan.json").write_text(json.dumps({"base": "tiny", "device": "cpu", "pictures": 9, "resolution": 64}))
    assert "9 at 64 px" in told(capsys, "ink")
    (folder / "plan.json").unlink()
    assert "step 40 of 200 (20%)" in told(capsys, "ink")


def test_an_unknown_name_gets_the_nearest_ones(place, capsys):
    assert "none yet" in refused(capsys, "ink")
    for name in ("ink-wash", "ink", "watercolour"):
        paused(name)
    line = refused(capsys, "inc")
    assert "no run 'inc'" in line and "ink" in line and "watercolour" not in line
    assert "watercolour" in refused(capsys, "zzz")
    assert "no run '../loras'" in refused(capsys, "../loras")


# acting


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--pause"], "difflora runs NAME --pause"),
        (["--use", "100"], "difflora runs NAME --use"),
        (["ink", "--pause", "--stop"], "--pause and --stop: expected one of them"),
        (["ink", "--add-steps", "0", "--delete"], "--add-steps and --delete"),
        (["ink", "--pause", "--watch"], "--pause and --watch"),
        (["ink", "--add-steps", "0"], "expected 1 to 1,000,000"),
        (["ink", "--use", "0"], "expected one of 100, 200"),
        (["ink", "--pause"], "not being trained"),
        (["ink", "--resume"], "--add-steps N first"),
        (["ink-1", "--add-steps", "5"], "put aside: expected ink"),
    ],
)
def test_a_request_that_makes_no_sense_gets_one_line_and_changes_nothing(place, capsys, argv, words):
    finished()
    finished("old").rename("runs/ink-1")
    Path("runs/ink-1/config.toml").write_text('images = "/pictures/ink"\n')
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert words in refused(capsys, *argv)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("what", ["pause", "stop", "save", "preview"])
def test_a_running_training_is_asked(place, capsys, what):
    folder = paused()
    with holding(folder):
        assert f"ink was asked to {what}" in told(capsys, "ink", f"--{what}")
        assert asked(folder) == {what}
        assert "look on with --watch" in refused(capsys, "ink", "--resume")
        assert "being trained" in refused(capsys, "ink", "--delete")
        assert "being trained" in refused(capsys, "ink", "--use", "100")


def test_steps_are_added_to_a_run_at_work_and_to_one_at_rest(place, capsys):
    folder = finished()
    assert "difflora runs ink --resume" in told(capsys, "ink", "--add-steps", "50")
    with holding(folder):
        assert "as soon as it can" in told(capsys, "ink", "--add-steps", "7")
    assert wanted(folder) == 57 and Watch(Path("runs")).view("ink").state == "paused"


def test_a_checkpoint_is_made_the_style_in_the_run_s_own_library_or_another(place, capsys):
    finished()
    row = json.loads(told(capsys, "ink", "--use", "200", "--json"))
    assert row == {"event": "saved", "path": str(place / "loras" / "ink.safetensors")}
    assert "ink.safetensors, the checkpoint of step 200" in told(capsys, "ink")
    told(capsys, "ink", "--use", "100", "--loras", "other")
    assert Path("other/ink.safetensors").is_file()


def test_a_run_thrown_away_lies_in_the_trash_unless_it_waits_and_its_style_stays(place, capsys):
    finished()
    waiting = Waiting(Path("runs"))
    waiting.folder.mkdir()
    waiting.put("ink", {"images": "/pictures/ink"})
    assert "queued already" in refused(capsys, "ink", "--delete")
    assert "its turn comes" in refused(capsys, "ink", "--resume")
    waiting.drop("ink")
    assert "runs/.trash/ink" in told(capsys, "ink", "--delete")
    assert Path("runs/.trash/ink/key.json").is_file() and Path("loras/ink.safetensors").is_file()
    assert "no runs" in told(capsys)


def test_resume_goes_on_to_the_same_numbers_as_without_a_pause(place, capsys, pictures_folder, toy_folder, model):
    sizes = {"rank": 2, "alpha": 3.0, "steps": 5, "batch": 2, "resolution": 16, "preview_every": 0}
    config = TrainConfig(images=pictures_folder, base=str(toy_folder), text_encoder=False, **sizes)
    assert train(prepare(config), stop=lambda: True).step == 1
    assert told(capsys).split()[8:11] == ["blobs", "paused", "1/5"]
    rows = [json.loads(line) for line in told(capsys, "blobs", "--resume", "--json").splitlines()]
    assert rows[-1]["event"] == "result" and rows[-1]["step"] == 5
    assert [row["step"] for row in rows if row["event"] == "step"] == [2, 3, 4, 5]
    whole = train(prepare(replace(config, out=place / "o", runs=place / "r"))).file
    a, b = (load_adapter(file, model.shapes()) for file in (whole, place / "loras/blobs.safetensors"))
    assert all(torch.equal(a.layers[path].delta(), b.layers[path].delta()) for path in a.layers)
    add_steps(Path("runs/blobs"), 2)
    told(capsys, "blobs", "--resume")
    assert told(capsys).split()[8:11] == ["blobs", "finished", "7/7"]


# watching


def ends_after(monkeypatch, *turns) -> None:
    """Ctrl+C comes once these were called, one a look."""
    left = list(turns)

    def sleep(seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    monkeypatch.setattr(render_runs.time, "sleep", sleep)


def more(folder: Path, event: Event) -> None:
    with (folder / "events.jsonl").open("a") as log:
        log.write(json.dumps({"time": time.time()} | event.row()) + "\n")


def test_watching_without_a_terminal_prints_a_line_for_each_run_that_changed(place, capsys, monkeypatch):
    paused("oil")
    folder = paused()
    ends_after(monkeypatch, lambda: None, lambda: more(folder, Step(60, 200, 0.4, 20.0, 3.0)))
    lines = told(capsys, "--watch").splitlines()
    assert sorted(lines[:2]) == [f"{name}: paused, step 40 of 200, loss 0.500" for name in ("ink", "oil")]
    assert lines[2:] == ["ink: paused, step 60 of 200, loss 0.400"]
    ends_after(monkeypatch, lambda: more(folder, Step(80, 200, 0.3, 20.0, 3.0)))
    rows = [json.loads(line) for line in told(capsys, "ink", "--watch", "--json").splitlines()]
    assert [(row["name"], row["step"]) for row in rows] == [("ink", 60), ("ink", 80)]
    assert "no run 'oli'" in refused(capsys, "oli", "--watch")


@pytest.mark.parametrize("name", [None, "ink"])
def test_watching_on_a_terminal_draws_anew_until_ctrl_c(place, monkeypatch, name):
    folder = paused()
    ends_after(monkeypatch, lambda: more(folder, Step(60, 200, 0.4, 20.0, 3.0)))
    seen, watch = io.StringIO(), Watch(Path("runs"))
    console = Console(file=seen, force_terminal=True, width=100, height=50, _environ={"TERM": "xterm"})
    read = watch.list if name is None else lambda: [watch.view(name)]
    render_runs.look_on(console, read, name, Path("runs"))
    form = "{}/200" if name is None else "step {} of 200"
    first, _, then = seen.getvalue().partition(form.format(60))
    assert form.format(40) in first and then and form.format(40) not in then


# the live view of a training


def screen(terminal: bool) -> tuple[Person, io.StringIO]:
    """A person's screen, and what is on it."""
    seen, person = io.StringIO(), Person()
    how = {"force_terminal": terminal, "width": 100, "height": 50, "highlight": False, "color_system": None}
    person.console = Console(file=seen, soft_wrap=True, _environ={"TERM": "xterm"} if terminal else {}, **how)
    person.bar = Bars(person.console)
    return person, seen


def test_a_terminal_shows_a_bar_and_under_it_loss_rate_memory_load_and_the_best():
    person, seen = screen(terminal=True)
    with person:
        for event in FINISHED[:-1]:
            person.report(event)
    last = seen.getvalue().rpartition("training")[2]
    assert "200/200" in last and "20.0 pictures/s 0:03 left" in last
    assert "loss" in last and "█" in last and "▁" in last
    assert "0.001" in last and "0.8 GB, device 90% busy" in last and f"★ step 100: {WHY}" in last


def test_without_a_terminal_a_tenth_of_the_run_is_a_plain_line():
    person, seen = screen(terminal=False)
    with person:
        for done in range(3):
            person.report(Progress("encoding pictures", done, 2))
        for event in FINISHED:
            person.report(event)
    lines = seen.getvalue().splitlines()
    assert lines[0] == "encoding pictures: 2 of 2"
    assert [line.split(":")[0] for line in lines[1:11]] == [f"step {i} of 200" for i in range(20, 201, 20)]
    assert lines[10] == "step 200 of 200: loss 0.005 20.0 pictures/s 0:03 left"
    assert lines[11] == (
        "step 100: style 0.31 of the way left, 88% of prompts followed, 12% near copies, plain prompts 2% worse, "
        "unseen loss 0.400"
    )
    assert lines[13] == f"★ step 100: {WHY}"
    assert "\x1b" not in seen.getvalue()


def test_the_best_is_told_once_for_each_step():
    person, seen = screen(terminal=False)
    for why in ("style 0.3", "style 0.3; the last one: 0.4"):
        person.report(Best(100, why))
    person.report(Best(300, "style 0.2"))
    assert seen.getvalue().splitlines() == ["★ step 100: style 0.3", "★ step 300: style 0.2"]


def test_a_plan_says_precision_pictures_kept_back_sizes_and_what_it_takes():
    rows = plan_rows(PLAN, "ink")
    assert rows["style"] == "ink" and rows["base"] == "tiny on cpu, fp32"
    assert rows["pictures"] == "45 at 64 px, 5 more kept back, captions: 50 from txt"
    assert rows["sizes"] == "64 x 64: 40, 80 x 48: 5"
    assert rows["training"] == "200 steps of 16 pictures at learning rate 0.001, 4 pictures at once"
    assert rows["takes"] == "about 3 minutes, 0.9 GB, measured by real steps"
    plain = plan_rows(PLAN | {"micro_batch": 16, "buckets": "64 x 64: 45", "holdout": 0, "minutes": None})
    assert "sizes" not in plain and "takes" not in plain and "style" not in plain
    assert "at once" not in plain["training"] and "kept back" not in plain["pictures"]


def test_scores_leave_out_what_is_not_wrong():
    assert score_words(SCORED[1].row()) == "style 0.45 of the way left, 75% of prompts followed, unseen loss 0.410"
    assert score_words({}) == "not measured"


def test_a_curve_goes_from_its_highest_to_its_lowest_block_and_leaves_out_what_is_to_come():
    falling = [(i, 1 - i / 100) for i in range(1, 101)]
    assert sparkline(falling, 100, 8) == "█▇▆▅▄▃▂▁"
    assert sparkline(falling[:50], 100, 8) == "█▆▃▁"
    assert sparkline([], 100) == "" and set(sparkline([(1, 0.5), (2, 0.5)], 2, 4)) == {"▁"}


def test_times_are_said_as_a_person_would():
    assert (clock(65), clock(3725)) == ("1:05", "1:02:05")
    assert [render_runs.ago(1000, 1000 + s) for s in (5, 300, 7200)] == ["just now", "5 min ago", "2 h ago"]
    assert render_runs.ago(0) == "" and render_runs.ago(1, 200_000).startswith("1970")
