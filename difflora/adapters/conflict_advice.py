"""What would lower the conflict of a blend: every change is tried out, and says what it gains and what it costs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import AdapterFileError
from ..strength import Strength
from .adapter import Adapter
from .budget import gains
from .conflict_words import Finding, Part, percent
from .gram import Weights
from .header import shown
from .orthogonal import orthogonalised
from .overlap import Mask, Overlaps, overlaps

Place = tuple[Finding, Mask, Sequence[int]]
WORTH, GOOD = 0.1, 0.25
"""Shares of the conflict in its part that a change must take away, and that end the search for a stronger one."""
SLIGHT = 0.05
"""And of all of it."""
TIE = 1e-6
MOST = 2
"""Changes on top of each other."""
FACTORS = (0.6, 0.3)
AMOUNTS = (0.5, 1.0)
ADD_UP = 1.1
"""From how many times the strength of styles that leave each other alone on a blend is called too strong."""


@dataclass(frozen=True)
class Suggestion:
    """A change of the command, and what was measured with it."""

    flags: str
    """As they are typed after `difflora generate "…"`."""
    measure: Literal["conflict", "strength"]
    """conflict: 0 to 1, see `Overlaps.conflict`; strength: of the blend, in times its strongest style."""
    before: float
    after: float
    kept: tuple[tuple[str, float], ...]
    """How much of its strength each style keeps that does not keep all of it, there where it gives way."""

    @property
    def sentence(self) -> str:
        """What it does and what it costs."""
        if self.measure == "strength":
            return (
                f"together they are {self.before:.2f} times as strong as the strongest of them, "
                f"with this {self.after:.2f} times"
            )
        costs = "".join(f"; {name} keeps {percent(share)} of its strength" for name, share in self.kept)
        return f"the conflict falls from {percent(self.before)} to {percent(self.after)}{costs}"

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return {
            "flags": self.flags, "measure": self.measure, "before": self.before, "after": self.after,
            "kept": dict(self.kept), "sentence": self.sentence,
        }  # fmt: skip


def advice(
    adapters: Sequence[Adapter],
    weights: Weights,
    found: Overlaps,
    findings: Sequence[Place],
    names: Sequence[str],
    typed: Sequence[str],
) -> Iterator[Suggestion]:
    """A style made weaker where two clash, then a second such change on top, styles kept apart, a budget: what helps.

    findings: of all pairs, each with its modules, (m,), and with which two of the styles it is about.
    """
    own = tuple(weight if isinstance(weight, Strength) else Strength(float(weight)) for weight in weights)
    table = found.table(own)
    clashes = [place for place in findings if place[0].clash]
    if clashes:
        yield from _weaker(own, found, clashes, names, typed)
        yield from _apart(adapters, own, found, names, typed)
    yield from _budget(own, table, found, typed)


def _weaker(
    own: tuple[Strength, ...],
    found: Overlaps,
    clashes: Sequence[Place],
    names: Sequence[str],
    typed: Sequence[str],
) -> Iterator[Suggestion]:
    """One of two styles weaker in the part where they clash most, and then the same again elsewhere."""
    before, changed, costs = found.conflict(found.table(own)), own, ()
    touched = torch.zeros(len(found.paths), dtype=torch.bool)
    for clash, where, pair in sorted(clashes, key=lambda place: -place[0].weight):
        two = sorted(pair, key=lambda i: names[i])
        if bool((where & touched).any()) or (best := _yielding(changed, found, clash.part, where, two)) is None:
            continue
        i, factor, changed = best
        touched |= where
        costs = (*costs, (f"{names[i]} in {clash.part.name}", factor))
        yield Suggestion(_flags(typed, changed), "conflict", before, found.conflict(found.table(changed)), costs)
        if len(costs) == MOST:
            return


def _yielding(
    start: tuple[Strength, ...], found: Overlaps, part: Part, where: Mask, two: Sequence[int]
) -> tuple[int, float, tuple[Strength, ...]] | None:
    """Which of two styles gives way in a part, by what factor, and all weights then; the mildest change that is good.

    None where no change is worth it, here and on the whole, or none can be typed: a style that has several weights in
    the part stays as it is.
    """
    table = found.table(start)
    here, whole = found.conflict(table, where), found.conflict(table)
    best, most = None, WORTH
    for factor in FACTORS if part.flag else ():
        for i in two:
            there = table[where][:, i]
            if bool((there != there[0]).any()):
                continue
            # Two digits are enough to type.
            weight = round(float(there[0]) * factor, 2)
            blocks = (*((name, w) for name, w in start[i].blocks if name != part.flag), (part.flag, weight))
            tried = (*start[:i], replace(start[i], blocks=blocks), *start[i + 1 :])
            new = found.table(tried)
            fall = 1 - found.conflict(new, where) / here if here else 0.0
            if fall > most + TIE and found.conflict(new) <= (1 - SLIGHT) * whole:
                best, most = (i, factor, tried), fall
        if most >= GOOD:
            break
    return best


def _apart(
    adapters: Sequence[Adapter],
    own: tuple[Strength, ...],
    found: Overlaps,
    names: Sequence[str],
    typed: Sequence[str],
) -> Iterator[Suggestion]:
    """The weaker ones out of the way of the stronger ones, as little as helps."""
    before, norms = found.conflict(found.table(own)), (found.norms() * found.table(own)).norm(dim=0)
    order = sorted(range(len(own)), key=lambda i: (-float(norms[i]), names[i]))
    sorted_own = [own[i] for i in order]
    for amount in AMOUNTS:
        try:
            turned = overlaps(orthogonalised([adapters[i] for i in order], amount, sorted_own))
        except AdapterFileError:
            # What is no plain LoRA cannot be turned.
            return
        table = turned.table(sorted_own)
        after = turned.conflict(table)
        if after <= (1 - WORTH) * before:
            left = (turned.norms() * table).norm(dim=0) / norms[order].clamp_min(1e-300)
            kept = [
                (names[i], share) for i, share in zip(order, left.tolist(), strict=True) if norms[i] and share < 0.9995
            ]
            flags = f"{_flags([typed[i] for i in order], sorted_own)} --orthogonal {amount:g}"
            yield Suggestion(flags, "conflict", before, after, tuple(kept))
            return


def _budget(own: tuple[Strength, ...], table: Tensor, found: Overlaps, typed: Sequence[str]) -> Iterator[Suggestion]:
    """As strong as one, for styles that add up."""
    norms = (found.norms() * table).norm(dim=0)
    total = torch.einsum("mi,mij,mj->", table, found.inner, table).clamp_min(0).sqrt()
    if not float(total) > ADD_UP * float(norms.norm()):
        return
    gain = gains(own, dict(zip(found.paths, found.inner, strict=True)), "normalised")[0]
    before = float(total / norms.max())
    if gain < 1:
        yield Suggestion(f"{_flags(typed, own)} --budget normalised", "strength", before, before * gain, ())


def _flags(typed: Sequence[str], weights: Sequence[Strength]) -> str:
    words = (shlex.quote(f"{name}:{weight}") for name, weight in zip(typed, weights, strict=True))
    return shown(" ".join(f"--lora {word}" for word in words), 2000)
