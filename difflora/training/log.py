"""A run's events.jsonl, read as it grows."""

from __future__ import annotations

import json
import math
import os
import re
from collections import deque
from pathlib import Path
from typing import Literal

State = Literal["queued", "starting", "running", "paused", "finished", "failed"]
POINTS, NOTES = 300, 8


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
        self.rate, self.memory, self.device = 0.0, 0.0, None
        self.scores: dict[int, dict] = {}
        self.best, self.why = None, ""
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
                self.rate, self.memory = _number(row.get("rate")) or 0.0, _number(row.get("memory")) or 0.0
                self.device = _number(row.get("busy"))
            case {"event": "scored", "step": int(step)}:
                self.phase = "running"
                self.scores[step] = {k: v for k, v in row.items() if k != "step" and _number(v) is not None}
                self.scores[step].pop("time", None)
            case {"event": "best", "step": int(step), "why": str(why)}:
                self.best, self.why = step, why
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

    @property
    def losses(self) -> tuple[tuple[int, float], ...]:
        """(step, loss): means over equal parts of the run, each at its last step."""
        return tuple((int(step), total / count) for _, step, total, count in self.sums)

    def state(self, name: str) -> State:
        """What the log's last words mean for the style called `name`."""
        if self.phase != "saved":
            return self.phase
        # A style saved on the way ends nothing.
        partial = re.fullmatch(re.escape(name) + r"-step-\d{6,}", self.saved.stem) if self.saved else None
        return "running" if partial else "finished"


def _number(value: object) -> float | None:
    return value if isinstance(value, float) and math.isfinite(value) else None
