"""The library as cards: what each style file says of itself, and whether it fits. Reads headers only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from ..errors import AdapterFileError
from ..strength import WEIGHT_LIMIT
from .disk import content_sha256, stamp
from .fitting import check_fit
from .forms import forms_by_name
from .header import Header, read_header, shown
from .library import SUFFIX, adapter_named, adapter_names
from .metadata import THUMBNAIL, TRIGGER, WEIGHT, ranks_in_words
from .names import Shapes
from .thumbnail import thumbnail_in

MAX_SIDECAR = 2**20
MAX_TEXT = 2000
MAX_ROWS = 200


@dataclass(frozen=True)
class Card:
    """One style for a person to pick; all text is one printable line, whatever the file holds."""

    name: str
    path: Path
    trigger: str = ""
    weight: float = 1.0
    """The preferred weight, -10 to 10."""
    family: str = ""
    base: str = ""
    rank: str = ""
    """ "16", or "4 to 20" when layers differ."""
    layers: int = 0
    size: int = 0
    """Bytes."""
    made: str = ""
    pictures: str = ""
    thumbnail: bytes = b""
    """A WebP of at most 256 px a side, or nothing."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The other rows of the header, long ones cut."""
    problem: str = ""
    """Why it cannot be used with the base, or nothing."""

    @property
    def sha256(self) -> str:
        """Of the numbers, as `content_sha256`; nothing when they cannot be read."""
        try:
            return content_sha256(self.path)
        except AdapterFileError:
            return ""


@dataclass(frozen=True)
class _Fit:
    """A base to fit, told apart by a hash so that cards can be kept for it."""

    family: str
    key: int
    shapes: Shapes | None = field(compare=False)


def cards(folder: Path, shapes: Shapes | None = None, family: str = "") -> list[Card]:
    """Every style of a folder, by name; a file that is damaged, or leads out of the folder, is a card with a problem.

    shapes, family: of the base that styles should fit; any base if not given.
    """
    fit = _fit(shapes, family)
    found = []
    for name in adapter_names(folder):
        try:
            found.append(_card(adapter_named(name, folder), fit))
        except AdapterFileError as error:
            found.append(Card(shown(name), Path(folder) / f"{name}{SUFFIX}", problem=str(error)))
    return found


def card(path: Path, shapes: Shapes | None = None, family: str = "") -> Card:
    """One file as a card; a file that is missing or damaged is a card with a problem."""
    return _card(Path(path), _fit(shapes, family))


def _fit(shapes: Shapes | None, family: str) -> _Fit:
    return _Fit(family, 0 if shapes is None else hash(tuple(shapes.items())), shapes)


def _card(path: Path, fit: _Fit) -> Card:
    try:
        beside = _stamp_or_none(path.with_suffix(".json"))
        return _read(path, stamp(path), beside, fit)
    except (OSError, ValueError) as error:
        why = shown(getattr(error, "strerror", None) or error)
        return Card(shown(path.stem), path, problem=f"cannot be read ({why}); check the path, its rights and its disk")


def _stamp_or_none(path: Path) -> tuple[int, int, int] | None:
    try:
        return stamp(path)
    except OSError:
        return None


@lru_cache(maxsize=2048)
def _read(path: Path, at: tuple[int, int, int], beside: tuple[int, int, int] | None, fit: _Fit) -> Card:
    plain = Card(shown(path.stem), path, size=at[2], made=_day(at[1]))
    try:
        header = read_header(path)
    except AdapterFileError as error:
        return replace(plain, problem=str(error).removeprefix(f"{shown(path, 1000)}: "))
    problem = ""
    if fit.shapes is not None:
        try:
            check_fit(header, fit.shapes, fit.family)
        except AdapterFileError as error:
            problem = str(error)
    sidecar = _sidecar(path.with_suffix(".json"), beside)
    return replace(_described(plain, header, sidecar), problem=problem)


def _described(plain: Card, header: Header, sidecar: Mapping[str, object]) -> Card:
    """The card with what the header says, and what A1111 keeps beside the file where the header is silent."""
    known = header.metadata
    # A1111 writes 0 where no weight was chosen.
    said = known[WEIGHT] if WEIGHT in known else sidecar.get("preferred weight") or None
    trigger = known[TRIGGER] if TRIGGER in known else sidecar.get("activation text")
    modules = forms_by_name(header.shapes()).values()
    rows = [(key, value) for key, value in sorted(known.items()) if key != THUMBNAIL]
    return replace(
        plain,
        trigger=shown(trigger) if isinstance(trigger, str) else "",
        weight=preferred(said),
        family=shown(known.get("difflora.family") or known.get("ss_base_model_version") or ""),
        base=shown(known.get("difflora.base", ""), 1000),
        rank=ranks_in_words({form.rank for form in modules if form.rank}),
        layers=len(modules),
        made=shown(known.get("modelspec.date") or plain.made),
        pictures=shown(known.get("difflora.pictures") or known.get("ss_num_train_images") or ""),
        thumbnail=thumbnail_in(known.get(THUMBNAIL, "")),
        metadata={shown(key): shown(value, MAX_TEXT) for key, value in rows[:MAX_ROWS]},
    )


def _sidecar(path: Path, at: tuple[int, int, int] | None) -> Mapping[str, object]:
    """What A1111 keeps of a style in a .json file beside it; nothing when there is none, or no sound one."""
    if at is None or at[2] > MAX_SIDECAR or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def preferred(said: object) -> float:
    """A preferred weight as it was written; 1 for none, and for what is no weight."""
    try:
        weight = float(said)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return 1.0
    return weight if abs(weight) <= WEIGHT_LIMIT else 1.0


def _day(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="seconds")
