"""safetensors files of any size, read and written a tensor at a time. A whole model is never in memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import AdapterFileError, OutputError
from ..events import Progress, Report
from .disk import refused, take_name
from .header import AGAIN, shown, shown_path, unreadable
from .table import SIZES, Row, Table, read_table

__all__ = [
    "FLOATS", "HASH", "PIECE", "SIZES", "Meter", "Row", "Table", "bytes_of", "pieces", "read_table", "taken",
    "tensor_of", "write_stream",
]  # fmt: skip

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PIECE = 2**24
"""Bytes that are read, hashed and written at once."""
HASH = "modelspec.hash_sha256"
EVERY = 0.2
"""Seconds between two reports."""


def pieces(file: BinaryIO, table: Table, name: str) -> Iterator[memoryview]:
    """The bytes of a tensor, some at a time; AdapterFileError when the file has become shorter."""
    left = table.rows[name].size
    file.seek(table.begin + table.rows[name].start)
    while left:
        piece = bytearray(min(left, PIECE))
        _fill(file, table, piece)
        left -= len(piece)
        yield memoryview(piece)


def tensor_of(file: BinaryIO, table: Table, name: str) -> Tensor:
    """A tensor as it is stored; AdapterFileError for a dtype that cannot be computed with."""
    row = table.rows[name]
    if row.dtype not in FLOATS:
        raise AdapterFileError(
            f"{shown_path(table.path)}: {shown(name)} is stored as {row.dtype}; expected F32, F16 or BF16; take a "
            "version of the checkpoint in one of them"
        )
    data = bytearray(row.size)
    file.seek(table.begin + row.start)
    _fill(file, table, data)
    return (torch.frombuffer(data, dtype=FLOATS[row.dtype]) if data else torch.empty(0)).reshape(row.shape)


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor as files keep them."""
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())


def write_stream(
    path: Path,
    rows: Mapping[str, tuple[str, tuple[int, ...]]],
    content: Callable[[str], Iterable[memoryview]],
    metadata: Mapping[str, str],
    overwrite: bool = False,
) -> None:
    """Write a file whole or not at all, its tensors one after another as `content` gives their bytes.

    rows: dtype and shape by name, in that order. The hash of the numbers goes into the header when they are written:
    the room for it is kept. Raises OutputError for a place that is taken or cannot be written; what `content` raises
    is passed on. Nothing is left behind then.
    """
    path = Path(path)
    temp = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(temp, "xb") as file:
            _write_all(file, rows, content, metadata)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temp, path)
        elif not take_name(temp, path):
            raise taken(path)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)


def _write_all(file: BinaryIO, rows, content, metadata: Mapping[str, str]) -> None:
    digest, end = hashlib.sha256(), 0
    file.write(_header(rows, dict(metadata) | {HASH: f"0x{'0' * 64}"}))
    for name, (dtype, shape) in rows.items():
        end += math.prod(shape) * SIZES[dtype]
        for piece in content(name):
            file.write(piece)
            digest.update(piece)
    header = _header(rows, dict(metadata) | {HASH: f"0x{digest.hexdigest()}"})
    if file.tell() != len(header) + end:
        raise ValueError(f"wrote {file.tell():,} bytes where the header says {len(header) + end:,}")
    file.seek(0)
    file.write(header)


def taken(path: Path) -> OutputError:
    """That something of this name is there already."""
    return OutputError(f"{shown_path(path)} is there already; expected a free name; choose another, or --force")


def _header(rows: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name, (dtype, shape) in rows.items():
        stop = start + math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _fill(file: BinaryIO, table: Table, data: bytearray) -> None:
    try:
        found = file.readinto(data)
    except OSError as error:
        raise unreadable(table.path, error) from None
    if found != len(data):
        raise AdapterFileError(f"{shown_path(table.path)}: became shorter while it was read; {AGAIN}")


class Meter:
    """How many bytes of a long work are done, and how long the rest will take; told in MB."""

    def __init__(self, what: str, total: int, report: Report, done: int = 0) -> None:
        self.what, self.total, self.report = f"{what} (MB)", total, report
        self.done, self.before, self.began, self.told = done, done, time.monotonic(), 0.0

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        self.done += count
        now = time.monotonic()
        if now - self.told < EVERY and self.done < self.total:
            return
        self.told = now
        made = self.done - self.before
        eta = (now - self.began) * (self.total - self.done) / made if made > 0 else None
        self.report(Progress(self.what, self.done // 10**6, max(1, self.total // 10**6), eta))
