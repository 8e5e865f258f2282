"""Blind picks: two blends a round, the better one is chosen, and the weights move there. Knows no pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

LIMIT = 2.0
# The step lost in as many rounds as there are styles; measured with the simulated artist of tests/test_duel.py.
SHRINK = 0.65
LEAST = 0.02


@dataclass(frozen=True)
class Duel:
    """A search for the blend a person likes best, one weight a style: the same fields, the same two blends."""

    weights: tuple[float, ...]
    spread: float = 0.5
    """How far each of the two blends lies from `weights`."""
    round: int = 0
    seed: int = 0

    def pair(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Two blends on opposite sides of `weights`, each weight from -2 to 2, or no farther out than it is."""
        way = direction(len(self.weights), self.round, self.seed)
        return self._towards(way, -self.spread), self._towards(way, self.spread)

    def chosen(self, which: int | None) -> Duel:
        """The next round after the first (0) or second (1) blend was the better one, or neither (None)."""
        weights = self.weights if which is None else self.pair()[which]
        spread = max(LEAST, self.spread * SHRINK ** (1 / max(1, len(weights))))
        return replace(self, weights=weights, spread=spread, round=self.round + 1)

    def _towards(self, way: tuple[float, ...], far: float) -> tuple[float, ...]:
        moved = []
        for weight, part in zip(self.weights, way, strict=True):
            limit = max(LIMIT, abs(weight))
            moved.append(round(min(limit, max(-limit, weight + far * part)), 4))
        return tuple(moved)


def direction(count: int, round: int, seed: int) -> tuple[float, ...]:
    """A way of length 1 to go in this round; `count` rounds in a row cover every direction there is.

    First each style alone, then styles against each other and all together, by turns, in an order given by the seed.
    """
    turn, place = divmod(round, max(1, count))
    rng = Random(f"{seed} {turn}")
    order = rng.sample(range(count), count)
    signs = [rng.choice((-1.0, 1.0)) for _ in range(count)]
    if turn % 2 == 0:
        steps = [1.0 if i == place else 0.0 for i in range(count)]
    elif place < count - 1:
        # Helmert's basis: the first `place + 1` against the next, each at a right angle to the others.
        steps = [1.0] * (place + 1) + [-(place + 1.0)] + [0.0] * (count - place - 2)
    else:
        steps = [1.0] * count
    length = math.hypot(*steps)
    return tuple(steps[order[i]] * signs[place] / length for i in range(count))
