"""What differs between two models and has no place in a LoRA: norms, biases, embeddings, the picture decoder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import AdapterFileError
from .checkpoint import Checkpoint, Part, stored_at, vae_parts
from .header import shown
from .original import Place
from .stream import FLOATS, Table

KINDS = {
    "picture encoder and decoder": ("vae.", "first_stage_model."),
    "moving average": ("model_ema.",),
    "networks beside": ("safety_checker.",),
}
"""What a tensor belongs to, by the beginning of its name."""
ENDINGS = {"embeddings": ("embeddings.", "class_embedding"), "norms": ("norm", ".ln_"), "biases": (".bias",)}
"""The same by a part of it."""


@dataclass(frozen=True)
class Outside:
    """Tensors of one kind that are not the same in both models."""

    kind: str
    count: int
    bytes: int
    change: float | None
    """||tuned - base|| / ||base|| over all of them; None where only one model has them."""

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return {"kind": self.kind, "count": self.count, "bytes": self.bytes, "change": self.change}

    def text(self) -> str:
        """In words."""
        size = f"{self.count} tensors, {self.bytes / 1e6:.2f} MB"
        return f"{self.kind} ({size})" if self.change is None else f"{self.kind} ({size}, changed by {self.change:.2g})"


HALF = 2
"""Bytes of a number in half precision."""
Named = Mapping[str, tuple[Table, Place]]


def outside(base: Checkpoint, tuned: Checkpoint) -> Iterator[Outside]:
    """All that differs beside the layers that both have, kind by kind; the same numbers in other precisions do not."""
    first, second = tensors(base), tensors(tuned)
    groups: dict[str, list[tuple[int, float, float]]] = {}
    for name in first:
        if name in second and (gap := compared(name, first[name], second[name])):
            groups.setdefault(kind_of(name), []).append(gap)
    for kind, rows in groups.items():
        whole = sum(size for _, _, size in rows)
        change = math.sqrt(sum(missed for _, missed, _ in rows) / whole) if whole else math.inf
        yield Outside(kind, len(rows), sum(count for count, _, _ in rows), change)
    for one, other, where in ((first, second, base.path), (second, first, tuned.path)):
        yield from only_in(one, other, where)
    for one, other in ((base, tuned), (tuned, base)):
        if lacking := [math.prod(shape) for path, shape in one.shapes.items() if other.path_of(path) is None]:
            yield Outside(f"not compared, only in {one.path.name}: layers", len(lacking), HALF * sum(lacking), None)


def tensors(checkpoint: Checkpoint) -> dict[str, tuple[Table, Place]]:
    """All that is no layer, by the name that it has in a folder where that is known."""
    parts: list[Part] = [*checkpoint.parts, *vae_parts(checkpoint)]
    found: dict[str, tuple[Table, Place]] = {}
    for part in parts:
        for name, place in part.others.items():
            # Of several copies the most exact one.
            if name not in found or part.table.rows[place.key].size > found[name][0].rows[found[name][1].key].size:
                found[name] = part.table, place
    return found


def only_in(one: Named, other: Named, where: Path) -> Iterator[Outside]:
    """What one model has alone, or under a name that cannot be compared."""
    groups: dict[str, list[int]] = {}
    for name, (table, place) in one.items():
        row = table.rows[place.key]
        # Numbers of positions and the like are made by whoever reads the file.
        if name not in other and row.dtype in FLOATS:
            groups.setdefault(kind_of(name), []).append(row.size)
    for kind, sizes in groups.items():
        yield Outside(f"not compared, only in {where.name}: {kind}", len(sizes), sum(sizes), None)


def compared(name: str, base: tuple[Table, Place], tuned: tuple[Table, Place]) -> tuple[int, float, float] | None:
    """(bytes, ||tuned - base||², ||base||²), or None for the same; AdapterFileError for another shape."""
    if not all(table.rows[place.key].dtype in FLOATS for table, place in (base, tuned)):
        return None
    old, new = stored_at(*base), stored_at(*tuned)
    if old.numel() != new.numel():
        raise AdapterFileError(f"{shown(name)} has other shapes in both models; expected two models of one shape")
    if same_numbers(old, new):
        return None
    missed = whole = 0.0
    for a, b in zip(old.flatten().split(2**20), new.flatten().split(2**20), strict=True):
        missed, whole = (
            missed + float((b.double() - a.double()).square().sum()),
            whole + float(a.double().square().sum()),
        )
    return new.nbytes, missed, whole


def same_numbers(old: Tensor, new: Tensor) -> bool:
    """Whether one is the other, or the other in less precision."""
    coarse = min(old.dtype, new.dtype, key=lambda dtype: (dtype.itemsize, dtype is not new.dtype))
    return torch.equal(old.to(coarse).flatten(), new.to(coarse).flatten())


def kind_of(name: str) -> str:
    """What a tensor is, in words."""
    for kind, marks in KINDS.items():
        if name.startswith(marks):
            return kind
    return next((kind for kind, marks in ENDINGS.items() if any(mark in name for mark in marks)), "others")
