"""The tables of modules are the real networks, built from their published configurations on the meta device."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from difflora.adapters.blocks import sgm_paths
from difflora.adapters.names import kohya_name
from difflora.adapters.networks import FAMILIES, modules
from difflora.models.family import EMBEDDED

# unet/config.json and text_encoder/config.json of runwayml/stable-diffusion-v1-5, stabilityai/stable-diffusion-2-1 and
# stabilityai/stable-diffusion-xl-base-1.0, without what makes no module.
UNETS = {
    "sd1": {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "num_attention_heads": 12}
OPEN_CLIP_H = {"hidden_size": 1024, "num_hidden_layers": 23, "intermediate_size": 4096, "num_attention_heads": 16}
OPEN_CLIP_G = {"hidden_size": 1280, "num_hidden_layers": 32, "intermediate_size": 5120, "num_attention_heads": 20}
TEXTS = {"sd1": CLIP_L, "sd2": OPEN_CLIP_H, "sdxl": CLIP_L}
DEEP = {
    "block_out_channels": (32, 32, 64, 64, 96),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 3,
}


@cache
def networks(family: str) -> dict[str, nn.Module]:
    """The real networks by part, without numbers."""
    with torch.device("meta"):
        if family == "tiny":
            folder = EMBEDDED["tiny"]
            return {
                "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
                "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            }
        parts = {
            "unet": UNet2DConditionModel(**UNETS[family]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXTS[family])),
        }
        if family == "sdxl":
            parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**OPEN_CLIP_G, projection_dim=1280))
        return parts


def path_of(part: str, name: str) -> str:
    """A module's path as all transformers versions have it."""
    return f"{part}.{name}".replace(".text_model.", ".")


def weights(family: str) -> dict[str, tuple[int, ...]]:
    """Weight shapes of the real networks by path, in their own order."""
    return {
        path_of(part, name): tuple(module.weight.shape)
        for part, network in networks(family).items()
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def inside(family: str, part: str, *classes: str) -> list[str]:
    """Paths of the linear layers and convolutions inside modules of such classes, as sd-scripts collects them."""
    return [
        path_of(part, f"{name}.{inner}")
        for name, module in networks(family)[part].named_modules()
        if type(module).__name__ in classes
        for inner, child in module.named_modules()
        if type(child).__name__ in ("Linear", "Conv2d", "LoRACompatibleLinear", "LoRACompatibleConv")
    ]


def as_diffusers_reads(originals: dict[str, str], config: dict[str, object]) -> dict[str, str]:
    """Where diffusers' checkpoint conversion puts the weights of modules with these original names."""
    checkpoint = {
        f"{LDM_UNET_KEY}{original}.{tensor}": f"{path}.{tensor}"
        for path, original in originals.items()
        for tensor in ("weight", "bias")
    }
    converted = convert_ldm_unet_checkpoint(checkpoint, config)
    return {f"unet.{key}": tag for key, tag in converted.items() if tag is not None and key.endswith(".weight")}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_table_is_its_real_networks_in_their_order(family):
    assert list(modules(family).items()) == list(weights(family).items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_of_a_unet_has_the_original_name_that_diffusers_converts_back(family):
    paths = [path for path in modules(family) if path.startswith("unet.")]
    originals = sgm_paths(paths)
    assert list(originals) == paths
    assert len(set(originals.values())) == len(paths)
    expected = {f"{path}.weight": f"{path}.weight" for path in paths}
    assert as_diffusers_reads(originals, networks(family)["unet"].config) == expected


def test_original_names_are_right_for_other_depths_and_for_levels_with_and_without_attention():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**DEEP, cross_attention_dim=32)
    paths = [f"unet.{name}" for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    originals = sgm_paths(paths)
    assert len(set(originals.values())) == len(paths)
    assert as_diffusers_reads(originals, unet.config) == {f"{path}.weight": f"{path}.weight" for path in paths}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        ),
        (
            "up_blocks.0.attentions.0.transformer_blocks.9.attn2.to_v",
            "output_blocks_0_1_transformer_blocks_9_attn2_to_v",
        ),
        ("mid_block.attentions.0.proj_in", "middle_block_1_proj_in"),
        ("mid_block.resnets.1.conv2", "middle_block_2_out_layers_3"),
        ("down_blocks.0.resnets.0.conv1", "input_blocks_1_0_in_layers_2"),
        ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks_4_0_skip_connection"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks_3_0_op"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks_2_2_conv"),
        ("up_blocks.2.resnets.2.time_emb_proj", "output_blocks_8_0_emb_layers_1"),
        ("add_embedding.linear_2", "label_emb_0_2"),
        ("conv_out", "out_2"),
    ],
)
def test_sdxl_modules_have_the_names_that_kohya_files_have(path, name):
    assert kohya_name(f"unet.{path}", sgm_paths(modules("sdxl"))) == f"lora_unet_{name}"


def test_an_upsampler_follows_the_attention_or_where_there_is_none_the_resnet():
    originals = sgm_paths(modules("sd1"))
    # The keys of v1-5-pruned.safetensors: model.diffusion_model.output_blocks.2.1.conv.weight and so on.
    assert originals["unet.up_blocks.0.upsamplers.0.conv"] == "output_blocks.2.1.conv"
    assert originals["unet.up_blocks.1.upsamplers.0.conv"] == "output_blocks.5.2.conv"
    assert originals["unet.up_blocks.2.upsamplers.0.conv"] == "output_blocks.8.2.conv"


def test_only_what_the_original_layout_has_gets_a_name():
    assert sgm_paths(["unet.mid_block.resnets.0.nonlinearity", "unet.encoder_hid_proj", "text_encoder.conv_in"]) == {}


@pytest.mark.parametrize(
    ("family", "part", "classes", "count"),
    [
        ("sd1", "unet", ("Transformer2DModel",), 192),
        ("sd2", "unet", ("Transformer2DModel",), 192),
        ("sdxl", "unet", ("Transformer2DModel",), 722),
        ("sd1", "text_encoder", ("CLIPAttention", "CLIPMLP"), 72),
        ("sd2", "text_encoder", ("CLIPAttention", "CLIPMLP"), 138),
        ("sdxl", "text_encoder", ("CLIPAttention", "CLIPMLP"), 72),
        ("sdxl", "text_encoder_2", ("CLIPAttention", "CLIPMLP"), 192),
    ],
)
def test_there_are_as_many_modules_as_sd_scripts_makes_adapters(family, part, classes, count):
    paths = inside(family, part, *classes)
    assert len(set(paths)) == count
    marks = (".attentions.",) if part == "unet" else (".self_attn.", ".mlp.")
    assert [p for p in modules(family) if p.startswith(f"{part}.") and any(m in p for m in marks)] == paths


@pytest.mark.parametrize("family", FAMILIES)
def test_convolutions_outside_the_attentions_are_those_of_resnets_and_samplers(family):
    paths = inside(family, "unet", "ResnetBlock2D", "Downsample2D", "Upsample2D")
    marks = (".resnets.", "samplers.")
    table = [path for path in modules(family) if any(mark in path for mark in marks)]
    assert paths
    assert table == paths


def test_nobody_can_write_in_a_table_and_an_unknown_family_has_none():
    with pytest.raises(TypeError):
        modules("sd1")["unet.conv_in"] = (1, 1)
    with pytest.raises(KeyError):
        modules("sd9")


def test_tables_need_no_torch():
    code = (
        "import sys; from difflora.adapters import blocks, networks; "
        "blocks.sgm_paths(networks.modules('sdxl')); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
