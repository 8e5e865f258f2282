"""Small random bases on disk, one of every kind that is opened, and the same weights as a single file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from difflora.config import BaseConfig
from difflora.models.family import EMBEDDED, FAMILIES, BaseModel, open_model

KINDS = ("sd1", "sd2", "ztsnr", "sdxl")
"""SD 1 that predicts noise; SD 2 that predicts v; SD 1 with v and no signal at the end of its schedule; SDXL."""
EVERY = (*KINDS, "flow")
"""And the family that exists in the tests only, see flow_family.py."""
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """The embedded base's words."""
    return CLIPTokenizer.from_pretrained(EMBEDDED["tiny"] / "tokenizer", pad_token=pad)


def text_encoder(width: int, act: str = "quick_gelu", projection: int = 0) -> nn.Module:
    """Two layers of a CLIP text encoder, with a projection of the whole text where a width is given."""
    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, projection_dim=projection or width,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=words.model_max_length, hidden_act=act,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def unet(width: int, **more: object) -> UNet2DConditionModel:
    """A UNet for latents of 8x8: two levels, one resnet each; attention in both unless told otherwise."""
    usual = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "block_out_channels": (32, 64), "attention_head_dim": 2,
    }  # fmt: skip
    own = usual | more
    return UNet2DConditionModel(sample_size=8, layers_per_block=1, cross_attention_dim=width, norm_num_groups=8, **own)


def vae(scaling: float, **more: object) -> AutoencoderKL:
    """An autoencoder of three levels: four pixels a latent cell."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=8, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=scaling, **more,
    )  # fmt: skip


def one_encoder(
    net: UNet2DConditionModel, text: nn.Module, scheduler: object, pad: str = "<|endoftext|>"
) -> StableDiffusionPipeline:
    """A Stable Diffusion 1 or 2."""
    return StableDiffusionPipeline(
        vae=vae(0.18215), text_encoder=text, tokenizer=tokenizer(pad), unet=net, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sd1() -> StableDiffusionPipeline:
    """Three levels, the last without attention, as in Stable Diffusion 1; predicts noise; PNDM."""
    net = unet(
        32, block_out_channels=(32, 64, 64), down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    return one_encoder(net, text_encoder(32), PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **BETAS))


def sd2() -> StableDiffusionPipeline:
    """Linear projections, as many channels a head in all levels, words padded with "!"; predicts v."""
    net = unet(48, use_linear_projection=True, attention_head_dim=(2, 4))
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **BETAS)
    return one_encoder(net, text_encoder(48, "gelu"), scheduler, "!")


def ztsnr() -> StableDiffusionPipeline:
    """v at a schedule that ends in pure noise (Lin et al. 2023, arXiv 2305.08891)."""
    scheduler = DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing",
        **BETAS,
    )  # fmt: skip
    return one_encoder(unet(32), text_encoder(32), scheduler)


def sdxl() -> StableDiffusionXLPipeline:
    """Two text encoders of unlike widths, the second one projected; the picture's size told to the UNet; Euler."""
    net = unet(
        32 + 48, use_linear_projection=True, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 40,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=vae(0.13025, force_upcast=True), text_encoder=text_encoder(32), tokenizer=tokenizer(),
        text_encoder_2=text_encoder(48, "gelu", 40), tokenizer_2=tokenizer("!"), unet=net,
        scheduler=EulerDiscreteScheduler(**BETAS), force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip


MAKERS: dict[str, Callable[[], object]] = {"sd1": sd1, "sd2": sd2, "ztsnr": ztsnr, "sdxl": sdxl}


def livened(network: nn.Module) -> None:
    """Text encoders start so quiet, and norms so alike, that a wrong layer would hardly show: louder ones."""
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter.data += 0.2 * torch.randn(parameter.shape)
        elif parameter.dim() == 2:
            parameter.data *= 2


def make_base(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a random base as a diffusers folder, pictures of 32 px; a function of kind and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "flow":
            import flow_family

            return flow_family.make_base(folder)
        pipe = MAKERS[kind]()
        for name in ("text_encoder", "text_encoder_2"):
            if getattr(pipe, name, None) is not None:
                livened(getattr(pipe, name))
        pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a kind to its folder, made when it is asked for first."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_base(kind, tmp_path_factory.mktemp("bases") / kind)
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def opened(base_folder: Callable[[str], Path]) -> Iterator[Callable[[str], BaseModel]]:
    """From a kind to the open model in float32; whoever changes it puts it back."""
    models: dict[str, BaseModel] = {}

    def model(kind: str) -> BaseModel:
        if kind not in models:
            models[kind] = open_model(BaseConfig(base=str(base_folder(kind)), precision="fp32"), "cpu")
        return models[kind]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "ToyFlowPipeline", "flow_family")
        yield model


# The original layout, by hand: the inverse of what diffusers' loaders/single_file_utils.py reads.

CLIP = {
    "sd1": {"text_encoder": "cond_stage_model.transformer.text_model."},
    "sdxl": {"text_encoder": "conditioner.embedders.0.transformer.text_model."},
}
OPEN_CLIP = {
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {"text_encoder_2": "conditioner.embedders.1.model."},
}
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip
LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
VAE_LEVEL = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(down|up)samplers\.0)\.(.+)")
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
OPEN_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def original_unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet's tensors under ldm's names: one list of input blocks, a middle, one list of output blocks."""
    levels = [found for key in tensors if (found := LEVEL.match(key))]
    each = 1 + max(int(found[4]) for found in levels if found[1] == "up")
    attended = {found[2] for found in levels if found[1] == "up" and found[3] == "attentions"}

    def renamed(path: str) -> str:
        if path in ENDS:
            return ENDS[path]
        if found := MIDDLE.fullmatch(path):
            if found[1] == "attentions":
                return f"middle_block.1.{found[3]}"
            return f"middle_block.{2 * int(found[2])}.{RESNET[found[3]]}"
        side, level, kind, number, rest = LEVEL.fullmatch(path).groups()
        first, number = int(level) * each, int(number)
        if kind == "downsamplers":
            return f"input_blocks.{first + each}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{first + each - 1}.{2 if level in attended else 1}.conv"
        block = f"input_blocks.{first + 1 + number}" if side == "down" else f"output_blocks.{first + number}"
        return f"{block}.1.{rest}" if kind == "attentions" else f"{block}.0.{RESNET[rest]}"

    rows = {key: key.rpartition(".") for key in tensors}
    return {f"model.diffusion_model.{renamed(rows[key][0])}.{rows[key][2]}": value for key, value in tensors.items()}


def original_vae(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's tensors under ldm's names: the decoder's levels from below, attention as convolutions."""
    last = max(int(found[2]) for key in tensors if (found := VAE_LEVEL.match(key)))
    named = {}
    for key, value in tensors.items():
        path, _, kind = key.rpartition(".")
        path = path.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if found := VAE_LEVEL.fullmatch(path):
            side, level, number, sampler, rest = found.groups()
            level = int(level) if side == "encoder.down" else last - int(level)
            path = f"{side}.{level}." + (f"block.{number}.{rest}" if number else f"{sampler}sample.{rest}")
        elif ".mid_block.resnets." in path:
            path = re.sub(r"mid_block\.resnets\.(\d)", lambda n: f"mid.block_{int(n[1]) + 1}", path)
        elif ".mid_block.attentions.0." in path:
            place, _, part = path.partition(".mid_block.attentions.0.")
            path = f"{place}.mid.attn_1.{VAE_ATTENTION[part]}"
            value = value[:, :, None, None] if value.dim() == 2 else value
        named[f"first_stage_model.{path}.{kind}"] = value.contiguous()
    return named


def original_text(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder under CLIP's names, which transformers took over."""
    named = {f"{prefix}{key.removeprefix('text_model.')}": value for key, value in tensors.items()}
    positions = len(named[f"{prefix}embeddings.position_embedding.weight"])
    return named | {f"{prefix}embeddings.position_ids": torch.arange(positions)[None]}


def original_open_text(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder under OpenCLIP's names: query, key and value in one weight, the projection turned."""
    own = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    named = {}
    for key, value in own.items():
        if key in OPEN_ENDS:
            named[prefix + OPEN_ENDS[key]] = value
        elif key == "text_projection.weight":
            named[f"{prefix}text_projection"] = value.T.contiguous()
        else:
            number, inner, kind = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key).groups()
            layer = f"{prefix}transformer.resblocks.{number}"
            if inner == "self_attn.q_proj":
                parts = [own[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
                named[f"{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
            elif inner in OPEN_LAYER:
                named[f"{layer}.{OPEN_LAYER[inner]}.{kind}"] = value
    width = named[f"{prefix}ln_final.weight"].shape[0]
    # What every such file holds beside it: SD 2's projection is there, and is not used.
    named.setdefault(f"{prefix}text_projection", torch.zeros(width, width))
    return named | {f"{prefix}logit_scale": torch.zeros(())}


def original(networks: Mapping[str, Mapping[str, Tensor]], family: str) -> dict[str, Tensor]:
    """All networks' tensors as one file of sd1, sd2 or sdxl has them; networks: state dicts by name."""
    found = original_unet(networks["unet"]) | original_vae(networks["vae"])
    for name, prefix in CLIP.get(family, {}).items():
        found |= original_text(networks[name], prefix)
    for name, prefix in OPEN_CLIP.get(family, {}).items():
        found |= original_open_text(networks[name], prefix)
    # Of the schedule too there are traces.
    return found if family == "sdxl" else found | {"alphas_cumprod": torch.zeros(1000)}


def as_single_file(folder: Path, path: Path, family: str, **metadata: str) -> Path:
    """The weights of a diffusers folder as one file in the original layout; metadata: what its header says."""
    networks = {
        part.name: load_file(next(part.glob("*.safetensors")))
        for part in folder.iterdir()
        if part.is_dir() and list(part.glob("*.safetensors"))
    }
    save_file(original(networks, family), path, metadata or None)
    return path
