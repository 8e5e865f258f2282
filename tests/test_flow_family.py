"""A family is one file and one line: a flow-matching transformer, known to the tests only, does all that others do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_adapter
from PIL import Image

from difflora.adapters.files import load_adapter, read_header, save_adapter
from difflora.config import BlendConfig, DrawConfig, TrainConfig
from difflora.drawing.effect import effects
from difflora.drawing.recipe import read_recipe
from difflora.drawing.request import blend_file, draw_files
from difflora.errors import AdapterFileError, BaseModelError, DiffloraError, RequestError
from difflora.events import Scored, Step
from difflora.models import family
from difflora.models.attach import attached
from difflora.models.family import BaseModel, open_model
from difflora.training import judge
from difflora.training.score import likelihoods
from difflora.training.train import prepare, train

SUM = BlendConfig(budget="sum", precision="fp32")


@pytest.fixture
def folder(base_folder, monkeypatch) -> Path:
    """The base on the disk, and the one line that makes it known."""
    monkeypatch.setitem(family.FAMILIES, "ToyFlowPipeline", "flow_family")
    return base_folder("flow")


@pytest.fixture
def model(opened) -> BaseModel:
    return opened("flow")


@pytest.fixture
def styles(model, tmp_path) -> Path:
    """A folder with two random styles of mixed ranks, alpha never the rank."""
    (tmp_path / "loras").mkdir()
    for name, rank, alpha, seed in (("ink", 4, 2.0, 1), ("chalk", 2, 3.0, 2)):
        paths = model.targets("attention+mlp", True)
        own = random_adapter(model, rank, alpha, seed, paths=paths, size=0.3)
        save_adapter(tmp_path / "loras" / f"{name}.safetensors", own, {}, torch.float32)
    return tmp_path / "loras"


@pytest.fixture
def drawn_folder(tmp_path) -> Path:
    """Six small drawn pictures with captions."""
    place = tmp_path / "stripes"
    place.mkdir()
    for i, name in enumerate(("cat", "dog", "fish", "house", "apple", "tree")):
        rows = np.zeros((48, 40 + 4 * i, 3), np.uint8)
        rows[:: 2 + i] = (40 * i, 200, 255 - 40 * i)
        Image.fromarray(rows).save(place / f"{name}.png")
        (place / f"{name}.txt").write_text(f"a {name}")
    return place


def asked(folder: Path, out: Path, styles: Path, loras: Sequence[str] = (), **more: object) -> DrawConfig:
    """One picture in three steps."""
    usual = {"prompts": ("a red apple",), "seed": 3, "steps": 3, "guidance": 3.0, "precision": "fp32", "budget": "sum"}
    return DrawConfig(base=str(folder), out=out, loras=styles, lora=tuple(loras), **(usual | more))


def pixels(config: DrawConfig) -> np.ndarray:
    """The picture that a config draws, its levels as whole numbers."""
    [(path, _)] = draw_files(config)
    return np.asarray(Image.open(path)).astype(int)


def test_it_is_known_by_one_line_of_the_table_and_refused_in_one_without(base_folder, monkeypatch):
    place = base_folder("flow")
    monkeypatch.delitem(family.FAMILIES, "ToyFlowPipeline", raising=False)
    with pytest.raises(BaseModelError, match="ToyFlowPipeline") as caught:
        open_model(str(place), "cpu")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(family.FAMILIES, "ToyFlowPipeline", "flow_family")
    opened = open_model(str(place), "cpu")
    assert (opened.family, opened.side, opened.unit) == ("toyflow-32", 32, 8)
    assert set(opened.parts) == {"transformer", "text_encoder"}


def test_every_member_of_the_protocol_is_there(model):
    members = set(family.BaseModel.__annotations__) | {
        name for name, value in vars(family.BaseModel).items() if callable(value) and not name.startswith("_")
    }
    assert {name for name in members if not hasattr(model, name)} == set()


def test_it_is_trained_from_a_folder_and_draws_with_what_it_learnt(folder, drawn_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "PROMPTS", 3)
    config = TrainConfig(
        images=drawn_folder, name="stripes", base=str(folder), rank=2, alpha=1.0, steps=4, batch=2, preview_every=2,
        learning_rate=0.02, trigger="striped", precision="fp32", out=tmp_path / "loras", runs=tmp_path / "runs",
    )  # fmt: skip
    seen = []
    result = train(prepare(config), seen.append)
    assert [event.step for event in seen if isinstance(event, Step)] == [1, 2, 3, 4]
    assert [event.step for event in seen if isinstance(event, Scored)] == [0, 2, 4]
    assert result.file == tmp_path / "loras" / "stripes.safetensors"
    assert result.sheet.is_file()
    said = read_header(result.file).metadata
    assert said["difflora.family"] == said["ss_base_model_version"] == "toyflow-32"
    assert (said["modelspec.architecture"], said["modelspec.trigger_phrase"]) == ("toyflow-32/lora", "striped")

    plain = pixels(asked(folder, tmp_path / "p", tmp_path / "loras"))
    styled = asked(folder, tmp_path / "p", tmp_path / "loras", ["stripes:8"])
    assert np.abs(pixels(styled) - plain).max() > 2


def test_its_picture_is_redrawn_from_its_recipe_bit_for_bit(folder, styles, tmp_path):
    config = asked(folder, tmp_path / "p", styles, ["ink:0.7", "chalk:-0.4"], prompts=("a cat", "a house"), count=2)
    for path, recipe in draw_files(config):
        assert read_recipe(path) == recipe
        like = DrawConfig(like=path, out=tmp_path / "again", loras=styles, precision="fp32")
        [(again, _)] = draw_files(like)
        assert Image.open(again).tobytes() == Image.open(path).tobytes()


def test_two_styles_blended_into_one_file_draw_the_same_pixels(folder, styles, tmp_path):
    plain = pixels(asked(folder, tmp_path / "p", styles))
    stacked = pixels(asked(folder, tmp_path / "p", styles, ["ink:0.7", "chalk:-0.4"]))
    made = blend_file(["ink:0.7", "chalk:-0.4"], styles / "both.safetensors", str(folder), styles, SUM)
    blended = pixels(asked(folder, tmp_path / "p", styles, ["both"]))
    assert (made.rank, made.error, made.distance) == ("6", 0, 0)
    assert np.abs(stacked - plain).max() > 8
    assert np.abs(blended - stacked).max() <= 1


def test_its_blends_may_be_balanced_by_how_strong_styles_look(folder, model, styles, tmp_path):
    own = [load_adapter(styles / f"{name}.safetensors", model.shapes(), model.family) for name in ("ink", "chalk")]
    found = effects(model, own)
    assert found.shape == (2, 2)
    assert torch.isfinite(found).all()
    assert (found.diagonal() > 0).all()
    for budget in ("normalised", "matched"):
        [(_, recipe)] = draw_files(asked(folder, tmp_path / "p", styles, ["ink", "chalk"], budget=budget))
        gains = [style.gain for style in recipe.styles]
        assert all(gain > 0 for gain in gains)
        assert (gains[0] == pytest.approx(gains[1])) is (budget == "normalised")


def test_weights_may_differ_by_network_and_by_step(folder, styles, tmp_path):
    def drawn(*loras: str) -> np.ndarray:
        return pixels(asked(folder, tmp_path / "p", styles, loras))

    assert np.array_equal(drawn("ink:0/0"), drawn())
    assert not np.array_equal(drawn("ink:1/0"), drawn("ink:1"))
    assert not np.array_equal(drawn("ink:0/1"), drawn())
    assert not np.array_equal(drawn("ink:1@steps=0-0.5"), drawn("ink:1"))


def test_it_reads_its_own_pictures(model):
    shown = model.draw(["a cat", "a house"], ["", ""], seeds=[0, 1], steps=2, guidance=2.0, size=(32, 32))
    table = likelihoods(model, shown, ["a cat", "a house", "a tree"])
    assert table.shape == (2, 3)
    assert torch.isfinite(table).all()


def test_its_styles_are_refused_on_another_family_and_others_on_it(folder, model, styles, opened, tmp_path):
    with pytest.raises(AdapterFileError) as caught:
        draw_files(replace(asked(folder, tmp_path / "p", styles, ["ink"]), base="tiny"))
    assert "\n" not in str(caught.value)
    other = opened("sd1")
    paths = other.targets("attention", True)
    save_adapter(styles / "foreign.safetensors", random_adapter(other, 2, 1.0, 1, paths=paths), {})
    with pytest.raises(AdapterFileError) as caught:
        draw_files(asked(folder, tmp_path / "p", styles, ["foreign"]))
    assert "\n" not in str(caught.value)
    own = random_adapter(other, 2, 1.0, 1, paths=["unet.conv_in"])
    with pytest.raises(AdapterFileError, match="unet.conv_in"), attached(model.parts, [own]):
        pass


def test_a_sampler_that_it_does_not_know_is_refused_in_one_line(folder, styles, tmp_path):
    with pytest.raises(RequestError, match="heun.*expected one of euler") as caught:
        draw_files(asked(folder, tmp_path / "p", styles, sampler="heun"))
    assert "\n" not in str(caught.value)
    assert pixels(asked(folder, tmp_path / "p", styles, sampler="euler")).shape == (32, 32, 3)


def test_a_base_with_weights_missing_is_refused_in_one_line(folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for part in folder.iterdir():
        if part.name != "transformer":
            (broken / part.name).symlink_to(part)
    (broken / "transformer").mkdir()
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (broken / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DiffloraError) as caught:
        open_model(str(broken), "cpu")
    assert "\n" not in str(caught.value)
