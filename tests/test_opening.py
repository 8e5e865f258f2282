"""How a base is opened: whole or not at all, with another VAE, in tiles, waiting in main memory; what it predicts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bases import base_folder, make_base, opened  # noqa: F401
from conftest import random_adapter
from safetensors.torch import load_file, save_file

from difflora.adapters.adapter import Adapter
from difflora.adapters.stream import read_table
from difflora.config import BaseConfig
from difflora.errors import BaseModelError, RequestError
from difflora.models.clip import clip_tokenizer
from difflora.models.family import blueprint, open_model
from difflora.models.gates import attached
from difflora.models.opening import How, offloads
from difflora.models.resident import home
from difflora.models.samplers import SAMPLERS, betas, make_sampler, sampler_name
from difflora.models.single import EPSILON, V, answered, told

HOW = {"seeds": [3], "steps": 3, "guidance": 2.0, "size": (32, 32)}


@pytest.fixture(scope="module")
def sd1(tmp_path_factory) -> Path:
    """A random base of its own, for tests that open it in other ways."""
    return make_base("sd1", tmp_path_factory.mktemp("own") / "sd1")


def style_of(model) -> Adapter:
    """A random style on all attention layers, alpha not the rank."""
    return random_adapter(model, 3, 5.0, 1, paths=model.targets("attention", True))


def drawn(config: BaseConfig) -> torch.Tensor:
    """One picture by a base that is opened for it."""
    return open_model(config, "cpu").draw(["a cat"], [""], **HOW)


def test_layers_that_wait_in_main_memory_draw_the_same_picture_and_take_styles(sd1):
    plain = drawn(BaseConfig(base=str(sd1)))
    model = open_model(BaseConfig(base=str(sd1), offload=True), "cpu")
    assert torch.equal(model.draw(["a cat"], [""], **HOW), plain)
    adapter = style_of(model)
    with attached(model.parts, [adapter]) as stack:
        gated = model.draw(["a cat"], [""], **HOW)
        stack.fold([1.0])
        folded = model.draw(["a cat"], [""], **HOW)
    assert not torch.equal(gated, plain) and torch.allclose(gated, folded, atol=1e-3)
    assert torch.equal(model.draw(["a cat"], [""], **HOW), plain)


@pytest.mark.parametrize(("offload", "free", "waits"), [(None, 7e9, True), (None, 9e9, False), (False, 7e9, False)])
def test_layers_wait_by_themselves_only_where_they_may_and_memory_is_short(monkeypatch, offload, free, waits):
    how = How(torch.device("cuda"), torch.float32, BaseConfig(offload=offload))
    network = torch.nn.Linear(1 << 15, 48_000, device="meta")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 24e9))
    assert offloads([network], how) is waits


def test_a_base_too_large_for_the_device_that_has_to_hold_it_is_one_line(monkeypatch):
    how = How(torch.device("cuda"), torch.float32, BaseConfig(offload=False))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4e9, 24e9))
    with pytest.raises(BaseModelError, match=r"takes 6\.3 GB and cuda has 4\.0 GB free; expected room"):
        offloads([torch.nn.Linear(1 << 15, 48_000, device="meta")], how)


def test_a_style_lies_where_a_layer_computes_not_where_it_waits(sd1):
    model = open_model(BaseConfig(base=str(sd1)), "cpu")
    adapter = style_of(model)
    for path in adapter.layers:
        part, _, inner = path.partition(".")
        model.parts[part].get_submodule(inner).computes_on = torch.device("meta")
    with attached(model.parts, [adapter]) as stack:
        for gated in stack.gated:
            assert home(gated.module).type == "meta" and gated.module.weight.device.type == "cpu"
            assert {gated.down.device.type, gated.up.device.type, gated.gate.device.type} == {"meta"}


def test_another_vae_is_a_folder_or_a_file_and_changes_the_picture(sd1, tmp_path):
    other = make_base("ztsnr", tmp_path / "other", seed=5)
    own = drawn(BaseConfig(base=str(sd1)))
    whole = drawn(BaseConfig(base=str(sd1), vae=str(other)))
    inner = drawn(BaseConfig(base=str(sd1), vae=str(other / "vae")))
    assert torch.equal(whole, inner) and not torch.equal(whole, own)


@pytest.mark.parametrize("asked", ["nothing/there/at/all", "./missing.safetensors"])
def test_a_vae_that_is_not_there_is_one_line(sd1, asked):
    with pytest.raises(BaseModelError, match="--vae") as error:
        open_model(BaseConfig(base=str(sd1), vae=asked), "cpu")
    assert "\n" not in str(error.value)


def test_tiles_draw_nearly_the_same_picture(sd1):
    tiled = open_model(BaseConfig(base=str(sd1), tiling=True), "cpu")
    plain = open_model(BaseConfig(base=str(sd1)), "cpu")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert tiled.vae.use_tiling and not plain.vae.use_tiling
    apart = (tiled.decode(latents) - plain.decode(latents)).abs().mean()
    assert 0 < apart < 0.2


def test_xformers_that_is_not_installed_is_one_line_with_its_command(sd1):
    with pytest.raises(BaseModelError, match=r"--attention xformers.*difflora\[xformers\]"):
        open_model(BaseConfig(base=str(sd1), attention="xformers"), "cpu")


def test_a_base_that_lacks_weights_is_refused_by_the_first_one(sd1, tmp_path):
    folder = shutil.copytree(sd1, tmp_path / "holes")
    [file] = (folder / "unet").glob("*.safetensors")
    tensors = load_file(file)
    del tensors["conv_out.bias"]
    save_file(tensors, file)
    with pytest.raises(BaseModelError, match=r"unet lacks 1 weights, conv_out\.bias first"):
        open_model(str(folder), "cpu")


def test_a_pipeline_of_another_kind_is_refused_by_its_name(sd1, tmp_path):
    folder = shutil.copytree(sd1, tmp_path / "other")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "PixArtAlphaPipeline"}))
    with pytest.raises(BaseModelError, match="holds a PixArtAlphaPipeline: expected one of StableDiffusionPipeline"):
        open_model(str(folder), "cpu")


def test_a_blueprint_knows_what_the_base_will_be(sd1):
    whole, plan = open_model(str(sd1), "cpu"), blueprint(str(sd1), "cpu")
    assert plan.shapes() == whole.shapes() and plan.targets("attention", True) == whole.targets("attention", True)
    assert (plan.family, plan.side, plan.unit, plan.factor) == (whole.family, whole.side, whole.unit, whole.factor)


class Answer(torch.nn.Module):
    """A network that gives back so much of what it is asked."""

    config = SimpleNamespace(cross_attention_dim=8)
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, noisy, times, words):
        other = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(9))
        return SimpleNamespace(sample=self.share * noisy + 0.3 * other)


def test_what_a_network_predicts_shows_in_its_answer_to_noise():
    encoder = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=7))
    assert answered(Answer(0.97), encoder) == EPSILON and answered(Answer(-0.05), encoder) == V


def test_what_a_single_file_says_it_predicts_is_heeded(tmp_path):
    file = tmp_path / "model.safetensors"
    cases = [({}, {}, None), ({"v_pred": torch.zeros(0)}, {}, V), ({}, {"modelspec.prediction_type": "v"}, V)]
    cases.append(({}, {"modelspec.prediction_type": "epsilon"}, EPSILON))
    for tensors, metadata, expected in cases:
        save_file({"x": torch.zeros(1)} | tensors, file, metadata)
        assert told(file, read_table(file)) == expected
    file.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: 'v'\n")
    save_file({"x": torch.zeros(1)}, file)
    assert told(file, read_table(file)) == V


def test_clips_words_are_the_ones_that_every_model_was_trained_with():
    # What openai/CLIP's own tokenizer gives.
    first, second = clip_tokenizer("<|endoftext|>"), clip_tokenizer("!")
    for words in (first, second):
        assert words("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert words("Hello, world").input_ids == [49406, 3306, 267, 1002, 49407] and len(words) == 49408
    padded = [words("a", padding="max_length").input_ids for words in (first, second)]
    assert padded == [[49406, 320] + [49407] * 75, [49406, 320, 49407] + [0] * 74]


@pytest.mark.parametrize(
    ("said", "name"),
    [("Euler a", "euler a"), ("DPM++ 2M Karras", "dpm++ 2m karras"), ("dpmpp_2m_sde", "dpm++ 2m sde"), ("DDIM", "ddim"),
     ("UniPC", "unipc"), ("LCM", "lcm"), ("euler_ancestral", "euler a"), ("k_euler", "euler"), ("PLMS", "pndm")],
)  # fmt: skip
def test_samplers_go_by_the_names_that_people_know(said, name):
    assert sampler_name(said) == name and name in SAMPLERS


def test_a_sampler_that_is_not_known_is_one_line_with_those_that_are():
    with pytest.raises(RequestError, match="--sampler fastest: expected one of ddim, euler"):
        sampler_name("fastest")


def test_samplers_without_a_way_for_no_signal_still_sample_on_the_bases_own_schedule(opened):  # noqa: F811
    own = opened("ztsnr").scheduler
    other = make_sampler(own, "heun")
    kept = 1 - torch.tensor(betas(own.alphas_cumprod), dtype=torch.float64)
    assert torch.allclose(kept.cumprod(0)[:-1], own.alphas_cumprod.double()[:-1], atol=1e-6)
    assert torch.allclose(other.alphas_cumprod[:-1], own.alphas_cumprod[:-1], atol=1e-5)
