"""An adapter written anew: in another dialect, or without what was wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import demand
from ..errors import AdapterFileError, OutputError, RequestError
from ..version import __version__
from .adapter import Adapter
from .cards import card
from .disk import content_sha256, refused
from .families import Match, match
from .files import Dialect, load_adapter, read_tensors, save_adapter
from .forms import PLAIN
from .header import shown_path
from .library import SUFFIX, style_name
from .lowrank import Plain, Weights, made_plain
from .measure import mend
from .metadata import TRIGGER, WEIGHT, now
from .networks import FAMILIES
from .norms import squared_gap
from .places import Source, sources
from .precision import DTYPES
from .sidecar import sidecars, write_sidecar
from .updates import Decomposed

MADE = "difflora.made"
HALF_ERROR = 0.002
"""Errors below this are not kept by factors in half precision."""
# What was true of the numbers as they were stored before.
STALE = ("sshs_", "modelspec.hash_sha256", "lora_adapter_metadata", "ss_network_", "ss_v2", "format")


@dataclass(frozen=True)
class Converted:
    """What was written."""

    path: Path
    dialect: str
    modules: int
    error: float
    """Of the file, read back, against the source: relative, over all modules."""
    approximation: float
    """The part of it that comes from making plain what was not; 0 where nothing was."""
    worst: tuple[str, float]
    lost: tuple[str, ...] = ()
    """What a repaired copy is without."""

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return {
            "file": str(self.path), "format": self.dialect, "modules": self.modules, "error": self.error,
            "approximation": self.approximation, "worst": list(self.worst), "lost": list(self.lost),
        }  # fmt: skip


def convert(
    source: Path,
    dialect: Dialect,
    out: Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    rank: int | None = None,
    max_error: float | None = None,
    base: Match | None = None,
    weights: Weights | None = None,
    made_on: Mapping[str, str] | None = None,
    sidecar: bool = False,
    overwrite: bool = False,
) -> Converted:
    """Write an adapter in another dialect and read it back to measure what that cost.

    out: beside the source with the dialect after its name unless given; dtype: as the source's unless given; rank,
    max_error: make plain LoRA of what is not, see `made_plain`; base: the family that fits best unless given; made_on:
    rows for the recipe that say which base gave the weights. Raises AdapterFileError for a source that `load_adapter`
    refuses, RequestError, OutputError.
    """
    demand(rank is None or 0 < rank <= 4096, f"--rank {rank}", "a whole number from 1 to 4096")
    demand(max_error is None or 0 <= max_error < 1, f"--max-error {max_error}", "a number from 0 to 1, such as 0.01")
    demand(rank is None or max_error is None, "--rank beside --max-error", "one of them")
    source = Path(source)
    found = sources(source)
    base = base or known(source, found)
    target = checked_name(out or beside(source, dialect, dialect), dialect, overwrite, sidecar)
    wanted = load_adapter(source, base.shapes)
    plain = Plain(wanted, 0.0, ("", 0.0))
    if rank is not None or max_error is not None:
        plain_already = all(update.kind in PLAIN for update in wanted.layers.values())
        demand(
            not plain_already,
            f"--rank or --max-error for {shown_path(source)}",
            "none of them: it is plain LoRA already",
        )
        plain = made_plain(wanted, rank=rank, max_error=max_error, weights=weights)
    precision = "fp32" if dtype is None and (max_error or 1) < HALF_ERROR else precision_of(dtype, found)
    asked = {"to": dialect, "precision": precision, "rank": rank, "max_error": max_error} | dict(made_on or {})
    _write(plain.adapter, target, dialect, found[0], recipe(source, asked), base.family)
    if sidecar:
        write_sidecar(target, sources(target)[0].header.metadata, base.family)
    back = load_adapter(target, base.shapes)
    return Converted(target, dialect, len(back), difference(back, wanted, weights), plain.error, plain.worst)


def repair(source: Path, out: Path | None = None, *, base: Match | None = None, overwrite: bool = False) -> Converted:
    """Write what can be read of an adapter in kohya names, with sound metadata and hashes; the source stays.

    out: beside the source with -repaired after its name unless given. What is damaged, not finite or without a place in
    the base is left out and named in the result. Raises AdapterFileError when nothing can be read, OutputError.
    """
    source = Path(source)
    found = sources(source)
    base = base or known(source, found)
    mended = mend(found, [read_tensors(one.file) for one in found], base)
    if not mended.adapter.layers:
        raise AdapterFileError(f"{shown_path(source)}: nothing in it can be read: {'; '.join(mended.lost[:3])}")
    target = checked_name(out or beside(source, "repaired", "kohya"), "kohya", overwrite)
    asked = {"to": "repaired", "precision": precision_of(None, found), "rank": None, "max_error": None}
    _write(mended.adapter, target, "kohya", found[0], recipe(source, asked), base.family)
    back = load_adapter(target, base.shapes)
    return Converted(target, "kohya", len(back), difference(back, mended.adapter), 0.0, ("", 0.0), mended.lost)


def _write(
    adapter: Adapter, target: Path, dialect: Dialect, source: Source, made: Mapping[str, object], family: str
) -> None:
    """Write an adapter with its source's words and how it was made."""
    name = style_name(target)
    metadata = kept_rows(source) | {
        "ss_output_name": name, "modelspec.title": name, "modelspec.date": now(), MADE: json.dumps(made),
        "difflora.version": __version__,
    }  # fmt: skip
    adapter = replace(adapter, info=replace(adapter.info, family=family))
    save_adapter(target, adapter, metadata, DTYPES[str(made["precision"])], dialect)


def checked_name(target: Path, dialect: Dialect, overwrite: bool, sidecar: bool = False) -> Path:
    """The name, if it suits the format and is free, with what goes beside it; RequestError, OutputError otherwise."""
    suits = (target.suffix == SUFFIX) is (dialect != "peft")
    expected = "a folder's name, without .safetensors" if dialect == "peft" else "a name ending in .safetensors"
    demand(suits, f"--out {shown_path(target)}", expected)
    for place in (target, *(sidecars(target) if sidecar else ())):
        try:
            there = place.exists()
        except OSError as error:
            raise refused(place, error) from None
        if there and not overwrite:
            raise OutputError(f"{shown_path(place)} is there already; expected a free name; choose another, or --force")
    return target


def recipe(source: Path, asked: Mapping[str, object]) -> dict[str, object]:
    """How the file is made, for `again`."""
    one = {"name": style_name(source), "sha256": content_sha256(source)}
    return {"verb": "convert", "sources": [one], **asked, "version": __version__}


def known(source: Path, found: list[Source]) -> Match:
    """The family of the files; RequestError when it is none that is known."""
    base = match(found)
    if not base.shapes:
        raise RequestError(
            f"{shown_path(source)} fits no family that is known here ({', '.join(FAMILIES)}): expected --base; name it"
        )
    return base


def kept_rows(source: Source) -> dict[str, str]:
    """The source's words, also those that A1111 keeps beside it, without what was true of its numbers only."""
    kept = {key: value for key, value in source.header.metadata.items() if not key.startswith(STALE)}
    about = card(source.file)
    if about.trigger and TRIGGER not in kept:
        kept |= {TRIGGER: about.trigger}
    if about.weight != 1 and WEIGHT not in kept:
        kept |= {WEIGHT: f"{about.weight:g}"}
    return kept


def precision_of(dtype: torch.dtype | None, found: list[Source]) -> str:
    """The precision to write in: as asked, else the one that most of the numbers are in."""
    if dtype is not None:
        return next(name for name, known in DTYPES.items() if known == dtype)
    counts = dict.fromkeys(("F32", "F16", "BF16"), 0)
    for one in found:
        for kind, shape in one.header.tensors.values():
            counts[kind] = counts.get(kind, 0) + math.prod(shape)
    return {"F16": "fp16", "BF16": "bf16"}.get(max(counts, key=lambda kind: counts[kind]), "fp32")


def beside(source: Path, word: str, dialect: str) -> Path:
    """The name of a copy beside the source."""
    name = f"{style_name(source)}-{word}"
    return source.with_name(name if dialect == "peft" else f"{name}{SUFFIX}")


def difference(found: Adapter, wanted: Adapter, weights: Weights | None = None) -> float:
    """The relative error of all updates together, in the Frobenius norm; infinite when modules are missing.

    DoRA without the base's weights is compared by its inner updates.
    """
    if found.layers.keys() != wanted.layers.keys():
        return math.inf
    gap = whole = 0.0
    for path, update in wanted.layers.items():
        other, weight = found.layers[path], None
        if weights is not None:
            weight = weights(path)
        elif isinstance(update, Decomposed) and isinstance(other, Decomposed):
            update, other = update.inner, other.inner
        missed, size = squared_gap(other, update, weight)
        gap, whole = gap + missed, whole + size
    return math.sqrt(gap / whole) if whole else 0.0
