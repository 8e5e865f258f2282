"""The full-size Stable Diffusion 1.5, from its published configuration on the meta device: names, shapes, family."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from difflora.adapters.adapter import Factors
from difflora.adapters.dialects import read_layers, to_kohya
from difflora.adapters.names import kohya_name
from difflora.errors import AdapterFileError
from difflora.models.sd import StableDiffusion, family_of


@pytest.fixture(scope="module")
def sd15() -> StableDiffusion:
    """Networks without numbers."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                projection_dim=768, hidden_act="quick_gelu",
            )
        )  # fmt: skip
    parts = {"unet": unet, "text_encoder": text}
    return StableDiffusion("sd15", family_of(unet), parts, torch.nn.Identity(), None, None)


def test_it_is_told_apart_by_its_text_width(sd15):
    assert sd15.family == "sd1"
    assert sd15.recommended.learning_rate == 1e-4


def test_every_attention_and_feed_forward_layer_is_found(sd15):
    paths = sd15.targets("attention+mlp", True)
    unet = [path for path in paths if path.startswith("unet.")]
    # 16 transformer blocks: two attentions of four projections, and two feed-forward layers.
    assert len(unet) == 16 * (8 + 2)
    assert len(paths) - len(unet) == 12 * 4
    assert len(sd15.targets("attention", False)) == 16 * 8


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
        ),
        (
            "unet.up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj",
            "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj",
        ),
        (
            "text_encoder.encoder.layers.11.self_attn.out_proj",
            "lora_te_text_model_encoder_layers_11_self_attn_out_proj",
        ),
    ],
)
def test_layers_have_the_names_other_programs_read(sd15, path, name):
    assert path in sd15.targets("attention+mlp", True)
    assert kohya_name(path) == name


def test_a_full_size_adapter_goes_through_its_file_names_and_a_small_ones_shapes_are_refused(sd15):
    shapes = sd15.shapes()
    layers = {
        path: Factors(torch.ones(2, shapes[path][1]), torch.ones(shapes[path][0], 2), 1.0)
        for path in sd15.targets("attention+mlp", True)
    }
    tensors = to_kohya(layers)
    back = read_layers(tensors, shapes)
    assert {path: (f.shape, f.alpha) for path, f in back.items()} == {
        path: (f.shape, f.alpha) for path, f in layers.items()
    }
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    with pytest.raises(AdapterFileError, match="another family"):
        read_layers(to_kohya({name: Factors(torch.ones(2, 96), torch.ones(96, 2), 1.0)}), shapes)
