"""A style taken out of a tuned model is the one that was put in, and a smaller style costs what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_convert import library as library  # a fixture
from test_convert import strange
from test_convert import tiny as tiny
from test_merge import adapters_for, original_of, state_of, toys, xl_folder  # noqa: F401 (fixtures among them)

from difflora import cli
from difflora.adapters import networks
from difflora.adapters.adapter import Adapter, Factors
from difflora.adapters.checkpoint import open_checkpoint
from difflora.adapters.compress import compress
from difflora.adapters.convert import MADE, convert
from difflora.adapters.extract import extract
from difflora.adapters.families import Match
from difflora.adapters.files import content_sha256, load_adapter, read_header, save_adapter
from difflora.adapters.lowrank import nearest, weights_of
from difflora.adapters.merge import merge
from difflora.adapters.pair import cut_exactly
from difflora.adapters.resize import resize
from difflora.drawing.again import make_again
from difflora.errors import BaseModelError, OutputError, RequestError
from difflora.models.family import EMBEDDED


def tuned_from(base: Path, tmp_path: Path, adapters: list[Adapter], weights, precision: str | None = None) -> Path:
    """A copy of a base with styles in it, as a training of the whole model would leave."""
    out = tmp_path / ("tuned" if base.is_dir() else "tuned.safetensors")
    return merge(base, adapters, weights, out, recipe={}, precision=precision).path


def dense(adapter: Adapter, path: str) -> torch.Tensor:
    """An update in double precision, whatever its factors are."""
    factors = adapter.layers[path]
    product = factors.up.double().flatten(1) @ factors.down.double().flatten(1)
    return product * (factors.alpha / factors.rank)


def gap(found: Adapter, wanted: Adapter) -> float:
    """The relative error of all updates, computed here."""
    missed = whole = 0.0
    for path in wanted.layers:
        target = dense(wanted, path)
        own = dense(found, path) if path in found.layers else torch.zeros_like(target)
        missed, whole = missed + float((own - target).square().sum()), whole + float(target.square().sum())
    return math.sqrt(missed / whole)


# --- extract


@pytest.mark.parametrize("kind", ["folder", "file", "file and folder"])
def test_what_was_merged_is_extracted_again(kind, toys, toy_folder, tmp_path):  # noqa: F811
    file = original_of(toy_folder, "toy", tmp_path / "base.safetensors")
    base = toy_folder if kind == "folder" else file
    adapter = adapters_for(open_checkpoint(base).shapes, "toy")[0]
    tuned = tuned_from(file if kind == "file" else toy_folder, tmp_path, [adapter], [1.0])
    made = extract(base, tuned, tmp_path / "out.safetensors", rank=4, precision="fp32")
    assert gap(load_adapter(made.path, open_checkpoint(base).shapes), adapter) <= 1e-5
    assert made.error <= 1e-5 and made.modules == len(adapter.layers) and made.same == 0
    lost = {one.kind for one in made.outside if one.change is not None}
    assert lost == set()


def test_two_text_encoders_fused_and_turned_weights_are_extracted_too(toys, xl_folder, tmp_path):  # noqa: F811
    file = original_of(xl_folder, "toyxl", tmp_path / "base.safetensors")
    adapter = adapters_for(open_checkpoint(file).shapes, "toyxl")[0]
    tuned = tuned_from(xl_folder, tmp_path, [adapter], [-1.0])
    made = extract(file, tuned, tmp_path / "out.safetensors", rank=4, precision="fp32")
    back = load_adapter(made.path, networks.modules("toyxl"))
    assert gap(back, Adapter({p: replace(f, up=-f.up) for p, f in adapter.layers.items()})) <= 1e-5
    assert sum(path.startswith("text_encoder_2.") for path in back.layers) == 13


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.35), ("fp16", 0.05)])
def test_a_base_in_half_precision_blurs_what_was_merged_and_no_more(precision, most, toy_folder, tmp_path):
    none = Adapter({"unet.conv_in": Factors(torch.zeros(1, 4, 3, 3), torch.zeros(32, 1, 1, 1), 1.0)})
    base = merge(toy_folder, [none], [1.0], tmp_path / "base", recipe={}, precision=precision).path
    adapter = adapters_for(open_checkpoint(base).shapes, "")[0]
    merged = merge(base, [adapter], [1.0], tmp_path / "tuned", recipe={})
    made = extract(base, merged.path, tmp_path / "out.safetensors", rank=4, precision="fp32")
    found = gap(load_adapter(made.path, open_checkpoint(base).shapes), adapter)
    # Only the rounding that lies along the style's own directions is left in it.
    assert found < merged.rounding < most


def test_layers_that_are_the_same_are_left_out_and_a_base_in_other_precision_is_the_same(toy_folder, tmp_path):
    adapter = adapters_for(open_checkpoint(toy_folder).shapes, "")[2]
    tuned = tuned_from(toy_folder, tmp_path, [adapter], [1.0], "fp16")
    made = extract(toy_folder, tuned, tmp_path / "out.safetensors", rank=3)
    back = load_adapter(made.path, open_checkpoint(toy_folder).shapes)
    assert (
        set(back.layers) == set(adapter.layers) and made.same == len(open_checkpoint(toy_folder).shapes) - made.modules
    )
    assert gap(back, adapter) < 0.01 and not [one for one in made.outside if one.change]


def test_what_no_lora_can_hold_is_counted_and_told(toys, toy_folder, tmp_path, capsys):  # noqa: F811
    base = original_of(toy_folder, "toy", tmp_path / "base.safetensors")
    adapter = adapters_for(open_checkpoint(base).shapes, "toy")[1]
    tuned = tuned_from(base, tmp_path, [adapter], [1.0])
    state = load_file(tuned)
    net, words = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
    for key in (
        f"{net}out.0.weight", f"{net}input_blocks.1.0.in_layers.0.weight", f"{net}out.2.bias",
        f"{words}embeddings.token_embedding.weight", "first_stage_model.decoder.conv_in.weight",
    ):  # fmt: skip
        state[key] = state[key] * 1.5
    save_file(state, tuned)
    made = extract(base, tuned, tmp_path / "out.safetensors", rank=2)
    found = {one.kind: one for one in made.outside}
    assert {kind: found[kind].count for kind in found} == {
        "norms": 2, "biases": 1, "picture encoder and decoder": 1, "embeddings": 1,
    }  # fmt: skip
    assert found["norms"].bytes == 4 * 64 and found["embeddings"].change == pytest.approx(0.5)
    flags = ["--base", str(base), "--tuned", str(tuned), "--rank", "2", "--force", "--out", str(made.path)]
    cli.main(["extract", *flags])
    said = capsys.readouterr().out
    assert "not in it, as no LoRA holds that: norms (2 tensors, 0.00 MB, changed by 0.5)" in said
    cli.main(["extract", *flags, "--json"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["event"] == "extracted" and len(last["outside"]) == 4


def test_what_only_one_model_has_is_told(toys, toy_folder, tmp_path):  # noqa: F811
    base = original_of(toy_folder, "toy", tmp_path / "base.safetensors")
    adapter = adapters_for(open_checkpoint(base).shapes, "toy")[1]
    tuned = tuned_from(base, tmp_path, [adapter], [1.0])
    state = {key: value for key, value in load_file(tuned).items() if not key.startswith("cond_stage_model")}
    save_file(state, tuned)
    made = extract(base, tuned, tmp_path / "out.safetensors", rank=2)
    kinds = {one.kind: one.count for one in made.outside}
    assert kinds["not compared, only in base.safetensors: layers"] == 12
    assert all(path.startswith("unet.") for path in load_adapter(made.path, networks.modules("toy")).layers)


@pytest.mark.parametrize("max_error", [0.5, 0.1, 0.02])
def test_an_error_asked_for_holds_for_the_whole_file_and_ranks_go_where_they_pay(max_error, toy_folder, tmp_path):
    shapes = open_checkpoint(toy_folder).shapes
    several = adapters_for(shapes, "")
    weights = [0.05, 1.0, -0.6]
    tuned = tuned_from(toy_folder, tmp_path, several, weights)
    made = extract(toy_folder, tuned, tmp_path / "out.safetensors", max_error=max_error)
    back, before, after = load_adapter(made.path, shapes), state_of(toy_folder), state_of(tuned)
    missed = whole = 0.0
    for path in shapes:
        wanted = (after[f"{path}.weight"].double() - before[f"{path}.weight"].double()).flatten(1)
        own = dense(back, path) if path in back.layers else 0
        missed, whole = missed + float((own - wanted).square().sum()), whole + float(wanted.square().sum())
    true = math.sqrt(missed / whole)
    assert true <= max_error and true > 0.5 * max_error
    assert made.error == pytest.approx(true, rel=1e-3)
    if max_error == 0.1:
        fixed = extract(toy_folder, tuned, tmp_path / "fixed.safetensors", rank=made.ranks[1])
        assert back.parameters() < 0.9 * load_adapter(fixed.path, shapes).parameters()


def test_no_value_is_clamped(toy_folder, tmp_path):
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    up, down = torch.zeros(64, 1), torch.randn(1, 64)
    up[3] = 5.0
    tuned = tuned_from(toy_folder, tmp_path, [Adapter({path: Factors(down, up, 1.0)})], [1.0])
    made = extract(toy_folder, tuned, tmp_path / "out.safetensors", rank=1, precision="fp32")
    found = load_adapter(made.path, open_checkpoint(toy_folder).shapes).layers[path].delta()
    assert torch.allclose(found, up @ down, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (20, 8, 3, 3), (80, 4, 3, 3)])
def test_exact_cuts_are_the_nearest_there_are(shape):
    delta = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    for rank in (1, 5, min(shape[0], math.prod(shape[1:]))):
        made, other = cut_exactly(delta, rank), nearest(delta, rank)
        assert made.shape == shape and made.rank == rank
        assert float((made.delta() - delta).norm()) == pytest.approx(float((other.delta() - delta).norm()), abs=1e-4)


def test_extract_says_in_one_line_what_is_wrong(toys, toy_folder, xl_folder, tmp_path):  # noqa: F811
    out = tmp_path / "out.safetensors"
    adapter = adapters_for(open_checkpoint(toy_folder).shapes, "")[0]
    tuned = tuned_from(toy_folder, tmp_path, [adapter], [1.0])
    (tmp_path / "x.safetensors").write_bytes(b"x")
    for error, kind, call in (
        ("the same in all 131 layers", RequestError, {"tuned": toy_folder, "rank": 4}),
        ("is toy, .* toyxl: expected two models of one family", RequestError, {"tuned": xl_folder, "rank": 4}),
        ("expected one of them", RequestError, {}),
        ("expected one of them", RequestError, {"rank": 4, "max_error": 0.1}),
        ("--rank 0: expected a whole number from 1", RequestError, {"rank": 0}),
        ("--rank 129: expected 1 to 128, the smaller side of the largest layer", RequestError, {"rank": 129}),
        ("--max-error nan", RequestError, {"max_error": math.nan}),
        ("--max-error 0.003 with --precision bf16: expected more than 0.004", RequestError,
         {"max_error": 0.003, "precision": "bf16"}),
        ("no such folder or file", BaseModelError, {"base": tmp_path / "nothing", "rank": 4}),
        ("is there already", OutputError, {"out": tmp_path / "x.safetensors", "rank": 4}),
        ("expected a name ending in .safetensors", RequestError, {"out": tmp_path / "x", "rank": 4}),
    ):  # fmt: skip
        given = {"base": toy_folder, "tuned": tuned, "out": out} | call
        with pytest.raises(kind, match=error) as said:
            extract(given.pop("base"), given.pop("tuned"), given.pop("out"), **given)
        assert "\n" not in str(said.value)
    assert not out.exists()


def test_an_extracted_style_says_of_what_and_is_drawn_with(tmp_path, capsys, tiny_styles):
    cli.main(["merge", "ink", "--out", str(tmp_path / "tuned"), "--loras", str(tiny_styles)])
    out = tmp_path / "found.safetensors"
    cli.main(["extract", "--base", "tiny", "--tuned", str(tmp_path / "tuned"), "--rank", "16", "--out", str(out)])
    recipe = json.loads(read_header(out).metadata[MADE])
    assert recipe["verb"] == "extract" and recipe["rank"] == 16
    assert [one["sha256"] for one in recipe["sources"]] == [
        content_sha256(p) for p in (EMBEDDED["tiny"], tmp_path / "tuned")
    ]
    cli.main(["inspect", str(out)])
    assert "extract" in capsys.readouterr().out
    with pytest.raises(RequestError, match="difflora extract --base"):
        make_again(out, tiny_styles, tmp_path / "out")


# --- resize


@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "peft"])
def test_a_resized_style_is_the_nearest_of_its_rank_in_the_sources_dialect(dialect, library, tiny):  # noqa: F811
    source = convert(library / "ink.safetensors", dialect, dtype=torch.float32).path
    before = content_sha256(source)
    made = resize(source, rank=2)
    old, new = (load_adapter(path, tiny.shapes()) for path in (source, made.path))
    wanted = compress(old, rank=2)
    assert gap(new, old) == pytest.approx(wanted.error, rel=1e-4) == pytest.approx(made.error, rel=1e-4)
    assert made.told == pytest.approx(wanted.error) and made.dialect == dialect and made.ranks == (2, 2)
    assert made.path.name == f"{source.stem}-rank2" + ("" if dialect == "peft" else ".safetensors")
    assert made.after < made.before and content_sha256(source) == before


@pytest.mark.parametrize("max_error", [0.5, 0.1, 0.0004])
def test_an_error_asked_for_holds_for_the_file_read_back(max_error, library, tiny):  # noqa: F811
    source = library / "gouache.safetensors"
    made = resize(source, max_error=max_error)
    old, new = (load_adapter(path, tiny.shapes()) for path in (source, made.path))
    assert made.path.name == f"gouache-error{max_error:g}.safetensors"
    assert gap(new, old) <= max_error and made.error == pytest.approx(gap(new, old), abs=1e-6)


@pytest.mark.parametrize("asked", [{"rank": 3}, {"max_error": 0.2}])
def test_what_is_no_plain_lora_becomes_one_that_is_as_near_as_it_says(asked, model, tmp_path):
    source = save_adapter(tmp_path / "strange.safetensors", strange(model), {}, torch.float32)
    base, weights = Match(model.family, model.shapes()), weights_of(model.parts)
    made = resize(source, base=base, weights=weights, **asked)
    back, wanted = load_adapter(made.path, model.shapes()), load_adapter(source, model.shapes())
    missed = whole = 0.0
    for path, update in wanted.layers.items():
        target = update.delta(weights(path)).detach()
        own = back.layers[path].delta() if path in back.layers else torch.zeros_like(target)
        missed, whole = missed + float((own - target).square().sum()), whole + float(target.square().sum())
    true = math.sqrt(missed / whole)
    assert made.error == pytest.approx(true, rel=1e-4) and made.told == pytest.approx(true, rel=2e-2)
    assert true <= asked.get("max_error", 1) and all(isinstance(update, Factors) for update in back.layers.values())
    with pytest.raises(RequestError, match="depends on the base's weights"):
        resize(source, tmp_path / "x.safetensors", base=base, **asked)


def test_a_resized_style_keeps_its_words_and_is_made_again(library, tmp_path, capsys):  # noqa: F811
    made = tmp_path / "small.safetensors"
    cli.main(["resize", str(library / "ink.safetensors"), "--rank", "2", "--out", str(made)])
    assert "foretold" in capsys.readouterr().out
    said = read_header(made).metadata
    assert said["difflora.weight"] == "0.8" and "modelspec.thumbnail" in said and said["ss_output_name"] == "small"
    assert json.loads(said[MADE])["verb"] == "resize"
    cli.main(["again", str(made), "--loras", str(library), "--out", str(tmp_path / "again")])
    assert "the same numbers" in capsys.readouterr().out
    folder = convert(library / "ink.safetensors", "peft").path
    second = resize(folder, max_error=0.3).path
    cli.main(["again", str(second), "--loras", str(library), "--out", str(tmp_path / "again")])
    assert "the same numbers" in capsys.readouterr().out


def test_resize_says_in_one_line_what_is_wrong(library, tmp_path):  # noqa: F811
    source = library / "ink.safetensors"
    resize(source, rank=2)
    for error, kind, call in (
        ("is there already", OutputError, {"rank": 2}),
        ("expected one of them", RequestError, {}),
        ("expected one of them", RequestError, {"rank": 2, "max_error": 0.1}),
        ("--rank 0", RequestError, {"rank": 0}),
        ("less than 4, the largest rank that it has", RequestError, {"rank": 4}),
        ("less than 4, the largest rank that it has", RequestError, {"rank": 4000}),
        ("--max-error 1.5", RequestError, {"max_error": 1.5}),
        ("more than 0.0005, what rounding costs", RequestError, {"max_error": 0.0001, "precision": "fp16"}),
    ):
        with pytest.raises(kind, match=error):
            resize(source, **call)
    assert sorted(path.name for path in library.iterdir()) == [
        "gouache.safetensors", "ink-rank2.safetensors", "ink.safetensors",
    ]  # fmt: skip
