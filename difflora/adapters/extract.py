"""What a tuned model has that its base has not, as a style; and what no style can hold of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..config import demand
from ..errors import RequestError
from ..events import Report, ignore
from ..version import __version__
from .adapter import Adapter, Factors, Info
from .convert import HALF_ERROR, MADE, checked_name, difference
from .files import content_sha256, load_adapter, save_adapter, writable_folder
from .header import shown
from .library import style_name
from .lowrank import nearest
from .outside import Outside, outside
from .pair import Pair, cut_exactly, smaller_side, squares
from .precision import DTYPES, stored
from .resize import check_size, limit
from .stream import Meter


@dataclass(frozen=True)
class Extracted:
    """A style that was written."""

    path: Path
    family: str
    modules: int
    same: int
    """Layers that both models have alike, which are left out."""
    dropped: int
    """Layers that differ too little to pay for a rank within the error."""
    ranks: tuple[int, int]
    """The least and the largest."""
    error: float
    """Of the file, read back, against the difference: relative, in the Frobenius norm over all layers."""
    worst: tuple[str, float]
    """The layer with the largest error of its own, and that."""
    bytes: int
    outside: tuple[Outside, ...] = ()
    """What differs beside, or could not be compared."""

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return {
            "file": str(self.path), "family": self.family, "modules": self.modules, "same": self.same,
            "dropped": self.dropped, "ranks": list(self.ranks), "error": self.error, "worst": list(self.worst),
            "bytes": self.bytes, "outside": [one.row() for one in self.outside],
        }  # fmt: skip


def extract(
    base: Path,
    tuned: Path,
    out: Path,
    *,
    rank: int | None = None,
    max_error: float | None = None,
    precision: str | None = None,
    named: tuple[str, str] | None = None,
    overwrite: bool = False,
    report: Report = ignore,
) -> Extracted:
    """Write the difference of two models of one family as a style of plain LoRA, and read it back.

    base, tuned: each a diffusers folder or an original single file. rank: of every layer at most; max_error: or of the
    style as a whole, 0 to 1, storing included, with the rank of each layer where its directions pay for themselves.
    precision: fp16 unless given, or fp32 where so small an error needs it. named: how a person called both. One layer
    is in memory at a time. Raises BaseModelError, RequestError where nothing differs or the families do, OutputError.
    """
    check_size(rank, max_error)
    target = checked_name(Path(out), "kohya", overwrite)
    writable_folder(target.parent)
    pair = Pair.opened(base, tuned)
    precision = precision or ("fp32" if (max_error or 1) < HALF_ERROR else "fp16")
    names = named or (str(base), str(tuned))
    cut = cut_all(pair, rank, limit(max_error, precision), DTYPES[precision], report)
    if not cut.layers:
        raise RequestError(
            f"{shown(names[0])} and {shown(names[1])} are the same in all {cut.same} layers: expected a model and its "
            "tuned copy; nothing to extract"
        )
    hashes = [content_sha256(one.path) for one in (pair.base, pair.tuned)]
    recipe = {
        "verb": "extract", "sources": [{"name": n, "sha256": h} for n, h in zip(names, hashes, strict=True)],
        "rank": rank, "max_error": max_error, "precision": precision, "version": __version__,
    }  # fmt: skip
    adapter = Adapter(cut.layers, Info(style_name(target), pair.family, names[0]))
    save_adapter(target, adapter, {MADE: json.dumps(recipe)}, DTYPES[precision])
    # What was measured layer by layer holds for the file if it holds the same numbers.
    gap = difference(load_adapter(target, pair.shapes), adapter)
    sizes = [update.rank for update in cut.layers.values()]
    return Extracted(
        target, pair.family, len(cut.layers), cut.same, cut.dropped, (min(sizes), max(sizes)),
        math.hypot(cut.error, gap), cut.worst, target.stat().st_size, tuple(outside(pair.base, pair.tuned)),
    )  # fmt: skip


def cut_all(pair: Pair, rank: int | None, max_error: float | None, dtype: torch.dtype, report: Report) -> Cut:
    """Every layer that differs, cut; RequestError for a rank that no layer can have."""
    most = max((smaller_side(shape) for shape in pair.shapes.values()), default=0)
    demand(rank is None or rank <= most, f"--rank {rank}", f"1 to {most}, the smaller side of the largest layer")
    ranks = dict.fromkeys(pair.shapes, rank) if max_error is None else pair.ranks_within(max_error, report)
    cut = Cut(dtype, exact=max_error is not None)
    meter = Meter("extracting", pair.size, report)
    for path in pair.shapes:
        cut.take(path, pair.delta(path), ranks.get(path, 0))
        meter.add(pair.bytes_of(path))
    return cut


@dataclass
class Cut:
    """Layers cut to their ranks as they come, in the numbers in which they will be stored."""

    dtype: torch.dtype
    exact: bool
    """Whether each cut must be the nearest there is; else a quick sketch of it, nearly as near, where it is large."""
    layers: dict[str, Factors] = field(default_factory=dict)
    same: int = 0
    dropped: int = 0
    missed: float = 0.0
    whole: float = 0.0
    worst: tuple[str, float] = ("", 0.0)

    def take(self, path: str, delta: Tensor, rank: int | None) -> None:
        """One more layer."""
        size = squares(delta)
        if not size:
            self.same += 1
            return
        missed = size
        if rank:
            factors = cut_exactly(delta, rank) if self.exact else nearest(delta, rank)
            self.layers[path] = stored(factors, self.dtype)
            missed = squares(self.layers[path].delta().sub_(delta))
        self.dropped += not rank
        self.missed, self.whole = self.missed + missed, self.whole + size
        self.worst = max(self.worst, (path, math.sqrt(missed / size)), key=lambda pair: pair[1])

    @property
    def error(self) -> float:
        """Relative, over all layers."""
        return math.sqrt(self.missed / self.whole) if self.whole else 0.0
