"""Requests in line, and who is drawn next. Knows no model and no threads.

Users take turns. A turn is one batch: the pictures of the user's first request, as many as a batch holds. Free places
go round the other users, a picture each, as long as they have pictures that fit.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import DiffloraError
from .recipe import Recipe

if TYPE_CHECKING:
    from .batcher import Batcher

OVER = ("done", "cancelled", "failed")
Finished = Callable[[Recipe, Image.Image], None]


def settings(recipe: Recipe) -> tuple:
    """What all pictures of a batch share; their prompts, seeds and weights may differ."""
    styles = tuple((style.name, style.sha256) for style in recipe.styles)
    size = recipe.width, recipe.height
    text = recipe.clip_skip, recipe.windows
    return recipe.steps, recipe.guidance, *size, recipe.sampler, *text, recipe.orthogonal, styles


class Ticket:
    """One request: where it stands, and its pictures as they come.

    state: waiting, drawing, done, cancelled or failed, with one line in `error`. previews and pictures stand in the
    order of recipes, None where there is none (yet). version grows with every change.
    """

    def __init__(
        self,
        batcher: Batcher,
        user: str,
        recipes: Sequence[Recipe],
        costs: Sequence[float],
        finished: Finished | None = None,
        alone: bool = False,
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.user = user
        self.recipes = tuple(recipes)
        self.finished = finished
        self.alone = alone
        self.state = "waiting"
        self.error = ""
        self.version = 0
        self.previews: list[Image.Image | None] = [None] * len(recipes)
        self.pictures: list[tuple[Recipe, Image.Image] | None] = [None] * len(recipes)
        self.ended = math.inf
        self.left = deque(range(len(recipes)))
        self.keys = [(*settings(recipe), self.id if alone else "") for recipe in recipes]
        self.costs = costs
        self.drawn = 0.0
        self._batcher: Batcher | None = batcher
        self._end = threading.Event()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in OVER

    @property
    def position(self) -> int:
        """Requests that will be drawn before it; 0 when it is next or being drawn."""
        batcher = self._batcher
        return batcher.position(self) if batcher else 0

    @property
    def progress(self) -> float:
        """Share of all its steps that are made, 0 to 1."""
        return 1.0 if self.state == "done" else min(1.0, self.drawn / sum(self.costs))

    @property
    def eta(self) -> float | None:
        """Seconds until its last picture, by the speed measured so far; None before there is one."""
        batcher = self._batcher
        return batcher.eta(self) if batcher else 0.0

    def cancel(self) -> None:
        """Give up what is not drawn yet; its places go to others at once."""
        if batcher := self._batcher:
            batcher.cancel(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over, at most `timeout` seconds, and say whether it is."""
        return self._end.wait(timeout)

    def turn_over(self, state: str, error: str = "") -> None:
        """Enter one of the last three states."""
        self.state, self.error, self.ended = state, error, time.monotonic()
        self.previews = [None] * len(self.recipes)
        self.left.clear()
        self.version += 1
        # Whoever keeps it keeps no base in memory.
        self._batcher = None
        self._end.set()

    def let_go(self) -> None:
        """Drop the pictures; whoever wanted them has them by now."""
        self.pictures = [None] * len(self.recipes)
        self.version += 1


Place = tuple[Ticket, int]


class UnderWay:
    """The batch being drawn.

    passes: how often the network runs for it; `done` of them are. started: when its turn was asked for, drawing: when
    it came; looked: when previews were last made, which took `looking` seconds so far.
    """

    def __init__(self, places: Sequence[Place], passes: int, started: float) -> None:
        self.places = places
        self.passes = passes
        self.cost = sum(ticket.costs[i] for ticket, i in places)
        self.done = 0
        self.started = started
        self.drawing = self.looked = time.monotonic()
        self.looking = 0.0

    def advance(self, done: int) -> None:
        """So many passes are made."""
        for ticket, i in self.places:
            ticket.drawn += ticket.costs[i] * (done - self.done) / self.passes
            ticket.version += 1
        self.done = done


class Line:
    """Requests with pictures that have no place in a batch yet; users stand in the order of their next turns."""

    def __init__(self) -> None:
        self.users: dict[str, list[Ticket]] = {}

    def add(self, ticket: Ticket) -> None:
        """Queue a request behind the user's others; a new user takes the last turn."""
        self.users.setdefault(ticket.user, []).append(ticket)

    def clean(self) -> None:
        """Forget requests with no picture left, and users with no request."""
        for user, tickets in list(self.users.items()):
            tickets[:] = [ticket for ticket in tickets if ticket.left]
            if not tickets:
                del self.users[user]

    def waiting(self) -> list[Ticket]:
        """Requests that no picture has been drawn of."""
        return [ticket for tickets in self.users.values() for ticket in tickets if ticket.state == "waiting"]

    def pick(self, room: Callable[[Recipe], int]) -> list[Place]:
        """The next batch, at most room(first picture) large; its places are taken out of the line."""
        if not self.users:
            return []
        user, tickets = next(iter(self.users.items()))
        first = tickets[0]
        key, most = first.keys[first.left[0]], room(first.recipes[first.left[0]])
        most = len(first.recipes) if first.alone else most
        places = [(first, first.left.popleft())]
        while first.left and first.keys[first.left[0]] == key and len(places) < most:
            places.append((first, first.left.popleft()))
        self.users[user] = self.users.pop(user)
        found = True
        while found and len(places) < most:
            found = False
            for others in self.users.values():
                fitting = (t for t in others if t.left and t.keys[t.left[0]] == key)
                ticket = next(fitting, None)
                if ticket and len(places) < most:
                    places.append((ticket, ticket.left.popleft()))
                    found = True
        self.clean()
        return places

    def position(self, ticket: Ticket) -> int:
        """Requests that have a turn before this one, at most."""
        own = self.users.get(ticket.user, [])
        if ticket.state != "waiting" or ticket not in own:
            return 0
        rounds, place = own.index(ticket), list(self.users).index(ticket.user)
        counts = [len(tickets) for tickets in self.users.values()]
        return rounds + sum(min(n, rounds + (i < place)) for i, n in enumerate(counts) if i != place)

    def work_until(self, ticket: Ticket, batch: int) -> float:
        """Cost of what is drawn until this request's last picture, when every other user takes their turns in full."""
        own = self.users.get(ticket.user, [])
        if ticket not in own:
            return 0.0
        before = own[: own.index(ticket) + 1]
        turns = sum(math.ceil(len(t.left) / batch) for t in before)
        share = turns * batch * ticket.costs[ticket.left[0]]
        others = (tickets for user, tickets in self.users.items() if user != ticket.user)
        return _cost(before) + sum(min(_cost(tickets), share) for tickets in others)


def in_one_line(error: Exception) -> str:
    """What went wrong; a bug goes to the log with its traceback."""
    if isinstance(error, DiffloraError):
        return str(error)
    logging.getLogger("difflora").error("drawing failed", exc_info=error)
    return f"drawing failed ({type(error).__name__}): the log says more; try again, or with fewer or smaller pictures"


def _cost(tickets: Sequence[Ticket]) -> float:
    """Cost of the pictures left, a request's all being alike."""
    return sum(len(ticket.left) * ticket.costs[ticket.left[0]] for ticket in tickets)
