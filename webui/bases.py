"""Another base for everybody: the old one leaves the memory before the new one comes. Knows no page."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING

import torch

from difflora.adapters.precision import DTYPES
from difflora.errors import BaseModelError, DiffloraError, RequestError
from difflora.events import Event, Note, Progress, Report
from difflora.models import needs
from difflora.models.family import best_device, open_model
from difflora.models.hub import download

from .choices import Choice, is_same, library, shortened, wanted, weights
from .jobs import Job, StoppedError
from .words import in_words

if TYPE_CHECKING:
    from .desk import Desk
    from .opened import Opened

LOOK_SECONDS, PATIENCE_SECONDS = 0.1, 300.0


@dataclass(frozen=True)
class Opening:
    """How far the next base is, for every page. phase: download, wait, open, or back to the one before."""

    name: str
    size: int
    by: str
    phase: str = "open"
    done: int = 0
    total: int = 0
    eta: float | None = None
    note: str = ""


class Bases:
    """Opens one base at a time for all who share the studio."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.started = desk.config
        """The base given at the start may have an autoencoder of its own."""
        self.lock = threading.Lock()
        self.job: Job | None = None
        self.at: Opening | None = None

    def absence(self) -> str:
        """Why no base is open, in one line."""
        if (at := self.at) is not None:
            return f"{at.name} is being opened: expected an open base; ask again in a moment"
        return "no base is open: expected one; choose it at the top of the page"

    def row(self) -> dict:
        """The open base and the one that is being opened, for a page."""
        opened, at = self.desk.opened, self.at
        label = Choice(self.desk.config.base, path=Path()).label
        return {"name": label, "mark": opened.mark if opened else "", "at": asdict(at) if at else None}

    def open(self, user: str, name: str) -> Job:
        """Open another base, in the background; RequestError for one that may not be opened, or not now."""
        with self.lock:
            if self.job is not None and not self.job.over:
                raise RequestError(f"{self.job.about} is being opened: expected one base at a time; wait until it is")
            choice = wanted(self.desk, name)
            if self.desk.opened is not None and is_same(choice, self.desk.config.base, self.desk):
                raise RequestError(f"{choice.label} is open: expected another base of the list")
            self.check_memory(choice)
            self.job = self.desk.jobs.start(user, "base", choice.label, partial(self.change, user, choice))
            return self.job

    def check_memory(self, choice: Choice) -> None:
        """RequestError when a training runs and leaves, as far as that is known, too little memory for the base."""
        running = [run.name for run in self.desk.runs.list() if run.state in ("starting", "running")]
        count, free = weights(choice), free_memory(self.desk.opened)
        if not running or count is None or free is None or self.desk.config.offload:
            return
        asked = self.desk.config.precision
        size = count * (DTYPES[asked].itemsize if asked else 2 if torch.cuda.is_available() else 4)
        if size > free:
            raise RequestError(
                f"{choice.label} takes {size / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free while "
                f"{running[0]} is trained: expected room for it; pause the training, or wait for its end"
            )

    def change(self, user: str, choice: Choice, report: Report) -> dict:
        """Download what is not here, then put the base in the open one's place; who stops it keeps the open one."""
        self.at = Opening(choice.label, choice.size, user)
        try:
            if choice.path is None:
                self.get(choice, self.hear(report, "download"))
            self.swap(user, choice, report)
        finally:
            self.at = None
        return {"name": choice.label}

    def get(self, choice: Choice, report: Report) -> None:
        """Download a base while everybody works on with the open one."""
        report(Progress("downloading", 0, choice.size))
        located = library.locate(choice.name, self.desk.config.bases)
        if located.path is None:
            with self.desk.online():
                download(located, report)

    def swap(self, user: str, choice: Choice, report: Report) -> None:
        """Let the open base go, then open the other; the old one comes back where that fails."""
        desk, old, opened = self.desk, self.desk.config, self.desk.opened
        vae = self.started.vae if choice.name == self.started.base else None
        kept = opened.watched() if opened else []
        try:
            if opened is not None:
                desk.opened = None
                rest(opened, desk, user, f"the base was changed to {choice.label}", self.hear(report, "wait"))
                opened = None
                wait_until_gone(kept, self.hear(report, "wait"))
            new = replace(old, base=choice.name, vae=vae)
            desk.put(new, open_model(new, report=self.hear(report, "open")))
            return
        except StoppedError:
            failure: Exception = StoppedError()
        except Exception as error:
            failure = self.in_one_line(choice.label, error)
        # Outside of the blocks above: what failed held parts of the new base.
        if kept and not desk.closing:
            self.back(old, kept[0](), failure)
        raise failure

    def back(self, old: object, model: object, failure: Exception) -> None:
        """Open the base again that was open; model: itself, where it never left the memory."""
        release()
        label = Choice(old.base, path=Path()).label
        self.at = Opening(label, 0, self.at.by, "back")
        try:
            self.desk.put(old, model or open_model(old, report=self.hear(lambda event: None, "back")))
        except Exception as error:
            again = self.in_one_line(label, error)
            raise BaseModelError(f"{str(failure) or 'stopped'}; and {again}") from None

    def hear(self, report: Report, phase: str) -> Report:
        """The work's reports, kept for every page and passed on, which may end the work."""

        def heard(event: Event) -> None:
            if isinstance(event, Progress):
                self.at = replace(self.at, phase=phase, done=event.done, total=event.total, eta=event.eta)
            elif isinstance(event, Note) and phase != "download":
                # What is downloaded is on the page already, and there Ctrl+C breaks nothing off.
                self.at = replace(self.at, note=in_words(event.text))
            report(event)

        return heard

    def in_one_line(self, label: str, error: Exception) -> DiffloraError:
        """What went wrong, without what it held on to; a bug goes to the log with its traceback."""
        if isinstance(error, DiffloraError):
            return BaseModelError(shortened(str(error), self.desk))
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return BaseModelError(
                f"{label} does not fit into the memory: expected more that is free; end what else needs it, or open "
                "the studio with --offload"
            )
        # As text: a log that kept the error itself would keep what it held on to.
        logging.getLogger("difflora").error("opening %s failed\n%s", label, "".join(format_exception(error)))
        name = type(error).__name__
        return BaseModelError(f"{label} was not opened ({name}): expected a whole base; the log says more")


def rest(opened: Opened, desk: Desk, user: str, why: str, report: Report) -> None:
    """Give up what the user draws, finish the batch of others under way, and tell who waits; ends with no one drawing.

    What `report` raises gives up that batch too.
    """
    batcher, line = opened.batcher, f"{why} before this was drawn: expected the base it was asked on; ask again"
    for ticket in batcher.tickets(user):
        batcher.cancel(ticket, line)
    known = batcher.close(line, finish=True)
    try:
        while batcher.worker.is_alive():
            report(Progress("finishing what is drawn", 0, 0))
            batcher.worker.join(LOOK_SECONDS)
    finally:
        batcher.close(line)
        batcher.worker.join()
        desk.line = None
        desk.remember(known)


def wait_until_gone(kept: Sequence[weakref.ref], report: Report) -> None:
    """Wait for whoever works with the base yet; RequestError when that takes minutes. Its memory is free after it."""
    until = time.monotonic() + PATIENCE_SECONDS
    while gc.collect() >= 0 and any(part() is not None for part in kept):
        if time.monotonic() > until:
            raise RequestError("other work holds on to the open base: expected its end by now; try again after it")
        report(Progress("waiting for other work", 0, 0))
        time.sleep(LOOK_SECONDS)
    release()


def release() -> None:
    """Give memory that nothing uses back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def free_memory(opened: Opened | None) -> int | None:
    """Bytes that a base may take once the open one has left; None where that is not known."""
    own = sum(weight.nbytes for part in opened.model.parts.values() for weight in part.parameters()) if opened else 0
    free = needs.free_memory(torch.device(best_device()))
    return None if free is None else own + free
