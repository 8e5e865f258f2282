"""Whatever program wrote an adapter file, what is read is the update that its own definition gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_model
from dialect_files import KOHYA, OTHERS, PLAIN, SDXL, kohya, lora, made, tree, write
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from difflora.adapters.adapter import Adapter
from difflora.adapters.files import load_adapter
from difflora.errors import AdapterFileError
from difflora.models.attach import attached
from difflora.models.sd import StableDiffusion

EVERY = PLAIN | OTHERS
DRAWN = ("kohya", "peft", "loha", "lokr", "dora-by-input", "dora-by-output", "diffusers-dora")
K = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
NAME, KEY = KOHYA[K], f"{KOHYA[K]}."
OLD = K.replace("to_k", "processor.to_k_lora")


def layers_of(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The weight of every linear and convolutional layer, by path."""
    return {
        f"{part}.{path}": module.weight.detach()
        for part, root in parts.items()
        for path, module in root.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(weight.shape) for path, weight in weights.items()}


@pytest.fixture(scope="module")
def weights(model: StableDiffusion) -> dict[str, Tensor]:
    return layers_of(model.parts)


@pytest.fixture(scope="module")
def shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return shapes_of(weights)


def sdxl_weights() -> dict[str, Tensor]:
    """The layers of a network with SDXL's blocks and two text encoders of different widths, all tiny."""
    torch.manual_seed(0)
    common = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 8}
    narrow = CLIPTextConfig(hidden_size=16, intermediate_size=32, projection_dim=16, **common)
    wide = CLIPTextConfig(hidden_size=24, intermediate_size=48, projection_dim=24, **common)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32, 32), layers_per_block=2, transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=40, attention_head_dim=2, norm_num_groups=8, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 24,
    )  # fmt: skip
    texts = {"text_encoder": CLIPTextModel(narrow), "text_encoder_2": CLIPTextModelWithProjection(wide)}
    return layers_of({"unet": unet, **texts})


def gap(found: Tensor, wanted: Tensor) -> float:
    """The size of the difference, relative to what is wanted."""
    assert found.shape == wanted.shape
    found, wanted = found.detach().double(), wanted.double()
    return float((found - wanted).norm() / wanted.norm())


def check(adapter: Adapter, wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """The adapter has exactly the wanted updates."""
    assert set(adapter.layers) == set(wanted)
    for path, update in adapter.layers.items():
        delta = update.delta(weights[path])
        assert update.shape == delta.shape == weights[path].shape
        assert delta.dtype == torch.float32
        assert gap(delta, wanted[path]) < 1e-5, path


# --- what is read


@pytest.mark.parametrize("name", EVERY)
def test_every_dialect_is_read_as_the_updates_it_defines(name, tmp_path, shapes, weights):
    path, wanted = EVERY[name](tmp_path, shapes, weights, 1)
    check(load_adapter(path, shapes, family=""), wanted, weights)


@pytest.mark.parametrize("name", SDXL)
def test_every_dialect_of_sdxl_is_read_as_the_updates_it_defines(name, tmp_path):
    weights = sdxl_weights()
    path, wanted = SDXL[name](tmp_path, shapes_of(weights), weights, 2)
    check(load_adapter(path, shapes_of(weights), family=""), wanted, weights)


@pytest.mark.parametrize("patterns", [{"to_q": 6.0, "attn1.to_q": 3.0}, {"attn1.to_q": 3.0, "to_q": 6.0}])
def test_of_several_patterns_that_fit_a_module_the_first_counts_as_in_peft(patterns, tmp_path, weights, shapes):
    folder, _ = PLAIN["peft"](tmp_path, shapes, weights, 1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": patterns}))
    layer = PeftModel.from_pretrained(tree(weights), folder).base_model.model.get_submodule(Q.removeprefix("unet."))
    assert layer.lora_alpha["default"] == next(iter(patterns.values()))
    found = load_adapter(folder, shapes, family="").layers[Q].delta()
    assert gap(found, layer.get_delta_weight("default").detach()) < 1e-5


# --- what is drawn


def plain_diffusers(model: StableDiffusion) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline(
        vae=model.vae, tokenizer=model.tokenizer, scheduler=model.scheduler, **model.parts, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def plainly(pipeline: StableDiffusionPipeline, prompts=("a red apple",), seeds=(3,)) -> Tensor:
    """Pictures by plain diffusers from the noise that difflora starts with, in -1..1."""
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    options = {"latents": noise, "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}
    return torch.from_numpy(np.moveaxis(pipeline(list(prompts), **options).images, -1, 1)) * 2 - 1


def ours(model: StableDiffusion, prompts=("a red apple",), seeds=(3,)) -> Tensor:
    options = {"steps": 2, "guidance": 2.0, "size": (32, 32)}
    return model.draw(list(prompts), [""] * len(prompts), seeds=list(seeds), **options)


def by_hand(deltas: Mapping[str, Tensor], weight: float) -> StableDiffusionPipeline:
    """Plain diffusers on the same model anew, the updates added to its weights."""
    toy = random_model()
    for path, delta in deltas.items():
        part, _, rest = path.partition(".")
        layer = toy.parts[part].get_submodule(rest)
        layer.weight.data = (layer.weight.double() + weight * delta).float()
    return plain_diffusers(toy)


@pytest.mark.parametrize("name", DRAWN)
def test_the_picture_is_the_one_that_the_updates_added_by_hand_give(name, model, tmp_path, shapes, weights):
    path, deltas = EVERY[name](tmp_path, shapes, weights, 4)
    plain = ours(model)
    with attached(model.parts, [load_adapter(path, shapes)]) as stack:
        for weight in (1.0, 0.7, -0.5):
            stack.weights([weight])
            drawn, wanted = ours(model), plainly(by_hand(deltas, weight))
            # Rounding grows along the steps of a random network; another weight or norm is off by tens of percent.
            assert gap(drawn, wanted) < 1e-3, weight
            assert gap(plain, wanted) > 0.1, weight


@pytest.mark.parametrize("names", [("kohya", "dora-by-input"), ("loha", "peft"), ("real-peft-dora", "lokr")])
def test_two_kinds_in_one_batch_are_drawn_as_they_are_alone(names, model, tmp_path, shapes, weights):
    adapters = []
    for i, name in enumerate(names):
        (tmp_path / name).mkdir()
        adapters.append(load_adapter(EVERY[name](tmp_path / name, shapes, weights, i)[0], shapes))
    table, prompts = [[1.0, 0.0], [0.3, 0.6]], ("cat", "a red apple")
    with attached(model.parts, adapters) as stack:
        stack.weights(table)
        together = ours(model, prompts, (5, 6))
        for i, row in enumerate(table):
            stack.weights(row)
            assert gap(together[i : i + 1], ours(model, prompts[i : i + 1], (5 + i,))) < 1e-3
    with attached(model.parts, adapters[:1]):
        assert gap(together[:1], ours(model, prompts[:1], (5,))) < 1e-3


def test_a_folded_blend_of_kinds_is_the_gated_one_and_unfolding_restores_every_bit(model, tmp_path, shapes, weights):
    adapters = []
    for name in ("dora-by-output", "lycoris-mixed"):
        (tmp_path / name).mkdir()
        adapters.append(load_adapter(EVERY[name](tmp_path / name, shapes, weights, 1)[0], shapes))
    before = {path: weight.clone() for path, weight in layers_of(model.parts).items()}
    with attached(model.parts, adapters) as stack:
        stack.weights([0.7, 0.2])
        gated = ours(model)
        for _ in range(3):
            stack.fold([0.7, 0.2])
        assert gap(ours(model), gated) < 1e-3
        assert not torch.equal(layers_of(model.parts)[K], before[K])
        stack.unfold()
        assert torch.equal(ours(model), gated)
        stack.fold([-1.0, 2.0])
    assert all(torch.equal(weight, before[path]) for path, weight in layers_of(model.parts).items())


# --- what is refused


def refusal(folder: Path, tensors: Mapping[str, Tensor], shapes) -> str:
    with pytest.raises(AdapterFileError) as caught:
        load_adapter(write(folder / "bad.safetensors", tensors), shapes, family="")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["kohya", "lycoris", "diffusers", "diffusers-oldest", "loha", "lokr", "dora-by-input"])
@pytest.mark.parametrize(
    "stranger",
    ["lora_unet_nowhere_to_q.lora_down.weight", "unet.nowhere.to_q.lora_A.weight", "nowhere.weight", f"{NAME}.nowhere"],
)
def test_unknown_keys_are_named_never_skipped(stranger, name, tmp_path, shapes, weights):
    tensors = load_file(EVERY[name](tmp_path, shapes, weights, 1)[0])
    assert "nowhere" in refusal(tmp_path, tensors | {stranger: torch.zeros(2, 4)}, shapes)


@pytest.mark.parametrize("name", ["kohya", "loha", "lokr", "dora-by-input"])
def test_an_alpha_per_rank_is_refused(name, tmp_path, shapes, weights):
    tensors = load_file(EVERY[name](tmp_path, shapes, weights, 1)[0])
    message = refusal(tmp_path, tensors | {f"{NAME}.alpha": torch.ones(3)}, shapes)
    assert "alpha" in message and NAME in message


@pytest.mark.parametrize(
    ("name", "key", "size"),
    [
        ("diffusers-dora", f"{K}.lora_magnitude_vector", (32,)),
        ("dora-by-output", f"{NAME}.dora_scale", (32, 1)),
        ("dora-by-input", f"{NAME}.dora_scale", (1, 64)),
    ],
)
def test_a_magnitude_of_the_wrong_side_is_refused_by_name(name, key, size, tmp_path, shapes, weights):
    assert shapes[K] == (64, 32)
    tensors = load_file(EVERY[name](tmp_path, shapes, weights, 1)[0])
    assert key in tensors
    assert key.rpartition(".")[0] in refusal(tmp_path, tensors | {key: torch.ones(size)}, shapes)


@pytest.mark.parametrize(
    ("name", "module", "part"),
    [
        ("kohya", NAME, "lora_up.weight"),
        ("lycoris", NAME.replace("lora_unet_", "lycoris_"), "lora_down.weight"),
        ("diffusers", K, "lora_A.weight"),
        ("diffusers-oldest", OLD, "up.weight"),
        ("loha", NAME, "hada_w2_b"),
        ("lokr", NAME, "lokr_w2_b"),
        ("lokr", NAME, "lokr_w1"),
    ],
)
def test_half_of_a_pair_is_refused(name, module, part, tmp_path, shapes, weights):
    tensors = load_file(EVERY[name](tmp_path, shapes, weights, 1)[0])
    del tensors[f"{module}.{part}"]
    assert module in refusal(tmp_path, tensors, shapes)


@pytest.mark.parametrize("gone", [None, f"{NAME}.lora_up.weight", f"{NAME}.alpha"])
def test_one_module_under_two_dialects_is_refused(gone, tmp_path, shapes, weights):
    """Whole or a half under each: nobody knows which scale was meant."""
    tensors, _ = made({K: NAME}, shapes, weights, 0, (lora,))
    tensors |= {f"{K}.lora_A.weight": tensors[f"{NAME}.lora_down.weight"]} if gone is None else {}
    tensors |= {f"{K}.lora_B.weight": tensors[f"{NAME}.lora_up.weight"]}
    message = refusal(tmp_path, {key: value for key, value in tensors.items() if key != gone}, shapes)
    assert K in message or NAME in message


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ((KEY + "weight", KEY + "on_input"), "IA3"),
        ((KEY + "oft_blocks", KEY + "alpha"), "OFT"),
        ((KEY + "a1.weight", KEY + "a2.weight", KEY + "b1.weight", KEY + "b2.weight"), "GLoRA"),
        (("bundle_emb.cat.string_to_param.*",), "textual inversion"),
        ((KEY + "diff_b",), "diff_b"),
        (("lora_unet_down_blocks_0_resnets_0_norm1.w_norm",), "w_norm"),
    ],
)
def test_what_is_another_method_is_refused_by_name(keys, word, tmp_path, shapes, weights):
    tensors, _ = made({path: name for path, name in KOHYA.items() if path != K}, shapes, weights, 0, (lora,))
    assert word in refusal(tmp_path, tensors | {key: torch.ones(4) for key in keys}, shapes)


def test_keys_of_a_second_text_encoder_do_not_fit_a_base_that_has_one(tmp_path, shapes, weights):
    path, _ = kohya(tmp_path, shapes, weights, 1)
    tensors = load_file(path)
    second = {key.replace("lora_te_", "lora_te2_"): value for key, value in tensors.items() if "_te_" in key}
    assert "lora_te2_text_model_encoder_layers_0_self_attn_q_proj" in refusal(tmp_path, tensors | second, shapes)
    dotted = "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj"
    second = {f"{dotted}.lora_{half}.weight": torch.ones(size) for half, size in (("A", (2, 32)), ("B", (32, 2)))}
    assert dotted in refusal(tmp_path, tensors | second, shapes)
