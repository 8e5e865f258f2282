"""Does the style score measure style, and what do the sample styles reach?

    .venv/bin/python scripts/bench/styles.py distances
    .venv/bin/python scripts/bench/styles.py training ink --steps 0 50 100 200 400

`distances`: each style's held-out pictures against every style's training pictures. `training`: the distance of drawn
held-out concepts as training goes on, from one run that is paused to measure.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from difflora.adapters.adapter import Adapter
from difflora.config import TrainConfig
from difflora.drawing.recipe import Style
from difflora.models.attach import learning
from difflora.models.family import open_model
from difflora.training.cache import as_pixels, encode
from difflora.training.data import read_folder, square
from difflora.training.score import draw_set, style_distance
from difflora.training.train import Loop, prepare

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


def training(name: str, steps: list[int]) -> None:
    """Train one style in memory and print the distance at each of `steps`."""
    model = open_model("tiny")
    data = read_folder(DATA / "heldout" / name)
    captions, artist = [item.caption for item in data.items], pictures(DATA / "heldout" / name, model.side)
    with TemporaryDirectory() as folder:
        config = TrainConfig(images=DATA / name, out=Path(folder), runs=Path(folder), steps=max(steps))
        run = prepare(config, model=model)
        encoded = encode(model, run.data, run.plan.resolution, train_text=config.text_encoder)
        paths = model.targets(config.targets, config.text_encoder)
        found: dict[int, Adapter] = {}
        with learning(model.parts, paths, run.plan.rank, run.plan.alpha, config.seed) as layers:
            loop = Loop(run, layers, encoded)
            for step in range(max(steps) + 1):
                if step in steps:
                    found[step] = Adapter(layers.factors())
                if step < max(steps):
                    loop.step(step)
    style = Style(name, 1.0)
    print(f"{'step':>6}{'distance':>12}")
    for step, adapter in found.items():
        drawn = draw_set(model, captions, style, {name: adapter}, 0, lambda event: None)
        print(f"{step:>6}{style_distance(model, drawn, artist):>12.3f}", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["distances", "training"])
    parser.add_argument("style", nargs="?", choices=STYLES, default="ink")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 50, 100, 200, 400])
    args = parser.parse_args()
    distances() if args.what == "distances" else training(args.style, args.steps)


if __name__ == "__main__":
    main()
