"""A blend as one file: foretold from headers, never written over another, and the same picture."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from conftest import random_adapter
from PIL import Image

from difflora.adapters.adapter import Info
from difflora.adapters.blend import blend
from difflora.adapters.cards import card
from difflora.adapters.files import content_sha256, load_adapter, read_header, save_adapter
from difflora.drawing import export as export_room
from difflora.drawing.export import EXACT, apart, blend_facts, export, same_picture
from difflora.drawing.recipe import Recipe
from difflora.drawing.request import blend_file
from difflora.drawing.styles import find_style, load_styles
from difflora.errors import DiffloraError, OutputError, RequestError
from difflora.models.family import open_model


@pytest.fixture
def library(tmp_path: Path, model) -> Path:
    """Two styles of all layers and one of few, mixed ranks, alpha unlike rank, one trigger shared."""
    folder = tmp_path / "loras"
    folder.mkdir()
    few = model.targets("attention", False)[::2]
    for name, rank, alpha, seed, paths in (
        ("ink", 4, 2.0, 1, None),
        ("gouache", 2, 5.0, 2, None),
        ("few", 3, 1.0, 3, few),
    ):
        info = Info(name, trigger="inkish" if name != "gouache" else "thick")
        made = replace(random_adapter(model, rank, alpha, seed, paths=paths), info=info)
        save_adapter(folder / f"{name}.safetensors", made, {"modelspec.trigger_phrase": info.trigger})
    return folder


def styles(library: Path, *texts: str) -> list:
    """Styles by NAME:WEIGHT."""
    return [find_style(text, library) for text in texts]


@pytest.mark.parametrize(
    ("texts", "rank"),
    [
        (("ink:0.7",), "4"),
        (("ink:0.7", "gouache:-0.4"), "6"),
        (("ink:0.7", "few:0.4"), "4 to 7"),
        (("ink", "gouache", "few:-2"), "6 to 9"),
    ],
)
def test_what_a_blend_will_be_is_known_before_it_is_written(library, model, tmp_path, texts, rank):
    mix = styles(library, *texts)
    facts = blend_facts(mix)
    header = read_header(export(mix, tmp_path / "both.safetensors", model).path)
    size = (tmp_path / "both.safetensors").stat().st_size
    assert abs(facts.size - size) <= 0.03 * size
    assert facts.rank == rank == card(tmp_path / "both.safetensors").rank
    assert facts.layers == sum(name.endswith("lora_down.weight") for name in header.tensors)


def test_a_file_that_calls_its_text_encoder_the_first_counts_its_layers_once(library, tmp_path):
    data = (library / "ink.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    text = data[8:start].replace(b'"lora_te_', b'"lora_te1_')
    (library / "other.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    both = blend_facts(styles(library, "ink", "other"))
    assert (both.rank, both.layers) == ("8", blend_facts(styles(library, "ink")).layers)


def test_an_exported_file_is_the_exact_sum_with_the_words_of_its_parts(library, model, tmp_path):
    mix = styles(library, "ink:0.7", "gouache:-0.4", "few:1.5")
    buffer = BytesIO()
    Image.new("RGB", (300, 300), "red").save(buffer, format="PNG")
    out = export(mix, tmp_path / "both.safetensors", model, base="toy", thumbnail=buffer.getvalue()).path
    parts = load_styles(mix, model)
    wanted = blend([parts[s.name] for s in mix], [s.weight for s in mix])
    found = load_adapter(out, model.shapes(), model.family)
    for path, factors in wanted.layers.items():
        gap = (found.layers[path].delta() - factors.delta()).norm() / factors.delta().norm()
        assert gap < 1e-3
    shown = card(out, model.shapes(), model.family)
    assert (shown.trigger, shown.weight, shown.base, shown.problem) == ("inkish, thick", 1.0, "toy", "")
    with Image.open(BytesIO(shown.thumbnail)) as small:
        assert small.size == (256, 256)
    sources = json.loads(shown.metadata["difflora.blend"])
    assert [(s["name"], s["weight"]) for s in sources] == [("ink", 0.7), ("gouache", -0.4), ("few", 1.5)]
    assert [s["sha256"] for s in sources] == [content_sha256(Path(s.path)) for s in mix]


def test_an_export_never_overwrites_unless_told_to(library, model, tmp_path):
    out = tmp_path / "both.safetensors"
    export(styles(library, "ink"), out, model)
    before = out.read_bytes()
    with pytest.raises(OutputError, match="is there already"):
        export(styles(library, "gouache"), out, model)
    assert out.read_bytes() == before
    export(styles(library, "gouache"), out, model, replace(EXACT, force=True))
    assert out.read_bytes() != before
    assert [p.name for p in tmp_path.glob("*.safetensors")] == [out.name]
    assert not list(tmp_path.glob(".*"))


def test_a_name_taken_while_a_blend_is_written_is_left_alone(library, model, tmp_path, monkeypatch):
    out = tmp_path / "both.safetensors"
    monkeypatch.setattr(export_room, "save_adapter", lambda *a: out.write_bytes(b"theirs") and save_adapter(*a))
    with pytest.raises(OutputError, match="is there already"):
        export(styles(library, "ink"), out, model)
    assert out.read_bytes() == b"theirs" and not list(tmp_path.glob(".*"))


def test_the_command_and_the_studio_write_the_same_bytes(library, toy_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export_room, "now", lambda: "2026-01-01T00:00:00+00:00")
    mix = styles(library, "ink:0.7", "few:-0.3")
    command = blend_file(["ink:0.7", "few:-0.3"], tmp_path / "a" / "both.safetensors", str(toy_folder), library)
    opened = open_model(str(toy_folder))
    studio = export(mix, tmp_path / "b" / "both.safetensors", opened)
    assert command.path.read_bytes() == studio.path.read_bytes()


def test_a_wrong_name_writes_nothing(library, model, tmp_path):
    with pytest.raises(DiffloraError, match="safetensors"):
        export(styles(library, "ink"), tmp_path / "both.txt", model)
    assert [p.name for p in tmp_path.iterdir()] == ["loras"]


@pytest.mark.parametrize("folded", [False, True])
def test_the_written_file_draws_the_picture_of_the_stack(library, model, tmp_path, folded):
    mix = styles(library, "ink:0.7", "gouache:-0.4", "few:1.2")
    out = export(mix, tmp_path / "both.safetensors", model).path
    recipe = Recipe(
        prompt="cat", seed=3, steps=3, guidance=2.0, width=32, height=32, styles=tuple(mix), batch=4, row=2,
        folded=folded,
    )  # fmt: skip
    stack, alone, gap = same_picture(model, recipe, load_styles(mix, model), out)
    assert gap == apart(stack, alone) <= 3
    without = same_picture(model, replace(recipe, styles=()), {}, out)
    assert without[2] > 3


def test_a_difference_is_the_largest_of_any_channel():
    a = Image.new("RGB", (4, 3), (10, 20, 30))
    b = a.copy()
    b.putpixel((2, 1), (10, 220, 25))
    assert (apart(a, b), apart(a, a)) == (200, 0)
    with pytest.raises(RequestError, match="one size"):
        apart(a, Image.new("RGB", (3, 4)))


def test_exporting_leaves_the_model_as_it_was(library, model, tmp_path):
    before = {k: v.clone() for k, v in model.parts["unet"].state_dict().items()}
    export(styles(library, "ink"), tmp_path / "x.safetensors", model)
    assert all(torch.equal(before[k], v) for k, v in model.parts["unet"].state_dict().items())
