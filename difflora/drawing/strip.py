"""Blends in between: a line between two styles, a triangle of three, the strengths of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from itertools import groupby
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..adapters.files import writable_folder, write_atomic
from ..config import SheetConfig
from ..errors import RequestError
from ..events import Report, Saved, ignore
from ..models.family import BaseModel, open_model
from .generate import generate
from .recipe import KEY, Recipe
from .request import numbered, read_prompts, recipes_for
from .sheet import grid
from .styles import check_fit_before, find_styles, load_styles


@dataclass(frozen=True)
class Cell:
    """One blend of a strip: a weight for each style, and its place, 0..1 from the left and from the top."""

    weights: tuple[float, ...]
    x: float
    y: float


def strengths(end: float, steps: int = 7) -> list[Cell]:
    """One style from nothing to its weight."""
    return [Cell((round(end * t, 4),), t, 0.0) for t in shares(steps)]


def line(ends: Sequence[float], steps: int = 7) -> list[Cell]:
    """From the first style alone at its weight to the second alone at its own."""
    first, second = ends
    return [Cell((round(first * (1 - t), 4), round(second * t, 4)), t, 0.0) for t in shares(steps)]


def triangle(ends: Sequence[float], side: int = 4) -> list[Cell]:
    """Every mix of three styles with `side` cells along each edge, from the top down and from the left.

    The first style is alone at the top, the second at the left below, the third at the right.
    """
    first, second, third = ends
    cells = []
    for down, y in enumerate(shares(side)):
        for right in range(down + 1):
            c = right / (side - 1)
            weights = (round(first * (1 - y), 4), round(second * (y - c), 4), round(third * c, 4))
            cells.append(Cell(weights, (1 - y) / 2 + c, y))
    return cells


def shares(steps: int) -> list[float]:
    """From 0 to 1; RequestError for fewer than two steps."""
    if steps < 2:
        raise RequestError(f"{steps} steps in between: expected at least 2, the two ends")
    return [i / (steps - 1) for i in range(steps)]


def strip_recipes(recipe: Recipe, places: Sequence[int], cells: Sequence[Cell]) -> list[Recipe]:
    """The recipe once for each cell, with the cell's weights for the styles at `places` and one seed for all."""
    drawn = []
    for cell in cells:
        styles = list(recipe.styles)
        for place, weight in zip(places, cell.weights, strict=True):
            styles[place] = replace(styles[place], weight=weight, gain=None)
        drawn.append(replace(recipe, styles=tuple(styles), folded=False, batch=1, row=0))
    return drawn


def draw_sheet(
    config: SheetConfig, report: Report = ignore, model: BaseModel | None = None
) -> tuple[Path, list[tuple[Recipe, Cell]]]:
    """Draw the blends between one to three styles, a row for each prompt and seed, as one labelled picture.

    Returns its path and every cell with its recipe; the recipes are inside the picture too. Raises DiffloraError.
    """
    styles = find_styles(config.lora, config.loras, config if model is None else None)
    rows = len(read_prompts(config)) * config.count
    if not 1 <= len(styles) <= 3:
        raise RequestError(f"{len(styles)} styles: expected one, two or three, such as --lora ink --lora gouache")
    if len(styles) == 3 and rows > 1:
        raise RequestError(f"{rows} rows: expected one prompt and --count 1, for three styles fill a triangle")
    writable_folder(config.out.parent)
    if model is None:
        check_fit_before(styles, config)
        model = open_model(config, report=report)
    adapters = load_styles(styles, model)
    cells = cells_for([style.weight for style in styles], config.steps_between)
    places = range(len(styles))
    recipes = [r for asked in recipes_for(config, styles, model) for r in strip_recipes(asked, places, cells)]
    drawn = list(generate(model, recipes, adapters, batch=len(cells), report=report))
    path = numbered(config.out)
    write_sheet(path, lay_out(drawn, cells), [recipe for recipe, _ in drawn])
    report(Saved(path))
    return path, [(recipe, cells[i % len(cells)]) for i, (recipe, _) in enumerate(drawn)]


def cells_for(ends: Sequence[float], steps: int | None) -> list[Cell]:
    """The strip of one, two or three styles."""
    if len(ends) == 1:
        return strengths(ends[0], steps or 7)
    return line(ends, steps or 7) if len(ends) == 2 else triangle(ends, steps or 4)


def lay_out(drawn: Sequence[tuple[Recipe, Image.Image]], cells: Sequence[Cell]) -> Image.Image:
    """The pictures with their weights along the edges."""
    names = [style.name for style in drawn[0][0].styles]
    pictures = iter([picture for _, picture in drawn])
    if len(names) == 3:
        return lay_out_triangle(pictures, cells, names)
    columns = [" + ".join(f"{weight:.2g}" for weight in cell.weights) for cell in cells]
    columns[0], columns[-1] = label(names[0], cells[0].weights[0]), label(names[-1], cells[-1].weights[-1])
    rows = [[next(pictures) for _ in cells] for _ in drawn[:: len(cells)]]
    many = len({recipe.seed for recipe, _ in drawn}) > 1
    return grid(rows, columns, [f"{r.prompt} ({r.seed})" if many else r.prompt for r, _ in drawn[:: len(cells)]])


def lay_out_triangle(pictures: Iterator[Image.Image], cells: Sequence[Cell], names: Sequence[str]) -> Image.Image:
    """Rows by the first style's weight, columns by the third's; the second is what is left of both."""
    steps = [list(row) for _, row in groupby(cells, key=lambda cell: cell.y)]
    columns = [label(names[2], cell.weights[2]) for cell in steps[-1]]
    labels = [label(names[0], row[0].weights[0]) for row in steps[:-1]] + [label(names[1], steps[-1][0].weights[1])]
    return grid([[next(pictures) for _ in row] for row in steps], columns, labels)


def label(name: str, weight: float) -> str:
    """A style and its weight in few letters."""
    return f"{name} {weight:.2g}"


def write_sheet(path: Path, sheet: Image.Image, recipes: Sequence[Recipe]) -> None:
    """Write a PNG that carries the recipe of every cell; raises OutputError."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(f"{KEY}.sheet", json.dumps([asdict(recipe) for recipe in recipes], ensure_ascii=False))
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", pnginfo=info)
    write_atomic(path, buffer.getvalue())
