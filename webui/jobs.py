"""Work that takes a while: in the background, with its progress, whoever watches and whoever goes. Knows no page."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from difflora.errors import DiffloraError, RequestError
from difflora.events import Event, Progress, Report

from .words import in_words

LOOKING = ("foretell", "foresee", "conflict")
"""Only reads: does not wait behind what writes, and gives way to a newer question of the same kind."""
OPENING = ("base",)
"""May download for long: waits behind nothing, and nothing behind it."""
MOST_WAITING, MOST_KEPT, KEPT_SECONDS = 8, 100, 600.0
OVER = ("done", "failed", "stopped")
Work = Callable[[Report], dict]


class StoppedError(Exception):
    """Nobody waits for the work any more."""


@dataclass
class Job:
    """One piece of work and where it stands: waiting, working, done, failed with one line, or stopped."""

    id: str
    user: str
    kind: str
    about: str
    """What it is about, such as the name of a style."""
    state: str = "waiting"
    done: int = 0
    total: int = 0
    eta: float | None = None
    """Seconds left of this part of the work, where that is known."""
    error: str = ""
    result: dict = field(default_factory=dict)
    wanted: bool = True
    ended: float = 0.0
    future: Future | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in OVER

    def row(self) -> dict:
        """For a page; the result has a route of its own."""
        return {name: getattr(self, name) for name in ("id", "kind", "about", "state", "done", "total", "eta", "error")}

    def hear(self, event: Event) -> None:
        """Take the work's own report; raises StoppedError, which ends the work, when it is not wanted any more."""
        if not self.wanted:
            raise StoppedError
        if isinstance(event, Progress):
            self.done, self.total, self.eta = event.done, event.total, event.eta


class Jobs:
    """Everybody's work: one that reads, one that writes and one that opens a base at a time, in the order of asking."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.kept: dict[str, Job] = {}
        self.pools = {name: ThreadPoolExecutor(1, f"{name}-") for name in ("looking", "making", "opening")}

    def start(self, user: str, kind: str, about: str, work: Work) -> Job:
        """Do the work when its turn comes; RequestError when this user waits for too much already."""
        job = Job(secrets.token_urlsafe(16), user, kind, about)
        with self.lock:
            self._forget()
            own = [other for other in self.kept.values() if other.user == user and not other.over]
            for other in own if kind in LOOKING else ():
                if other.kind == kind:
                    self._stop(other)
            if sum(not other.over for other in own) >= MOST_WAITING:
                raise RequestError(f"{len(own)} pieces of work wait already: expected fewer; let one end first")
            self.kept[job.id] = job
            pool = "looking" if kind in LOOKING else "opening" if kind in OPENING else "making"
            job.future = self.pools[pool].submit(self._run, job, work)
        return job

    def _run(self, job: Job, work: Work) -> None:
        try:
            if job.wanted:
                job.state = "working"
                job.result = work(job.hear)
                self._end(job, "done")
        except StoppedError:
            self._end(job, "stopped")
        except DiffloraError as error:
            self._end(job, "failed", in_words(str(error)))
        except Exception as error:
            logging.getLogger("difflora").error("%s failed", job.kind, exc_info=error)
            name = type(error).__name__
            self._end(job, "failed", f"that did not work ({name}): the log says more; try again, or something smaller")

    def _end(self, job: Job, state: str, error: str = "") -> None:
        with self.lock:
            job.error, job.ended, job.state = error, time.monotonic(), state

    def _stop(self, job: Job) -> None:
        job.wanted = False
        if job.future is not None and job.future.cancel():
            self._end(job, "stopped")

    def rows(self, user: str) -> list[dict]:
        """This user's work, that which ended lately too, oldest first."""
        with self.lock:
            self._forget()
            return [job.row() for job in self.kept.values() if job.user == user]

    def find(self, user: str, id: str) -> Job:
        """One's own work by its id; RequestError when it is no more, or never was."""
        job = self.kept.get(id)
        if job is None or job.user != user:
            raise RequestError("this is no longer kept: expected within ten minutes after it ended; do it again")
        return job

    def stop(self, user: str, id: str) -> None:
        """Not wanted any more: ends at its next step and leaves nothing behind."""
        with self.lock:
            job = self.find(user, id)
            if not job.over:
                self._stop(job)

    def _forget(self) -> None:
        """What ended minutes ago, and the oldest of what ended when there is much of it."""
        ended = sorted((job for job in self.kept.values() if job.over), key=lambda job: -job.ended)
        for place, job in enumerate(ended):
            if place >= MOST_KEPT or time.monotonic() - job.ended > KEPT_SECONDS:
                del self.kept[job.id]

    def close(self) -> None:
        """End everything at its next step."""
        with self.lock:
            for job in self.kept.values():
                if not job.over:
                    self._stop(job)
        for pool in self.pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
