"""Speaking to a training in another process: a lock that says it is there, and requests left in its folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from ..adapters.files import write_atomic
from ..errors import RequestError
from ..locks import Lock, held
from .waiting import demand_newest

# Whoever asks `alive` holds the lock for a moment.
PATIENCE_SECONDS = 1.0
Ask = Literal["pause", "stop", "save", "preview"]


def alive(folder: Path) -> bool:
    """Whether a process trains this run now."""
    return held(folder / ".lock")


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Be the one process of this run; raises RequestError when there is one already."""
    lock = Lock(folder / ".lock")
    if not lock.take(PATIENCE_SECONDS):
        raise busy(folder)
    try:
        asked(folder)
        yield
        asked(folder)
    finally:
        lock.free()


def busy(folder: Path) -> RequestError:
    """The refusal of a second process."""
    return RequestError(
        f"{folder} is being trained by another process; wait for its end, pause it there, or give another --name"
    )


def ask(folder: Path, what: Ask) -> None:
    """Ask a running training for something, which it does after the step under way.

    pause: save the state and end, to go on later. stop: end here, with the style as learnt so far as the finished one.
    save: save the state, and write the style so far into the library as NAME-step-000200. preview: draw previews now.
    Raises RequestError when nothing runs there.
    """
    if what not in get_args(Ask):
        raise RequestError(f"request {what!r}: expected one of {', '.join(get_args(Ask))}")
    if not alive(folder):
        raise RequestError(f"{folder.name} is not being trained now: expected a running training to {what}; start it")
    write_atomic(folder / f".ask-{what}", b"")


def asked(folder: Path) -> set[Ask]:
    """What was asked for since the last look; looking takes the requests away."""
    found: set[Ask] = set()
    for what in get_args(Ask):
        path = f"{folder}/.ask-{what}"
        if os.path.exists(path):
            os.unlink(path)
            found.add(what)
    return found


def add_steps(folder: Path, count: int) -> None:
    """Ask a training for `count` steps more: one that runs after the step under way, any other when it goes on.

    Several requests add up. Raises RequestError for a count out of range, where there is no run, or where it was put
    aside.
    """
    if not 1 <= count <= 10**6:
        raise RequestError(f"{count} steps: expected 1 to 1,000,000 more")
    if not (folder / "key.json").is_file():
        raise RequestError(f"{folder.name} has not begun: expected a run to add steps to; give --steps")
    demand_newest(folder)
    write_atomic(folder / f".more-{secrets.token_hex(4)}-{count}", b"")


def added(folder: Path) -> int:
    """How many steps were asked for since the last look; looking takes the requests away."""
    total = 0
    for path in folder.glob(".more-*-*"):
        total += int(path.name.rpartition("-")[2])
        path.unlink(missing_ok=True)
    return total


def wanted(folder: Path) -> int:
    """How many steps are asked for and not taken up yet."""
    return sum(int(path.name.rpartition("-")[2]) for path in folder.glob(".more-*-*"))
