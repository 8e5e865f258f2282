"""The pictures that were drawn, newest first. The folder is the history: nothing else has to be kept."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from PIL import Image

from difflora.adapters.files import writable_folder
from difflora.drawing.recipe import Recipe, read_recipe
from difflora.drawing.request import numbered
from difflora.errors import OutputError, RequestError
from difflora.training.data import DECODER_ERRORS, open_picture

from . import choices
from .desk import Desk
from .easel import TRASH, as_webp, newest_first, picture_file
from .mixing import recipe_facts

PAGE = 60
THUMB = 320
DECODING = threading.Semaphore(2)
"""A picture that somebody brought takes up to 2 GB while it is decoded: never more than two at once."""
COARSE = 100_000_000
"""Nanoseconds within which a folder may change twice and show the same time."""


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
            names = [path.name for _, path in newest_first(folder)]
            if abs(time.time_ns() - changed) < COARSE:
                return names
            self.known[folder] = changed, names
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
    here = {card.path.stem for card in desk.cards()}
    others = choices.called(choices.found(desk)).items() if recipe.base != desk.config.base else ()
    other = next((name for name, one in others if not one.problem and choices.is_same(one, recipe.base, desk)), "")
    return {"name": name, "recipe": recipe_facts(recipe, here), "here": recipe.base == desk.config.base, "other": other}


def small(path: Path) -> bytes:
    """One of our own PNGs as a small WebP; one that is smaller already keeps its size."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return shrunk(picture.convert("RGB"))
    except (*DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise RequestError(f"{path.name} is not a readable picture: {error}") from error


def strange_small(path: Path) -> bytes:
    """The same for a picture that somebody brought: decoded within the limits of training."""
    with DECODING:
        return shrunk(open_picture(path, path.name))


def shrunk(picture: Image.Image) -> bytes:
    """The picture as a WebP of at most `THUMB` pixels a side."""
    picture.thumbnail((THUMB, THUMB))
    return as_webp(picture)


def throw_away(desk: Desk, user: str, name: str) -> Path:
    """Move a picture to the trash folder beside the history."""
    path = picture_file(desk, user, name)
    place = numbered(writable_folder(path.parent / TRASH) / path.name)
    try:
        return path.rename(place)
    except OSError as error:
        raise OutputError(f"{name} cannot be moved to the trash folder: {error.strerror}") from error
