"""Styles into a copy of a base model: from what a person names to the checkpoint. What `difflora merge` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..adapters.adapter import Adapter
from ..adapters.checkpoint import open_checkpoint
from ..adapters.files import content_sha256, load_adapter
from ..adapters.merge import Merged, check_constant, merge
from ..adapters.target import check_target
from ..config import BaseConfig, Budget, demand
from ..events import Report, ignore
from ..models.family import on_disk, open_model
from ..version import __version__
from .balance import Balance
from .recipe import Style
from .styles import find_styles


def merge_files(
    loras: Sequence[str],
    base: str,
    out: Path,
    *,
    folder: Path = Path("loras"),
    bases: Path = Path("bases"),
    budget: Budget = "normalised",
    precision: str | None = None,
    overwrite: bool = False,
    report: Report = ignore,
) -> Merged:
    """Write a copy of a base with styles in its weights, and how it was made in its header; raises DiffloraError.

    loras: NAME[:WEIGHT], looked up in `folder`; the same style twice is added twice. base: as --base takes it, its name
    looked up in `bases`; budget: as in drawing, so that the copy draws what the styles did; precision: fp32, bf16 or
    fp16, the base's own unless given.
    """
    demand(bool(loras), "nothing to merge", "styles such as ink:0.7 gouache:0.4")
    opened = open_checkpoint(on_disk(base, bases))
    check_target(opened, Path(out), overwrite)
    styles = find_styles(loras, folder)
    for style in styles:
        check_constant(style.asked)
    files = {path: load_adapter(Path(path), opened.shapes, opened.family) for path in {s.path for s in styles}}
    adapters = [files[style.path] for style in styles]
    styles = with_gains(styles, adapters, BaseConfig(base=base, bases=bases), budget)
    recipe = {
        "verb": "merge", "sources": [source_row(style) for style in styles], "budget": budget, "base": base,
        "base_sha256": content_sha256(opened.path), "precision": precision, "version": __version__,
    }  # fmt: skip
    return merge(
        opened, adapters, [style.strength for style in styles], out,
        recipe=recipe, precision=precision, overwrite=overwrite, report=report,
    )  # fmt: skip


def with_gains(styles: Sequence[Style], adapters: Sequence[Adapter], base: BaseConfig, budget: Budget) -> list[Style]:
    """The styles with what the budget makes of their weights, as it does when they are drawn with."""
    if budget == "sum":
        return list(styles)
    model = None
    if budget == "matched":
        # Only what looks at answers needs the networks themselves.
        model = open_model(base)
        adapters = [load_adapter(Path(style.path), model.shapes(), model.family) for style in styles]
    gains = Balance(model).gains(adapters, [style.asked for style in styles], budget)
    return [replace(style, gain=gain) for style, gain in zip(styles, gains, strict=True)]


def source_row(style: Style) -> dict[str, object]:
    """A style for the recipe: its weight as it was typed, and what the budget multiplied it with."""
    row = {"name": style.name, "weight": str(style.asked), "sha256": style.sha256}
    return row if style.gain is None else row | {"gain": style.gain}
