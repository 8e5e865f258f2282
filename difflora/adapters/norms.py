"""How strongly a style acts on each part of the network."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .adapter import Factors, Update
from .updates import Decomposed, small

# Where a path begins -> its name, in the order the network runs.
BLOCKS = {
    "text_encoder": "text encoder",
    "text_encoder_2": "text encoder 2",
    "unet.time_embedding": "time",
    "unet.add_embedding": "time",
    "unet.conv_in": "entry",
    "unet.down_blocks": "down",
    "unet.mid_block": "middle",
    "unet.up_blocks": "up",
    "unet.conv_out": "exit",
}
PLACE = re.compile("(" + "|".join(sorted(map(re.escape, BLOCKS), key=len, reverse=True)) + r")\.?(\d+)?(?:\.|$)")


def by_block(squares: Mapping[str, float]) -> dict[str, float]:
    """The Frobenius norm of the update in each block that has one, by a painter's name, in the network's order.

    squares: `squared_norm` of each module by path. Names: "text encoder", "down 1", …, "middle", "up 1", …; a module
    that no block holds stands under the first part of its path, at the end.
    """
    sums: dict[tuple[int, int, str], float] = {}
    for path, square in squares.items():
        place = _place(path)
        sums[place] = sums.get(place, 0.0) + square
    return {name: square**0.5 for (_, _, name), square in sorted(sums.items())}


def squared_norm(update: Update) -> float:
    """||update||²; from two rank x rank products where those are smaller than the update, which is never formed then.

    DoRA's depends on the weight that it is added to: that of its inner update stands for it.
    """
    plain = update.inner if isinstance(update, Decomposed) else update
    factors = plain.factors()
    if factors is None or not small(factors.rank, factors.shape):
        return _sum_of_squares(plain.delta())
    return _squared(*(half.flatten(1) for half in factors.halves()))


def squared_gap(found: Update, wanted: Update, weight: Tensor | None = None) -> tuple[float, float]:
    """(||found - wanted||², ||wanted||²), in double precision; neither is formed where both have few factors.

    weight: what DoRA is added to.
    """
    plain = isinstance(found, Factors) and isinstance(wanted, Factors)
    if plain and small(found.rank + wanted.rank, wanted.shape):
        pairs = [[half.flatten(1).double() for half in factors.halves()] for factors in (found, wanted)]
        down = torch.cat([down for down, _ in pairs])
        up = torch.cat([pairs[0][1], -pairs[1][1]], dim=1)
        return _squared(down, up), _squared(*pairs[1])
    target = wanted.delta(weight)
    return _sum_of_squares(found.delta(weight) - target), _sum_of_squares(target)


def _sum_of_squares(dense: Tensor) -> float:
    """In double precision, a piece at a time: a copy of a large update would be twice its size."""
    return sum(float(piece.double().square().sum()) for piece in dense.flatten().split(2**20))


def _squared(down: Tensor, up: Tensor) -> float:
    """||up @ down||²; NaN stays NaN."""
    square = float(((up.T @ up).double() * (down @ down.T)).sum())
    return square if square > 0 or square != square else 0.0


def _place(path: str) -> tuple[int, int, str]:
    """(stage, number in it, name)."""
    found = PLACE.match(path)
    if found is None:
        return len(BLOCKS), 0, path.partition(".")[0]
    start, number = found[1], int(found[2] or 0)
    name = BLOCKS[start]
    numbered = f"{name} {number + 1}" if name in ("down", "up") else name
    return list(BLOCKS.values()).index(name), number if numbered != name else 0, numbered
