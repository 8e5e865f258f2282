"""A checkpoint on its way to the disk, updates added to its weights as they pass."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import BaseModelError, OutputError
from ..events import Report
from .adapter import Factors, Update
from .checkpoint import Checkpoint, Part
from .convert import MADE
from .disk import write_atomic
from .header import shown, shown_path
from .library import SUFFIX
from .original import Place
from .precision import DTYPES
from .stream import FLOATS, HASH, SIZES, Meter, Table, bytes_of, pieces, read_table, tensor_of, write_stream
from .target import copy_file, inside

Entry = tuple[float, Update]
Changes = Mapping[str, Sequence[Entry]]
STORED = {dtype: name for name, dtype in FLOATS.items()}
NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Of precisions, in the settings of transformers."""
NUMBERS = 2**20
"""Of a weight, that are held in double precision at once."""


def add(weight: Tensor, base: Tensor, entries: Sequence[Entry]) -> None:
    """weight += sum_i w_i · update_i, in place; base: the same weight before anything was added."""
    for strength, update in entries:
        if isinstance(update, Factors) and weight.dtype == torch.float32:
            down, up = (half.flatten(1) for half in update.halves())
            flat = weight if weight.dim() == 2 else weight.view(weight.shape[0], -1)
            flat.addmm_(up, down, alpha=strength)
        else:
            delta = update.delta(base.reshape(update.shape))
            weight.add_(delta.reshape(weight.shape).to(weight.dtype), alpha=strength)


class Tally:
    """What was changed so far, and what rounding it cost."""

    def __init__(self) -> None:
        self.moved = self.missed = 0.0
        self.dtypes: set[str] = set()

    def take(self, base: Tensor, exact: Tensor, cast: Tensor) -> None:
        """One more weight; a piece at a time, as a copy in double precision would be large."""
        self.dtypes.add(STORED[cast.dtype])
        for old, new, kept in zip(*(t.flatten().split(NUMBERS) for t in (base, exact, cast)), strict=True):
            new = new.double()
            self.moved += float((new - old.double()).square().sum())
            self.missed += float((kept.double() - new).square().sum())

    @property
    def rounding(self) -> float:
        """Relative to the update."""
        return (self.missed / self.moved) ** 0.5 if self.moved else 0.0


class Writing:
    """One checkpoint on its way to the disk."""

    def __init__(
        self, opened: Checkpoint, changes: Changes, recipe: Mapping[str, object], precision: str | None, report: Report
    ) -> None:
        self.opened, self.changes, self.precision = opened, changes, precision
        self.dtype = DTYPES.get(precision or "")
        self.recipe = {MADE: json.dumps(recipe)}
        self.tally = Tally()
        tables = [part.table for part in opened.parts]
        self.plain = [file for file in opened.copied if not self._is_cast(file)]
        tables += [read_table(opened.path / file) for file in opened.copied if self._is_cast(file)]
        numbers = sum(SIZES[kind] * table.rows[name].count for table in tables for name, kind in self._kinds(table))
        size = numbers + sum((opened.path / file).stat().st_size for file in self.plain)
        self.meter = Meter("merging", size, report)

    def folder(self, target: Path) -> None:
        """All files of a folder."""
        for part in self.opened.parts:
            words = self.recipe if part.network == "unet" else {}
            self.file(part, inside(target, part.table.path.relative_to(self.opened.path)), words=words)
        for file in self.opened.copied:
            place = inside(target, file)
            if self._is_cast(file):
                self.file(Part(read_table(self.opened.path / file)), place)
            else:
                self._copy(self.opened.path / file, place)

    def file(self, part: Part, target: Path, overwrite: bool = False, words: Mapping[str, str] | None = None) -> None:
        """One file with weights; a single one carries the recipe with its words."""
        table = part.table
        kept = {key: value for key, value in table.metadata.items() if not key.startswith(("sshs_", HASH))}
        kept |= (words or {}) | ({} if self.opened.is_folder else self.recipe)
        rows = {name: (kind, table.rows[name].shape) for name, kind in self._kinds(table)}
        wanted: dict[str, list[tuple[str, Place]]] = {}
        for path, where in part.places.items():
            if self.changes.get(path):
                wanted.setdefault(where.key, []).append((path, where))
        with table.path.open("rb") as source:

            def content(name: str) -> Iterator[memoryview]:
                found = self._parts(source, table, name, wanted.get(name, []), rows[name][0])
                for piece in found:
                    yield piece
                    self.meter.add(len(piece))

            write_stream(target, rows, content, kept, overwrite)

    def _parts(
        self, source: BinaryIO, table: Table, name: str, wanted: list[tuple[str, Place]], kind: str
    ) -> Iterator[memoryview]:
        """The bytes of one tensor as they will be."""
        if wanted:
            yield bytes_of(self._changed(source, table, name, wanted, kind))
        elif kind == table.rows[name].dtype:
            yield from pieces(source, table, name)
        else:
            for piece in pieces(source, table, name):
                old = torch.frombuffer(piece, dtype=FLOATS[table.rows[name].dtype])
                new = old.to(FLOATS[kind])
                self._check(table, name, new, old)
                yield bytes_of(new)

    def _changed(self, source: BinaryIO, table: Table, name: str, wanted: list[tuple[str, Place]], kind: str) -> Tensor:
        """One weight, or several fused ones, with their updates."""
        raw = tensor_of(source, table, name)
        base = raw if raw.dtype == torch.float64 else raw.float()
        total = base.clone()
        if not torch.isfinite(base).all():
            raise BaseModelError(
                f"{shown_path(table.path)}: {shown(name)} holds values that are not finite; expected numbers only; "
                "take another base"
            )
        for path, where in wanted:
            add(where.of(total), where.of(base), self.changes[path])
        cast = total.to(FLOATS[kind])
        self._check(table, name, cast, base)
        self.tally.take(base, total, cast)
        return cast

    def _check(self, table: Table, name: str, new: Tensor, old: Tensor) -> None:
        """OutputError for numbers that the precision cannot hold; what is infinite already, as a mask is, may stay."""
        if not torch.isfinite(new).all() and (torch.isfinite(old) & ~torch.isfinite(new)).any():
            raise OutputError(
                f"{shown_path(table.path)}: {shown(name)} does not fit into {STORED[new.dtype]}; expected smaller "
                "weights; choose --precision bf16"
            )

    def _copy(self, source: Path, target: Path) -> None:
        """A file as it is; settings of transformers say the precision that the numbers then have."""
        if self.precision and source.name == "config.json":
            write_atomic(target, with_precision(source.read_bytes(), self.precision))
            self.meter.add(source.stat().st_size)
        else:
            copy_file(source, target, self.meter.add)

    def _kinds(self, table: Table) -> list[tuple[str, str]]:
        """The name and the coming dtype of each tensor, in the order of the file."""
        if self.dtype is None:
            return [(name, row.dtype) for name, row in table.rows.items()]
        kind = STORED[self.dtype]
        found = [(name, kind if row.dtype in FLOATS else row.dtype) for name, row in table.rows.items()]
        # Readers lay tensors over the bytes as they are: wide numbers first keeps all of them aligned.
        return sorted(found, key=lambda pair: -SIZES[pair[1]])

    def _is_cast(self, file: Path) -> bool:
        return self.dtype is not None and file.suffix == SUFFIX


def with_precision(settings: bytes, precision: str) -> bytes:
    """config.json that says another precision, if it says any."""
    try:
        rows = json.loads(settings)
    except ValueError:
        return settings
    said = [key for key in ("dtype", "torch_dtype") if isinstance(rows, dict) and key in rows]
    return json.dumps(rows | dict.fromkeys(said, NAMES[precision]), indent=2).encode() if said else settings
