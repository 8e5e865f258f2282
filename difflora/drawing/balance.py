"""What the budget makes of weights, with what was measured of styles kept at hand. Knows no recipes."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..adapters.adapter import Adapter
from ..adapters.budget import gains
from ..adapters.gram import module_grams
from ..config import Budget
from ..models.family import BaseModel
from ..strength import Strength
from .effect import effects

KEPT = 16
"""So many sets of styles are remembered: a slider asks for one set again and again."""


class Measured:
    """What is known of a set of adapters, as long as they are there."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self.adapters = [weakref.ref(adapter) for adapter in adapters]
        self.grams: Mapping[str, Tensor] = module_grams(adapters)
        self.effects: Tensor | None = None

    def of(self, adapters: Sequence[Adapter]) -> bool:
        """Whether it is these, in this order."""
        known = [ref() for ref in self.adapters]
        return len(known) == len(adapters) and all(a is b for a, b in zip(known, adapters, strict=True))


class Balance:
    """The gains of blends on one base, which nothing else may use meanwhile."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self._measured: deque[Measured] = deque(maxlen=KEPT)

    def gains(self, adapters: Sequence[Adapter], strengths: Sequence[Strength], budget: Budget) -> list[float]:
        """What all weights of each style are multiplied with, see `adapters.budget.gains`."""
        if budget == "sum" or len(adapters) < 2:
            return [1.0] * len(adapters)
        known = next((known for known in self._measured if known.of(adapters)), None)
        if known is None:
            known = Measured(adapters)
            self._measured.append(known)
        if budget == "matched" and known.effects is None:
            known.effects = effects(self.model, adapters)
        return gains(strengths, known.grams, budget, known.effects)
