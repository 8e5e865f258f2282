"""The library as the pages show and change it. Knows no page."""

from __future__ import annotations

from pathlib import Path

from difflora.adapters.cards import Card
from difflora.adapters.edits import edit, install, rename, trash
from difflora.adapters.files import load_adapter
from difflora.adapters.header import shown
from difflora.adapters.norms import block_norms
from difflora.config import check_name
from difflora.errors import DiffloraError

from .desk import Desk, weight_of

HIDDEN = {"modelspec.thumbnail"}


def card_row(card: Card) -> dict:
    """A card for a page; thumbnails have a route of their own."""
    return {
        "name": card.path.name.removesuffix(".safetensors"), "title": card.name, "trigger": card.trigger,
        "weight": card.weight, "family": card.family, "base": card.base, "rank": card.rank, "layers": card.layers,
        "size": card.size, "made": card.made, "pictures": card.pictures, "thumb": bool(card.thumbnail),
        "problem": card.problem, "version": str(card.path.stat().st_mtime_ns) if card.path.exists() else "",
    }  # fmt: skip


def rows(desk: Desk) -> list[dict]:
    """Every style of the library."""
    return [card_row(card) for card in desk.cards()]


def detail(desk: Desk, name: str) -> dict:
    """One style with its metadata and the norm of each block; raises DiffloraError."""
    card = desk.card(name)
    metadata = {k: shown(v, 600) for k, v in sorted(card.metadata.items()) if k not in HIDDEN}
    try:
        adapter = load_adapter(card.path, desk.shapes, desk.model.family)
        norms, problem = block_norms(adapter), ""
    except DiffloraError as error:
        norms, problem = {}, str(error)
    return card_row(card) | {"metadata": metadata, "norms": norms, "problem": problem or card.problem}


def change(desk: Desk, name: str, trigger: str, weight: object) -> None:
    """Write a style's trigger and preferred weight into its file; raises DiffloraError."""
    words = " ".join(str(trigger).split())
    edit(desk.file(name), trigger=words, weight=weight_of({"weight": weight}))


def call(desk: Desk, name: str, new: str) -> Path:
    """Give a style another name; raises DiffloraError."""
    return rename(desk.file(name), check_name(str(new).strip()))


def throw_away(desk: Desk, name: str) -> Path:
    """Move a style to the trash folder of the library."""
    return trash(desk.file(name))


def take_in(desk: Desk, source: Path) -> str:
    """Check a dropped file and put it into the library; raises AdapterFileError with what is wrong with it."""
    path = install(source, desk.config.loras, desk.shapes, desk.model.family)
    return path.name.removesuffix(".safetensors")
