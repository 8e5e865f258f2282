"""The bases that this studio may open: what is here, and what may be downloaded. Knows no page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from difflora.adapters.cards import cards
from difflora.adapters.checkpoint import Checkpoint, open_checkpoint
from difflora.adapters.families import modules
from difflora.adapters.networks import FAMILIES
from difflora.errors import BaseModelError, RequestError
from difflora.machine import short_path
from difflora.models import bases as library
from difflora.models.hub import cache_folder

from .safety import inside
from .words import in_words

if TYPE_CHECKING:
    from .desk import Desk


@dataclass(frozen=True)
class Choice:
    """One base as a person picks it."""

    name: str
    """What it is opened by."""
    family: str = ""
    size: int = 0
    """Bytes of its weights; 0 where they are not known."""
    side: int = 0
    """Of the pictures that it draws best, in pixels; 0 where that is not known."""
    about: str = ""
    problem: str = ""
    """Why it cannot be opened, in one line, or nothing."""
    path: Path | None = None
    """Where it lies; None for what has to be downloaded."""

    @property
    def label(self) -> str:
        """Its name on a page: of a folder or a file elsewhere only the last part."""
        return Path(self.name).name if self.path and Path(self.name).is_absolute() else self.name


def found(desk: Desk) -> list[Choice]:
    """What is here: the embedded base, the bases folder, what was downloaded, and what the studio was started with."""
    here = library.here(desk.config.bases)
    rows = [Choice(one.name, one.family, one.size, one.side, one.about, one.problem, one.path) for one in here]
    for name in dict.fromkeys((desk.bases.started.base, desk.config.base)):
        if not any(is_same(row, name, desk) for row in rows):
            rows.append(described(name, desk))
    return rows


def called(rows: Iterable[Choice]) -> dict[str, Choice]:
    """Choices by what pages call them: without their paths, each once."""
    names: dict[str, Choice] = {}
    for row in rows:
        names["/".join(Path(row.name).parts[-2:]) if row.label in names else row.label] = row
    return names


def offers(desk: Desk) -> list[Choice]:
    """What may be downloaded by a short name and is not here."""
    if not desk.local:
        return []
    missing = library.not_here()
    return [Choice(short.name, short.family, short.size, short.side, short.about) for short in missing]


def described(name: str, desk: Desk) -> Choice:
    """A base that lies elsewhere."""
    try:
        located = library.locate(name, desk.config.bases)
    except BaseModelError as error:
        return Choice(name, problem=str(error), path=Path(name))
    if located.path is None:
        return Choice(name, located.family)
    one = library.look(name, located.kind, located.path, located.family)
    return Choice(name, one.family, one.size, one.side, one.about, one.problem, one.path)


def is_same(choice: Choice, name: str, desk: Desk) -> bool:
    """Whether a name means this choice."""
    if choice.name == name or choice.path is None:
        return choice.name == name
    try:
        path = library.locate(name, desk.config.bases).path
    except BaseModelError:
        return False
    return path is not None and path.resolve() == choice.path.resolve()


def wanted(desk: Desk, text: str) -> Choice:
    """The base that a page or a program means; RequestError for what may not be opened here.

    One of the list, by its name; for the person of this machine also a path inside the bases folder, or a hub id.
    """
    rows = called([*found(desk), *offers(desk)])
    text = text.strip()
    choice = rows.get(text)
    if choice is None and desk.local and text:
        choice = typed(desk, text)
    if choice is None:
        names = ", ".join(name for name, row in rows.items() if not row.problem)
        raise RequestError(f"base {text[:80]!r}: expected one of the list: {names}")
    if choice.problem:
        raise RequestError(shortened(choice.problem, desk))
    return choice


def shortened(line: str, desk: Desk) -> str:
    """A line of the library for a page: without flags, and without the way to the bases folder."""
    return in_words(line).replace(f"{desk.config.bases}/", "").replace(str(desk.config.bases), desk.config.bases.name)


def typed(desk: Desk, text: str) -> Choice | None:
    """A path inside the bases folder, or a hub id; None for neither."""
    try:
        path = inside(text, [desk.config.bases])
    except RequestError:
        return None
    if path.exists() and path != desk.config.bases.resolve():
        return described(str(path), desk)
    return Choice(text) if library.HUB_ID.fullmatch(text) else None


def rows(desk: Desk) -> dict:
    """The list for a page."""
    here = [row_of(desk, *row) for row in called(found(desk)).items()]
    return {
        "here": here, "offers": [row_of(desk, choice.name, choice) for choice in offers(desk)], "local": desk.local,
        "folder": desk.config.bases.name, "kept": short_path(cache_folder()) if desk.local else "",
    }  # fmt: skip


def row_of(desk: Desk, name: str, choice: Choice) -> dict:
    """One choice for a page: without paths, with the number of styles that fit it."""
    row = {key: value for key, value in asdict(choice).items() if key not in ("path", "name")}
    opened = desk.opened
    is_open = opened is not None and is_same(choice, desk.config.base, desk)
    if is_open:
        row |= {"family": opened.model.family, "side": opened.model.side}
    shapes = opened.shapes if is_open else shapes_of(choice)
    count = None if shapes is None or choice.problem else fitting(desk, shapes, row["family"])
    problem = shortened(choice.problem, desk).removeprefix(f"base {name}: ")
    return row | {"name": name, "open": is_open, "fits": count, "problem": problem}


def fitting(desk: Desk, shapes: Mapping[str, tuple[int, ...]], family: str) -> int:
    """How many styles of the library fit a base."""
    return sum(not card.problem for card in cards(desk.config.loras, shapes, family))


def shapes_of(choice: Choice) -> Mapping[str, tuple[int, ...]] | None:
    """Weight shapes of a base by module path, from headers alone; None where they are not known."""
    try:
        if choice.path is not None and not choice.problem:
            return read(choice.path, stamp(choice.path)).shapes
    except BaseModelError:
        return None
    return modules(choice.family) if choice.family in FAMILIES else None


@lru_cache(maxsize=64)
def read(path: Path, at: tuple[int, ...]) -> Checkpoint:
    """A base's headers, read once for as long as it stays; BaseModelError for what is none."""
    return open_checkpoint(path)


def stamp(path: Path) -> tuple[int, ...]:
    """Changes with a base's files; BaseModelError for one that is gone."""
    try:
        return tuple(place.stat().st_mtime_ns for place in (path, path / "unet") if place.exists())
    except OSError as error:
        raise BaseModelError(f"base {path.name} cannot be read ({error.strerror}); check its rights") from None


def weights(choice: Choice) -> int | None:
    """How many numbers a base has; None where that is not known."""
    try:
        opened = read(choice.path, stamp(choice.path)) if choice.path else None
    except BaseModelError:
        return None
    return sum(row.count for part in opened.parts for row in part.table.rows.values()) if opened else None
