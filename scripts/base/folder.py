"""Weights -> an ordinary diffusers folder that StableDiffusionPipeline.from_pretrained opens."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from . import autoencoder, denoiser
from .progress import Course, Ema, save_state

PIECE = 15_000_000


@torch.no_grad()
def normalise(model: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> AutoencoderKL:
    """Fold the latents' mean and spread into the 1x1 convolutions, so that latents are unit scale by themselves."""
    channels = len(mean)
    model.quant_conv.weight[:channels] /= std.view(-1, 1, 1, 1)
    model.quant_conv.bias[:channels] = (model.quant_conv.bias[:channels] - mean) / std
    # The second half is the log variance of the posterior.
    model.quant_conv.bias[channels:] -= 2 * std.log()
    post = model.post_quant_conv
    post.bias += (post.weight[:, :, 0, 0] @ mean.view(-1, 1)).view(-1)
    post.weight *= std.view(1, -1, 1, 1)
    return model


def seed(rows: list[dict], work: Path, folder: Path) -> None:
    """Make the saves that training goes on from out of a finished folder: its weights, fresh moments, nothing seen."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    if pipeline.unet.config.in_channels != autoencoder.CHANNELS:
        raise SystemExit(
            f"{folder} has {pipeline.unet.config.in_channels} latent channels; expected {autoencoder.CHANNELS}, which "
            "is what this script trains: its README names the commit whose script goes on from it"
        )
    words = denoiser.tokenizer(rows)
    drawer = denoiser.Drawer(len(words), words.eos_token_id)
    drawer.text_encoder.load_state_dict(pipeline.text_encoder.state_dict())
    drawer.unet.load_state_dict(pipeline.unet.state_dict())
    for name, module in (("autoencoder", pipeline.vae), ("denoiser", drawer)):
        fresh = torch.optim.AdamW(module.parameters())
        save_state(work / f"{name}.pt", module, fresh, Ema(module, 0.999), Course(1))


def export(rows: list[dict], work: Path, out: Path) -> int:
    """Write the folder in half precision and return how many pictures the denoiser has seen."""
    pool = torch.load(work / "pool.pt", weights_only=True)
    vae = normalise(autoencoder.load(work), pool["mean"], pool["std"])
    model, words, seen = denoiser.load(rows, work)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=words,
        unet=model.unet,
        scheduler=denoiser.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    # Stored as float16, but opened as float32 like the other parts unless a dtype is asked for.
    config = out / "text_encoder" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n"
    )
    return seen


def share(paths: list[Path], share: Path) -> None:
    """Copy files and folders as one tar in pieces of 15 MB: base.tar.0, base.tar.1 … (cat base.tar.* | tar x).

    For machines that are taken away without notice: what is copied while training goes on is not lost with them. The
    pieces of before stay whole until all new ones are written.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in paths:
            if path.exists():
                tar.add(path, path.name)
    share.mkdir(parents=True, exist_ok=True)
    data = packed.getvalue()
    parts = [share / f"base.part.{number}" for number in range(-(-len(data) // PIECE))]
    for number, part in enumerate(parts):
        part.write_bytes(data[number * PIECE : (number + 1) * PIECE])
    for old in share.glob("base.tar.*"):
        old.unlink()
    for number, part in enumerate(parts):
        part.replace(share / f"base.tar.{number}")
