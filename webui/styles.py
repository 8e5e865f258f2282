"""The library as the pages show and change it. Knows no page."""

from __future__ import annotations

from pathlib import Path

from difflora.adapters.cards import Card
from difflora.adapters.edits import edit, mend_style, rename, trash
from difflora.adapters.header import shown
from difflora.adapters.metadata import SPOKEN
from difflora.config import check_name
from difflora.errors import DiffloraError

from .desk import Desk, number_of
from .doctor import header_rows, number_rows, refusal, verdict

HIDDEN = {"modelspec.thumbnail"}
MOST_LOST = 12


def card_row(card: Card) -> dict:
    """A card for a page; thumbnails have a route of their own."""
    return {
        "name": card.path.name.removesuffix(".safetensors"), "title": card.name, "trigger": card.trigger,
        "weight": card.weight, "family": card.family, "kind": kind_of(card.family), "base": card.base,
        "rank": card.rank, "layers": card.layers,
        "size": card.size, "made": card.made, "pictures": card.pictures, "thumb": bool(card.thumbnail),
        "problem": card.problem, "version": str(card.path.stat().st_mtime_ns) if card.path.exists() else "",
    }  # fmt: skip


def kind_of(said: str) -> str:
    """The family that a header names, as pages have words for it; what it says where that is none."""
    return next((name for name, spoken in SPOKEN.items() if said == name or said.startswith(spoken.version)), said)


def rows(desk: Desk) -> list[dict]:
    """Every style of the library."""
    return [card_row(card) for card in desk.cards()]


def detail(desk: Desk, name: str) -> dict:
    """One style with its metadata and what its header says; raises DiffloraError."""
    card = desk.card(name)
    metadata = {k: shown(v, 600) for k, v in sorted(card.metadata.items()) if k not in HIDDEN}
    row = card_row(card) | {"metadata": metadata}
    try:
        found = desk.doctor.header(card.path)
    except DiffloraError as error:
        broken = [refusal(card.problem or str(error))]
        return row | {"verdict": {"kind": "refused", "problems": broken, "mends": False, "here": True}, "about": None}
    said = verdict(desk.doctor, found, card.problem)
    return row | {"verdict": said, "about": header_rows(found, card.metadata)}


def numbers(desk: Desk, name: str) -> dict:
    """What only the numbers of a style say, and the verdict with them; raises DiffloraError."""
    card = desk.card(name)
    found = desk.doctor.numbers(card.path)
    return number_rows(found) | {"verdict": verdict(desk.doctor, found, card.problem)}


def change(desk: Desk, name: str, trigger: str, weight: object) -> None:
    """Write a style's trigger and preferred weight into its file; raises DiffloraError."""
    words = " ".join(str(trigger).split())
    edit(desk.file(name), trigger=words, weight=number_of({"weight": weight}, "weight", 1.0))


def call(desk: Desk, name: str, new: str) -> Path:
    """Give a style another name; raises DiffloraError."""
    return rename(desk.file(name), check_name(str(new).strip()))


def throw_away(desk: Desk, name: str) -> Path:
    """Move a style to the trash folder of the library."""
    return trash(desk.file(name))


def mend(desk: Desk, name: str) -> dict:
    """Put a sound copy in a style's place, the old file into the trash folder; raises DiffloraError."""
    path = desk.file(name)
    with desk.doctor.reading:
        made = mend_style(path, desk.doctor.base(path))
    return {"kept": made.modules} | lost_rows(made.lost)


def lost_rows(lost: tuple[str, ...]) -> dict:
    """What a repaired copy is without: the first few, and how many there are."""
    return {"lost": list(lost[:MOST_LOST]), "count": len(lost)}
