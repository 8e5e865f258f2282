"""How strong several styles are together: what all weights of each are multiplied with. Knows no network.

Weights that add up to at most 1 are shares of one style; above that a blend is as strong as one style, or as the
strongest weight if that is above 1. How strong a sum is, is its Frobenius norm, from inner products of the styles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..config import Budget
from ..strength import Strength, weight_at

FURTHEST = 4.0
"""A style is made at most so many times stronger or weaker than it came: beyond, what was measured is no style."""


def gains(
    strengths: Sequence[float | Strength], grams: Mapping[str, Tensor], kind: Budget, effects: Tensor | None = None
) -> list[float]:
    """One factor a style, above 0.

    grams: (n, n) inner products of the updates of each module at weight 1, by path (`gram.module_grams`). effects:
    (n, n) those of what the styles do to the network's answer, for "matched".

    sum: 1. normalised: c = (norm the budget allows) / max(norm of the sum, norm if no two had anything in common).
    The budget allows v times the styles' mean norm by weight, v being sum |w_i| up to 1, beyond it max(1, max |w_i|).
    This is counted where and when styles meet, so that one keeps its weight in what it changes alone; styles that
    cancel each other are not blown up. matched: weights times mean effect / own effect first, then the same, each
    style's effect taken to be spread over the modules as its norm is. ValueError for "matched" without effects.
    """
    paths = list(grams)
    weights = torch.tensor([[weight_at(s, path) for s in strengths] for path in paths], dtype=torch.float64)
    tables = torch.stack([grams[path].double() for path in paths]) if paths else torch.zeros(0)
    if kind == "sum" or not paths or _alone(weights, tables):
        return [1.0] * len(strengths)
    factors = torch.ones(len(strengths), dtype=torch.float64)
    if kind == "matched":
        if effects is None:
            raise ValueError("matched: expected the effects of the styles")
        factors = _matching(weights, tables, effects.double())
        tables = _by_effect(tables, effects.double())
    c = _common(strengths, paths, weights * factors, tables)
    return (c * factors).tolist()


def _alone(weights: Tensor, tables: Tensor) -> bool:
    """Whether no more than one style acts anywhere."""
    return int((_squares(tables) * weights.square()).sum(0).count_nonzero()) < 2


def _squares(tables: Tensor) -> Tensor:
    """(…, n) squared norms."""
    return tables.diagonal(dim1=-2, dim2=-1).clamp_min(0)


def _matching(weights: Tensor, tables: Tensor, effects: Tensor) -> Tensor:
    """(n,) mean effect / own effect, the mean by how much of each style acts."""
    squares, own = _squares(tables), _squares(effects).sqrt()
    amount = ((squares * weights.square()).sum(0) / squares.sum(0).clamp_min(1e-300)).sqrt()
    acts = own > 0
    mean = (amount * own)[acts].sum() / amount[acts].sum().clamp_min(1e-300)
    return torch.where(acts & (mean > 0), (mean / own).clamp(1 / FURTHEST, FURTHEST), 1.0)


def _by_effect(tables: Tensor, effects: Tensor) -> Tensor:
    """(modules, n, n): effects in place of norms, and the effects' angles in place of the updates'."""
    squares = _squares(tables)
    share = (squares / squares.sum(0).clamp_min(1e-300)).sqrt()
    return effects * share[:, :, None] * share[:, None, :]


def _common(strengths: Sequence[float | Strength], paths: Sequence[str], weights: Tensor, tables: Tensor) -> float:
    """What the budget allows / what there is, over modules and over stretches of the drawing in which the same act."""
    words = torch.tensor([path.startswith("text_encoder") for path in paths])[:, None]
    windows = [(s.start, s.end) if isinstance(s, Strength) else (0.0, 1.0) for s in strengths]
    edges = sorted({edge for window in windows for edge in window} | {0.0, 1.0})
    allowed = plain = apart = 0.0
    for start, end in pairwise(edges):
        acts = torch.tensor([a <= start < b for a, b in windows])
        # The text is read once, by all.
        w = torch.where(words | acts, weights, 0.0)
        found = _square_sums(w, tables)
        allowed, plain, apart = (
            total + (end - start) * x for total, x in zip((allowed, plain, apart), found, strict=True)
        )
    there = max(plain, apart)
    return (allowed / there) ** 0.5 if there > 0 else 1.0


def _square_sums(w: Tensor, tables: Tensor) -> tuple[float, float, float]:
    """(what the budget allows, ||sum||², ||sum||² if all were orthogonal) of weights (modules, n), over the modules."""
    squares, sizes = _squares(tables), w.abs()
    total = sizes.sum(1)
    volume = torch.where(total <= 1, total, sizes.amax(1).clamp_min(1.0))
    mean = (sizes * squares.sqrt()).sum(1) / total.clamp_min(1e-300)
    plain = torch.einsum("mi,mij,mj->", w, tables, w)
    return float((volume * mean).square().sum()), float(plain), float((w.square() * squares).sum())
