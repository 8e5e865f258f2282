"""Looking at a denoiser while it trains: a sheet of fixed prompts, and how many of the common things it draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from . import denoiser, folder, scenes
from .progress import Course, autocast

STEPS, GUIDANCE = 20, 2.5
SHEET = (
    "apple", "cat", "house with garden", "penguin", "rocket", "umbrella", "hamburger", "guitar",
    "castle", "turtle", "bicycle", "octopus", "strawberry", "elephant", "sailboat", "mushroom",
    "robot", "ghost", "owl", "butterfly", "car", "crown", "smiley", "woman scientist",
    "a dragon", "an espresso cup", "a clown face", "hands clapping", "man dancing", "fox", "crab", "unicorn",
    "penguin, noto style", "penguin, fx style", "penguin, twemoji style", "penguin, emojione style",
    "penguin, fluent flat style", "penguin, noto classic style", "a blue fish", "green apple, yellow background",
    "a green apple next to a cat, blue background", "cat on house", "a dog and a red ball", "bee above sunflower",
    "three tulips", "two owls, purple background", "small rocket on the left", "large skull, orange background",
)  # fmt: skip


@torch.inference_mode()
def sample(model: denoiser.Drawer, words, prompts: list[str], seed: int = 0) -> Tensor:
    """Normalised latents (B, C, 16, 16) of the prompts, guided, on the model's device."""
    device = next(model.parameters()).device
    texts = [*prompts, *[""] * len(prompts)]
    tokens = words(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
    schedule = denoiser.scheduler()
    schedule.set_timesteps(STEPS)
    side = model.unet.config.sample_size
    shape = (len(prompts), model.unet.config.in_channels, side, side)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    with autocast(device.type):
        states = model.text_encoder(tokens).last_hidden_state
        for time in schedule.timesteps:
            found = model.unet(latents.repeat(2, 1, 1, 1), time.to(device), states).sample.float()
            told, untold = found.chunk(2)
            latents = schedule.step(untold + GUIDANCE * (told - untold), time, latents).prev_sample
    return latents


@torch.inference_mode()
def sheet(model, words, vae: AutoencoderKL, pool: denoiser.Pool, path: Path) -> None:
    """Draw the fixed prompts, eight a row."""
    latents = sample(model, words, list(SHEET))
    mean, std = (x.to(latents.device).view(1, -1, 1, 1) for x in (pool.mean, pool.std))
    pictures = vae.to(latents.device).decode(latents * std + mean).sample.clamp(-1, 1).add(1).div(2)
    rows = F.pad(pictures, (2, 2, 2, 2), value=1.0).cpu().unflatten(0, (-1, 8))
    array = (rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(array).save(path, quality=92)


def nearest(model, words, pool: denoiser.Pool, rows: list[dict]) -> float:
    """Share of the common things whose drawing is nearest, in latents, to a training picture of that name."""
    names = sorted(scenes.CONCEPTS)
    found = torch.cat([sample(model, words, names[i : i + 100]) for i in range(0, len(names), 100)])
    known = [i for i, row in enumerate(pool.singles.tolist()) if rows[row]["drawn"]]
    owners = [rows[row]["name"] for row in pool.singles[known].tolist()]
    kept = pool.latents[known].to(found.device).float().flatten(1)
    closest = torch.cdist(found.flatten(1), kept).argmin(1).tolist()
    return sum(owners[at] == name for at, name in zip(closest, names, strict=True)) / len(names)


def looker(words, vae: AutoencoderKL, pool: denoiser.Pool, rows: list[dict], work: Path, share: Path | None):
    """What `denoiser.train` calls at its sixths: a sheet, the share recognised, and the folder as it is for `share`."""

    def look(model: denoiser.Drawer, course: Course) -> dict[str, float]:
        sheet(model, words, vae, pool, work / f"sheet-{round(100 * course.done)}.webp")
        if share:
            folder.export(rows, work, work / "out")
            folder.share([work / "out", *sorted(work.glob("*.jsonl")), *sorted(work.glob("sheet-*.webp"))], share)
        return {"nearest": nearest(model, words, pool, rows)}

    return look
