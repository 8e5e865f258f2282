"""A small random model of the embedded base's shape: every claim about algebra holds on it, in milliseconds."""

from __future__ import annotations

import os
import re

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.files import save_adapter
from difflora.adapters.networks import modules
from difflora.models.family import EMBEDDED
from difflora.models.sd import StableDiffusion
from difflora.training import judge

# The studio's fixtures and those of bases stand in rooms of their own.
pytest_plugins = ["browser", "bases"]
WIDTH = 32
# Toy models are too small to share out; bit-for-bit claims hold for a fixed number of threads.
torch.set_num_threads(1)
# Checkpoints are judged by fewer and rougher pictures than a person's: the claims are the same.
judge.PROMPTS, judge.DRAW_STEPS = 4, 2


def random_model(prediction: str = "v_prediction", seed: int = 0) -> StableDiffusion:
    """A Stable Diffusion of a few hundred thousand random numbers; 32 px pictures."""
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED["tiny"] / "tokenizer")
    end = tokenizer.eos_token_id
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=64,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=1.0,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        rescale_betas_zero_snr=prediction == "v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )
    for module in (text, unet, vae):
        module.eval().requires_grad_(False)
    return StableDiffusion("toy", "toy", {"unet": unet, "text_encoder": text}, vae, tokenizer, scheduler)


@pytest.fixture(scope="session")
def model() -> StableDiffusion:
    """One random model for the whole session; whoever changes it puts it back."""
    return random_model()


def random_adapter(
    model: StableDiffusion, rank: int, alpha: float, seed: int, *, size: float = 0.15, paths: list[str] | None = None
) -> Adapter:
    """Random factors on attention, feed-forward, text projections and one convolution of each size."""
    rng = torch.Generator().manual_seed(seed)
    shapes = model.shapes()
    if paths is None:
        paths = [*model.targets("attention+mlp", True), "unet.mid_block.attentions.0.proj_in", "unet.conv_in"]
    layers = {}
    for path in paths:
        out, *rest = shapes[path]
        up_shape = (out, rank, *[1] * (len(rest) - 1))
        down = torch.randn(rank, *rest, generator=rng) * size
        layers[path] = Factors(down, torch.randn(up_shape, generator=rng) * size, alpha)
    return Adapter(layers, Info(f"random-{seed}", model.family, model.name))


@pytest.fixture
def adapters(model: StableDiffusion) -> list[Adapter]:
    """Three adapters of different ranks, alpha never the rank, one touching other layers than the rest."""
    few = model.targets("attention", False)[::2]
    return [
        random_adapter(model, 4, 2.0, 1),
        random_adapter(model, 2, 5.0, 2),
        random_adapter(model, 3, 1.0, 3, paths=few),
    ]


@pytest.fixture(scope="session")
def tiny_styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three random styles on all 116 layers that a training of the embedded base changes."""
    shapes, folder = modules("tiny"), tmp_path_factory.mktemp("tiny") / "loras"
    folder.mkdir()
    learnt = re.compile(r"unet\..*\.(attn[12]\.to_|ff\.net\.)|text_encoder\..*\.self_attn\.")
    paths = [path for path in shapes if learnt.match(path)]
    for seed, name in enumerate(("ink", "fluent3d", "cartoon")):
        rng, layers = torch.Generator().manual_seed(seed), {}
        for path in paths:
            out, rest = shapes[path]
            layers[path] = Factors(
                0.1 * torch.randn(8, rest, generator=rng), 0.1 * torch.randn(out, 8, generator=rng), 4.0
            )
        save_adapter(folder / f"{name}.safetensors", Adapter(layers, Info(name, "tiny", "tiny")), {})
    return folder


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model as an ordinary diffusers folder, for --base."""
    toy, folder = random_model(), tmp_path_factory.mktemp("base") / "toy"
    StableDiffusionPipeline(
        vae=toy.vae,
        text_encoder=toy.parts["text_encoder"],
        tokenizer=toy.tokenizer,
        unet=toy.parts["unet"],
        scheduler=toy.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine small captioned pictures."""
    folder = tmp_path_factory.mktemp("pictures") / "blobs"
    folder.mkdir()
    rng = torch.Generator().manual_seed(0)
    for i, name in enumerate(["cat", "dog", "fish", "house", "apple", "tree", "car", "star", "moon"]):
        small = (torch.rand(4, 4, 3, generator=rng) * 255).byte().numpy()
        Image.fromarray(small).resize((48, 40 + i)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}")
    return folder
