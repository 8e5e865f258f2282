"""A batch of pictures and a second of training, turn about: the rule for one device that draws and trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from .errors import OutputError
from .locks import Lock, held

TURN_SECONDS = 1.0


class Turns:
    """Drawing and training on one device, in this process or another, take turns.

    There is a room for one and a door with one in it: who holds the door is the next one in, so two that both want
    the room have it in strict alternation. The CLI's `generate` takes no turns.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.room: Lock | None = None
        self.began = 0.0

    def __call__(self) -> AbstractContextManager[None]:
        """One turn, begun when the other side's has ended; raises OutputError when the folder cannot be written."""
        return self._turn()

    def pass_on(self) -> None:
        """Inside a turn: let the other side have one if it waits and ours has lasted a second."""
        if time.monotonic() - self.began >= TURN_SECONDS and held(self.folder / "door"):
            self._leave()
            self._enter()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be made ({error.strerror}); choose another folder") from error
        door, room = Lock(self.folder / "door"), Lock(self.folder / "room")
        door.take()
        try:
            room.take()
        finally:
            door.free()
        # Only who is in the room writes these, so one object may serve several threads.
        self.room, self.began = room, time.monotonic()

    def _leave(self) -> None:
        room, self.room = self.room, None
        if room is not None:
            room.free()
