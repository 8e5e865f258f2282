"""A style made smaller: what each rank and each error would cost, and the copy. Knows no page."""

from __future__ import annotations

from pathlib import Path

from difflora.adapters.adapter import Adapter
from difflora.adapters.compress import spectra
from difflora.adapters.convert import precision_of
from difflora.adapters.places import sources
from difflora.adapters.resize import resize
from difflora.config import BlendConfig
from difflora.drawing.prospect import Prospects
from difflora.errors import RequestError
from difflora.events import Report
from difflora.strength import Strength

from .blends import blend_config, free, prospect_rows
from .desk import Desk
from .jobs import Job


def foresee(desk: Desk, user: str, name: str, settings: object) -> dict:
    """What a style would be at every rank and error: {"ready": rows}, or {"job": id} whose result they will be."""
    style = desk.style(name, Strength())
    # The copy is stored as the style is.
    asked = blend_config({"precision": precision_of(None, sources(Path(style.path)))} | dict(settings))
    key = "alone", style.sha256
    if known := desk.foreseen.get(key):
        return {"ready": prospect_rows(known, asked)}

    def work(report: Report) -> dict:
        found = Prospects((style,), spectra(plain(desk, name, desk.batcher.shelf.get(style)), report))
        return prospect_rows(desk.foreseen.keep(key, found), asked)

    return {"job": desk.jobs.start(user, "foresee", name, work).id}


def plain(desk: Desk, name: str, adapter: Adapter) -> Adapter:
    """The adapter, if it adds up; RequestError for one that has to be made plain first."""
    if any(update.factors() is None for update in adapter.layers.values()):
        raise RequestError(f"{name} is no plain LoRA: expected one; convert it first, and add the copy")
    return adapter


def shrink(desk: Desk, user: str, name: str, new: str, settings: object) -> Job:
    """Write a smaller copy of a style into the library in the background; raises RequestError."""
    asked = blend_config(settings)
    path, out = desk.file(name), free(desk, new)
    if asked.rank is None and asked.max_error is None:
        raise RequestError("no rank and no error chosen: expected one of them")

    def work(report: Report) -> dict:
        return shrunk(desk, path, out, asked, report)

    return desk.jobs.start(user, "resize", name, work)


def shrunk(desk: Desk, path: Path, out: Path, asked: BlendConfig, report: Report) -> dict:
    """The smaller copy, for a page."""
    with desk.doctor.reading:
        base = desk.doctor.base(path)
        made = resize(path, out, rank=asked.rank, max_error=asked.max_error, base=base, report=report)
    row = {key: part for key, part in made.row().items() if key not in ("file", "path")}
    return row | {"name": out.stem, "size": out.stat().st_size}
