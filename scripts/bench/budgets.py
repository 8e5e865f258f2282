"""How strong should a blend be: the plain sum, normalised, or matched? The sample styles in pairs and all three.

    .venv/bin/python scripts/bench/budgets.py [--sheet budgets.png] [--seed 0] [--steps 12]

Every blend draws the held-out captions from the same seeds as the base and each style alone. In the space of the style
score's features, blend - base is split into what each style alone does there: `looks` are those parts, 1 for as much as
the style alone, with `equal` the smaller over the larger; `together` is the length of that, relative to a style alone;
`beside` what is in no style's direction, relative to the same. `distance`: to each artist's held-out pictures, relative
to the base's. `followed`: share of pictures in which the base finds the concept (one of five). `clipped`: share of
pixels off white with a channel at an end of its range; `chroma`: mean Lab chroma of those pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from difflora.adapters.adapter import Adapter
from difflora.adapters.budget import gains
from difflora.adapters.files import load_adapter
from difflora.adapters.gram import module_grams
from difflora.config import Budget
from difflora.drawing.effect import effects
from difflora.drawing.generate import to_pictures
from difflora.drawing.sheet import grid
from difflora.models.attach import attached
from difflora.models.family import BaseModel, open_model
from difflora.training.cache import as_pixels
from difflora.training.data import read_folder, square
from difflora.training.judge import apart, followed
from difflora.training.score import style_features

STYLES = ("ink", "fluent3d", "cartoon")
KINDS: tuple[Budget, ...] = ("sum", "normalised", "matched")
PAIRS = ((0.5, 0.5), (1.0, 1.0), (0.7, 0.4), (0.4, 0.7))
TRIPLES = ((1 / 3, 1 / 3, 1 / 3), (1.0, 1.0, 1.0))
SHOWN = 4


@dataclass(frozen=True)
class Row:
    """One blend, measured."""

    who: tuple[int, ...]
    asked: tuple[float, ...]
    kind: str
    weights: tuple[float, ...]
    looks: tuple[float, ...]
    together: float
    beside: float
    distance: tuple[float, ...]
    followed: float
    clipped: float
    chroma: float

    @property
    def equal(self) -> float:
        """How alike the looks are, per weight asked for: 1 for as asked."""
        parts = [look / weight for look, weight in zip(self.looks, self.asked, strict=True)]
        return max(0.0, min(parts)) / max(max(parts), 1e-9)


class Studio:
    """The base with the styles attached, and what all blends are held against."""

    def __init__(self, model: BaseModel, adapters: Sequence[Adapter], seed: int, steps: int, every: int) -> None:
        self.model, self.adapters, self.seed, self.steps = model, adapters, seed, steps
        items = [read_folder(Path("sample_data/heldout") / name) for name in STYLES]
        self.captions = [item.caption for item in items[0].items][::every]
        held = [as_pixels([square(picture, model.side) for picture, _ in data]) for data in items]
        plain = [style_features(model.vae, pixels) for pixels in held]
        # One unit for all styles, so that their directions can be compared.
        self.spread = torch.cat(plain).std(0).clamp_min(1e-6) * plain[0].shape[1] ** 0.5
        self.held = [rows / self.spread for rows in plain]
        self.drawn: dict[tuple[float, ...], Tensor] = {}
        self.known: dict[tuple, Row] = {}
        self.base = self.features([0.0] * len(STYLES))
        self.alone = [self.features([float(i == j) for j in range(len(STYLES))]) for i in range(len(STYLES))]

    def draw(self, weights: Sequence[float]) -> Tensor:
        """(captions, 3, H, W) in -1..1; kept."""
        key = tuple(round(w, 4) for w in weights)
        if key not in self.drawn:
            count = len(self.captions)
            with attached(self.model.parts, self.adapters) as stack:
                stack.weights(key)
                self.drawn[key] = self.model.draw(
                    self.captions, [""] * count, seeds=[self.seed + i for i in range(count)], steps=self.steps,
                    guidance=self.model.recommended.guidance, size=(self.model.side,) * 2,
                )  # fmt: skip
        return self.drawn[key]

    def features(self, weights: Sequence[float]) -> Tensor:
        """(captions, D)."""
        return style_features(self.model.vae, self.draw(weights)) / self.spread

    def measure(self, who: tuple[int, ...], asked: tuple[float, ...], kind: str, own: Sequence[float]) -> Row:
        """Draw a blend of some of the styles and measure it; the same weights once only."""
        if (known := self.known.get((who, numbers(own)))) is not None:
            return replace(known, asked=asked, kind=kind)
        weights = [0.0] * len(STYLES)
        for i, weight in zip(who, own, strict=True):
            weights[i] = weight
        found = self.features(weights)
        ways = torch.stack([(self.alone[i] - self.base).mean(0) for i in who], 1)
        way = (found - self.base).mean(0)
        looks = torch.linalg.lstsq(ways, way[:, None]).solution[:, 0]
        unit = ways.norm(dim=0).mean()
        pixels = self.draw(weights)
        clipped, chroma = overdrive(pixels)
        row = Row(
            who, asked, kind, tuple(own), tuple(looks.tolist()), float((ways @ looks).norm() / unit),
            float((way - ways @ looks).norm() / unit),
            tuple(apart(found, self.held[i]) / apart(self.base, self.held[i]) for i in who),
            followed(self.model, pixels, self.captions), clipped, chroma,
        )  # fmt: skip
        self.known[who, numbers(own)] = row
        return row


def overdrive(pixels: Tensor) -> tuple[float, float]:
    """(share of pixels off white that are clipped, their mean chroma) of pictures (N, 3, H, W) in -1..1."""
    levels = ((pixels + 1) / 2).permute(1, 0, 2, 3).flatten(1)
    levels = levels[:, levels.amin(0) < 0.97]
    clipped = (levels <= 0.004) | (levels >= 0.996)
    return float(clipped.any(0).float().mean()), float(lab(levels)[1:].norm(dim=0).mean())


def lab(levels: Tensor) -> Tensor:
    """sRGB (3, …) in 0..1 -> CIE L*a*b* (D65), (3, …)."""
    linear = torch.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
    to_xyz = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = torch.einsum("ij,j...->i...", to_xyz, linear)
    xyz = xyz / torch.tensor([0.9505, 1.0, 1.089]).view(3, *[1] * (levels.dim() - 1))
    f = torch.where(xyz > 0.008856, xyz.clamp_min(1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def blends(adapters: Sequence[Adapter], table: Tensor) -> list[tuple]:
    """(who, asked, kind, weights) of every blend."""
    found = []
    for count, choices in ((2, PAIRS), (3, TRIPLES)):
        for who in combinations(range(len(STYLES)), count):
            grams = module_grams([adapters[i] for i in who])
            own = table[torch.tensor(who)[:, None], torch.tensor(who)]
            for asked in choices:
                for kind in KINDS:
                    factors = gains(asked, grams, kind, own)
                    weights = tuple(w * f for w, f in zip(asked, factors, strict=True))
                    found.append((who, asked, kind, weights))
    return found


def names(who: Sequence[int]) -> str:
    """ink + cartoon."""
    return " + ".join(STYLES[i] for i in who)


def numbers(values: Sequence[float]) -> str:
    """0.5, 0.5."""
    return ", ".join(f"{value:.2f}" for value in values)


def write_sheet(studio: Studio, rows: Sequence[Row], path: Path) -> None:
    """Two captions a pair: base, each style alone, then its blends."""
    lines, labels, columns = [], [], []
    for who in dict.fromkeys(row.who for row in rows):
        own = [row for row in rows if row.who == who]
        settings = [[0.0] * 3, *([float(i == j) for j in range(3)] for i in who)]
        for row in own:
            weights = [0.0] * 3
            for i, weight in zip(who, row.weights, strict=True):
                weights[i] = weight
            settings.append(weights)
        columns = columns or ["base", "first", "second", *(f"{row.kind[:5]} {numbers(row.asked)}" for row in own)]
        for k in range(0, len(studio.captions), len(studio.captions) // SHOWN):
            line = [to_pictures(studio.draw(weights)[k : k + 1])[0] for weights in settings]
            lines.append([*line, *[line[0]] * (len(columns) - len(line))][: len(columns)])
            labels.append(f"{names(who)}: {studio.captions[k]}")
    grid(lines, columns, labels).save(path)


def main() -> None:
    """Print one row a blend, then the mean of each budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=2, help="draw each so-manieth held-out caption")
    args = parser.parse_args()
    model = open_model("tiny")
    adapters = [load_adapter(Path(f"demo/loras/{n}.safetensors"), model.shapes(), model.family) for n in STYLES]
    table = effects(model, adapters)
    print("effects", numbers(table.diagonal().sqrt().tolist()))
    studio = Studio(model, adapters, args.seed, args.steps, args.every)
    base = followed(model, studio.draw([0.0] * 3), studio.captions), *overdrive(studio.draw([0.0] * 3))
    print(
        "\n| blend | asked | budget | weights | looks | equal | together | beside | distance | followed "
        "| clipped | chroma |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    print("| base | | | | | | | | | {:.2f} | {:.2f} | {:.0f} |".format(*base))
    rows = []
    for blend in [*(((i,), (1.0,), "alone", (1.0,)) for i in range(len(STYLES))), *blends(adapters, table)]:
        rows.append(row := studio.measure(*blend))
        print(
            f"| {names(row.who)} | {numbers(row.asked)} | {row.kind} | {numbers(row.weights)} | {numbers(row.looks)} | "
            f"{row.equal:.2f} | {row.together:.2f} | {row.beside:.2f} | {numbers(row.distance)} | {row.followed:.2f} | "
            f"{row.clipped:.2f} | {row.chroma:.0f} |",
            flush=True,
        )
    means(rows)
    if args.sheet:
        write_sheet(studio, rows[3:], args.sheet)


def means(rows: Sequence[Row]) -> None:
    """Print what each budget comes to on the mean, for two styles and for three."""
    print(
        "\n| styles | budget | asked | equal | together | beside | distance, mean and worst | followed "
        "| clipped | chroma |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    cells = {(len(row.who), tuple(sorted(row.asked)), row.kind) for row in rows}
    for count, asked, kind in sorted(cells):
        own = [r for r in rows if (len(r.who), tuple(sorted(r.asked)), r.kind) == (count, asked, kind)]

        columns = (
            [r.equal for r in own], [r.together for r in own], [r.beside for r in own],
            [sum(r.distance) / len(r.distance) for r in own], [max(r.distance) for r in own],
            [r.followed for r in own], [r.clipped for r in own], [r.chroma for r in own],
        )  # fmt: skip
        print(
            f"| {count} | {kind} | {numbers(asked)} | "
            "{:.2f} | {:.2f} | {:.2f} | {:.2f}, {:.2f} | {:.2f} | {:.2f} | {:.0f} |".format(*map(mean, columns))
        )


if __name__ == "__main__":
    main()
