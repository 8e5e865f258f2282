"""One model, many callers: requests wait in a fair queue and are drawn together where they fit."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from PIL import Image
from torch import Tensor

from ..config import demand
from ..errors import RequestError
from ..models.attach import attached, resident_on
from ..models.family import BaseModel
from .admit import admit, passes
from .balance import Balance
from .generate import constant_blend, draw_batch, set_weights, to_pictures, turn_weights
from .mixing import acting, settled
from .recipe import Recipe
from .shelf import Shelf
from .tickets import Finished, Line, Place, Ticket, UnderWay, in_one_line

KEPT_SECONDS, KEPT_TICKETS, KEPT_BYTES = 300.0, 200, 2**28
PREVIEW_SHARE, PREVIEW_SIDE = 0.1, 256
LEAVING_SECONDS = 5.0
CLOSING = "the program is closing: expected requests before that; start it again"


class _Abandoned(Exception):
    """Nobody waits for the batch under way any more."""


class Batcher:
    """One model, many callers: requests wait in a fair queue and are drawn together where they fit.

    batch: most pictures drawn at once, at the base's own size; larger pictures share the same memory. turn: entered
    for each batch. preview_seconds: shortest time between two looks at unfinished pictures, 0 for none; looks take at
    most about a tenth of the time. waiting: most requests of one user that are not over. While it is open nothing else
    may draw with the model or attach to it.
    """

    def __init__(
        self,
        model: BaseModel,
        *,
        batch: int = 8,
        turn: Callable[[], AbstractContextManager] = nullcontext,
        preview_seconds: float = 0.4,
        waiting: int = 8,
    ) -> None:
        self.model = model
        self.shelf = Shelf(model)
        self.resident = resident_on(model.device)
        self.balance = Balance(model)
        self.batch = batch
        self.turn = turn
        self.preview_seconds = preview_seconds
        self.waiting = waiting
        self._lock = threading.Condition(threading.RLock())
        self._line = Line()
        self._tickets: dict[str, Ticket] = {}
        self._now: UnderWay | None = None
        self._drawn = 0
        # (pictures, cost, seconds) of the last batches, and seconds of decoding a pixel.
        self._measured: deque[tuple[int, float, float]] = deque(maxlen=8)
        self._decoding = 0.0
        self._closed = ""  # or why nothing more is taken
        self.worker = threading.Thread(target=self._work, name="batcher", daemon=True)
        self.worker.start()

    def submit(
        self, user: str, recipes: Sequence[Recipe], *, finished: Finished | None = None, alone: bool = False
    ) -> Ticket:
        """Queue a request and return its ticket; raises DiffloraError for what cannot be drawn.

        alone: drawn as one batch with nothing else, folded if the recipes say so, as a redrawing must be.
        finished: called with each recipe and picture, in the worker, before the ticket shows them. The recipe is the
        one that redraws the picture: its styles stand by name, and it knows its batch.
        """
        ready = admit(recipes, self.model, ordered=not alone)
        costs = [runs * r.width * r.height * (1.0 + (r.guidance > 1)) for r, runs in ready]
        with self._lock:
            if self._closed:
                raise RequestError(self._closed)
            count = len(self.tickets(user))
            demand(count < self.waiting, f"{count} requests wait", f"at most {self.waiting}; wait for one, or cancel")
            ticket = Ticket(self, user, [r for r, _ in ready], costs, finished, alone)
            self._tickets[ticket.id] = ticket
            self._line.add(ticket)
            self._prune()
            self._lock.notify_all()
        return ticket

    def ticket(self, id: str) -> Ticket | None:
        """A request by its id: one that is not over, or was over lately."""
        with self._lock:
            self._prune()
            return self._tickets.get(id)

    def tickets(self, user: str) -> list[Ticket]:
        """This user's requests that are not over, oldest first."""
        with self._lock:
            return [ticket for ticket in self._tickets.values() if ticket.user == user and not ticket.over]

    def status(self) -> dict:
        """Requests waiting, pictures in the batch, pictures drawn so far, and the speed of the last batches."""
        with self._lock:
            seconds = sum(s for _, _, s in self._measured)
            return {
                "waiting": len(self._line.waiting()),
                "drawing": len(self._now.places) if self._now else 0,
                "drawn": self._drawn,
                "pictures_per_second": sum(n for n, _, _ in self._measured) / seconds if seconds else 0.0,
            }

    def position(self, ticket: Ticket) -> int:
        """Requests that will be drawn before it, at most."""
        with self._lock:
            return self._line.position(ticket)

    def eta(self, ticket: Ticket) -> float | None:
        """Seconds until its last picture; None before anything was measured."""
        with self._lock:
            cost, seconds, now = sum(c for _, c, _ in self._measured), sum(s for _, _, s in self._measured), self._now
            if now and now.done:
                cost += now.cost * now.done / now.passes
                seconds += time.monotonic() - now.started
            rest = now.cost * (1 - now.done / now.passes) if now else 0.0
            if ticket.over:
                return 0.0
            return (rest + self._line.work_until(ticket, self.batch)) * seconds / cost if cost else None

    def cancel(self, ticket: Ticket, why: str = "") -> None:
        """Take a request out of the queue and out of the batch under way."""
        self._end(ticket, "cancelled", why)

    def close(self, why: str = "", *, finish: bool = False) -> list[Ticket]:
        """Take nothing more, end all requests with that line, and end the worker; the requests that were still known.

        finish: the batch under way is drawn to its end, which is not waited for; then close once more.
        """
        with self._lock:
            self._closed = why or CLOSING
            known = list(self._tickets.values())
            for ticket in known:
                ticket.left.clear()
                if not finish or ticket.state == "waiting":
                    self._end(ticket, "cancelled", why)
            self._line.clean()
            self._lock.notify_all()
        # It may wait for its turn while whoever has it is stopped; it dies with the program.
        self.worker.join(0 if finish else LEAVING_SECONDS)
        return known

    def _work(self) -> None:
        """The worker: batch after batch until closed, whatever goes wrong in one."""
        while self._wait_for_request():
            started, places = time.monotonic(), []
            try:
                # What waits is looked at inside the turn: whoever came while we waited for it fits in.
                with self.turn():
                    places = self._begin(started)
                    drawn = self._draw(places) if places else []
                self._measure()
                for place, recipe, picture in drawn:
                    self._hand_over(place, recipe, picture)
            except _Abandoned:
                pass
            except Exception as error:
                self._fail(places, in_one_line(error))
            finally:
                with self._lock:
                    self._now = None

    def _wait_for_request(self) -> bool:
        with self._lock:
            while not self._closed and not self._line.users:
                self._prune()
                self._lock.wait(KEPT_SECONDS / 10 if self._tickets else None)
            return not self._closed

    def _begin(self, started: float) -> list[Place]:
        """Take the next batch out of the line."""
        with self._lock:
            places = self._line.pick(self._room)
            for ticket, _ in places:
                ticket.state = "drawing"
                ticket.version += 1
            self._tell_waiting()
            if places:
                ticket, i = places[0]
                # A decode that was slow once must not end all looks: the next batches try again.
                self._decoding *= 0.7
                self._now = UnderWay(places, passes(ticket.recipes[i], self.model), started)
            return places

    def _room(self, recipe: Recipe) -> int:
        """How many pictures of this size are drawn at once."""
        return max(1, min(self.batch, self.batch * self.model.side**2 // (recipe.width * recipe.height)))

    def _draw(self, places: list[Place]) -> list[tuple[Place, Recipe, Image.Image]]:
        asked = [ticket.recipes[i] for ticket, i in places]
        adapters = {style.name: self.shelf.get(style) for style in asked[0].styles}
        recipes = settled(asked, adapters, self.balance)
        # On a CPU folding saves 15 to 20% of the time for 0.02 s a batch; elsewhere nobody measured it.
        folded = bool(recipes[0].styles) and self.model.device.type == "cpu" and constant_blend(recipes)
        folded = recipes[0].folded if places[0][0].alone else folded
        group = [replace(r, batch=len(recipes), row=i, folded=folded) for i, r in enumerate(recipes)]
        own = acting(group[0].styles, adapters, group[0].orthogonal)

        def on_step(step: int, clean: Tensor) -> None:
            turn_weights(stack, group, step)
            self._on_step(step, clean)

        with attached(self.model.parts, own, self.resident) if own else nullcontext() as stack:
            set_weights(stack, group)
            pixels = draw_batch(self.model, stack, group, on_step)
        return list(zip(places, group, to_pictures(pixels), strict=True))

    def _on_step(self, step: int, clean: Tensor) -> None:
        """Count the step, show how far the pictures are, and stop if nobody waits for them."""
        now = self._now
        with self._lock:
            now.advance(step)
            rows = [row for row, (ticket, _) in enumerate(now.places) if not ticket.over]
            if not rows:
                raise _Abandoned
        start, pixels = time.monotonic(), len(rows) * clean[0, 0].numel()
        allowed = PREVIEW_SHARE * (start - now.drawing)
        due = self.preview_seconds and start - now.looked >= self.preview_seconds
        if step == 0 or not due or now.looking + self._decoding * pixels > allowed:
            return
        looks = to_pictures(self.model.decode(clean[rows]))
        now.looked = time.monotonic()
        now.looking += now.looked - start
        self._decoding = (now.looked - start) / pixels
        with self._lock:
            for row, look in zip(rows, looks, strict=True):
                ticket, i = now.places[row]
                look.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
                if not ticket.over:
                    ticket.previews[i] = look
                    ticket.version += 1

    def _measure(self) -> None:
        with self._lock:
            if self._now:
                self._now.advance(self._now.passes)
                seconds = time.monotonic() - self._now.started
                self._measured.append((len(self._now.places), self._now.cost, seconds))

    def _hand_over(self, place: Place, recipe: Recipe, picture: Image.Image) -> None:
        """Give one finished picture to its request."""
        ticket, i = place
        try:
            if ticket.finished and not ticket.over:
                ticket.finished(recipe, picture)
        except Exception as error:
            self._fail([place], in_one_line(error))
        with self._lock:
            self._drawn += 1
            if not ticket.over:
                ticket.pictures[i], ticket.previews[i] = (recipe, picture), None
                ticket.version += 1
                if all(ticket.pictures):
                    self._end(ticket, "done")

    def _fail(self, places: list[Place], error: str) -> None:
        """End the requests of a batch, or of the next one when it could not begin."""
        with self._lock:
            for ticket, _ in places or self._line.pick(self._room):
                self._end(ticket, "failed", error)

    def _end(self, ticket: Ticket, state: str, error: str = "") -> None:
        with self._lock:
            if not ticket.over:
                ticket.turn_over(state, error)
                self._line.clean()
                self._tell_waiting()
                self._prune()

    def _tell_waiting(self) -> None:
        """Whoever waits has moved up."""
        for ticket in self._line.waiting():
            ticket.version += 1

    def _prune(self) -> None:
        """Forget requests that were over minutes ago, and the oldest when they or their pictures are many."""
        ended = sorted((t for t in self._tickets.values() if t.over), key=lambda t: -t.ended)
        size = 0
        for i, ticket in enumerate(ended):
            size += sum(3 * r.width * r.height for r in ticket.recipes)
            much = i >= KEPT_TICKETS or (i and size > KEPT_BYTES)
            if much or time.monotonic() - ticket.ended > KEPT_SECONDS:
                ticket.let_go()
                del self._tickets[ticket.id]
