"""What can be asked of the easel: pictures, strips, duels, redrawings. Knows no page."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from difflora.adapters.files import writable_folder
from difflora.config import DrawConfig
from difflora.drawing.admit import MOST_PICTURES
from difflora.drawing.batcher import Ticket
from difflora.drawing.duel import Duel
from difflora.drawing.recipe import Recipe, Style, read_recipe, save_picture
from difflora.drawing.request import free_name, recipes_for
from difflora.drawing.strip import Cell, line, strip_recipes, triangle
from difflora.drawing.styles import found_again
from difflora.errors import RequestError
from difflora.training.data import is_text

from .desk import Desk, Drawing, Mix

ASIDE = "aside"
"""Folder beside the pictures for strips, duels and checks: shown where they were asked for, not in the history."""
KEPT_ASIDE = 300
TRASH = ".trash"
DRAFT_STEPS = 12
MOST_REMEMBERED = 500
"""More than the batcher keeps: beyond it, what it has forgotten is forgotten here too."""


def draw(desk: Desk, user: str, config: DrawConfig, mix: Mix) -> Ticket:
    """Ask for pictures; raises DiffloraError before anything is queued."""
    count = len(config.prompts) * config.count
    # Counted before they are made: a long list of prompts times a large count would fill the memory.
    if count > MOST_PICTURES:
        raise RequestError(f"{count} pictures: expected at most {MOST_PICTURES} in a request")
    recipes = recipes_for(config, desk.styles(mix), desk.model)
    give_up_drafts(desk, user)
    return submit(desk, user, recipes, "pictures")


def draft(desk: Desk, user: str, config: DrawConfig, mix: Mix) -> Ticket:
    """One picture in few steps while a slider moves; the one before is given up."""
    give_up_drafts(desk, user)
    quick = replace(config, prompts=config.prompts[:1], count=1, steps=min(config.steps, DRAFT_STEPS))
    return submit(desk, user, recipes_for(quick, desk.styles(mix), desk.model), "draft")


def give_up_drafts(desk: Desk, user: str) -> None:
    """Cancel what is only waited for until the next one comes."""
    for ticket in desk.tickets(user):
        if ticket.id in desk.drawings and desk.drawings[ticket.id].kind == "draft":
            ticket.cancel()


def redraw(desk: Desk, user: str, name: str) -> Ticket:
    """Draw a picture of the history again from its recipe, in a batch of the same size."""
    recipe = read_recipe(picture_file(desk, user, name))
    if recipe.base != desk.config.base:
        raise RequestError(f"drawn with base {recipe.base}: expected it open, not {desk.config.base}; open it first")
    styles = tuple(found_again(style, desk.config.loras) for style in recipe.styles)
    return submit(desk, user, replace(recipe, styles=styles).copies(), "redraw", {"row": recipe.row, "of": name})


def strip(desk: Desk, user: str, config: DrawConfig, mix: Mix) -> Ticket:
    """Two styles: the steps in between; three: a triangle; all cells with one seed."""
    styles = desk.styles(mix)
    places = range(len(styles))[:3]
    if len(places) < 2:
        raise RequestError(f"{len(styles)} styles chosen: the steps in between need two, a triangle three")
    ends = [desk.card(styles[i].name).weight for i in places]
    cells: list[Cell] = line(ends) if len(places) == 2 else triangle(ends)
    first = first_recipe(desk, config, styles)
    facts = {"names": [styles[i].name for i in places], "cells": [asdict(cell) for cell in cells]}
    return submit(desk, user, strip_recipes(first, places, cells), "strip", facts)


def duel(desk: Desk, user: str, config: DrawConfig, mix: Mix, state: dict | None) -> tuple[Ticket, dict]:
    """The next two pictures of a blind pick, and its state for the page: weights, spread, round, seed."""
    styles = desk.styles(mix)
    if not styles:
        raise RequestError("no style chosen: a blind pick needs at least one")
    now = Duel(weights=tuple(style.weight for style in styles), seed=config.seed)
    if state:
        now = resumed(state, len(styles), config.seed)
    first = first_recipe(desk, config, styles)
    # Each round another seed, or one lucky picture would decide every round.
    both = [weighted(first, weights, first.seed + now.round) for weights in now.pair()]
    facts = {"weights": list(now.weights), "spread": now.spread, "round": now.round, "names": [s.name for s in styles]}
    return submit(desk, user, both, "duel", facts), facts


def resumed(state: Mapping, count: int, seed: int) -> Duel:
    """The blind pick of a page after its choice; RequestError when it is of other styles, or none."""
    try:
        weights = tuple(float(weight) for weight in state["weights"])
        now = Duel(weights=weights, spread=float(state["spread"]), round=int(state["round"]), seed=seed)
        which = state.get("which")
        now = now.chosen(None if which is None else bool(which))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise RequestError("this blind pick is not readable: expected weights and a choice; begin it again") from None
    if len(weights) != count:
        raise RequestError(f"{count} styles chosen, {len(weights)} when the blind pick began: begin it again")
    return now


def first_recipe(desk: Desk, config: DrawConfig, styles: Sequence[Style]) -> Recipe:
    """The first picture that a config asks for."""
    return recipes_for(replace(config, prompts=config.prompts[:1], count=1), styles, desk.model)[0]


def weighted(recipe: Recipe, weights: Sequence[float], seed: int) -> Recipe:
    """The recipe with other weights and another seed."""
    rows = zip(recipe.styles, weights, strict=True)
    styles = tuple(replace(style, weight=weight, gain=None) for style, weight in rows)
    return replace(recipe, styles=styles, seed=seed)


def submit(
    desk: Desk,
    user: str,
    recipes: Sequence[Recipe],
    kind: str,
    facts: dict | None = None,
    then: Callable[[Image.Image], None] = lambda picture: None,
) -> Ticket:
    """Queue recipes; each picture is saved as soon as it is drawn, and `then` is called with it."""
    aside = kind not in {"pictures", "redraw"}
    folder = desk.pictures(user) / ASIDE if aside else desk.pictures(user)
    writable_folder(folder)
    asked = list(recipes)
    files: list[str | None] = [None] * len(asked)

    def finished(recipe: Recipe, picture: Image.Image) -> None:
        place = next(i for i, r in enumerate(asked) if files[i] is None and same(r, recipe, kind == "redraw"))
        if kind == "redraw" and place != (facts or {}).get("row"):
            return
        path = new_name(folder, recipe, aside)
        save_picture(picture, recipe, path)
        files[place] = path.relative_to(desk.pictures(user)).as_posix()
        if aside:
            forget_old(folder)
        then(picture)

    # Others ask at the same time: a copy does not change while it is gone through.
    if len(desk.drawings) > MOST_REMEMBERED:
        for old in [key for key in list(desk.drawings) if desk.ticket(key) is None]:
            desk.drawings.pop(old, None)
    ticket = desk.batcher.submit(user, asked, finished=finished, alone=kind == "redraw")
    desk.drawings[ticket.id] = Drawing(kind, files, facts or {})
    return ticket


def same(asked: Recipe, drawn: Recipe, exact: bool) -> bool:
    """Whether a drawn recipe is the one that was asked for, apart from the facts of its batch."""
    if exact and asked.row != drawn.row:
        return False
    weights = [sorted((s.name, str(s.asked)) for s in recipe.styles) for recipe in (asked, drawn)]
    return (asked.prompt, asked.seed, weights[0]) == (drawn.prompt, drawn.seed, weights[1])


def new_name(folder: Path, recipe: Recipe, aside: bool) -> Path:
    """A name that no picture has, and none had that was deleted: to pages and browsers a name is one picture."""
    path = free_name(folder, recipe)
    if aside:
        return path.with_name(f"{path.stem}-{secrets.token_hex(4)}.png")
    number, stem = 1, path.stem
    while path.exists() or (folder / TRASH / path.name).exists():
        number += 1
        path = path.with_name(f"{stem}-{number}.png")
    return path


def forget_old(folder: Path) -> None:
    """Keep the newest few hundred of the pictures that no history shows."""
    for _, path in newest_first(folder)[KEPT_ASIDE:]:
        path.unlink(missing_ok=True)


def newest_first(folder: Path) -> list[tuple[int, Path]]:
    """(time in nanoseconds, path) of every picture in a folder; one that goes away meanwhile is left out."""
    found = []
    for path in folder.glob("[!.]*.png"):
        with suppress(OSError):
            # A name that is not text cannot be asked for by a page.
            if path.is_file() and is_text(path.name):
                found.append((path.stat().st_mtime_ns, path))
    return sorted(found, key=lambda row: (row[0], row[1].name), reverse=True)


def picture_file(desk: Desk, user: str, name: str) -> Path:
    """A picture of this user's by its name; raises RequestError for anything that is not one."""
    folder = desk.pictures(user)
    path = folder / name
    parts = Path(name).parts
    plain = 0 < len(parts) <= 2 and parts[0] != ".." and not any(part.startswith(".") for part in parts)
    with suppress(OSError):  # such as for a name that is too long
        plain = plain and (len(parts) == 1 or parts[0] == ASIDE) and path.suffix == ".png"
        if plain and path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise RequestError(f"no picture {name[:80]!r}: expected one of the history")


def as_webp(picture: Image.Image) -> bytes:
    """A picture as WebP, quickly."""
    buffer = BytesIO()
    picture.save(buffer, format="WEBP", quality=85, method=0)
    return buffer.getvalue()
