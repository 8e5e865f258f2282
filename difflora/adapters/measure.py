"""What the numbers of an adapter file say: alphas, norms, what is not finite, and a copy without what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .adapter import Adapter
from .dialects import disagreement, read_layers
from .disk import content_sha256
from .families import Match
from .files import info_of, read_tensors
from .fitting import fault_of
from .forms import form_of
from .header import shown
from .inspection import Inspection, facts_of
from .names import ALPHA
from .norms import by_block, squared_norm
from .places import Source, sources
from .programs import verdicts
from .troubles import Trouble, counted, trouble
from .updates import Decomposed

DENORMAL = 0.01
"""Share of a layer's numbers below what half precision holds fully, from which on the layer is told."""


@dataclass(frozen=True)
class Mended:
    """What of a file can be read, and what was left out of it."""

    adapter: Adapter
    lost: tuple[str, ...]


def inspect_numbers(inspection: Inspection, base: Match) -> Inspection:
    """The same inspection with what only the numbers tell; raises AdapterFileError for a file that cannot be read."""
    found = sources(inspection.path)
    tensors = [read_tensors(source.file) for source in found]
    mended = mend(found, tensors, base)
    told = {path for source in found for path, keys in base.found(source).modules.items() if ALPHA in keys}
    rows = {}
    for path, update in mended.adapter.layers.items():
        inner = update.inner if isinstance(update, Decomposed) else update
        alpha = getattr(inner, "alpha", None) if path in told or any(s.settings for s in found) else None
        rows[path] = (alpha, squared_norm(update))
    modules = tuple(
        replace(module, alpha=rows[module.path][0], norm=rows[module.path][1] ** 0.5) if module.path in rows else module
        for module in inspection.modules
    )
    whole = replace(
        inspection,
        modules=modules,
        sha256=content_sha256(inspection.path),
        norms=by_block({path: square for path, (_, square) in rows.items()}),
        troubles=(*inspection.troubles, *number_troubles(found, tensors, rows, base)),
    )
    return replace(whole, programs=tuple(verdicts(facts_of(whole, found))))


def mend(found: Sequence[Source], tensors: Sequence[Mapping[str, Tensor]], base: Match) -> Mended:
    """All that can be read of an adapter; what is damaged, not finite or without a place is left out and named."""
    layers, lost = {}, []
    for source, numbers in zip(found, tensors, strict=True):
        placed = base.found(source)
        wrong = {path: wrong_with(path, keys, numbers, source, base) for path, keys in placed.modules.items()}
        lost += [*placed.foreign, *placed.unknown, *(f"{shown(path)} {why}" for path, why in wrong.items() if why)]
        kept = {key: numbers[key] for path, keys in placed.modules.items() if not wrong[path] for key in keys.values()}
        layers |= read_layers(kept, base.shapes, source.settings, source.part) if kept else {}
    info = info_of(found[0].file, found[0].header, base.family)
    ordered = {path: layers[path] for path in base.shapes if path in layers}
    return Mended(Adapter(ordered, replace(info, family=base.family)), tuple(lost))


def wrong_with(path: str, keys: Mapping[str, str], tensors: Mapping[str, Tensor], source: Source, base: Match) -> str:
    """Why a module cannot be read, or nothing."""
    shapes = {key: tuple(tensors[key].shape) for key in keys.values()}
    form = form_of({part: shapes[key] for part, key in keys.items()})
    fault = fault_of(keys, form, shapes, base.shapes[path])
    if fault is not None:
        return fault.text
    if wrong := disagreement(path, keys, form, source.settings):
        return wrong
    return "" if all(torch.isfinite(tensors[key]).all() for key in keys.values()) else "is not finite"


def number_troubles(
    found: Sequence[Source],
    tensors: Sequence[Mapping[str, Tensor]],
    rows: Mapping[str, tuple[float | None, float]],
    base: Match,
) -> Iterator[Trouble]:
    """What shows in the numbers alone."""
    whole = {key: value for numbers in tensors for key, value in numbers.items()}
    if unlike := [text for source in found for text in disagreements(source, base)]:
        yield trouble(unlike, "module", "unlike its settings", grave=True)
    if broken := [shown(key) for key, value in whole.items() if not torch.isfinite(value).all()]:
        yield trouble(broken, "tensor", "not finite", grave=True)
    if silent := [path for path, (_, norm) in rows.items() if norm == 0]:
        yield trouble(silent, "module", "of zeros, which change nothing", mends=False)
    halves = {key: value for key, value in whole.items() if value.dtype == torch.float16}
    if faint := [shown(key) for key, value in halves.items() if faintness(value) > DENORMAL]:
        yield trouble(faint, "tensor", "with bits lost to denormals in float16", mends=False)
    if integers := [key for key, value in whole.items() if not value.is_floating_point()]:
        yield Trouble(f"{counted(integers, 'alpha')} stored as integers")
    said = found[0].header.metadata.get("sshs_model_hash", "")
    if said and len(found) == 1 and said != content_sha256(found[0].file):
        yield Trouble("sshs_model_hash is not that of its numbers: A1111 and Forge show it in pictures")


def disagreements(source: Source, base: Match) -> Iterator[str]:
    """Modules whose rank is not the one that the settings beside them say."""
    shapes = source.header.shapes()
    for path, keys in base.found(source).modules.items():
        form = form_of({part: shapes[key] for part, key in keys.items()})
        if not form.trouble and (text := disagreement(path, keys, form, source.settings)):
            yield f"{shown(path)} {text}"


def faintness(value: Tensor) -> float:
    """The share of numbers that are not zero and below the smallest that half precision holds with all its bits."""
    # As integers: the sign aside, 1 to 1023 are the denormals.
    bits = value.contiguous().view(torch.int16) & 0x7FFF
    return float(((bits > 0) & (bits < 1024)).sum()) / max(1, bits.numel())
