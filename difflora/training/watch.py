"""What goes on in the runs folder, read from files alone: any process may watch any training."""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import RequestError
from .control import alive
from .waiting import Waiting, read_toml, safe_name

State = Literal["queued", "starting", "running", "paused", "finished", "failed"]
POINTS, NOTES = 300, 8


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
        return sorted(views, key=lambda v: (v.state != "queued", place.get(v.name, 0), -v.when, v.name))

    def _view(self, name: str, queued: list[str], at_work: tuple[str, float]) -> RunView:
        folder = self.runs / name
        failed_at, error, config = self.waiting.failure(name)
        if not (folder / "key.json").is_file():
            if name in queued:
                state = "starting" if name == at_work[0] else "queued"
                return RunView(name, folder, state, config=self._values(self.waiting.file(name)))
            if not failed_at:
                raise RequestError(f"no run {name!r} in {self.runs}: expected the name of one that is there")
            return RunView(name, folder, "failed", config=config, error=error, when=failed_at)
        config, plan = self._values(folder / "config.toml"), self._values(folder / "plan.json")
        own = config.get("name") or Path(str(config.get("images", name))).name
        log = self.logs.setdefault(name, Log(folder / "events.jsonl"))
        log.read()
        running = alive(folder)
        state = log.state(str(own))
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
        file = log.saved if state == "finished" and log.saved and log.saved.is_file() else None
        return replace(
            log.view(name, folder, state),
            previews=_previews(folder / "previews"),
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
                self.kept[path] = mark, values if isinstance(values, dict) else {}
            return self.kept[path][1]
        except (OSError, ValueError, RecursionError):
            return {}


class Log:
    """An events.jsonl, read from where the last reading ended; half-written and foreign lines are passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def clear(self) -> None:
        """Know nothing yet."""
        self.place, self.offset = None, 0
        self.when, self.busy = 0.0, 0.0
        self.phase, self.error, self.saved = "starting", "", None
        self.step = self.steps = self.seen = 0
        self.loss, self.speed, self.eta = None, 0.0, None
        self.sums: list[list[float]] = []
        self.prompts: tuple[str, ...] = ()
        self.notes: deque[str] = deque(maxlen=NOTES)

    def read(self) -> None:
        """Take in what was written since."""
        try:
            stat = os.stat(self.path)
            place = (stat.st_dev, stat.st_ino)
            if place != self.place or stat.st_size < self.offset:
                self.clear()
            if stat.st_size == self.offset:
                return
            with self.path.open("rb") as file:
                file.seek(self.offset)
                new = file.read(stat.st_size - self.offset)
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self.place, self.offset = place, self.offset + len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                self.take(row)

    def take(self, row: dict) -> None:
        """One event."""
        if time := _number(row.get("time")):
            # Between the last event and a new start nothing ran.
            self.busy += max(0.0, time - self.when) if self.when and row.get("event") != "started" else 0.0
            self.when = time
        match row:
            case {"event": "started"}:
                self.phase, self.error = "starting", ""
            case {"event": "note", "text": str(text)}:
                self.notes.append(text)
            case {"event": "step", "step": int(step), "steps": int(steps), "loss": float(loss)}:
                self.phase = "running"
                self.point(step, steps, loss)
                self.speed, self.eta = _number(row.get("speed")) or 0.0, _number(row.get("eta"))
            case {"event": "preview"}:
                self.phase = "running"
                if isinstance(prompts := row.get("prompts"), list) and prompts:
                    self.prompts = tuple(map(str, prompts))
            case {"event": "saved", "path": str(path)}:
                self.phase, self.saved = "saved", Path(path)
            case {"event": "paused", "step": int(step)}:
                self.phase = "paused"
                self.notes.append(f"paused after step {step}")
            case {"event": "failed", "error": str(error)}:
                self.phase, self.error = "failed", error

    def point(self, step: int, steps: int, loss: float) -> None:
        """One step's loss, into the mean of its part of the run."""
        if not math.isfinite(loss):
            return
        self.step, self.steps, self.loss = step, steps, loss
        # Steps made again after a kill are the same to the last bit: they count once.
        if step <= self.seen:
            return
        self.seen = step
        part = (step - 1) // -(-max(steps, 1) // POINTS)
        if not self.sums or self.sums[-1][0] != part:
            self.sums.append([part, 0, 0.0, 0])
        kept = self.sums[-1]
        kept[1:] = step, kept[2] + loss, kept[3] + 1

    def state(self, name: str) -> State:
        """What the log's last words mean for the style called `name`."""
        if self.phase != "saved":
            return self.phase
        # A style saved on the way ends nothing.
        partial = re.fullmatch(re.escape(name) + r"-step-\d{6,}", self.saved.stem) if self.saved else None
        return "running" if partial else "finished"

    def view(self, name: str, folder: Path, state: State) -> RunView:
        """What the log knows."""
        return RunView(
            name,
            folder,
            state,
            step=self.step,
            steps=self.steps,
            losses=tuple((int(step), total / count) for _, step, total, count in self.sums),
            loss=self.loss,
            speed=self.speed,
            eta=self.eta if state == "running" else None,
            minutes=self.busy / 60,
            prompts=self.prompts,
            notes=tuple(self.notes),
            when=self.when,
        )


def _number(value: object) -> float | None:
    return value if isinstance(value, float) and math.isfinite(value) else None


def _previews(folder: Path) -> tuple[tuple[int, tuple[Path, ...]], ...]:
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("[0-9]*-*.png")):
        step, _, place = path.stem.partition("-")
        if step.isdecimal() and place.isdecimal():
            found.setdefault(int(step), []).append(path)
    return tuple((step, tuple(sorted(paths, key=lambda p: int(p.stem.split("-")[1])))) for step, paths in found.items())
