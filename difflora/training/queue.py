"""Trainings one after the other, each in a process of its own, whoever watches and whoever goes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..adapters.files import writable_folder, write_atomic
from ..config import TrainConfig, as_row, check_name
from ..errors import DiffloraError, RequestError
from ..locks import Lock
from .control import alive, ask, wanted
from .runs import decisive, differences, placed
from .waiting import Waiting, read_toml, safe_name
from .watch import view_run

LOOK_SECONDS, LEAVING_SECONDS, PATIENCE_SECONDS = 0.25, 15, 30


class RunQueue:
    """One training at a time; the order is kept on disk and goes on by itself after a restart.

    Raises OutputError when the runs folder cannot be written. Of several queues of one runs folder, the first one works
    and the next takes over when it is closed.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs.absolute()
        self.waiting = Waiting(self.runs)
        writable_folder(self.waiting.folder)
        # The processes work here: python looks for modules where it works first, and this is empty.
        self.empty = writable_folder(self.waiting.folder / "empty")
        self.empty.chmod(0o700)
        self.guard, self.closing, self.news = threading.RLock(), threading.Event(), threading.Event()
        self.current, self.given_up = "", False
        self.thread = threading.Thread(target=self._work, name="trainings", daemon=True)
        self.thread.start()

    def names(self) -> list[str]:
        """What is at work and what waits, in order."""
        return self.waiting.names()

    def add(self, config: TrainConfig) -> str:
        """Train this when its turn comes, in this queue's runs folder; returns the run's name.

        Raises RequestError when that name is queued already, or has an unfinished run with other settings.
        """
        name = check_name(config.name or config.images.resolve().name)
        row = placed(as_row(replace(config, runs=self.runs)))
        folder = self.runs / name
        with self.guard:
            self._not_queued(name)
            if (folder / "key.json").exists() and (alive(folder) or view_run(folder).state != "finished"):
                there = {"config": decisive(read_toml(folder / "config.toml")), "plan": {}, "data": ""}
                asked_for = {"config": decisive(row), "plan": {}, "data": ""}
                if there != asked_for:
                    changed = differences(there, asked_for)
                    raise RequestError(
                        f"{name} is an unfinished run with other settings ({changed}): resume it, give another name, "
                        "or throw it away"
                    )
            self.waiting.put(name, row)
        self.news.set()
        return name

    def resume(self, name: str) -> None:
        """Go on with a paused or failed run at the queue's end; raises RequestError for any other."""
        folder = self.runs / safe_name(name)
        self.let_end(name)
        with self.guard:
            self._not_queued(name)
            view = view_run(folder)
            if view.state not in ("paused", "failed") or not view.config:
                raise RequestError(f"{name} is {view.state}: expected a paused or failed run to go on with")
            self.waiting.put(name, placed(view.config | {"runs": str(self.runs)}), front=not self.current)
        self.news.set()

    def pause(self, name: str) -> None:
        """Pause a run, wherever it was started, or take it out if it only waits; raises RequestError for any other."""
        folder = self.runs / safe_name(name)
        with self.guard:
            if alive(folder):
                ask(folder, "pause")
                if name != self.current and name in self.names():
                    self.waiting.drop(name)
            elif name == self.current:
                self.given_up = True
            else:
                self.remove(name)

    def remove(self, name: str) -> None:
        """Take out one that waits; raises RequestError for any other."""
        with self.guard:
            if name not in self.names():
                raise RequestError(f"{name} does not wait: expected one of {', '.join(self.names()) or 'none'}")
            if name == self.current:
                raise RequestError(f"{name} is at work: expected one that waits; pause or stop it")
            self.waiting.drop(name)

    def move(self, name: str, places: int) -> None:
        """Let one that waits go `places` later, or sooner if negative; raises RequestError for any other."""
        with self.guard:
            names = self.names()
            if name not in names or name == self.current:
                raise RequestError(f"{name} does not wait: expected one of {', '.join(names) or 'none'}")
            place = max(names.index(name) + places, int(self.current in names))
            names.remove(name)
            names.insert(place, name)
            self.waiting.order(names)

    def delete(self, name: str) -> Path | None:
        """Throw a run away, into runs/.trash, and return where it lies now; RequestError while it works or waits."""
        self.let_end(name)
        with self.guard:
            self._not_queued(name)
            return throw_away(self.runs, name)

    def close(self) -> None:
        """Pause the training at work and end; what is queued stays queued, that one first."""
        self.closing.set()
        self.news.set()
        self.thread.join()

    def let_end(self, name: str) -> None:
        """Wait for a run that has said its last words: it may be at work for a moment more, on its way out."""
        until, over = time.monotonic() + LEAVING_SECONDS, ("paused", "finished", "failed")
        folder = self.runs / safe_name(name)
        while self.current == name and view_run(folder).state in over and time.monotonic() < until:
            time.sleep(0.05)

    def _not_queued(self, name: str) -> None:
        if name in self.names():
            raise RequestError(f"{name} is queued already: expected another name, or wait for its end")

    def _work(self) -> None:
        lock = Lock(self.waiting.folder / "lock")
        try:
            while not self.closing.is_set():
                # A full disk or a folder taken away ends no queue: it looks again.
                with suppress(DiffloraError, OSError):
                    if lock.handle >= 0 or lock.take(seconds=0):
                        self._next()
                self.news.wait(LOOK_SECONDS)
                self.news.clear()
        finally:
            lock.free()

    def _next(self) -> None:
        """Start the first in the queue and see it through."""
        with self.guard:
            name = next(iter(self.names()), "")
            # One that is trained from elsewhere, or by a process that outlived its server, is waited for.
            if not name or alive(self.runs / name):
                return
            if self._done(name):
                self.waiting.drop(name)
                return
            write_atomic(self.waiting.folder / "started", name.encode())
            self.current, self.given_up = name, False
        code, error = 1, ""
        try:
            code = self._run(name)
            if code not in (0, 130) and not self.given_up:
                error = self.waiting.last_words(name, code)
        except OSError as problem:
            error = f"no process could be started ({problem.strerror}); free some memory and resume it"
        finally:
            with self.guard:
                (self.waiting.folder / "started").unlink(missing_ok=True)
                self.current = ""
                if code == 0 or not self.closing.is_set():
                    self.waiting.drop(name, error)
                self.news.set()

    def _done(self, name: str) -> bool:
        """Whether it was finished elsewhere since it was put here, and no steps were added since."""
        with suppress(OSError):
            finished = (self.runs / name / f"{name}.safetensors").stat().st_mtime
            return finished > self.waiting.file(name).stat().st_mtime and not wanted(self.runs / name)
        return False

    def _run(self, name: str) -> int:
        """The exit code of one training's process; it is paused when the queue closes."""
        config = str(self.waiting.file(name))
        with (self.waiting.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "difflora.cli", "train", "--config", config, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.empty,
                start_new_session=True,
            )
        while not (self.closing.is_set() or self.given_up):
            with suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK_SECONDS)
        # As Ctrl+C, but never ignored: a process begun in the background may have SIGINT off.
        process.terminate()
        try:
            return process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def throw_away(runs: Path, name: str) -> Path | None:
    """Throw a run away, into runs/.trash, and return where it lies now; None for one that never got a folder.

    Raises RequestError where there is none, or while it works or waits.
    """
    folder, waiting = runs / safe_name(name), Waiting(runs)
    view_run(folder)
    if name in waiting.names():
        raise RequestError(f"{name} is queued already: expected one that does not wait; take it out of the queue first")
    if alive(folder):
        raise RequestError(f"{name} is being trained: expected one that is not; pause or stop it first")
    waiting.forget(name)
    if not folder.exists():
        return None
    trash = writable_folder(runs / ".trash")
    places = (trash / (f"{name}-{i}" if i else name) for i in range(10**6))
    return folder.rename(next(place for place in places if not place.exists()))
