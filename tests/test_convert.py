"""A converted file is the same update, says how it was made, and can be made again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from conftest import random_adapter
from PIL import Image

from difflora import cli
from difflora.adapters.adapter import Adapter, Info
from difflora.adapters.cards import card
from difflora.adapters.convert import MADE, convert, difference
from difflora.adapters.families import Match
from difflora.adapters.files import content_sha256, load_adapter, read_header, save_adapter
from difflora.adapters.lowrank import made_plain, nearest, weights_of
from difflora.adapters.metadata import THUMBNAIL, data_url
from difflora.adapters.updates import Decomposed, Hadamard, Kronecker, Whole
from difflora.drawing.again import make_again
from difflora.drawing.request import blend_file
from difflora.errors import DiffloraError, OutputError, RequestError
from difflora.models.family import open_model


@pytest.fixture(scope="module")
def tiny():
    """The embedded base."""
    return open_model("tiny")


@pytest.fixture
def library(tmp_path: Path, tiny) -> Path:
    """Two styles of the embedded base, alpha unlike rank, other ranks."""
    folder = tmp_path / "loras"
    folder.mkdir()
    paths = tiny.targets("attention", True)[::6]
    for name, rank, alpha, seed in (("ink", 4, 2.0, 1), ("gouache", 3, 5.0, 2)):
        made = replace(random_adapter(tiny, rank, alpha, seed, paths=paths), info=Info(name, "tiny", "tiny"))
        save_adapter(folder / f"{name}.safetensors", made, {THUMBNAIL: data_url(thumbnail()), "difflora.weight": "0.8"})
    return folder


def thumbnail() -> bytes:
    """A small WebP."""
    buffer = BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, format="WEBP")
    return buffer.getvalue()


def strange(model, seed: int = 0) -> Adapter:
    """One module of every kind that is no plain LoRA."""
    rng = torch.Generator().manual_seed(seed)
    shapes = model.shapes()
    paths = [p for p in model.targets("attention", False) if len(shapes[p]) == 2][:5]

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) * 0.1

    out, wide = shapes[paths[0]]
    loha = {
        "hada_w1_a": some(out, 2),
        "hada_w1_b": some(2, wide),
        "hada_w2_a": some(out, 2),
        "hada_w2_b": some(2, wide),
    }
    large = {k: some(*[n * 8 if n == 2 else n for n in v.shape]) for k, v in loha.items()}
    lokr = {"lokr_w1": some(4, 4), "lokr_w2": some(out // 4, wide // 4)}
    plain = random_adapter(model, 3, 2.0, 5, paths=paths[3:4]).layers[paths[3]]
    magnitude = model.parts["unet"].get_submodule(paths[3].removeprefix("unet.")).weight.norm(dim=1, keepdim=True) * 1.1
    layers = {
        paths[0]: Hadamard(loha, 1.0, (out, wide)),
        paths[1]: Hadamard(large, 4.0, shapes[paths[1]]),
        paths[2]: Kronecker(lokr, 1.0, shapes[paths[2]]),
        paths[3]: Decomposed(plain, magnitude.detach()),
        paths[4]: Whole(some(*shapes[paths[4]]), shapes[paths[4]]),
    }
    return Adapter(layers, Info("strange", model.family, model.name))


# --- dialects


@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "peft"])
def test_a_converted_style_is_the_same_update_and_keeps_its_words(dialect, library, tiny):
    made = convert(library / "ink.safetensors", dialect)
    old, new = (load_adapter(p, tiny.shapes()) for p in (library / "ink.safetensors", made.path))
    assert made.error < 1e-3 and difference(new, old) == pytest.approx(made.error, abs=1e-9)
    assert made.path == library / (f"ink-{dialect}" + ("" if dialect == "peft" else ".safetensors"))
    if dialect != "peft":
        assert card(made.path).weight == 0.8 and card(made.path).thumbnail


def test_precision_is_the_files_own_unless_told(library):
    kinds = {
        name: convert(library / "ink.safetensors", "diffusers", library / f"{name}.safetensors", dtype=dtype)
        for name, dtype in (("own", None), ("F32", torch.float32), ("BF16", torch.bfloat16))
    }
    stored = {name: {dtype for dtype, _ in read_header(made.path).tensors.values()} for name, made in kinds.items()}
    assert stored == {"own": {"F16"}, "F32": {"F32"}, "BF16": {"BF16"}}
    assert kinds["F32"].error < 1e-7 < kinds["own"].error


def test_nothing_is_written_over_unless_told(library, capsys):
    path = library / "ink.safetensors"
    before = path.read_bytes()
    with pytest.raises(OutputError, match="--force"):
        convert(path, "kohya", path)
    assert path.read_bytes() == before
    cli.main(["convert", str(path), "--to", "kohya", "--out", str(path), "--force"])
    assert "relative error" in capsys.readouterr().out


def test_a_sidecar_is_what_a1111_reads(library):
    made = convert(library / "ink.safetensors", "kohya", library / "out.safetensors", sidecar=True)
    words = json.loads(made.path.with_suffix(".json").read_text())
    assert words.keys() == {
        "description", "sd version", "activation text", "preferred weight", "negative text", "notes",
    }  # fmt: skip
    assert words["preferred weight"] == 0.8
    with Image.open(library / "out.preview.png") as picture:
        assert picture.format == "PNG"


# --- plain LoRA of what is none


def test_the_nearest_factors_are_those_of_the_singular_values():
    delta = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    sizes = torch.linalg.svdvals(delta)
    for rank in (1, 7, 30):
        gap = (nearest(delta, rank).delta() - delta).norm()
        assert float(gap) == pytest.approx(float(sizes[rank:].norm()), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("shape", [(40, 30), (700, 600), (24, 12, 3, 3)])
def test_the_rank_for_an_error_is_the_least(shape):
    rng = torch.Generator().manual_seed(1)
    flat = torch.randn(shape[0], 20, generator=rng) @ (
        torch.randn(20, math.prod(shape[1:]), generator=rng) * torch.logspace(0, -3, 20)[:, None]
    )
    delta = flat.reshape(shape)
    made = nearest(delta, None, 0.05)
    sizes = torch.linalg.svdvals(flat)
    errors = [float(sizes[rank:].norm() / sizes.norm()) for rank in range(len(sizes))]
    assert made.rank == next(rank for rank, error in enumerate(errors) if error <= 0.05)
    assert float((made.delta() - delta).norm() / delta.norm()) <= 0.0501


def test_every_kind_becomes_plain_with_the_error_that_is_told(model):
    source = strange(model)
    weights = weights_of(model.parts)
    for asked in ({"rank": 4}, {"rank": 64}, {"max_error": 0.1}):
        made = made_plain(source, weights=weights, **asked)
        assert {update.kind for update in made.adapter.layers.values()} == {"LoRA"}
        assert difference(made.adapter, source, weights) == pytest.approx(made.error, abs=1e-5)
    assert made_plain(source, weights=weights, max_error=0.1).error <= 0.1
    assert made_plain(source, weights=weights, rank=64).error < 1e-4
    exact = next(iter(source.layers))
    assert made_plain(Adapter({exact: source.layers[exact]})).error == 0


def test_what_cannot_become_plain_is_refused_by_name(model):
    source = strange(model)
    with pytest.raises(RequestError, match="LoHa, no plain LoRA: expected --rank"):
        made_plain(source)
    with pytest.raises(RequestError, match="DoRA LoRA, which depends on the base's weights: expected --base"):
        made_plain(source, rank=4)


def test_every_kind_goes_through_a_kohya_file(model, tmp_path):
    source, weights = strange(model), weights_of(model.parts)
    for dtype, error in ((torch.float32, 1e-6), (torch.float16, 2e-3)):
        path = save_adapter(tmp_path / "x.safetensors", source, {}, dtype)
        back = load_adapter(path, model.shapes())
        assert [u.kind for u in back.layers.values()] == [u.kind for u in source.layers.values()]
        assert difference(back, source, weights) < error
    assert "loha" in read_header(path).metadata["ss_network_args"]


@pytest.mark.parametrize("flags", [["--rank", "0"], ["--max-error", "2"], ["--rank", "4", "--max-error", "0.1"]])
def test_bad_flags_get_one_line(flags, library, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["convert", str(library / "ink.safetensors"), *flags])
    assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert len(list(library.iterdir())) == 2


# --- made again


def test_a_conversion_says_its_source_and_is_made_again_to_the_last_bit(library, tmp_path):
    made = convert(library / "ink.safetensors", "diffusers").path
    recipe = json.loads(read_header(made).metadata[MADE])
    assert recipe["sources"] == [{"name": "ink", "sha256": content_sha256(library / "ink.safetensors")}]
    (library / "ink.safetensors").rename(library / "renamed.safetensors")
    said = []
    again = make_again(made, library, tmp_path / "out", report=lambda event: said.append(event.text))
    assert again.name == "ink-diffusers-again.safetensors" and "to the last bit" in said[-1]


def test_a_blend_is_made_again_and_a_source_that_has_changed_is_said(library, tmp_path, tiny):
    both = blend_file(["ink:0.7", "gouache:-0.4"], tmp_path / "both.safetensors", "tiny", library).path
    said = []
    again = make_again(both, library, tmp_path / "out", report=lambda event: said.append(event.text))
    assert content_sha256(again) == content_sha256(both) and "to the last bit" in said[-1]
    save_adapter(library / "ink.safetensors", random_adapter(tiny, 2, 1.0, 9, paths=["unet.conv_in"]), {})
    second = make_again(both, library, tmp_path / "out", report=lambda event: said.append(event.text))
    assert any("ink.safetensors has changed since" in text for text in said) and "differs" in said[-1]
    assert second.name == "both-again-2.safetensors"
    (library / "gouache.safetensors").unlink()
    with pytest.raises(RequestError, match="the source 'gouache'"):
        make_again(both, library, tmp_path / "out")


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": 1}', "nothing", '[{"name": "ink"}]', '{"sources": 3}'])
@pytest.mark.parametrize("key", ["difflora.blend", MADE])
def test_a_damaged_recipe_gets_one_line(key, text, library, tmp_path, tiny):
    adapter = load_adapter(library / "ink.safetensors", tiny.shapes())
    path = save_adapter(tmp_path / "x.safetensors", adapter, {key: text})
    with pytest.raises(DiffloraError) as caught:
        make_again(path, library, tmp_path / "out")
    assert str(caught.value).isprintable()


def test_the_command_repeats_whatever_made_a_file(library, tmp_path, capsys):
    both = tmp_path / "both.safetensors"
    cli.main(["blend", "ink:0.5", "gouache:0.5", "--loras", str(library), "--out", str(both)])
    cli.main(["again", str(both), "--loras", str(library), "--out", str(tmp_path / "made"), "--name", "twin"])
    assert "to the last bit" in capsys.readouterr().out
    assert (tmp_path / "made/twin.safetensors").is_file()


def test_a_peft_folder_is_drawn_with_and_redrawn(library, tmp_path, capsys, monkeypatch):
    folder = convert(library / "ink.safetensors", "peft").path
    monkeypatch.chdir(tmp_path)
    flags = ["--steps", "2", "--out", "one"]
    cli.main(["generate", "a cat", "--lora", f"{folder}:0.8", *flags])
    cli.main(["generate", "a cat", "--lora", f"{library / 'ink.safetensors'}:0.8", "--steps", "2", "--out", "two"])
    one, two = (next(Path(place).glob("*.png")) for place in ("one", "two"))
    with Image.open(one) as first, Image.open(two) as second:
        assert max(abs(a - b) for a, b in zip(first.tobytes(), second.tobytes(), strict=True)) <= 1
    cli.main(["generate", "--like", str(one), "--out", "three"])
    assert next(Path("three").glob("*.png")).read_bytes() == one.read_bytes()


def test_a_base_of_ones_own_is_named(model, tmp_path):
    path = save_adapter(tmp_path / "toy.safetensors", random_adapter(model, 4, 2.0, 1), {})
    with pytest.raises(RequestError, match="fits no family that is known here"):
        convert(path, "diffusers")
    assert convert(path, "diffusers", base=Match("toy", model.shapes())).error < 1e-3
