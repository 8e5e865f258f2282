"""A smaller copy of a style file, and what that costs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import demand
from ..events import Report, ignore
from ..version import __version__
from .adapter import Adapter
from .compress import Compressed, compress, true_error
from .convert import HALF_ERROR, MADE, beside, checked_name, kept_rows, known, precision_of, recipe
from .families import Match
from .files import Dialect, load_adapter, save_adapter
from .forms import PLAIN
from .header import shown_path
from .library import style_name
from .lowrank import Weights, made_plain
from .metadata import now
from .norms import squared_gap
from .places import Source, sources
from .precision import DTYPES

SHARE = 0.5
"""Of the error, that making plain what is not may use."""


@dataclass(frozen=True)
class Resized:
    """A copy that was written."""

    path: Path
    dialect: str
    modules: int
    dropped: int
    """Layers that changed too little to pay for a rank within the error."""
    ranks: tuple[int, int]
    """The least and the largest."""
    told: float
    """The error of the cut as it was known before: relative, in the Frobenius norm over all layers."""
    error: float
    """The same of the file, read back, against the source: with what storing costs."""
    worst: tuple[str, float]
    """The module with the largest error of its own, and that."""
    before: int
    """Bytes."""
    after: int

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return {
            "file": str(self.path), "format": self.dialect, "modules": self.modules, "dropped": self.dropped,
            "ranks": list(self.ranks), "told": self.told, "error": self.error, "worst": list(self.worst),
            "before": self.before, "after": self.after,
        }  # fmt: skip


def resize(
    source: Path,
    out: Path | None = None,
    *,
    rank: int | None = None,
    max_error: float | None = None,
    precision: str | None = None,
    base: Match | None = None,
    weights: Weights | None = None,
    made_on: Mapping[str, str] | None = None,
    overwrite: bool = False,
    report: Report = ignore,
) -> Resized:
    """Write the nearest style of smaller ranks in the source's dialect, and read it back to measure what that cost.

    rank: of every layer at most, less than the largest that the source has; max_error: or of the file as a whole, 0 to
    1, storing included. out: beside the source with -rank16 or -error0.01 after its name unless given. What is no plain
    LoRA becomes one; DoRA needs weights, the base's by path. Raises AdapterFileError for a source that `load_adapter`
    refuses, RequestError, OutputError.
    """
    check_size(rank, max_error)
    source = Path(source)
    found = sources(source)
    base = base or known(source, found)
    dialect = dialect_of(source, found, base)
    word = f"rank{rank}" if max_error is None else f"error{max_error:g}"
    target = checked_name(out or beside(source, word, dialect), dialect, overwrite)
    wanted = load_adapter(source, base.shapes)
    precision = precision or ("fp32" if (max_error or 1) < HALF_ERROR else precision_of(None, found))
    made = shrunk(source, wanted, rank, limit(max_error, precision), weights, report)
    asked = {"to": dialect, "precision": precision, "rank": rank, "max_error": max_error} | dict(made_on or {})
    row = recipe(source, asked) | {"verb": "resize"}
    rows = kept_rows(found[0]) | {
        "ss_output_name": style_name(target), "modelspec.title": style_name(target), "modelspec.date": now(),
        MADE: json.dumps(row), "difflora.version": __version__,
    }  # fmt: skip
    adapter = replace(made.adapter, info=replace(wanted.info, family=base.family))
    save_adapter(target, adapter, rows, DTYPES[precision], dialect)
    back = load_adapter(target, base.shapes)
    ranks = [update.rank for update in back.layers.values()]
    return Resized(
        target, dialect, len(back), len(wanted) - len(back), (min(ranks), max(ranks)), made.error,
        measured(back, wanted, weights), made.worst, bytes_of(source), bytes_of(target),
    )  # fmt: skip


def check_size(rank: int | None, max_error: float | None) -> None:
    """RequestError unless one of them is given, in range."""
    demand((rank is None) is not (max_error is None), "--rank and --max-error", "one of them; give one")
    demand(rank is None or 0 < rank <= 4096, f"--rank {rank}", "a whole number from 1 to 4096")
    demand(max_error is None or 0 <= max_error < 1, f"--max-error {max_error}", "a number from 0 to 1, such as 0.01")


def limit(max_error: float | None, precision: str) -> float | None:
    """What a cut may cost so that with the cost of storing the file stays within an error; RequestError for none left.

    Both factors are rounded, by at most half of what the precision tells apart; evenly spread that is less than half of
    it for their product. Both errors are independent: their squares add.
    """
    if max_error is None:
        return None
    rounding = torch.finfo(DTYPES[precision]).eps / 2
    if not max_error:
        demand(precision == "fp32", f"--max-error 0 with --precision {precision}", "fp32, as rounding is an error too")
        return 0.0
    demand(
        max_error > rounding, f"--max-error {max_error:g} with --precision {precision}",
        f"more than {rounding:.1g}, what rounding costs; choose --precision fp32",
    )  # fmt: skip
    return math.sqrt(max_error**2 - rounding**2)


def shrunk(
    source: Path, wanted: Adapter, rank: int | None, max_error: float | None, weights: Weights | None, report: Report
) -> Compressed:
    """The adapter made plain where it is not, and cut; with the error of both."""
    largest = max(update.rank for update in wanted.layers.values())
    if all(update.kind in PLAIN for update in wanted.layers.values()):
        demand(
            rank is None or rank < largest, f"--rank {rank} for {shown_path(source)}",
            f"less than {largest}, the largest rank that it has; choose a smaller one",
        )  # fmt: skip
        return compress(wanted, rank=rank, max_error=max_error, report=report)
    share = None if max_error is None else SHARE * max_error
    plain = made_plain(wanted, rank=rank, max_error=share, weights=weights)
    # Cutting goes on along the same directions, so what both lose stands at right angles: squares add.
    left = None if max_error is None else math.sqrt(max(0.0, max_error**2 - plain.error**2))
    made = compress(plain.adapter, rank=rank, max_error=left, report=report)
    worst = max(made.worst, plain.worst, key=lambda pair: pair[1])
    return replace(made, error=math.sqrt(made.error**2 * (1 - plain.error**2) + plain.error**2), worst=worst)


def measured(back: Adapter, wanted: Adapter, weights: Weights | None) -> float:
    """The relative error of a file; layers that it lacks count as zero, DoRA as what it adds to the base."""
    if weights is None:
        return true_error(back, wanted)
    gap = whole = 0.0
    for path, update in wanted.layers.items():
        weight = weights(path)
        delta = update.delta(weight)
        size = float(delta.double().square().sum())
        missed = squared_gap(back.layers[path], update, weight)[0] if path in back.layers else size
        gap, whole = gap + missed, whole + size
    return math.sqrt(gap / whole) if whole else 0.0


def dialect_of(source: Path, found: list[Source], base: Match) -> Dialect:
    """The dialect of a source: a folder is PEFT's; names that no one else has are kohya's."""
    if source.is_dir():
        return "peft"
    names = base.found(found[0]).dialects
    return "diffusers" if names and all("diffusers" in name for name in names) else "kohya"


def bytes_of(path: Path) -> int:
    """The size of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
