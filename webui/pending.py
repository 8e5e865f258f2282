"""Files that wait for a person's yes or for a download, each in a private folder, for some minutes. Knows no page."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from difflora.errors import RequestError

SECONDS = 600.0


@dataclass(frozen=True)
class Waiting:
    """One file, alone in its folder."""

    user: str
    kind: str
    file: Path
    timer: threading.Timer


class Pending:
    """What each user's pages wait for, by an unguessable key: the newest of each kind, until it is taken or too old."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.kept: dict[str, Waiting] = {}
        self.lock = threading.Lock()

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new private folder; it is removed unless `keep` was told of a file in it."""
        place = Path(tempfile.mkdtemp(prefix="pending-"))
        try:
            yield place
        finally:
            with self.lock:
                wanted = any(waiting.file.parent == place for waiting in self.kept.values())
            if not wanted:
                shutil.rmtree(place, ignore_errors=True)

    def keep(self, user: str, kind: str, file: Path) -> str:
        """The key under which a file of `folder` is kept, in place of the user's last one of that kind."""
        key = secrets.token_urlsafe(24)
        timer = threading.Timer(self.seconds, self.forget, (user, key))
        timer.daemon = True
        with self.lock:
            older = [k for k, w in self.kept.items() if (w.user, w.kind) == (user, kind)]
            self.kept[key] = Waiting(user, kind, file, timer)
        timer.start()
        for old in older:
            self.forget(user, old)
        return key

    def file(self, user: str, key: str) -> Path:
        """What is kept under a user's key; raises RequestError when it is no more, or was never there."""
        with self.lock:
            waiting = self.kept.get(key)
        if waiting is None or waiting.user != user:
            raise RequestError(
                f"this copy is no longer kept: expected it within {self.seconds / 60:.0f} minutes; make it again"
            )
        return waiting.file

    def forget(self, user: str, key: str) -> None:
        """Throw a user's file away, if it is still there."""
        with self.lock:
            waiting = self.kept.get(key)
            if waiting is None or waiting.user != user:
                return
            del self.kept[key]
        waiting.timer.cancel()
        shutil.rmtree(waiting.file.parent, ignore_errors=True)

    def close(self) -> None:
        """Throw everything away."""
        for key, waiting in list(self.kept.items()):
            self.forget(waiting.user, key)
