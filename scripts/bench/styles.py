"""Does the style score measure style, and what do the sample styles reach?

    .venv/bin/python scripts/bench/styles.py distances
    .venv/bin/python scripts/bench/styles.py training ink --every 100

`distances`: each style's held-out pictures against every style's training pictures. `training`: the distance of drawn
held-out concepts as training goes on, at each checkpoint of one run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from difflora.adapters.files import load_adapter
from difflora.config import TrainConfig
from difflora.drawing.recipe import Style
from difflora.models.family import open_model
from difflora.training.cache import as_pixels
from difflora.training.choose import kept_steps
from difflora.training.data import read_folder, square
from difflora.training.score import draw_set, style_distance
from difflora.training.train import prepare, train

DATA = Path("sample_data")
STYLES = ("fluent3d", "ink", "cartoon")


def pictures(folder: Path, px: int) -> torch.Tensor:
    """All pictures of a folder, (N, 3, px, px) in -1..1."""
    return as_pixels([square(picture, px) for picture, _ in read_folder(folder)])


def distances() -> None:
    """Print the table of energy distances."""
    model = open_model("tiny")
    trained = {name: pictures(DATA / name, model.side) for name in STYLES}
    held = {name: pictures(DATA / "heldout" / name, model.side) for name in STYLES}
    captions = [item.caption for item in read_folder(DATA / "heldout" / "ink").items]
    held["base"] = draw_set(model, captions, None, {}, 0, lambda event: None)
    print(f"{'held-out pictures of':<22}" + "".join(f"{name:>12}" for name in STYLES))
    for name, own in held.items():
        print(f"{name:<22}" + "".join(f"{style_distance(model, own, trained[other]):>12.3f}" for other in STYLES))


def training(name: str, every: int) -> None:
    """Train one style by difflora's own plan and print the distance at each of its checkpoints."""
    model = open_model("tiny")
    data = read_folder(DATA / "heldout" / name)
    captions, artist = [item.caption for item in data.items], pictures(DATA / "heldout" / name, model.side)
    print(f"{'step':>6}{'distance':>12}")
    with TemporaryDirectory() as folder:
        config = TrainConfig(images=DATA / name, out=Path(folder), runs=Path(folder) / "runs", preview_every=every)
        run = prepare(config, model=model)
        train(run)
        for step in (0, *kept_steps(run.run.folder)):
            file = run.run.folder / "checkpoints" / f"step-{step:06}.safetensors"
            adapters = {name: load_adapter(file, model.shapes(), model.family)} if step else {}
            drawn = draw_set(model, captions, Style(name, 1.0) if step else None, adapters, 0, lambda event: None)
            print(f"{step:>6}{style_distance(model, drawn, artist):>12.3f}", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["distances", "training"])
    parser.add_argument("style", nargs="?", choices=STYLES, default="ink")
    parser.add_argument("--every", type=int, default=100, help="Steps between checkpoints.")
    args = parser.parse_args()
    distances() if args.what == "distances" else training(args.style, args.every)


if __name__ == "__main__":
    main()
