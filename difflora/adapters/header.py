"""What a safetensors file says of itself, checked before any of its numbers are read. Needs no torch."""

from __future__ import annotations

import json
import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AdapterFileError

MAX_HEADER = 16 * 2**20
MAX_METADATA = 4 * 2**20
MAX_TENSORS = 20_000
MAX_AXES = 4
FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
INTEGERS = {"I64": 8, "I32": 4}
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
STRANGERS = {
    b"version https://git-lfs": "it is a Git LFS pointer, so run 'git lfs pull'",
    b"PK": "it is a renamed archive or pickle, so get the safetensors version of it",
    b"\x80": "it is a renamed pickle, so get the safetensors version of it",
    b"<": "it is a web page, so download the file itself",
}
AGAIN = "download or copy it again"


@dataclass(frozen=True)
class Header:
    """The metadata of a file, and the dtype and shape of each of its tensors by name."""

    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...]]]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by name."""
        return {name: shape for name, (_, shape) in self.tensors.items()}


def shown(text: object, limit: int = 120) -> str:
    """Text from outside as one printable line of at most `limit` characters."""
    line = str(text)
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)


def shown_path(path: Path) -> str:
    """A path as one printable line."""
    return shown(path, 1000)


def unreadable(path: Path, error: Exception) -> AdapterFileError:
    """What the system said when a file was read, as our own error."""
    why = shown(getattr(error, "strerror", None) or error)
    return AdapterFileError(f"{shown_path(path)}: cannot be read ({why}); check the path, its rights and its disk")


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; its numbers are left unread.

    Raises AdapterFileError for anything but a complete, regular .safetensors file within the limits of this module: a
    header of 16 MB, 4 MB of metadata, 20,000 tensors of at most 4 axes, in F32, F16 or BF16 (I32 and I64 for alphas).
    """
    path = Path(path)
    try:
        _check_suffix(path)
        _demand(stat.S_ISREG(path.stat().st_mode), "not a regular file; expected a .safetensors file; check the path")
        with path.open("rb") as file:
            start = file.read(64)
            size = path.stat().st_size
            length = header_length(start, size)
            file.seek(0)
            return parse_header(file.read(8 + length), size)
    except AdapterFileError as error:
        raise AdapterFileError(f"{shown_path(path)}: {error}") from None
    except FileNotFoundError:
        raise AdapterFileError(
            f"{shown_path(path)}: no such file; expected a .safetensors file; check the path"
        ) from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def header_length(start: bytes, size: int) -> int:
    """The length of the JSON part, from the first bytes of a file of `size` bytes; raises AdapterFileError."""
    _demand(size > 0, f"the file is empty; expected a safetensors file; {AGAIN}")
    _demand(size >= 10, f"only {size} bytes; expected a safetensors file; {AGAIN}")
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER:
        advice = next(
            (advice for mark, advice in STRANGERS.items() if start.startswith(mark)), f"if it should be, {AGAIN}"
        )
        raise AdapterFileError(f"not a safetensors file (header of {length:,} bytes, expected at most 16 MB); {advice}")
    _demand(8 + length <= size, f"ends inside its header ({size:,} bytes, the header alone has {length:,}); {AGAIN}")
    return length


def parse_header(start: bytes, size: int) -> Header:
    """Check the header in the first bytes of a file of `size` bytes; raises AdapterFileError that names no file."""
    length = header_length(start, size)
    raw = start[8 : 8 + length]
    try:
        rows = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
        _demand(isinstance(rows, dict), f"the header is no JSON object; expected a safetensors file; {AGAIN}")
        metadata = _metadata(rows.pop("__metadata__", {}))
        "".join(rows).encode()
    except (ValueError, RecursionError):
        raise AdapterFileError(f"the header is no valid JSON; expected a safetensors file; {AGAIN}") from None
    _demand(len(rows) <= MAX_TENSORS, f"holds {len(rows):,} tensors; expected at most {MAX_TENSORS:,}: no adapter file")
    spans = [_span(name, row) for name, row in rows.items()]
    _check_spans(spans, size - 8 - length)
    return Header(metadata, {name: (row["dtype"], tuple(row["shape"])) for name, row in rows.items()})


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise AdapterFileError(sentence)


def _check_suffix(path: Path) -> None:
    suffix = path.suffix.lower()
    _demand(
        suffix not in PICKLES,
        f"a {suffix} file can run code when it is opened; expected .safetensors; convert it with "
        "torch.load(FILE, weights_only=True) and safetensors.torch.save_file, or get the .safetensors version",
    )
    _demand(suffix == ".safetensors", f"the name ends in {shown(suffix)!r}; expected .safetensors; choose another file")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, whose keys may not repeat: readers disagree about which one counts."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key is repeated")
    return row


def _metadata(found: Any) -> dict[str, str]:
    _demand(isinstance(found, dict), "the metadata is no JSON object; expected text by name; save the file again")
    for key, value in found.items():
        _demand(isinstance(value, str), f"metadata {shown(key)} is no text; expected text only; save the file again")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in found.items())
    _demand(size <= MAX_METADATA, f"{size:,} bytes of metadata; expected at most 4 MB; save it with less")
    return found


def _span(name: str, row: Any) -> tuple[int, int, str]:
    """Where a tensor lies, after checking that its dtype, shape and place agree."""
    label = shown(name)
    _demand(
        isinstance(row, dict) and set(row) == {"dtype", "shape", "data_offsets"}, f"{label} is not described; {AGAIN}"
    )
    dtype, shape, span = row["dtype"], row["shape"], row["data_offsets"]
    whole = isinstance(shape, list) and isinstance(span, list) and all(_is_count(n) for n in (*shape, *span))
    # A tensor without numbers may have axes that no memory could be laid out for.
    whole = whole and len(span) == 2 and math.prod(n or 1 for n in shape) < 2**48
    _demand(whole, f"{label} has no proper shape or offsets; {AGAIN}")
    _demand(len(shape) <= MAX_AXES, f"{label} has {len(shape)} axes; expected at most {MAX_AXES}: no LoRA tensor")
    scalar = name.endswith(".alpha") and math.prod(shape) == 1
    sizes = FLOATS | INTEGERS if scalar else FLOATS
    _demand(
        isinstance(dtype, str) and dtype in sizes, f"{label} is stored as {shown(dtype)}; expected F32, F16 or BF16"
    )
    _demand(
        span[1] - span[0] == math.prod(shape) * sizes[dtype],
        f"{label} has {span[1] - span[0]:,} bytes; expected {math.prod(shape) * sizes[dtype]:,} for its shape; {AGAIN}",
    )
    return span[0], span[1], label


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**48


def _check_spans(spans: list[tuple[int, int, str]], size: int) -> None:
    """Tensors must follow one another without a gap and fill the rest of the file."""
    end = 0
    for start, stop, label in sorted(spans):
        _demand(
            start == end, f"{label} begins at byte {start:,}; expected {end:,}: tensors overlap or leave a gap; {AGAIN}"
        )
        end = stop
    _demand(end <= size, f"cut short: {size:,} of {end:,} bytes of numbers are there; {AGAIN}")
    _demand(end == size, f"{size - end:,} bytes follow the last tensor; expected none; {AGAIN}")
