"""Everything one studio holds: the open base, the queue of drawings, the queue of trainings, the folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from difflora.adapters.cards import Card, card, cards
from difflora.adapters.files import adapter_named, content_sha256
from difflora.adapters.header import shown
from difflora.config_ui import UiConfig
from difflora.drawing.balance import Balance
from difflora.drawing.batcher import Batcher, Ticket
from difflora.drawing.recipe import Style
from difflora.errors import AdapterFileError, RequestError
from difflora.models.family import BaseModel, open_model
from difflora.strength import WEIGHT_LIMIT, Strength
from difflora.training.queue import RunQueue
from difflora.training.watch import Watch

from .bases import Bases
from .doctor import Doctor
from .jobs import Jobs
from .opened import Foreseen, Opened
from .pending import Pending

ARTIST = "artist"
MOST_STYLES = 8
MOST_ENDED = 200
"""Requests of bases that were open before, kept for the pages that asked."""
Mix = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Drawing:
    """What a page knows of one ticket: what it was for, and the files its pictures were saved as."""

    kind: str
    """pictures, draft, strip, duel, redraw or check."""
    files: list[str | None]
    """Paths below the user's pictures, by place; None until saved."""
    facts: dict
    """What the page needs to show it, such as the cells of a strip."""


class Desk:
    """One open base and the people who share it."""

    def __init__(self, config: UiConfig, model: BaseModel | None = None) -> None:
        self.config = config
        self.pending = Pending()
        self.jobs = Jobs()
        self.weighing = Lock()
        """What budgets make of weights while others are drawn, for one page at a time."""
        self.user: Callable[[object], str] = lambda request: ARTIST
        """Who asks, by the web request; the server sets it where people sign in."""
        self.drawings: dict[str, Drawing] = {}
        self.ended: dict[str, Ticket] = {}
        self.datasets: dict[str, Path] = {}
        """Picture folders that were opened, by an unguessable key: pages never name paths."""
        self.closing = False
        self.online: Callable[[], AbstractContextManager] = nullcontext
        """Entered to download a base; the server sets it where it keeps from looking anything up."""
        self.opened: Opened | None = None
        self.line: Batcher | None = None
        """Who draws; while a base leaves, who draws the last batch with it."""
        self.put(config, model or open_model(config))
        self.bases = Bases(self)
        self.queue = RunQueue(config.runs)
        self.runs = Watch(config.runs)

    @property
    def local(self) -> bool:
        """Whether only this machine is answered, so that who asks may download and name paths."""
        return not (self.config.listen or self.config.share)

    def put(self, config: UiConfig, model: BaseModel) -> None:
        """Let everybody work with this base."""
        opened = Opened(config, model)
        self.config, self.opened, self.line = config, opened, opened.batcher

    @property
    def base(self) -> Opened:
        """The open base; RequestError while there is none."""
        if (opened := self.opened) is None:
            raise RequestError(self.bases.absence())
        return opened

    @property
    def model(self) -> BaseModel:
        """The open base's networks; whoever has them for long holds up the next base."""
        return self.base.model

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Weight shapes of the open base, by module path."""
        return self.base.shapes

    @property
    def doctor(self) -> Doctor:
        """Who judges style files by the open base."""
        return self.base.doctor

    @property
    def batcher(self) -> Batcher:
        """Who draws with the open base."""
        return self.base.batcher

    @property
    def balance(self) -> Balance:
        """What budgets make of weights on the open base."""
        return self.base.balance

    @property
    def foreseen(self) -> Foreseen:
        """What blends may become on the open base."""
        return self.base.foreseen

    def ticket(self, id: str) -> Ticket | None:
        """A request by its id, of the base that was open before too."""
        line = self.line
        return (line.ticket(id) if line else None) or self.ended.get(id)

    def tickets(self, user: str) -> list[Ticket]:
        """A user's requests that are not over."""
        line = self.line
        return line.tickets(user) if line else []

    def status(self) -> dict:
        """How much waits and is drawn; nothing while no base is open."""
        line = self.line
        return line.status() if line else {}

    def remember(self, tickets: Sequence[Ticket]) -> None:
        """Keep requests that are over, without what holds a base in memory; the oldest go."""
        known = self.ended | {ticket.id: ticket for ticket in tickets}
        self.ended = dict(list(known.items())[-MOST_ENDED:])

    def pictures(self, user: str) -> Path:
        """Where this user's pictures are kept: one folder for all until people sign in."""
        return self.config.out / user if self.config.auth else self.config.out

    def cards(self) -> list[Card]:
        """Every style of the library, with what keeps it from fitting the open base."""
        return cards(self.config.loras, self.shapes, self.model.family)

    def file(self, name: str) -> Path:
        """A style's file by its name alone; RequestError, without a path of this machine, for anything else."""
        try:
            return adapter_named(name, self.config.loras)
        except AdapterFileError:
            raise RequestError(
                f"no style {shown(name)!r} in the library: expected the name of one of its cards"
            ) from None

    def card(self, name: str) -> Card:
        """One style by its name alone; raises RequestError for anything else."""
        return card(self.file(name), self.shapes, self.model.family)

    def style(self, name: str, strength: Strength) -> Style:
        """A style as recipes name it; raises DiffloraError."""
        path = self.file(name)
        return Style(path.stem, strength.image, str(path), content_sha256(path)).at(strength)

    def styles(self, mix: Mix) -> list[Style]:
        """The styles of a page's mix; raises RequestError for one that is no list of names and weights."""
        rows = list(mix or [])
        names = [str(row.get("name", "")) for row in rows if isinstance(row, Mapping)]
        if len(names) < len(rows) or len(rows) > MOST_STYLES:
            raise RequestError(f"{len(rows)} styles: expected at most {MOST_STYLES}, with a name and a weight")
        return [self.style(name, strength_of(row)) for name, row in zip(names, rows, strict=True)]

    def close(self) -> None:
        """End what is being drawn; a training is paused and goes on when the studio is opened again."""
        self.closing = True
        self.jobs.close()
        if line := self.line:
            line.close()
        self.queue.close()
        self.pending.close()


def strength_of(row: Mapping[str, object]) -> Strength:
    """The weights of a page's row: weight, and text, blocks ({name: weight}), start, end where they are there.

    Raises RequestError for what is none.
    """
    blocks = row.get("blocks") or {}
    if not isinstance(blocks, Mapping):
        raise RequestError(f"blocks {str(blocks)[:40]!r}: expected names with weights")
    return Strength(
        number_of(row, "weight", 1.0),
        None if row.get("text") is None else number_of(row, "text", 1.0),
        tuple((str(name), number_of(blocks, name, 0.0)) for name in blocks),
        number_of(row, "start", 0.0),
        number_of(row, "end", 1.0),
    )


def number_of(row: Mapping[str, object], key: str, absent: float) -> float:
    """A number from a page; RequestError unless it is one from -10 to 10."""
    try:
        number = float(row.get(key, absent))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) <= WEIGHT_LIMIT:
        raise RequestError(f"{key[:20]} {str(row.get(key))[:20]!r}: expected a number from -10 to 10")
    return round(number, 4)


def mix_row(style: Style) -> dict[str, object]:
    """A style of a recipe as a page's row, see `strength_of`."""
    row: dict[str, object] = {"name": style.name, "weight": style.weight}
    row |= {"text": style.text} if style.text is not None else {}
    row |= {"blocks": dict(style.blocks)} if style.blocks else {}
    return row | ({"start": style.start, "end": style.end} if (style.start, style.end) != (0.0, 1.0) else {})
