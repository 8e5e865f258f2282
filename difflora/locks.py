"""Locks between processes and threads, freed by the system when their holder dies. The only door to fcntl."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from .errors import OutputError


class Lock:
    """One lock file; each object is a holder of its own, also within one process. The file stays when it is freed."""

    def __init__(self, path: Path) -> None:
        self.path, self.handle = path, -1

    def take(self, seconds: float | None = None) -> bool:
        """Wait for the lock, at most `seconds` (None: as long as it takes), and say whether it is held now.

        Raises OutputError when the file cannot be opened or the file system knows no locks.
        """
        end = None if seconds is None else time.monotonic() + seconds
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                while not _flock(handle, fcntl.LOCK_EX | (0 if end is None else fcntl.LOCK_NB)):
                    if end is None or time.monotonic() >= end:
                        return False
                    time.sleep(0.01)
                self.handle, handle = handle, -1
            finally:
                if handle >= 0:
                    os.close(handle)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be locked ({error.strerror}); choose another folder") from error
        return True

    def free(self) -> None:
        """Let the next one have it."""
        if self.handle >= 0:
            # Closing the only descriptor frees the lock.
            os.close(self.handle)
            self.handle = -1


def held(path: Path) -> bool:
    """Whether some process or thread holds the lock; asking makes no file, and two may ask at once."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def _flock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    return True
