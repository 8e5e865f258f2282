"""Is the exported file what the sliders show, and does a blind pick find what is liked?

    .venv/bin/python scripts/bench/blends.py files --loras demo/loras
    .venv/bin/python scripts/bench/blends.py picks

`files`: the largest difference of any channel of any pixel between a blend drawn from its styles and from its one file.
`picks`: how far from a hidden favourite twelve rounds end, with one wrong choice in ten.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

PROMPTS = ("a red apple", "a cat", "a house", "a fish")
BLENDS = (("ink:0.7", "fluent3d:0.4"), ("ink:0.7", "fluent3d:-0.4"), ("ink:1", "fluent3d:1", "cartoon:-0.5"))
SEEDS = (0, 7)


def files(loras: Path) -> None:
    """Every blend, gated and folded."""
    from difflora.drawing.export import export, same_picture
    from difflora.drawing.recipe import Recipe
    from difflora.drawing.styles import find_style, load_styles
    from difflora.models.family import open_model

    model = open_model("tiny")
    with TemporaryDirectory() as folder:
        for names in BLENDS:
            styles = tuple(find_style(name, loras) for name in names)
            adapters = load_styles(styles, model)
            file = export(styles, Path(folder) / f"{len(names)}{names[1]}.safetensors".replace(":", ""), model).path
            plain = Recipe(
                prompt="", width=model.side, height=model.side, styles=styles, guidance=model.recommended.guidance
            )
            asked = [replace(plain, prompt=p, seed=s, folded=f) for p in PROMPTS for s in SEEDS for f in (False, True)]
            most = max(same_picture(model, recipe, adapters, file)[2] for recipe in asked)
            print(f"{' + '.join(names):<40} {len(asked)} pictures, largest difference {most} of 255")


def picks(runs: int = 3000) -> None:
    """Artists who pick the nearer of two blends, one time in ten wrongly."""
    from difflora.drawing.duel import Duel

    for count in (2, 3, 4, 6):
        before, after = [], []
        for i in range(runs):
            rng = Random(i)
            favourite = [rng.uniform(-0.5, 1.5) for _ in range(count)]
            duel = Duel((0.7,) * count, seed=rng.randrange(1000))
            before.append(math.dist(duel.weights, favourite))
            for _ in range(12):
                far = [math.dist(blend, favourite) for blend in duel.pair()]
                duel = duel.chosen(far.index(min(far)) ^ (rng.random() < 0.1))
            after.append(math.dist(duel.weights, favourite))
        print(f"{count} styles: {median(before):.2f} at the start, {median(after):.2f} after 12 rounds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("files", "picks"))
    parser.add_argument("--loras", type=Path, default=Path("demo/loras"))
    args = parser.parse_args()
    files(args.loras) if args.what == "files" else picks()
