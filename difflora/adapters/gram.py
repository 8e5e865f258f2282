"""Inner products of whole updates, from products as small as their ranks. Knows no file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..strength import Strength, weight_at
from .adapter import Adapter, Factors, Update
from .norms import by_block
from .updates import Decomposed

Weights = Sequence[float | Strength]
PIECE = 2**20
"""Numbers of a dense update that are held in double precision at once."""


def inner(a: Update, b: Update) -> float:
    """<a, b> of two updates of one module, in double precision; the square of the Frobenius norm when both are one.

    Plain factors give s_a s_b · sum((B_aᵀ B_b) * (A_a A_bᵀ)), rank x rank products; an update that has none is made
    dense. DoRA depends on the weight that it is added to: its inner update stands for it, as in `squared_norm`.
    """
    return float(module_gram([a, b])[0, 1])


def module_gram(updates: Sequence[Update]) -> Tensor:
    """(n, n), float64: the inner products of the updates of one module, whose shapes are the same."""
    plain = [update.inner if isinstance(update, Decomposed) else update for update in updates]
    found = [update.factors() for update in plain]
    thin = [i for i, factors in enumerate(found) if factors is not None]
    table = torch.zeros(len(plain), len(plain), dtype=torch.float64)
    if thin:
        table[torch.tensor(thin)[:, None], torch.tensor(thin)] = _of_factors([found[i] for i in thin])
    for i, update in enumerate(plain):
        if found[i] is None:
            dense = update.delta().flatten(1)
            for j in range(len(plain)):
                if found[j] is not None or j >= i:
                    other = dense if j == i else plain[j] if found[j] is None else found[j]
                    table[i, j] = table[j, i] = _with_dense(dense, other)
    return table


def module_grams(adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """`module_gram` by path, for every module that any of them changes; rows of those that leave it alone are zero.

    Weighting is cheap afterwards (`weighed`), so that many weights can be tried on one reading of the factors.
    """
    grams = {}
    for path in dict.fromkeys(path for adapter in adapters for path in adapter.layers):
        who = torch.tensor([i for i, adapter in enumerate(adapters) if path in adapter.layers])
        table = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
        table[who[:, None], who] = module_gram([adapters[i].layers[path] for i in who])
        grams[path] = table
    return grams


def weighed(grams: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """The same of updates times their weights, -10 to 10 each, at each module as `weight_at` has it."""
    rows = {path: torch.tensor([weight_at(w, path) for w in weights], dtype=torch.float64) for path in grams}
    return {path: table * rows[path][:, None] * rows[path] for path, table in grams.items()}


def by_part(grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their sums over the modules of each part of the network, named and in order as by `by_block`."""
    sums = dict.fromkeys(by_block(dict.fromkeys(grams, 0.0)), 0.0)
    for path, table in grams.items():
        sums[part_of(path)] = sums[part_of(path)] + table
    return sums


def gram(adapters: Sequence[Adapter], weights: Weights | None = None) -> Tensor:
    """(n, n), float64: the inner products of whole adapters, times their weights where these are given.

    Its diagonal holds squared Frobenius norms; w @ gram @ w is the squared norm of the blend with weights w.
    """
    empty = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    return sum(_grams(adapters, weights).values(), empty)


def grams_by_part(adapters: Sequence[Adapter], weights: Weights | None = None) -> dict[str, Tensor]:
    """The same for each part of the network that any of them changes: "text encoder", "down 1", …, "up 1", …"""
    return by_part(_grams(adapters, weights))


def part_of(path: str) -> str:
    """The part of the network that a module is in, by a painter's name."""
    return next(iter(by_block({path: 0.0})))


def _grams(adapters: Sequence[Adapter], weights: Weights | None) -> dict[str, Tensor]:
    grams = module_grams(adapters)
    return grams if weights is None else weighed(grams, weights)


def products(halves: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(Upᵀ Up, Down Downᵀ) in float64 of all (down, up) of one module under each other, (sum of ranks)² each."""
    down = torch.cat([down.flatten(1) for down, _ in halves]).double()
    up = torch.cat([up.flatten(1) for _, up in halves], dim=1).double()
    return up.T @ up, down @ down.T


def _of_factors(factors: Sequence[Factors]) -> Tensor:
    ups, downs = products([f.halves() for f in factors])
    mine = torch.eye(len(factors), dtype=torch.float64)
    owner = mine.repeat_interleave(torch.tensor([f.rank for f in factors]), 0)
    return owner.T @ (ups * downs) @ owner


def _with_dense(dense: Tensor, other: Update | Tensor) -> float:
    """<dense, other>, dense being (out, rest) in float32; a piece of rows at a time, factors never multiplied out."""
    rows = max(1, PIECE // max(1, math.prod(dense.shape[1:])))
    if isinstance(other, Factors):
        down, up = (half.flatten(1).double() for half in other.halves())
        pieces = zip(dense.split(rows), up.split(rows), strict=True)
        return sum(float(((piece.double() @ down.T) * side).sum()) for piece, side in pieces)
    other = other if isinstance(other, Tensor) else other.delta().flatten(1)
    return sum(
        float((a.double() * b.double()).sum()) for a, b in zip(dense.split(rows), other.split(rows), strict=True)
    )
