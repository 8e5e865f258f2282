"""Sums of updates, module by module, each made when it is asked for: a whole sum is as large as all of its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import RequestError
from ..events import Progress, Report
from ..strength import Strength, weight_at
from .adapter import Adapter, Factors
from .blend import blend, plain_layers

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Parts:
    """What is added up at one module: the updates of the styles that touch it, in their order, and their weights."""

    factors: tuple[Factors, ...]
    weights: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that they update."""
        return self.factors[0].shape

    @property
    def rank(self) -> int:
        """Of all of them together."""
        return sum(part.rank for part in self.factors)

    def sum(self) -> Factors:
        """Their exact sum."""
        return summed(self.factors, self.weights)


@dataclass(frozen=True, eq=False)
class Lazy(Mapping[str, Factors]):
    """Updates by path, each made anew whenever it is asked for."""

    parts: Mapping[str, Parts]
    make: Callable[[Parts], Factors] = Parts.sum

    def __getitem__(self, path: str) -> Factors:
        return self.make(self.parts[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def summed(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """sum_i weight_i · update_i of one module, exactly, by concatenating factors; ranks add up."""
    return blend([Adapter({"": part}) for part in parts], weights).layers[""]


def parts_of(adapters: Sequence[Adapter], weights: Sequence[float | Strength]) -> dict[str, Parts]:
    """What each module's sum is made of; a style whose weight is 0 at a module is not there.

    Raises AdapterFileError for an update that is no plain LoRA, RequestError when every weight is 0 everywhere.
    """
    found: dict[str, list[tuple[Factors, float]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for path, factors in plain_layers(adapter).items():
            if here := weight_at(weight, path):
                found.setdefault(path, []).append((factors, here))
    if not found:
        raise RequestError("every weight is 0, nothing is left to blend: expected a weight that is not; raise one")
    return {path: Parts(*zip(*pairs, strict=True)) for path, pairs in found.items()}


def told(items: Sequence[Item], what: str, report: Report) -> Iterator[Item]:
    """The items one by one; how many are done, and how long the rest will take, goes to `report`."""
    began = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        report(Progress(what, done, len(items), (time.monotonic() - began) / done * (len(items) - done)))
