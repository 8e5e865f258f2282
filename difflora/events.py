"""What is happening, as plain values. Knows nothing of who listens.

Long work takes `report: Callable[[Event], None]`; the CLI shows events as a bar, the web page as updates, and a run
folder keeps them in events.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """The root of all events."""

    def row(self) -> dict:
        """The event as JSON-ready values, with its kind."""
        values = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self).items()}
        return {"event": type(self).__name__.lower()} | values


@dataclass(frozen=True)
class Note(Event):
    """Something a person should read."""

    text: str


@dataclass(frozen=True)
class Progress(Event):
    """`done` of `total` parts of the work called `what` are finished."""

    what: str
    done: int
    total: int
    eta: float | None = None
    """Seconds left, where that is known."""


@dataclass(frozen=True)
class Step(Event):
    """One optimizer step was made; `speed` is in pictures a second, `eta` in seconds."""

    step: int
    steps: int
    loss: float
    speed: float
    eta: float
    rate: float = 0.0
    """Learning rate of the step."""
    memory: float = 0.0
    """Memory in use, in GB."""
    busy: float | None = None
    """How busy the device is, 0..1; None where that cannot be known."""


@dataclass(frozen=True)
class Preview(Event):
    """Fixed-seed pictures were drawn after `step` steps (0: before the first) and added to the sheet at `path`."""

    step: int
    path: Path
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored(Event):
    """A checkpoint was measured on fixed prompts, seeds, noise and times; lower is better but for `followed`."""

    step: int
    style: float
    """Distance to the artist's pictures, of the base's own: 1 as far as the base, near 0 reached."""
    followed: float
    """Share of prompts that the base still finds in the pictures drawn, 0..1."""
    copied: float
    """Share of pictures nearer to a training picture than the artist's own come to each other, 0..1."""
    harm: float
    """How much likelier the base's own pictures of neutral prompts were before: relative rise of their loss."""
    loss: float
    """Loss of the pictures kept back (or, without any, of mirrored ones) at fixed noise and times."""
    total: float
    """What checkpoints are compared by."""


@dataclass(frozen=True)
class Best(Event):
    """A checkpoint became the best so far, or was chosen at the end, and why."""

    step: int
    why: str


@dataclass(frozen=True)
class Started(Event):
    """A training was begun or gone on with; its pictures are encoded next."""

    name: str


@dataclass(frozen=True)
class Paused(Event):
    """A training ended after `step`, to be gone on with."""

    step: int


@dataclass(frozen=True)
class Failed(Event):
    """A training ended with an error, told in one line."""

    error: str


@dataclass(frozen=True)
class Saved(Event):
    """A file is complete on disk."""

    path: Path


def finite(value: object) -> object:
    """The same rows and lists, null for numbers that JSON does not have: strict readers refuse NaN."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Report = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that is not there."""
