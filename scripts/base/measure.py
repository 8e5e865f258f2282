"""Figures of a finished base: reconstruction, recognisability, seconds per picture, a sheet of fixed prompts."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from difflora.drawing.generate import generate
from difflora.drawing.recipe import Recipe
from difflora.drawing.sheet import grid
from difflora.models.family import open_model
from difflora.training.cache import as_pixels
from difflora.training.data import read_folder, square
from difflora.training.score import likelihoods

from . import autoencoder, scenes
from .looks import SHEET, STEPS


def on_folder(vae, folder: Path, px: int) -> float:
    """Reconstruction PSNR in dB over the pictures of a folder."""
    return autoencoder.psnr(vae, as_pixels([square(picture, px) for picture, _ in read_folder(folder)]))


def recipes(model, prompts: list[str], seed: int) -> list[Recipe]:
    """One picture a prompt, seeds counting up."""
    side, guidance = model.side, model.recommended.guidance
    return [
        Recipe(prompt=prompt, seed=seed + i, steps=STEPS, guidance=guidance, width=side, height=side)
        for i, prompt in enumerate(prompts)
    ]


def draw(model, prompts: list[str], seed: int = 0) -> tuple[list[Image.Image], float]:
    """The pictures and the seconds each took."""
    start = time.monotonic()
    pictures = [picture for _, picture in generate(model, recipes(model, prompts, seed), {}, batch=16)]
    return pictures, (time.monotonic() - start) / len(pictures)


def in_rows(pictures: list[Image.Image], px: int) -> Image.Image:
    """Eight beside each other, half as large again."""
    return grid([pictures[i : i + 8] for i in range(0, len(pictures), 8)], cell=px + px // 2)


def recognised(model, names: list[str], pictures: list[Image.Image], latents: torch.Tensor, owners: list[str]) -> dict:
    """Shares of pictures: own caption among the five likeliest of 100, nearest training picture of that name."""
    pixels = as_pixels(pictures)
    rng = np.random.default_rng(0)
    by_caption, both, nearest = 0, 0, 0
    found = model.encode_images(pixels)
    for i, name in enumerate(names):
        others = sorted(scenes.CONCEPTS - {name})
        captions = [name, *rng.choice(others, 99, replace=False).tolist()]
        losses = likelihoods(model, pixels[i : i + 1], captions)[0]
        told = bool((losses < losses[0]).sum() < 5)
        distance = (latents - found[i : i + 1].cpu()).flatten(1).norm(dim=1)
        near = owners[int(distance.argmin())] == name
        by_caption, nearest, both = by_caption + told, nearest + near, both + (told and near)
        print(f"{i + 1} of {len(names)}: {name} {'told' if told else '-'} {'near' if near else '-'}", flush=True)
    count = len(names)
    return {"recognised": both / count, "by caption": by_caption / count, "by nearest": nearest / count}


def measure(sources: torch.Tensor, rows: list[dict], work: Path, base: Path, concepts: int, seeds: int) -> dict:
    """All figures of the folder `base`, shares and seconds as mean and deviation over seeds.

    A sheet of fixed prompts goes to work/sheet.png, the concepts as the first seed drew them to work/concepts.png.
    """
    model = open_model(str(base), "cpu")
    px = model.side
    figures: dict = {}
    probe = autoencoder.on_white(sources[:: max(1, len(sources) // 256)], px)
    figures["psnr training sets"] = autoencoder.psnr(model.vae, probe)
    for folder in sorted(Path("sample_data").iterdir()):
        if folder.is_dir() and folder.name != "heldout":
            figures[f"psnr {folder.name}"] = on_folder(model.vae, folder, px)
    sheets = [draw(model, list(SHEET), k) for k in range(seeds)]
    in_rows(sheets[0][0], px).save(work / "sheet.png")
    drawn = [i for i, row in enumerate(rows) if row["drawn"]]
    names = sorted(scenes.CONCEPTS)
    names = names[:: max(1, len(names) // concepts)]
    latents = torch.cat(
        [
            model.encode_images(autoencoder.on_white(sources[part], px))
            for part in np.array_split(drawn, len(drawn) // 64)
        ]
    )
    owners = [rows[i]["name"] for i in drawn]
    drawings = [draw(model, names, 1000 * k)[0] for k in range(seeds)]
    in_rows(drawings[0], px).save(work / "concepts.png")
    shares = [recognised(model, names, pictures, latents, owners) for pictures in drawings]
    found = {"seconds per picture": [seconds for _, seconds in sheets]}
    found |= {name: [share[name] for share in shares] for name in shares[0]}
    for name, values in found.items():
        figures |= {name: np.mean(values)} | ({f"{name}, deviation": np.std(values, ddof=1)} if seeds > 1 else {})
    return figures
