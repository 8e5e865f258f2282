"""Does the style score measure style? Each style's held-out pictures against every style's training pictures.

.venv/bin/python scripts/bench/styles.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from difflora.models.family import open_model
from difflora.training.cache import as_pixels
from difflora.training.data import read_folder, square
from difflora.training.score import draw_set, style_distance

DATA = Path("sample_data")
STYLES = ("fluent3d", "ink", "cartoon")


def pictures(folder: Path, px: int) -> torch.Tensor:
    """All pictures of a folder, (N, 3, px, px) in -1..1."""
    return as_pixels([square(picture, px) for picture, _ in read_folder(folder)])


def main() -> None:
    """Print the table of energy distances."""
    model = open_model("tiny")
    trained = {name: pictures(DATA / name, model.side) for name in STYLES}
    held = {name: pictures(DATA / "heldout" / name, model.side) for name in STYLES}
    captions = [item.caption for item in read_folder(DATA / "heldout" / "ink").items]
    held["base"] = draw_set(model, captions, None, {}, 0, lambda event: None)
    print(f"{'held-out pictures of':<22}" + "".join(f"{name:>12}" for name in STYLES))
    for name, own in held.items():
        print(f"{name:<22}" + "".join(f"{style_distance(model, own, trained[other]):>12.3f}" for other in STYLES))


if __name__ == "__main__":
    main()
