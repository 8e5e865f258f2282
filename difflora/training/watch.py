"""What goes on in the runs folder, read from files alone: any process may watch any training."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import RequestError
from .choose import checkpoint_file, kept_steps
from .control import alive, wanted
from .log import Log, State
from .waiting import Waiting, read_toml, safe_name, style_name


@dataclass(frozen=True)
class Checkpoint:
    """What was drawn, measured and kept after one step."""

    step: int
    scores: dict | None
    """style, followed, copied, harm, loss, total; None for previews alone."""
    file: Path | None
    """The style as learnt then."""
    previews: tuple[Path, ...]


@dataclass(frozen=True)
class RunView:
    """One training as it stands."""

    name: str
    folder: Path
    state: State
    step: int = 0
    steps: int = 0
    losses: tuple[tuple[int, float], ...] = ()
    """(step, loss), at most 300 points: means over equal parts of the run, each at its last step."""
    loss: float | None = None
    speed: float = 0.0
    """Pictures a second."""
    eta: float | None = None
    """Seconds of training left; None unless it runs."""
    minutes: float = 0.0
    """Time spent so far, pauses left out."""
    previews: tuple[tuple[int, tuple[Path, ...]], ...] = ()
    """(step, a picture a prompt)."""
    prompts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    plan: dict | None = None
    config: dict | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    best: int | None = None
    """The step of the best checkpoint so far."""
    why: str = ""
    rate: float = 0.0
    """Learning rate of the last step."""
    memory: float = 0.0
    """In GB."""
    busy: float | None = None
    """How busy the device is, 0..1."""
    pictures: tuple[dict, ...] = ()
    """What each picture taught, of a finished run: picture, before, after, learnt, verdict; the most learnt first."""
    file: Path | None = None
    """The finished style."""
    error: str = ""
    when: float = 0.0
    """Time of the newest event, in seconds since 1970."""


def view_run(folder: Path) -> RunView:
    """One run as it stands; raises RequestError when there is none."""
    return Watch(folder.parent).view(folder.name)


def list_runs(runs: Path) -> list[RunView]:
    """All runs as they stand, newest first."""
    return Watch(runs).list()


class Watch:
    """Reads each log as it grows and never twice; may be asked from several threads."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.waiting = runs, Waiting(runs)
        self.logs: dict[str, Log] = {}
        self.kept: dict[Path, tuple[tuple, dict]] = {}
        self.lock = threading.Lock()

    def view(self, name: str) -> RunView:
        """One run; raises RequestError when there is none of that name."""
        with self.lock:
            return self._view(safe_name(name), self.waiting.names(), self.waiting.at_work())

    def list(self) -> list[RunView]:
        """All runs, newest first; queued ones before them, in their order."""
        with self.lock:
            queued, at_work = self.waiting.names(), self.waiting.at_work()
            names = {path.parent.name for path in self.runs.glob("[!.]*/key.json")}
            names |= {*queued, *self.waiting.failures()}
            for gone in self.logs.keys() - names:
                del self.logs[gone]
            views = []
            for name in names:
                # One that is thrown away just now is no run any more.
                with suppress(RequestError, OSError):
                    views.append(self._view(safe_name(name), queued, at_work))
        place = {name: i for i, name in enumerate(queued)}
        # One that comes up has said nothing yet, but is the newest.
        newest = {at_work[0]: at_work[1]}
        return sorted(
            views,
            key=lambda v: (v.state != "queued", place.get(v.name, 0), -max(v.when, newest.get(v.name, 0.0)), v.name),
        )

    def _view(self, name: str, queued: list[str], at_work: tuple[str, float]) -> RunView:
        folder = self.runs / name
        failed_at, error, config = self.waiting.failure(name)
        if not (folder / "key.json").is_file():
            if name in queued:
                state = "starting" if name == at_work[0] else "queued"
                return RunView(name, folder, state, config=self._values(self.waiting.file(name)))
            if not failed_at:
                raise RequestError(f"no run {name!r}: expected the name of one that is there")
            return RunView(name, folder, "failed", config=config, error=error, when=failed_at)
        config, plan = self._values(folder / "config.toml"), self._values(folder / "plan.json")
        log = self.logs.setdefault(name, Log(folder / "events.jsonl"))
        log.read()
        running = alive(folder)
        state = log.state(style_name(config, folder))
        if running:
            # Around its start and its end a process holds the run without having said so yet.
            state = state if state in ("starting", "running") else "running"
        elif name == at_work[0]:
            # Its process comes up, or has said its last words and goes.
            state = state if log.when > at_work[1] and state != "running" else "starting"
        elif name in queued:
            state = "queued"
        elif failed_at > log.when:
            state = "failed"
        elif state in ("starting", "running"):
            state = "paused"  # Its process died; the same command goes on.
        if state == "finished" and wanted(folder):
            state = "paused"  # Steps were added: the same command goes on.
        # A training that was begun elsewhere names its file from there.
        saved = log.saved and Path(str(config.get("out", ""))) / log.saved.name
        file = saved if state == "finished" and saved and saved.is_file() else None
        previews = _previews(folder / "previews")
        lessons = self._values(folder / "pictures.json")
        return replace(
            _view(log, name, folder, state),
            previews=previews,
            checkpoints=_checkpoints(folder, previews, log.scores),
            pictures=tuple(row for row in lessons if isinstance(row, dict)) if isinstance(lessons, list) else (),
            plan=plan,
            config=config,
            file=file,
            error=(error if failed_at > log.when else log.error) if state == "failed" else "",
        )

    def _values(self, path: Path) -> dict:
        """A TOML or JSON file's values, read again when it has changed."""
        try:
            stat = path.stat()
            mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if self.kept.get(path, (None,))[0] != mark:
                values = read_toml(path) if path.suffix == ".toml" else json.loads(path.read_text(encoding="utf-8"))
                self.kept[path] = mark, values if isinstance(values, dict | list) else {}
            return self.kept[path][1]
        except (OSError, ValueError, RecursionError):
            return {}


def _previews(folder: Path) -> tuple[tuple[int, tuple[Path, ...]], ...]:
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("[0-9]*-*.png")):
        step, _, place = path.stem.partition("-")
        if step.isdecimal() and place.isdecimal():
            found.setdefault(int(step), []).append(path)
    return tuple((step, tuple(sorted(paths, key=lambda p: int(p.stem.split("-")[1])))) for step, paths in found.items())


def _checkpoints(folder: Path, previews: tuple, scores: dict[int, dict]) -> tuple[Checkpoint, ...]:
    drawn = dict(previews)
    kept = {step: checkpoint_file(folder, step) for step in kept_steps(folder)}
    steps = sorted({*drawn, *scores, *kept})
    return tuple(Checkpoint(step, scores.get(step), kept.get(step), drawn.get(step, ())) for step in steps)


def _view(log: Log, name: str, folder: Path, state: State) -> RunView:
    """What the log knows."""
    return RunView(
        name,
        folder,
        state,
        step=log.step,
        steps=log.steps,
        losses=log.losses,
        loss=log.loss,
        speed=log.speed,
        eta=log.eta if state == "running" else None,
        minutes=log.busy / 60,
        prompts=log.prompts,
        notes=tuple(log.notes),
        best=log.best,
        why=log.why,
        rate=log.rate,
        memory=log.memory,
        busy=log.device,
        when=log.when,
    )
