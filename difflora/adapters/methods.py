"""Other ways to put styles together than adding them up, by their names, and how far from the sum they lead.

A method is a pure function of the styles' updates of one module, their weights, and knobs. Fewer numbers, or numbers at
other places, mean that the blend is not what the weights say: each result tells its distance from the plain sum.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..config import demand
from ..errors import RequestError
from ..events import Report, ignore
from ..strength import Strength
from .adapter import Adapter, Factors, Update
from .aligned import knots
from .compress import check_cut, compress
from .dense import dare, magnitude, ties
from .gram import gram
from .knobs import DEFAULT, HELP, Knobs, turn
from .lowrank import nearest
from .norms import squared_gap
from .orthogonal import orthogonal
from .sums import Lazy, parts_of, summed, told

Method = Callable[[Sequence[Factors], Sequence[float], Knobs], Update]


def plain_sum(parts: Sequence[Factors], weights: Sequence[float], knobs: Knobs) -> Factors:
    """The exact weighted sum."""
    return summed(parts, weights)


def switch(parts: Sequence[Factors], weights: Sequence[float], knobs: Knobs) -> Factors:
    """The update of the style whose turn it is, at its weight; the parts are those of every style, in their order."""
    now = turn(knobs.share, knobs.turns, len(parts))
    return summed(parts[now : now + 1], weights[now : now + 1])


METHODS: Mapping[str, Method] = {
    "sum": plain_sum,
    "ties": ties,
    "dare": dare,
    "magnitude": magnitude,
    "knots": knots,
    "orthogonal": orthogonal,
    "switch": switch,
}


@dataclass(frozen=True)
class Blended:
    """Styles put together, and what that costs: all of it relative, in the Frobenius norm over all modules."""

    adapter: Adapter
    distance: float
    """Of what the method makes from the plain sum, before anything is cut; infinite where the sum is nothing."""
    error: float
    """Of the adapter against what the method makes: what cutting its rank costs."""
    worst: tuple[str, float]
    """The module with the largest error of its own, and that."""


@dataclass
class _Tally:
    """Squares that add up to a relative error."""

    gap: float = 0.0
    whole: float = 0.0
    worst: tuple[str, float] = ("", 0.0)

    def add(self, path: str, gap: float, whole: float) -> None:
        self.gap, self.whole = self.gap + gap, self.whole + whole
        self.worst = max(self.worst, (path, math.sqrt(gap / whole) if whole else 0.0), key=lambda pair: pair[1])

    @property
    def error(self) -> float:
        return math.sqrt(self.gap / self.whole) if self.whole else math.inf if self.gap else 0.0


def blend_by(
    adapters: Sequence[Adapter],
    weights: Sequence[float | Strength],
    method: str = "sum",
    knobs: Knobs = DEFAULT,
    *,
    rank: int | None = None,
    max_error: float | None = None,
    whole: bool = False,
    report: Report = ignore,
) -> Blended:
    """One adapter of several by a method, cut to a rank.

    weights: of each, -10 to 10, or by block; a style whose weight is 0 at a module is not there. rank: the largest of
    any module; max_error: or the relative error that cutting may cost, 0 to 1. ties, dare and magnitude make dense
    updates: they are cut to the rank of all styles together unless told, each module to max_error by itself, or kept
    as they are with `whole`. Raises RequestError for a value out of range and for switch, which is no single update,
    AdapterFileError for an update that is no plain LoRA.
    """
    _check_method(method)
    parts = parts_of(adapters, weights)
    told_to_cut = rank is not None or max_error is not None
    demand(not (whole and told_to_cut), "a rank or a largest error for whole updates", "one or the other")
    if told_to_cut:
        check_cut((one.shape for one in parts.values()), rank, max_error)
    info = adapters[0].info
    if method == "sum":
        return _cut(Adapter(Lazy(parts), info), 0.0, rank, max_error, report)
    layers, away, missed = {}, _Tally(), _Tally()
    for path in told(list(parts), "blending", report):
        one = parts[path]
        made = METHODS[method](one.factors, one.weights, replace(knobs, path=path))
        away.add(path, *squared_gap(made, one.sum()))
        if not isinstance(made, Factors) and not whole:
            lower = nearest(made.delta(), rank if told_to_cut else one.rank, max_error)
            missed.add(path, *squared_gap(lower, made))
            made = lower
        layers[path] = made
    if missed.whole:
        return Blended(Adapter(layers, info), away.error, missed.error, missed.worst)
    return _cut(Adapter(layers, info), away.error, rank, max_error, report)


def switch_distance(adapters: Sequence[Adapter], weights: Sequence[float | Strength]) -> float:
    """How far the styles, each in its turn, are from their sum: root mean square over a cycle, relative to the sum.

    From inner products only. A style that is 0 everywhere has no turn; infinite where the sum is nothing.
    """
    table = gram(adapters, weights)
    whole, alone = float(table.sum()), table.diagonal()
    gaps = (whole - 2 * table.sum(dim=1) + alone)[alone > 0].clamp_min(0)
    if not whole > 0:
        return math.inf if len(gaps) else 0.0
    return math.sqrt(float(gaps.mean()) / whole)


def _cut(adapter: Adapter, distance: float, rank: int | None, max_error: float | None, report: Report) -> Blended:
    """A blend of plain factors as it is, or compressed."""
    if rank is None and max_error is None:
        return Blended(replace(adapter, layers=dict(adapter.layers)), distance, 0.0, ("", 0.0))
    found = compress(adapter, rank=rank, max_error=max_error, report=report)
    return Blended(found.adapter, distance, found.error, found.worst)


def _check_method(method: str) -> None:
    """RequestError for one that is not known, or that makes no file."""
    if method not in METHODS:
        near = difflib.get_close_matches(method, HELP, 1) or [", ".join(HELP)]
        raise RequestError(f"no method {method!r}: expected {near[0]}")
    if method == "switch":
        raise RequestError(
            "switch is one style after the other, which no file can hold: expected another method; draw with --switch"
        )
