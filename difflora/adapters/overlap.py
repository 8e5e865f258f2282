"""How the updates of several styles lie to each other, module by module, against chance. Knows no words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..strength import weight_at
from .adapter import Adapter, Update
from .gram import Weights, products
from .updates import Decomposed

Mask = Tensor
CLEAR = 3.0
"""Standard deviations above chance from which on something is no accident."""


@dataclass(frozen=True)
class Share:
    """A share, 0 to 1, beside what styles that know nothing of each other would have, and how far that strays."""

    value: float
    chance: float = 0.0
    spread: float = 0.0
    """Standard deviation under chance."""

    @property
    def clear(self) -> bool:
        """Whether it is more than chance explains."""
        return self.value > self.chance + CLEAR * self.spread

    @property
    def excess(self) -> float:
        """What is above chance."""
        return max(0.0, self.value - self.chance)

    def row(self) -> dict[str, float]:
        """As JSON-ready values."""
        return {"value": self.value, "chance": self.chance, "spread": self.spread}


@dataclass(frozen=True)
class Meeting:
    """Two styles in some modules, all shares in proportion to the product of their norms there."""

    strengths: tuple[float, float]
    """Frobenius norms."""
    agree: Share
    """Inner products of modules where both pull the same way."""
    cancel: Share
    """And of those where they pull against each other."""
    cosine: float
    """-1 to 1: agree less cancel."""
    spread: float
    """The cosine's standard deviation under chance, whose mean is 0."""
    strokes: Share
    """Overlap of the directions that they write, by energy: 1 for the same ones, 0 for none in common."""
    senses: Share
    """Overlap of the directions that they read."""
    collide: Share
    """Of the strokes' overlap what neither pulls the same way nor against: the same strokes for other reasons."""

    @property
    def taken(self) -> tuple[float, float]:
        """How much of what the one adds is taken away by the other, both ways; above 1 it is turned round."""
        a, b = self.strengths
        return (self.cancel.value * b / a if a else 0.0), (self.cancel.value * a / b if b else 0.0)

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        shares = {name: getattr(self, name).row() for name in ("agree", "cancel", "collide", "strokes", "senses")}
        own = {"strengths": list(self.strengths), "cosine": self.cosine, "cosine_spread": self.spread}
        return own | {"taken": list(self.taken)} | shares


@dataclass(frozen=True, eq=False)
class Overlaps:
    """What the factors of n styles say of each other in each of m modules; D_i is the update of style i there."""

    paths: tuple[str, ...]
    sizes: Tensor
    """(m, 2): how many numbers each writes and reads."""
    inner: Tensor
    """(m, n, n): <D_i, D_j>."""
    written: Tensor
    """(m, n, n): ||D_iᵀ D_j||², the inner products of what they write."""
    read: Tensor
    """(m, n, n): ||D_i D_jᵀ||², the inner products of what they read."""

    def table(self, weights: Weights) -> Tensor:
        """(m, n): the weight of each style at each module."""
        rows = [[weight_at(weight, path) for weight in weights] for path in self.paths]
        return torch.tensor(rows, dtype=torch.float64).reshape(len(self.paths), len(weights))

    def norms(self) -> Tensor:
        """(m, n): ||D_i||."""
        return self.inner.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()

    def meeting(self, i: int, j: int, table: Tensor, where: Mask) -> Meeting:
        """Styles i and j at their weights in the modules of a mask, (m,).

        Chance is one of the two turned at random on both sides (Haar), which is what random factors are: then the
        cosine of a module has mean 0 and variance 1 / (outputs · inputs), and the overlap of what is written has the
        mean √(k_i k_j) / outputs, k = tr(C)² / tr(C²) of C = D Dᵀ being how many directions hold the energy.
        """
        a, b = (self.norms()[where][:, s] * table[where][:, s].abs() for s in (i, j))
        sign = table[where][:, i].sign() * table[where][:, j].sign()
        own = _over(a * b, (a.norm() * b.norm()).expand(len(a)))
        cosines = _over(self.inner[where][:, i, j] * sign, self.norms()[where][:, i] * self.norms()[where][:, j])
        cosines = cosines.clamp(-1, 1)
        strokes, senses = (self._alike(where, i, j, side) for side in (0, 1))
        collide = (strokes[0] - cosines.abs()).clamp_min(0)
        sizes = self.sizes[where].prod(1)
        half = own / sizes.sqrt() / math.sqrt(2 * math.pi)
        chance = float(half.sum()), float((own.square() / sizes * (0.5 - 0.5 / math.pi)).sum().sqrt())
        return Meeting(
            strengths=(float(a.norm()), float(b.norm())),
            agree=Share(float((own * cosines.clamp_min(0)).sum()), *chance),
            cancel=Share(float((own * -cosines.clamp_max(0)).sum()), *chance),
            cosine=float((own * cosines).sum()),
            spread=float((own.square() / sizes).sum().sqrt()),
            strokes=_share(own, *strokes),
            senses=_share(own, *senses),
            collide=_share(own, collide, *strokes[1:]),
        )

    def conflict(self, table: Tensor, where: Mask | None = None) -> float:
        """0 to 1: how much of what the styles do is undone by others, or written over by them beyond chance.

        The sum over pairs and modules of -<D_i, D_j> where that is positive and ||D_i|| ||D_j|| times the collision
        beyond chance, in proportion to the mean energy of the pairs: 1 for a style and its negative.
        """
        where = torch.ones(len(self.paths), dtype=torch.bool) if where is None else where
        n, norms = table.shape[1], (self.norms() * table.abs())[where]
        total, energy = 0.0, float(norms.square().sum()) * (n - 1) / 2
        for i in range(n):
            for j in range(i):
                inner = self.inner[where][:, i, j] * table[where][:, i] * table[where][:, j]
                both = norms[:, i] * norms[:, j]
                strokes, chance, _ = self._alike(where, i, j, 0)
                muddled = (strokes - torch.maximum(_over(inner.abs(), both), chance)).clamp_min(0)
                total += float((-inner).clamp_min(0).sum() + (both * muddled).sum())
        return min(1.0, total / energy) if energy else 0.0

    def _alike(self, where: Mask, i: int, j: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """(overlap, its mean under chance, its variance) of what is written (side 0) or read (1), (modules,) each.

        Both are zero where one of them is absent. The variance is that of tr(A R B Rᵀ) for a random rotation R:
        2 ||A₀||² ||B₀||² / ((n - 1)(n + 2)), A₀ being A without its trace.
        """
        table = (self.written, self.read)[side][where]
        own = [table[:, s, s].clamp_min(0) for s in (i, j)]
        squares = [self.inner[where][:, s, s].clamp_min(0) for s in (i, j)]
        count, both = self.sizes[where][:, side], (own[0] * own[1]).sqrt()
        chance = _over(squares[0] * squares[1] / count, both)
        uneven = [(1 - _over(square.square(), count * o)).clamp_min(0) for square, o in zip(squares, own, strict=True)]
        variance = 2 * uneven[0] * uneven[1] / ((count - 1).clamp_min(1) * (count + 2))
        return _over(table[:, i, j], both).clamp(0, 1), chance, variance * (both > 0)


def overlaps(adapters: Sequence[Adapter]) -> Overlaps:
    """All that `Overlaps` holds, from products as small as the ranks; dense only where an update has no factors.

    DoRA depends on the weight that it is added to: its inner update stands for it.
    """
    paths = tuple(dict.fromkeys(path for adapter in adapters for path in adapter.layers))
    n = len(adapters)
    sizes = torch.ones(len(paths), 2, dtype=torch.float64)
    tables = torch.zeros(3, len(paths), n, n, dtype=torch.float64)
    for m, path in enumerate(paths):
        who = [i for i, adapter in enumerate(adapters) if path in adapter.layers]
        shape = adapters[who[0]].layers[path].shape
        sizes[m] = torch.tensor([shape[0], math.prod(shape[1:])])
        place = torch.tensor(who)
        tables[:, m, place[:, None], place] = _of_module([_halves(adapters[i].layers[path]) for i in who])
    return Overlaps(paths, sizes, *tables)


def _of_module(halves: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(3, n, n): <D_i, D_j>, ||D_iᵀ D_j||² and ||D_i D_jᵀ||² of the updates of one module."""
    ups, downs = products(halves)
    ends = torch.tensor([0, *(down.shape[0] for down, _ in halves)]).cumsum(0).tolist()
    spans = [slice(start, end) for start, end in zip(ends, ends[1:], strict=False)]
    table = torch.zeros(3, len(spans), len(spans), dtype=torch.float64)
    for i, a in enumerate(spans):
        for j, b in enumerate(spans[: i + 1]):
            up, down = ups[a, b], downs[a, b]
            written = ((up @ downs[b, b]) * (downs[a, a] @ up)).sum()
            read = ((down @ ups[b, b]) * (ups[a, a] @ down)).sum()
            table[:, i, j] = table[:, j, i] = torch.stack([(up * down).sum(), written, read])
    return table


def _halves(update: Update) -> tuple[Tensor, Tensor]:
    """(down, up) whose product is the update; one of them is the identity where there are no factors."""
    plain = update.inner if isinstance(update, Decomposed) else update
    factors = plain.factors()
    if factors is not None:
        return factors.halves()
    dense = plain.delta().flatten(1)
    out, rest = dense.shape
    return (torch.eye(rest), dense) if rest <= out else (dense, torch.eye(out))


def _share(own: Tensor, values: Tensor, chance: Tensor, variance: Tensor) -> Share:
    """Modules put together, each by its part in the product of norms."""
    return Share(*(float((own * x).sum()) for x in (values, chance)), float((own.square() * variance).sum().sqrt()))


def _over(above: Tensor, below: Tensor) -> Tensor:
    """Zero where there is nothing below."""
    return torch.where(below > 0, above / below.clamp_min(1e-300), 0.0)
