"""What is foretold of a blend's file is what export writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import random_adapter

from difflora.adapters.cards import card
from difflora.adapters.files import load_adapter, save_adapter
from difflora.config import BlendConfig
from difflora.drawing.balance import Balance
from difflora.drawing.export import export
from difflora.drawing.prospect import Prospects, prospects
from difflora.drawing.recipe import Style
from difflora.drawing.styles import find_styles, load_styles

SUM = BlendConfig(budget="sum")


@pytest.fixture
def library(tmp_path: Path, model) -> Path:
    """Two styles of mixed ranks, alpha unlike rank, of unlike layers; convolutions among them."""
    folder = tmp_path / "loras"
    folder.mkdir()
    few = model.targets("attention", False)[::2]
    save_adapter(folder / "ink.safetensors", random_adapter(model, 4, 2.0, 1), {})
    save_adapter(folder / "clay.safetensors", random_adapter(model, 3, 5.0, 2, paths=few), {})
    return folder


@pytest.fixture
def styles(library: Path) -> list[Style]:
    return find_styles(["ink:0.7/0.2@up=0.4", "clay:-0.6"], library)


def foretold(styles, model, asked: BlendConfig) -> Prospects:
    return prospects(styles, load_styles(styles, model), Balance(model), asked)


@pytest.mark.parametrize(
    "cut", [{}, {"rank": 3}, {"max_error": 0.3}, {"precision": "fp32"}, {"rank": 2, "method": "ties"}], ids=str
)
def test_rank_size_and_error_are_those_of_the_file_that_is_written(cut, styles, model, tmp_path):
    asked = replace(SUM, **cut)
    found = foretold(styles, model, replace(asked, rank=None, max_error=None))
    one = found.at(asked.rank, asked.max_error, asked.precision)
    made = export(styles, tmp_path / "both.safetensors", model, asked)
    assert (one.rank, one.layers) == (made.rank, made.layers) == (card(made.path).rank, len(load(made.path, model)))
    assert one.size == pytest.approx(made.size, rel=0.05)
    assert one.error == pytest.approx(made.error, abs=1e-4)
    assert found.distance == pytest.approx(made.distance, abs=1e-6)
    if asked.method == "sum":
        assert one.error == pytest.approx(made.measured, abs=2e-3)


def load(path: Path, model):
    return load_adapter(path, model.shapes())


def test_more_rank_or_more_error_is_a_larger_or_a_smaller_file(styles, model):
    found = foretold(styles, model, SUM)
    whole = found.whole()
    ranks = [one for _, one in found.by_rank()]
    assert [rank for rank, _ in found.by_rank()] == [1, 2, 4]
    for rows in (ranks, [one for _, one in found.by_error()][::-1]):
        assert [one.size for one in rows] == sorted(one.size for one in rows)
        assert [one.error for one in rows] == sorted((one.error for one in rows), reverse=True)
        assert all(one.size < whole.size for one in rows)
    assert all(one.error <= error for error, one in found.by_error())
    assert whole.error == 0 and whole.rank == "4 to 7"
    assert found.whole("fp32").size == pytest.approx(2 * whole.size, rel=0.1)


def test_gains_are_settled_before_anything_is_foretold(styles, model):
    found = foretold(styles, model, replace(SUM, budget="normalised"))
    assert all(style.gain is not None for style in found.styles)
    assert found.whole() == foretold(styles, model, SUM).whole()


def test_numbers_of_styles_that_are_nothing_are_not_stored(library, model):
    styles = find_styles(["ink:0@mid=0.5", "clay:0"], library)
    found = foretold(styles, model, SUM)
    assert set(found.spectra.modules) == {
        path for path in load(library / "ink.safetensors", model).layers if ".mid_" in path
    }
    assert torch.isfinite(torch.tensor([one.error for _, one in found.by_rank()])).all()
