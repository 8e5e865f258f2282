"""One open base, with all that is of no use on another one."""

from __future__ import annotations

import secrets
import weakref
from collections import OrderedDict

from difflora.adapters.families import Match
from difflora.config_ui import UiConfig
from difflora.drawing.balance import Balance
from difflora.drawing.batcher import Batcher
from difflora.drawing.prospect import Prospects
from difflora.models.family import BaseModel
from difflora.turns import Turns

from .doctor import Doctor

MOST_FORESEEN = 4
QUICK_SIDE = 128


class Foreseen:
    """What the last few blends and styles may become, so that a page may ask for another rank at once."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple, Prospects] = OrderedDict()

    def get(self, key: tuple) -> Prospects | None:
        """What is known."""
        return self.kept.get(key)

    def keep(self, key: tuple, found: Prospects) -> Prospects:
        """Know it from now on; the oldest goes."""
        self.kept[key] = found
        while len(self.kept) > MOST_FORESEEN:
            self.kept.popitem(last=False)
        return found


class Opened:
    """A base and what draws, weighs and judges with it; nothing else holds on to the model."""

    def __init__(self, config: UiConfig, model: BaseModel) -> None:
        self.mark = secrets.token_hex(4)
        """Tells pages that another base is open, or the same one anew."""
        self.model = model
        self.shapes = model.shapes()
        self.doctor = Doctor(Match(model.family, self.shapes))
        self.foreseen = Foreseen()
        self.batcher = Batcher(model, turn=Turns(config.runs / ".turns"))
        self.balance = Balance(model)

    @property
    def quick(self) -> bool:
        """Whether a draft is drawn while one waits, so that pages draw while a slider moves unless told not to."""
        return self.model.device.type != "cpu" or self.model.side <= QUICK_SIDE

    def watched(self) -> list[weakref.ref]:
        """References that die when the model leaves the memory, the model itself first."""
        return [weakref.ref(part) for part in (self.model, *self.model.parts.values(), self.model.vae)]
