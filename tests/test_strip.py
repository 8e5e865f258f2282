"""Strips and sheets: the ends are the styles alone, and every cell is the picture its weights would give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import random_adapter
from PIL import Image

from difflora import cli
from difflora.adapters.adapter import Info
from difflora.adapters.files import save_adapter
from difflora.config import SheetConfig
from difflora.drawing.generate import generate
from difflora.drawing.recipe import Recipe, Style, parse_recipe
from difflora.drawing.strip import draw_sheet, line, strengths, strip_recipes, triangle
from difflora.drawing.styles import find_style, load_styles
from difflora.errors import DiffloraError, RequestError


@pytest.fixture
def library(tmp_path: Path, model) -> Path:
    """Three styles as files, mixed ranks, alpha unlike rank."""
    folder = tmp_path / "loras"
    folder.mkdir()
    for name, rank, alpha, seed in (("ink", 4, 2.0, 1), ("gouache", 2, 5.0, 2), ("clay", 3, 1.0, 3)):
        # Of no named family, so that the model opened from its folder takes them too.
        made = replace(random_adapter(model, rank, alpha, seed), info=Info(name))
        save_adapter(folder / f"{name}.safetensors", made, {})
    return folder


@pytest.fixture
def config(tmp_path: Path, library: Path) -> SheetConfig:
    """Two prompts between two styles, one weight negative."""
    return SheetConfig(
        prompts=("cat", "a red apple"), lora=("ink:0.9", "gouache:-0.5"), steps=2, guidance=2.0, steps_between=3,
        loras=library, out=tmp_path / "sheet.png",
    )  # fmt: skip


def test_a_line_goes_from_one_style_alone_to_the_other_alone():
    cells = line((0.9, -0.5), 4)
    assert [c.weights for c in cells] == [(0.9, 0.0), (0.6, -0.1667), (0.3, -0.3333), (0.0, -0.5)]
    assert [c.x for c in cells] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert len(line((1, 1))) == 7
    assert [c.weights for c in strengths(1.2, 3)] == [(0.0,), (0.6,), (1.2,)]


@pytest.mark.parametrize("side", [2, 4, 7])
def test_a_triangle_has_each_style_alone_in_a_corner_and_every_mix_sums_to_one(side):
    cells = triangle((1.0, 2.0, -0.5), side)
    assert len(cells) == side * (side + 1) // 2 == len({(c.x, c.y) for c in cells})
    corners = {(c.x, c.y): c.weights for c in cells}
    assert corners[0.5, 0.0] == (1, 0, 0) and corners[0.0, 1.0] == (0, 2, 0) and corners[1.0, 1.0] == (0, 0, -0.5)
    for cell in cells:
        shares = [w / end for w, end in zip(cell.weights, (1.0, 2.0, -0.5), strict=True)]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert 0 <= cell.x <= 1 and cell.x == pytest.approx(shares[0] / 2 + shares[2], abs=1e-3)
    assert triangle((1.0, 2.0, -0.5), side) == cells


def test_a_strip_needs_two_ends():
    for work in (lambda: line((1, 1), 1), lambda: triangle((1, 1, 1), 1), lambda: strengths(1, 0)):
        with pytest.raises(RequestError, match="at least 2"):
            work()


def test_a_strip_changes_the_weights_at_its_places_and_nothing_else():
    styles = (Style("a", 0.3), Style("b", 0.7), Style("c", -1.0))
    recipe = Recipe(prompt="x", seed=9, width=32, height=32, styles=styles, batch=4, row=2, folded=True)
    first, last = strip_recipes(recipe, (2, 0), line((1.0, 0.5), 2))
    assert [s.weight for s in first.styles] == [0.0, 0.7, 1.0]
    assert [s.weight for s in last.styles] == [0.5, 0.7, 0.0]
    assert (first.seed, first.prompt, first.folded, first.batch) == (9, "x", False, 1)
    assert {s.name for s in last.styles} == {"a", "b", "c"}


def test_a_sheets_cells_are_drawn_in_one_batch_a_prompt_and_are_what_their_recipes_say(config, model):
    path, cells = draw_sheet(config, model=model)
    assert [(r.prompt, r.batch, r.row) for r, _ in cells] == [(p, 3, i) for p in config.prompts for i in range(3)]
    styles = [find_style(name, config.loras) for name in ("ink", "gouache")]
    adapters = load_styles(styles, model)
    with Image.open(path) as sheet:
        inside = [parse_recipe(json.dumps(row)) for row in json.loads(sheet.text["difflora.sheet"])]
        pixels = np.asarray(sheet)
    assert inside == [recipe for recipe, _ in cells]
    for recipe, cell in cells:
        assert tuple(s.weight for s in recipe.styles) == cell.weights
        again = {r.row: p for r, p in generate(model, recipe.copies(), adapters, batch=recipe.batch)}[recipe.row]
        large = np.asarray(again.resize((160, 160), Image.Resampling.LANCZOS))
        assert contains(pixels, large)


def contains(sheet: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a picture stands somewhere in a sheet, bit for bit."""
    height, width = picture.shape[:2]
    starts = np.argwhere((sheet == picture[0, 0]).all(-1))
    return any(np.array_equal(sheet[y : y + height, x : x + width], picture) for y, x in starts)


def test_three_styles_fill_a_triangle_and_one_goes_from_nothing_to_its_weight(config, model):
    three = replace(config, prompts=("cat",), lora=("ink", "gouache:0.5", "clay"), steps_between=None)
    _, cells = draw_sheet(three, model=model)
    assert [c for _, c in cells] == triangle((1.0, 0.5, 1.0)) and {r.batch for r, _ in cells} == {10}
    _, cells = draw_sheet(replace(config, lora=("ink:-0.8",), count=2), model=model)
    assert [r.seed for r, _ in cells[:6]] == [0, 0, 0, 1, 1, 1]
    assert [c.weights for _, c in cells[:3]] == [(-0.0,), (-0.4,), (-0.8,)]


def test_a_sheet_is_never_written_over_another(config, model):
    first, _ = draw_sheet(config, model=model)
    before = first.read_bytes()
    second, _ = draw_sheet(replace(config, lora=("ink",)), model=model)
    assert (first.name, second.name) == ("sheet.png", "sheet-2.png") and first.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora": ()}, "one, two or three"),
        ({"lora": ("ink", "gouache", "clay", "clay")}, "one, two or three"),
        ({"lora": ("ink", "gouache", "clay")}, "expected one prompt"),
        ({"lora": ("ink", "ghost")}, "ghost"),
        ({"prompts": ()}, "no prompt"),
        ({"steps_between": 1}, "from 2 to 16"),
        ({"out": Path("sheet.jpg")}, "ending in .png"),
    ],
)
def test_a_wrong_sheet_is_one_line_and_writes_nothing(config, model, change, words):
    with pytest.raises(DiffloraError, match=words) as error:
        draw_sheet(replace(config, **change), model=model)
    assert "\n" not in str(error.value)
    assert not config.out.exists()


def test_the_command_draws_a_sheet_and_prints_its_cells(config, toy_folder, tmp_path, capsys):
    command = ["sheet", "cat", "--lora", "ink:0.9", "--lora", "gouache", "--steps-between", "3", "--steps", "2"]
    command += ["--base", str(toy_folder), "--loras", str(config.loras), "--size", "32", "--out", str(config.out)]
    cli.main([*command, "--json"])
    rows = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    cells = [row for row in rows if row["event"] == "cell"]
    assert [c["weights"] for c in cells] == [
        {"ink": 0.9, "gouache": 0.0}, {"ink": 0.45, "gouache": 0.5}, {"ink": 0.0, "gouache": 1.0},
    ]  # fmt: skip
    assert {"event": "saved", "path": str(config.out)} in rows
    cli.main(command)
    assert "--lora ink:0.45 --lora gouache:0.5" in capsys.readouterr().out
