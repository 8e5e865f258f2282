"""From one dialect to another: every update stays what it was, and other programs read the same."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import random_model
from dialect_files import KOHYA, OTHERS, PLAIN, SDXL, UNET, XL, kohya, lora, made, tree, write
from peft import PeftModel
from safetensors.torch import load_file
from test_dialects import EVERY, gap, layers_of, ours, plain_diffusers, plainly, sdxl_weights, shapes_of
from torch import Tensor

from difflora.adapters.adapter import Adapter
from difflora.adapters.files import load_adapter, save_adapter
from difflora.errors import DiffloraError
from difflora.models.attach import attached
from difflora.models.sd import StableDiffusion

DIALECTS = ("kohya", "diffusers", "peft")
BY_OUTPUT = ("dora-by-output", "diffusers-dora", "real-peft-dora", "real-peft-both")


@pytest.fixture(scope="module")
def weights(model: StableDiffusion) -> dict[str, Tensor]:
    return layers_of(model.parts)


@pytest.fixture(scope="module")
def shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return shapes_of(weights)


def saved(folder: Path, adapter: Adapter, dialect: str, dtype: torch.dtype = torch.float32) -> Path:
    """Where the adapter lies now, in that dialect."""
    path = folder / ("style" if dialect == "peft" else "style.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    assert Path(save_adapter(path, adapter, {}, dtype, dialect=dialect)) == path
    return path


def through(folder: Path, adapter: Adapter, dialects: tuple[str, ...], shapes, dtype=torch.float32) -> Adapter:
    """The adapter after files of those dialects, one after the other."""
    for i, dialect in enumerate(dialects):
        place = folder / "-".join(dialects) / f"{i}-{dtype}"
        adapter = load_adapter(saved(place, adapter, dialect, dtype), shapes, family="")
    return adapter


def one_alpha(folder: Path, shapes, weights, seed: int) -> tuple[Path, dict[str, Tensor]]:
    """What most trainers write: the same alpha in every module; ranks still differ."""
    tensors, deltas = made(KOHYA, shapes, weights, seed, (lora,))
    for path, name in KOHYA.items():
        deltas[path] = deltas[path] * (2.0 / tensors[f"{name}.alpha"].item())
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    return write(folder / "one_alpha.safetensors", tensors), deltas


STARTS = PLAIN | {"one-alpha": one_alpha}


def power_of_two(scale: float) -> bool:
    return math.frexp(scale)[0] == 0.5


# --- plain updates


@pytest.mark.parametrize("name", STARTS)
def test_every_update_goes_through_any_two_dialects_unchanged(name, tmp_path, shapes, weights):
    start = load_adapter(STARTS[name](tmp_path, shapes, weights, 1)[0], shapes, family="")
    exact = 0
    for dialects in product(DIALECTS, repeat=2):
        end = through(tmp_path, start, dialects, shapes)
        assert set(end.layers) == set(start.layers)
        for path, update in start.layers.items():
            before, after = update.delta(), end.layers[path].delta()
            if power_of_two(update.alpha / update.rank):
                exact += 1
                assert torch.equal(after, before), (dialects, path)
            else:
                assert gap(after, before) <= 1.2e-7, (dialects, path)
    assert exact


@pytest.mark.parametrize("name", STARTS)
def test_every_update_goes_through_any_two_dialects_within_half_precision(name, tmp_path, shapes, weights):
    path, wanted = STARTS[name](tmp_path, shapes, weights, 2)
    start = load_adapter(path, shapes, family="")
    for dialects in product(DIALECTS, repeat=2):
        end = through(tmp_path, start, dialects, shapes, torch.float16)
        assert set(end.layers) == set(wanted)
        for path, delta in wanted.items():
            assert gap(end.layers[path].delta(), delta) < 1e-3, (dialects, path)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_factors_of_very_different_size_survive_half_precision(dialect, tmp_path, shapes, weights):
    tensors, wanted = made(KOHYA, shapes, weights, 3, (lora,))
    for key in tensors:
        tensors[key] = tensors[key] * (1e-5 if "lora_down" in key else 1e5 if "lora_up" in key else 1)
    start = load_adapter(write(tmp_path / "lopsided.safetensors", tensors), shapes, family="")
    end = through(tmp_path, start, (dialect,), shapes, torch.float16)
    for path, delta in wanted.items():
        assert gap(end.layers[path].delta(), delta) < 1e-3, path


# --- the other kinds


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 3e-3)])
def test_every_kind_goes_through_a_kohya_file_unchanged(dtype, bound, name, tmp_path, shapes, weights):
    path, wanted = OTHERS[name](tmp_path, shapes, weights, 4)
    start = load_adapter(path, shapes, family="")
    end = through(tmp_path, start, ("kohya", "kohya"), shapes, dtype)
    assert {path: update.kind for path, update in end.layers.items()} == {p: u.kind for p, u in start.layers.items()}
    for path, delta in wanted.items():
        assert gap(end.layers[path].delta(weights[path]), delta) < bound, path


@pytest.mark.parametrize("name", BY_OUTPUT)
@pytest.mark.parametrize("dialects", [("diffusers",), ("peft",), ("peft", "kohya"), ("diffusers", "peft")])
def test_dora_by_output_goes_through_every_dialect_unchanged(dialects, name, tmp_path, shapes, weights):
    path, wanted = OTHERS[name](tmp_path, shapes, weights, 5)
    end = through(tmp_path, load_adapter(path, shapes, family=""), dialects, shapes)
    assert set(end.layers) == set(wanted)
    for path, delta in wanted.items():
        assert gap(end.layers[path].delta(weights[path]), delta) < 1e-5, path


@pytest.mark.parametrize("dialect", ["diffusers", "peft"])
@pytest.mark.parametrize(
    ("name", "word"), [("loha", "LoHa"), ("lokr", "LoKr"), ("full", "full"), ("dora-by-input", "DoRA")]
)
def test_what_a_dialect_cannot_say_is_refused_by_name_and_not_written(name, word, dialect, tmp_path, shapes, weights):
    adapter = load_adapter(OTHERS[name](tmp_path, shapes, weights, 6)[0], shapes, family="")
    with pytest.raises(DiffloraError, match=word) as error:
        saved(tmp_path / "out", adapter, dialect)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").iterdir())


# --- what other programs make of them


@pytest.mark.parametrize("name", [name for name in EVERY if "peft" in name])
def test_peft_itself_reads_its_folders_so(name, tmp_path, shapes, weights):
    path, wanted = EVERY[name](tmp_path, shapes, weights, 3)
    merged = PeftModel.from_pretrained(tree(weights), path).merge_and_unload()
    for path, delta in wanted.items():
        assert gap(merged.get_submodule(path.removeprefix("unet.")).weight - weights[path], delta) < 1e-5, path


@pytest.mark.parametrize(
    "name", ["one-alpha", "kohya-no-alpha", "diffusers-flat", "diffusers-untold", "diffusers-old", "diffusers-oldest"]
)
def test_diffusers_itself_reads_these_files_so(name, tmp_path, shapes, weights):
    pipeline = plain_diffusers(random_model())
    path, wanted = STARTS[name](tmp_path, shapes, weights, 3)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name, use_safetensors=True, adapter_name="style")
    for path, delta in wanted.items():
        part, _, rest = path.partition(".")
        assert gap(getattr(pipeline, part).get_submodule(rest).get_delta_weight("style"), delta) < 1e-5, path


# DoRA of the UNet alone: transformers 5.24 leaves magnitudes of text encoders out, of diffusers' own files too.
@pytest.mark.parametrize(
    ("name", "dialect"),
    [*product(("kohya", "one-alpha", "tucker"), ("diffusers", "kohya")), ("real-peft-dora", "diffusers")],
)
def test_plain_diffusers_draws_the_same_picture_with_the_file(name, dialect, model, tmp_path, shapes, weights):
    adapter = load_adapter((STARTS | OTHERS)[name](tmp_path, shapes, weights, 7)[0], shapes, family="")
    file = saved(tmp_path / "out", adapter, dialect)
    pipeline = plain_diffusers(random_model())
    before = plainly(pipeline)
    pipeline.load_lora_weights(file.parent, weight_name=file.name, use_safetensors=True, adapter_name="style")
    with attached(model.parts, [adapter]):
        drawn = ours(model)
    assert gap(drawn, plainly(pipeline)) < 1e-3
    assert gap(drawn, before) > 0.1
    for path, update in adapter.layers.items() if "dora" not in name else ():
        part, _, rest = path.partition(".")
        layer = getattr(pipeline, part).get_submodule(rest)
        assert gap(layer.get_delta_weight("style"), update.delta()) < 1e-5, path


def answers(unet: torch.nn.Module) -> Tensor:
    """What a UNet says to fixed noise."""
    rng = torch.Generator().manual_seed(0)
    noise, text = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 5, 32, generator=rng)
    with torch.inference_mode():
        return unet(noise, torch.tensor([500, 20]), text).sample


def features(text_encoder: torch.nn.Module) -> Tensor:
    """What a text encoder says to fixed tokens."""
    with torch.inference_mode():
        return text_encoder(torch.tensor([[3, 1, 4, 1, 5]])).last_hidden_state


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["kohya", "diffusers-rslora", "tucker", "dora-by-output"])
def test_peft_reads_the_folders_of_each_network_so(name, model, tmp_path, shapes, weights):
    adapter = load_adapter(EVERY[name](tmp_path, shapes, weights, 8)[0], shapes, family="")
    folder = saved(tmp_path / "out", adapter, "peft")
    assert sorted(path.name for path in folder.iterdir()) == ["text_encoder", "unet"]
    parts, look, toy = model.parts, {"unet": answers, "text_encoder": features}, random_model().parts
    plain = {part: see(parts[part]) for part, see in look.items()}
    with attached(parts, [adapter]):
        wanted = {part: see(parts[part]) for part, see in look.items()}
    for part, see in look.items():
        found = see(PeftModel.from_pretrained(toy[part], folder / part))
        assert gap(found, wanted[part]) < 1e-4
        assert gap(found, plain[part]) > 0.02


def test_an_adapter_of_the_unet_alone_is_one_plain_peft_folder(model, tmp_path, shapes, weights):
    path, _ = kohya(tmp_path, shapes, weights, 9, names=UNET)
    adapter = load_adapter(path, shapes, family="")
    folder = saved(tmp_path / "out", adapter, "peft")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not any(path.is_dir() for path in folder.iterdir())
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    with attached(model.parts, [adapter]):
        wanted = answers(model.parts["unet"])
    assert gap(answers(PeftModel.from_pretrained(random_model().parts["unet"], folder)), wanted) < 1e-4


@pytest.mark.parametrize("name", ["kohya", "diffusers"])
def test_an_sdxl_adapter_goes_through_every_dialect_unchanged(name, tmp_path):
    weights = sdxl_weights()
    shapes = shapes_of(weights)
    path, wanted = SDXL[name](tmp_path, shapes, weights, 10)
    start = load_adapter(path, shapes, family="sdxl")
    for dialects in product(DIALECTS, repeat=2):
        end = through(tmp_path, start, dialects, shapes)
        assert set(end.layers) == set(wanted)
        for path, delta in wanted.items():
            assert gap(end.layers[path].delta(), delta) < 1e-5, (dialects, path)
    folder = saved(tmp_path / "out", start, "peft")
    assert sorted(path.name for path in folder.iterdir()) == ["text_encoder", "text_encoder_2", "unet"]
    keys = load_file(saved(tmp_path / "out", start, "kohya"))
    assert {key.partition(".")[0] for key in keys} == set(XL.values())


def test_a_kohya_file_of_sd1_has_the_names_that_every_program_knows(tmp_path, shapes, weights):
    path, _ = PLAIN["diffusers"](tmp_path, shapes, weights, 11)
    keys = {key.partition(".")[::2] for key in load_file(saved(tmp_path / "out", load_adapter(path, shapes), "kohya"))}
    assert {name for name, _ in keys} == set(KOHYA.values())
    assert {part for _, part in keys} | {"alpha"} == {"lora_down.weight", "lora_up.weight", "alpha"}
