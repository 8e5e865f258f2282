"""What the presets composition, colour and texture move in pictures, for the three sample styles.

    .venv/bin/python scripts/bench/presets.py --loras demo/loras --seed 100

Every held-out concept of the chosen half is drawn by the base, by the whole style, by the style in a preset alone, and
by the style without it. Moved: how far the pictures are from the base's, as a share of how far the whole style goes,
mean over the styles. Silhouettes: 1 - intersection / union; colours: quantiles of the palette in Lab, whatever
the place; texture: energy of three bands of lightness inside the silhouette.
"""

from __future__ import annotations

import argparse
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from budgets import lab
from scipy import ndimage

from difflora.adapters.adapter import Adapter
from difflora.adapters.files import load_adapter
from difflora.models.attach import attached
from difflora.models.family import BaseModel, open_model
from difflora.strength import PRESETS, Strength
from difflora.training.data import read_folder

STYLES = ("ink", "fluent3d", "cartoon")


def draw(model: BaseModel, adapter: Adapter, strength: Strength, prompts: list[str], seed: int) -> torch.Tensor:
    """Pictures in -1..1, each prompt with a seed of its own."""
    with attached(model.parts, [adapter]) if not strength.nothing else nullcontext() as stack:
        if stack:
            stack.weights([strength])
        seeds = [seed + i for i in range(len(prompts))]
        size, guidance = (model.side, model.side), model.recommended.guidance
        return model.draw(prompts, [""] * len(prompts), seeds=seeds, steps=12, guidance=guidance, size=size)


def described(picture: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(silhouette, palette, bands of texture) of one picture."""
    shown = ((picture + 1) / 2).clamp(0, 1)
    light, a, b = lab(shown).numpy()
    least = shown.numpy().min(0)
    shape = ndimage.binary_fill_holes(ndimage.binary_dilation(least < 0.9))
    shape = shape if shape.sum() > 20 else np.ones_like(shape)
    painted = least < 0.97 if (least < 0.97).sum() > 20 else np.ones_like(shape)
    angles = [math.pi * k / 8 for k in range(8)]
    spread = np.linspace(0.02, 0.98, 32)
    palette = np.array([np.quantile((math.cos(t) * a + math.sin(t) * b)[painted], spread) for t in angles])
    # The outline against the white ground is layout, not texture.
    inside = ndimage.binary_erosion(shape, iterations=2)
    inside = inside if inside.sum() > 20 else shape
    soft = [light, *(ndimage.gaussian_filter(light, s) for s in (0.7, 1.4, 2.8))]
    bands = [math.log1p(np.abs(x - y)[inside].mean()) for x, y in zip(soft, soft[1:], strict=False)]
    return shape, palette, np.array(bands)


def moved(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    """(composition, colour, texture): mean distances over the pictures."""
    rows = []
    for (shape, palette, bands), (shape2, palette2, bands2) in zip(
        map(described, before), map(described, after), strict=True
    ):
        overlap = (shape & shape2).sum() / max(1, (shape | shape2).sum())
        rows.append((1 - overlap, np.abs(palette - palette2).mean(), np.abs(bands - bands2).mean()))
    return np.mean(rows, axis=0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loras", type=Path, default=Path("demo/loras"))
    parser.add_argument("--seed", type=int, default=100, help="0 takes the half of the concepts the presets came from")
    args = parser.parse_args()
    model = open_model("tiny")
    captions = [item.caption for item in read_folder(Path("sample_data/heldout/ink")).items]
    prompts = captions[::2] if args.seed == 0 else captions[1::2]
    asked = {f"only {name}": Strength(0, 0, ((name, 1.0),)) for name in PRESETS}
    asked |= {f"without {name}": Strength(1, 1, ((name, 0.0),)) for name in PRESETS}
    shares: dict[str, list[np.ndarray]] = {name: [] for name in asked}
    for style in STYLES:
        adapter = load_adapter(args.loras / f"{style}.safetensors", model.shapes(), model.family)
        adapter = replace(adapter, layers=dict(adapter.layers))
        base = draw(model, adapter, Strength(0.0), prompts, args.seed)
        whole = moved(base, draw(model, adapter, Strength(), prompts, args.seed))
        for name, strength in asked.items():
            shares[name].append(moved(base, draw(model, adapter, strength, prompts, args.seed)) / whole)
    print("| style in | silhouettes moved | colours moved | texture moved |", "|---|---|---|---|", sep="\n")
    for name, rows in shares.items():
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in np.mean(rows, axis=0)) + " |")


if __name__ == "__main__":
    main()
