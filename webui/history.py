"""The pictures that were drawn, newest first. The folder is the history: nothing else has to be kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from PIL import Image

from difflora.drawing.recipe import Recipe, read_recipe
from difflora.errors import RequestError
from difflora.training.data import open_picture

from .desk import Desk
from .easel import as_webp, picture_file, style_row

PAGE = 60
THUMB = 320


class History:
    """Listings of picture folders, read again only when a folder changed."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.known: dict[Path, tuple[int, list[str]]] = {}

    def names(self, user: str) -> list[str]:
        """Names of this user's pictures, newest first."""
        folder = self.desk.pictures(user)
        try:
            changed = folder.stat().st_mtime_ns
        except OSError:
            return []
        if self.known.get(folder, (0, []))[0] != changed:
            files = [path for path in folder.glob("[!.]*.png") if path.is_file()]
            files.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
            self.known[folder] = changed, [path.name for path in files]
        return self.known[folder][1]

    def page(self, user: str, start: int) -> dict:
        """One page of the history for a browser."""
        names = self.names(user)
        return {"total": len(names), "names": names[start : start + PAGE], "next": start + PAGE}


def recipe_of(desk: Desk, user: str, name: str) -> Recipe:
    """The recipe inside one of the user's pictures; raises RequestError."""
    return read_recipe(picture_file(desk, user, name))


def recipe_row(desk: Desk, user: str, name: str) -> dict:
    """A recipe for a page: what was asked, and which of its styles are here."""
    recipe = recipe_of(desk, user, name)
    here = {card.name for card in desk.cards()} | {card.path.stem for card in desk.cards()}
    row = asdict(recipe) | {"styles": [style_row(s) | {"here": s.name in here} for s in recipe.styles]}
    return {"name": name, "recipe": row, "here": recipe.base == desk.config.base}


def small(path: Path) -> bytes:
    """One of our own PNGs as a small WebP; one that is smaller already keeps its size."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return shrunk(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path.name} is not a readable picture: {error}") from error


def strange_small(path: Path) -> bytes:
    """The same for a picture that somebody brought: decoded within the limits of training."""
    return shrunk(open_picture(path, path.name))


def shrunk(picture: Image.Image) -> bytes:
    """The picture as a WebP of at most `THUMB` pixels a side."""
    picture.thumbnail((THUMB, THUMB))
    return as_webp(picture)


def throw_away(desk: Desk, user: str, name: str) -> Path:
    """Move a picture to the trash folder beside the history."""
    path = picture_file(desk, user, name)
    trash = path.parent / ".trash"
    trash.mkdir(exist_ok=True)
    place = trash / path.name
    number = 1
    while place.exists():
        number += 1
        place = trash / f"{path.stem}-{number}.png"
    return path.rename(place)
