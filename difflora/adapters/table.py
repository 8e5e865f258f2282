"""The header of a checkpoint's file: which tensors it holds, and where. Reads no numbers, needs no torch."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AdapterFileError
from .header import AGAIN, header_length, shown, shown_path, unreadable

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of a number by its dtype as files name it."""
MOST_TENSORS, MOST_AXES = 100_000, 8


@dataclass(frozen=True)
class Row:
    """One tensor of a file: its dtype as files name it, its shape, its bytes counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.stop - self.start

    @property
    def count(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Table:
    """The header of a file whose numbers stay on the disk; rows by name in the order of their bytes."""

    path: Path
    begin: int
    """Where the numbers begin."""
    metadata: Mapping[str, str]
    rows: Mapping[str, Row]

    @property
    def size(self) -> int:
        """Bytes of all numbers together."""
        return sum(row.size for row in self.rows.values())


def read_table(path: Path) -> Table:
    """Read and check the header of a checkpoint's file, whose tensors may be of any dtype; AdapterFileError."""
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise AdapterFileError("not a regular file; expected a .safetensors file; check the path")
        with path.open("rb") as file:
            size, start = path.stat().st_size, file.read(64)
            length = header_length(start, size)
            file.seek(8)
            rows = json.loads(file.read(length).decode("utf-8"))
        metadata = rows.pop("__metadata__", {})
        texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
        if not texts or len(rows) > MOST_TENSORS:
            raise AdapterFileError(f"its header holds no tensors that can be read; {AGAIN}")
        found = dict(sorted(((n, _row(n, row)) for n, row in rows.items()), key=lambda pair: pair[1].start))
        _check_order(found, size - 8 - length)
        return Table(path, 8 + length, metadata, found)
    except AdapterFileError as error:
        raise AdapterFileError(f"{shown_path(path)}: {error}") from None
    except (ValueError, RecursionError, AttributeError, TypeError):
        raise AdapterFileError(f"{shown_path(path)}: the header is no valid JSON; {AGAIN}") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _row(name: str, row: Any) -> Row:
    try:
        dtype, shape, (start, stop) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
        counts = all(type(n) is int and 0 <= n < 2**48 for n in (*shape, start, stop)) and len(shape) <= MOST_AXES
        if counts and stop - start == math.prod(shape) * SIZES[dtype]:
            return Row(dtype, shape, start, stop)
    except (TypeError, KeyError, ValueError):
        pass
    raise AdapterFileError(f"{shown(name)} has no dtype, shape and place that agree; {AGAIN}")


def _check_order(rows: Mapping[str, Row], size: int) -> None:
    end = 0
    for name, row in rows.items():
        if row.start != end:
            raise AdapterFileError(f"{shown(name)} begins at byte {row.start:,}; expected {end:,}; {AGAIN}")
        end = row.stop
    if end != size:
        raise AdapterFileError(f"{size:,} of {end:,} bytes of numbers are there; {AGAIN}")
