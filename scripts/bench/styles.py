"""Does the style score measure style? Each style's held-out pictures against every style's training pictures.

    .venv/bin/python scripts/bench/styles.py

And how far eight pictures of a style lie from the rest by chance, as checkpoints are judged by eight.
"""

from __future__ import annotations

from pathlib import Path

import torch

from difflora.models.family import BaseModel, open_model
from difflora.training.cache import as_pixels
from difflora.training.data import read_folder, square
from difflora.training.judge import PROMPTS, apart
from difflora.training.score import draw_set, style_distance, style_features

DATA = Path("sample_data")
STYLES = ("fluent3d", "ink", "cartoon")


def pictures(folder: Path, px: int) -> torch.Tensor:
    """All pictures of a folder, (N, 3, px, px) in -1..1."""
    return as_pixels([square(picture, px) for picture, _ in read_folder(folder)])


def chance(model: BaseModel, artist: torch.Tensor, draws: int = 300) -> float:
    """The distance within which 95 in 100 random sets of eight lie from the rest, as `judge` measures it."""
    features = style_features(model.vae, artist)
    features = features / (features.std(0).clamp_min(1e-6) * features.shape[1] ** 0.5)
    rng, found = torch.Generator().manual_seed(0), []
    for _ in range(draws):
        rows = torch.randperm(len(features), generator=rng)
        found.append(apart(features[rows[:PROMPTS]], features[rows[PROMPTS:]]))
    return float(torch.tensor(found).quantile(0.95))


def main() -> None:
    """Print the table of energy distances, and what is chance."""
    model = open_model("tiny")
    trained = {name: pictures(DATA / name, model.side) for name in STYLES}
    held = {name: pictures(DATA / "heldout" / name, model.side) for name in STYLES}
    captions = [item.caption for item in read_folder(DATA / "heldout" / "ink").items]
    held["base"] = draw_set(model, captions, None, {}, 0, lambda event: None)
    print(f"{'held-out pictures of':<22}" + "".join(f"{name:>12}" for name in STYLES))
    for name, own in held.items():
        print(f"{name:<22}" + "".join(f"{style_distance(model, own, trained[other]):>12.3f}" for other in STYLES))
    print(f"{'eight by chance':<22}" + "".join(f"{chance(model, trained[name]):>12.3f}" for name in STYLES))


if __name__ == "__main__":
    main()
