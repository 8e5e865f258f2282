"""Everything one studio holds: the open base, the queue of drawings, the queue of trainings, the folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from difflora.adapters.cards import Card, card, cards
from difflora.adapters.families import Match
from difflora.adapters.files import adapter_named, content_sha256
from difflora.adapters.header import shown
from difflora.config import WEIGHT_LIMIT, UiConfig
from difflora.drawing.batcher import Batcher
from difflora.drawing.recipe import Style
from difflora.errors import AdapterFileError, RequestError
from difflora.models.family import BaseModel, open_model
from difflora.training.queue import RunQueue
from difflora.training.watch import Watch
from difflora.turns import Turns

from .doctor import Doctor
from .pending import Pending

ARTIST = "artist"
MOST_STYLES = 8
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
        self.model = model or open_model(config.base)
        self.shapes = self.model.shapes()
        self.doctor = Doctor(Match(self.model.family, self.shapes))
        self.pending = Pending()
        self.batcher = Batcher(self.model, turn=Turns(config.runs / ".turns"))
        self.queue = RunQueue(config.runs)
        self.runs = Watch(config.runs)
        self.user: Callable[[object], str] = lambda request: ARTIST
        """Who asks, by the web request; the server sets it where people sign in."""
        self.drawings: dict[str, Drawing] = {}
        self.datasets: dict[str, Path] = {}
        """Picture folders that were opened, by an unguessable key: pages never name paths."""

    @property
    def quick(self) -> bool:
        """Whether a draft is drawn while one waits, so that pages draw while a slider moves unless told not to."""
        return self.model.device.type != "cpu" or self.model.side <= 128

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

    def style(self, name: str, weight: float) -> Style:
        """A style as recipes name it; raises DiffloraError."""
        path = self.file(name)
        return Style(path.stem, weight, str(path), content_sha256(path))

    def styles(self, mix: Mix) -> list[Style]:
        """The styles of a page's mix; raises RequestError for one that is no list of names and weights."""
        rows = list(mix or [])
        names = [str(row.get("name", "")) for row in rows if isinstance(row, Mapping)]
        if len(names) < len(rows) or len(set(names)) < len(names) or len(rows) > MOST_STYLES:
            raise RequestError(f"{len(rows)} styles: expected at most {MOST_STYLES}, each once, with a name and weight")
        return [self.style(name, weight_of(row)) for name, row in zip(names, rows, strict=True)]

    def close(self) -> None:
        """End what is being drawn; a training is paused and goes on when the studio is opened again."""
        self.batcher.close()
        self.queue.close()
        self.pending.close()


def weight_of(row: Mapping[str, object]) -> float:
    """A weight from a page; RequestError unless it is a number from -10 to 10."""
    try:
        weight = float(row.get("weight", 1.0))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        weight = float("nan")
    if not abs(weight) <= WEIGHT_LIMIT:
        raise RequestError(f"weight {str(row.get('weight'))[:20]!r}: expected a number from -10 to 10")
    return round(weight, 4)
