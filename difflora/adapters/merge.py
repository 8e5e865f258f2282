"""Styles added into a copy of a base model, for programs that draw without adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import demand
from ..errors import AdapterFileError
from ..events import Report, ignore
from ..strength import Strength, check_weight, weight_at
from .adapter import Adapter
from .checkpoint import Checkpoint, open_checkpoint
from .forms import arrow, core
from .header import shown, shown_path
from .library import style_name
from .metadata import now
from .rewriting import Entry, Writing
from .target import check_room, check_target, folder_in_place


@dataclass(frozen=True)
class Merged:
    """A checkpoint that was written."""

    path: Path
    family: str
    modules: int
    """Layers that are no longer the base's."""
    bytes: int
    precision: str
    """Of the changed layers, as files name it."""
    rounding: float
    """What the cast to that precision moves, relative to the update, in the Frobenius norm over all changed layers."""
    left: tuple[str, ...] = ()
    """Files of the base that are not in the copy, since they hold the old weights in another form."""

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return {
            "file": str(self.path), "family": self.family, "modules": self.modules, "bytes": self.bytes,
            "precision": self.precision, "rounding": self.rounding, "left": list(self.left),
        }  # fmt: skip


def merge(
    base: Path | Checkpoint,
    adapters: Sequence[Adapter],
    weights: Sequence[float | Strength],
    out: Path,
    *,
    recipe: Mapping[str, object],
    precision: str | None = None,
    overwrite: bool = False,
    report: Report = ignore,
) -> Merged:
    """Write a copy of a base whose weights are base + sum_i weight_i · update_i, summed in float32 and cast once.

    base: a diffusers folder gives a folder with all else copied, a single original file such a file; weights: -10 to
    10, by block where they say so; recipe: kept in the header as difflora.made; precision: fp32, bf16 or fp16, each
    tensor's own unless given. One tensor is in memory at a time. DoRA is normalised on the base's own weight, as it is
    when it is drawn with. Raises RequestError for weights that change over the steps, AdapterFileError for a module
    that the base lacks, BaseModelError, OutputError; nothing is left behind then.
    """
    opened = base if isinstance(base, Checkpoint) else open_checkpoint(base)
    out = Path(out)
    check_target(opened, out, overwrite)
    changes = changes_for(opened, adapters, weights)
    changed = sum(bool(entries) for entries in changes.values())
    demand(changed > 0, "nothing to merge", "styles with weights such as ink:0.7 gouache:0.4")
    writing = Writing(opened, changes, recipe, precision, report)
    check_room(out, writing.meter.total)
    if opened.is_folder:
        with folder_in_place(out, overwrite) as temp:
            writing.folder(temp)
    else:
        writing.file(opened.parts[0], out, overwrite, titles(out, recipe))
    dtypes, left = ", ".join(sorted(writing.tally.dtypes)), tuple(map(str, opened.left))
    return Merged(out, opened.family, changed, writing.meter.total, dtypes, writing.tally.rounding, left)


def changes_for(
    opened: Checkpoint, adapters: Sequence[Adapter], weights: Sequence[float | Strength]
) -> dict[str, list[Entry]]:
    """Every update with its weight, by module of the base; modules at weight 0 have none.

    Raises AdapterFileError for a module that the base lacks or has in another size: none is passed over.
    """
    changes: dict[str, list[Entry]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        check_constant(weight)
        name = adapter.info.name or "an adapter"
        for path, update in adapter.layers.items():
            own = opened.path_of(path)
            if own is None:
                raise AdapterFileError(
                    f"{name}: {shown(path)} is not in {shown_path(opened.path)} ({opened.family}); expected all of its "
                    "layers there; use the base it was made for"
                )
            if core(update.shape) != core(opened.shapes[own]):
                raise AdapterFileError(
                    f"{name}: {shown(path)} is {arrow(update.shape)}, in the base {arrow(opened.shapes[own])}: made "
                    "for another family; use the base it was made for"
                )
            entries = changes.setdefault(own, [])
            if found := weight_at(weight, own):
                entries.append((found, update))
    return changes


def check_constant(weight: float | Strength) -> None:
    """RequestError for a weight out of range, or one that changes while a picture is drawn."""
    if not isinstance(weight, Strength):
        return check_weight(weight)
    demand(
        (weight.start, weight.end) == (0.0, 1.0), f"weight {weight}",
        "one for all steps, as weights of a model cannot change while it draws; leave out steps=",
    )  # fmt: skip
    return None


def titles(out: Path, recipe: Mapping[str, object]) -> dict[str, str]:
    """What a single file says of itself in other programs' words."""
    sources = [str(one["name"]) for one in recipe.get("sources", ()) if isinstance(one, Mapping) and "name" in one]
    return {
        "modelspec.title": style_name(out), "modelspec.date": now(), "modelspec.merged_from": ", ".join(sources),
    }  # fmt: skip
