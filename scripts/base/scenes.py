"""Scenes: which pictograms stand where, on which ground, and the words that say so.

Half of what the denoiser sees is one thing on white. The rest teaches what prompts go on to ask for: grounds, colours,
sizes, places, counts, and two things at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import compose

CONCEPTS = set(Path(__file__).with_name("concepts.txt").read_text(encoding="utf-8").splitlines())
"""The everyday things that are drawn most and that recognisability is measured on."""
# Names without a style word mean the sets that look alike; the two older ones always say their own.
MODERN = {"noto", "twemoji", "fluent flat", "emojione"}
HUES = {"red": 0.0, "orange": 0.075, "yellow": 0.14, "green": 0.34, "teal": 0.48, "blue": 0.6, "purple": 0.76,
        "pink": 0.92}  # fmt: skip
LARGE, SMALL = (1.0, 1.15), (0.34, 0.46)
MOST = 3


@dataclass
class Scenes:
    """Layouts of N pictures of at most three things."""

    things: list[list[int]] = field(default_factory=list)
    """Rows of the pictures; -1 where there is none."""
    boxes: list[list[tuple[float, float, float]]] = field(default_factory=list)
    """Scale (1 fills the picture) and centre (-1..1 across, -1..1 down) of each."""
    turns: list[list[float]] = field(default_factory=list)
    """Turn of the hue of each, 0..1."""
    grounds: list[tuple[tuple[float, ...], tuple[float, ...], float]] = field(default_factory=list)
    """Upper colour, lower colour, and the height of the line between them (-1..1)."""
    words: list[list[str]] = field(default_factory=list)
    """Ways to say it, the first the plainest."""
    sets: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    singles: int = 0
    """How many of the first show one picture as it was drawn."""

    def add(self, things, boxes, turns, ground, words, label, weight) -> None:
        """Append one layout."""
        missing = MOST - len(things)
        self.things.append([*things, *[-1] * missing])
        self.boxes.append([*boxes, *[(1.0, 0.0, 0.0)] * missing])
        self.turns.append([*turns, *[0.0] * missing])
        self.grounds.append(ground)
        self.words.append(words)
        self.sets.append(label)
        self.weights.append(weight)

    def tensors(self) -> dict[str, Tensor]:
        """The layouts as tensors: things (N, 3), boxes (N, 3, 3), turns (N, 3), grounds (N, 7), weights (N,)."""
        grounds = [[*upper, *lower, line] for upper, lower, line in self.grounds]
        return {
            "things": torch.tensor(self.things),
            "boxes": torch.tensor(self.boxes),
            "turns": torch.tensor(self.turns),
            "grounds": torch.tensor(grounds),
            "weights": torch.tensor(self.weights),
            "singles": torch.tensor([row for row, *_ in self.things[: self.singles]]),
        }

    def captions(self) -> list[list[str]]:
        """Four ways to say each: two plain, two that name the set; an older set is always named."""
        ways = []
        for words, label in zip(self.words, self.sets, strict=True):
            two = [words[0], words[-1]]
            styled = [f"{text}, {label} style" for text in two]
            ways.append([*(two if label in MODERN else styled), *styled])
        return ways


def synonyms() -> dict[str, list[str]]:
    """Other words for a concept, by its name."""
    lines = Path(__file__).with_name("synonyms.txt").read_text(encoding="utf-8").splitlines()
    return {name: [word.strip() for word in words.split(",")] for name, words in (line.split(":") for line in lines)}


def hues(sources: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Main hue (0..1) of each of (N, 4, H, W) uint8 pictures, and how much of the picture has it (0..1)."""
    found, shares = [], []
    for part in sources.split(256):
        rgba = F.avg_pool2d(part.float() / 255, 8)
        hsv, alpha = to_hsv(rgba[:, :3]), rgba[:, 3]
        mass = alpha * hsv[:, 1] * hsv[:, 2]
        angle = hsv[:, 0] * 2 * np.pi
        x, y = (mass * angle.cos()).sum((1, 2)), (mass * angle.sin()).sum((1, 2))
        found.append((torch.atan2(y, x) / (2 * np.pi)) % 1)
        shares.append(torch.hypot(x, y) / alpha.sum((1, 2)).clamp_min(1e-3))
    return torch.cat(found).cpu().numpy(), torch.cat(shares).cpu().numpy()


def to_hsv(rgb: Tensor) -> Tensor:
    """(B, 3, ...) RGB in 0..1 -> hue, saturation, value in 0..1."""
    high, low = rgb.amax(1), rgb.amin(1)
    spread = (high - low).clamp_min(1e-6)
    red, green, blue = rgb.unbind(1)
    hue = torch.where(high == red, (green - blue) / spread % 6, (blue - red) / spread + 2)
    hue = torch.where((high == blue) & (high != red), (red - green) / spread + 4, hue) / 6
    return torch.stack([hue % 1, (high - low) / high.clamp_min(1e-6), high], 1)


def turn_hue(rgb: Tensor, turn: Tensor) -> Tensor:
    """(B, 3, H, W) with its hues moved by `turn` (B,), 1 a whole circle."""
    hue, saturation, value = to_hsv(rgb).unbind(1)
    phases = torch.tensor([5.0, 3, 1], device=rgb.device).view(1, 3, 1, 1)
    k = ((hue + turn.view(-1, 1, 1)).unsqueeze(1) * 6 + phases) % 6
    return value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1))


def article(name: str) -> str:
    """The name with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    """More than one of them."""
    if name.endswith(("s", "x", "ch", "sh", "o")):
        return name if name.endswith("s") else name + "es"
    return name[:-1] + "ies" if name.endswith("y") and name[-2] not in "aeiou" else name + "s"


class Planner:
    """Draws layouts at random from the rows of the pictures."""

    def __init__(self, rows: list[dict], hue: np.ndarray, share: np.ndarray, seed: int = 0) -> None:
        self.rows, self.hue, self.share = rows, hue, share
        self.rng = np.random.default_rng(seed)
        self.also = synonyms()
        self.scenes = Scenes()
        core = [i for i, row in enumerate(rows) if row["drawn"]]
        chance = np.array([4.0 if rows[i]["name"] in CONCEPTS else 1.0 for i in core])
        self.core, self.chance = np.array(core), chance / chance.sum()
        self.by_set = {
            label: (self.core[mask], self.chance[mask] / self.chance[mask].sum())
            for label in sorted({row["set"] for row in rows})
            for mask in [np.array([rows[i]["set"] == label for i in core])]
        }

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self.rng.uniform(low, high))

    def one(self) -> int:
        """A row of a common thing."""
        return int(self.rng.choice(self.core, p=self.chance))

    def name(self, row: int) -> str:
        """What it is called: its name, or in one case of three another word for it."""
        name = self.rows[row]["name"]
        words = self.also.get(name, [])
        return str(self.rng.choice(words)) if words and self.rng.random() < 0.35 else name

    def ground(self, white: float) -> tuple[tuple, str]:
        """A ground and the words for it ('' for white, which goes without saying)."""
        chance = self.rng.random()
        if chance < white:
            return ((1.0,) * 3, (1.0,) * 3, 0.0), ""
        upper, lower = (str(x) for x in self.rng.choice(list(compose.PALETTE), 2, replace=False))
        if self.rng.random() < 0.75:
            return (self.shade(upper),) * 2 + (0.0,), f", {upper} background"
        colours = self.shade(upper), self.shade(lower), self.between(0.1, 0.6)
        return colours, f", {upper} and {lower} background"

    def shade(self, colour: str) -> tuple[float, ...]:
        """A colour near the one of that name."""
        return tuple(float(np.clip(c + self.between(-0.05, 0.05), 0, 1)) for c in compose.PALETTE[colour])

    def coloured(self, row: int) -> tuple[float, str] | None:
        """A turn of the hue and the thing's name with its new colour, or None where it has no one colour."""
        if self.share[row] < 0.3:
            return None
        colour = str(self.rng.choice(list(HUES)))
        noun = self.name(row)
        first, _, rest = noun.partition(" ")
        if first in compose.PALETTE or first in ("white", "golden"):
            noun = rest
        return (HUES[colour] - float(self.hue[row])) % 1, f"{colour} {noun}"

    def thing(self, row: int, colour: float = 0.25) -> tuple[float, str]:
        """A turn of the hue and a name for one thing of a scene."""
        found = self.coloured(row) if self.rng.random() < colour else None
        return found or (0.0, self.name(row))

    def singles(self) -> None:
        """Every picture on white, as it was drawn; `drawn` and common things weigh more."""
        for i, row in enumerate(self.rows):
            name, also = row["name"], self.also.get(row["name"], [])
            weight = 1.0 if name in CONCEPTS else 0.6 if row["drawn"] else 0.25
            ways = [[name, article(name)], *([word, article(word)] for word in also)]
            for words in ways:
                # Its own name as often as all other words for it together.
                part = weight if len(ways) == 1 else weight / 2 if words[0] == name else weight / 2 / len(also)
                self.scenes.add([i], [(1.0, 0.0, 0.0)], [0.0], ((1.0,) * 3, (1.0,) * 3, 0.0), words, row["set"], part)
        self.scenes.singles = len(self.scenes.things)

    def placed(self, weight: float) -> None:
        """One thing: on a ground, in another colour, small, large, to one side."""
        row = self.one()
        turn, name = self.thing(row, 0.45)
        ground, told = self.ground(0.35)
        kind = self.rng.random()
        scale, x, y = self.between(0.7, 0.95), self.between(-0.06, 0.06), self.between(-0.06, 0.06)
        if kind < 0.12:
            scale, name = self.between(*SMALL), f"small {name}"
            if self.rng.random() < 0.5:
                side = int(self.rng.integers(4))
                x, y = ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))[side]
                name += (" on the left", " on the right", " at the top", " at the bottom")[side]
        elif kind < 0.2:
            scale, name = self.between(*LARGE), f"large {name}"
        self.scenes.add([row], [(scale, x, y)], [turn], ground, [name + told, article(name) + told],
                        self.rows[row]["set"], weight)  # fmt: skip

    def pair(self, weight: float) -> None:
        """Two things of one set: beside, above, on one another."""
        first = self.one()
        label = self.rows[first]["set"]
        rows, chances = self.by_set[label]
        second = int(self.rng.choice(rows, p=chances))
        turns, names = zip(self.thing(first), self.thing(second), strict=True)
        ground, told = self.ground(0.55)
        a, b = names
        scale, shift = self.between(0.46, 0.54), self.between(0.44, 0.5)
        kind = self.rng.random()
        if kind < 0.6:
            boxes = [(scale, -shift, self.between(-0.1, 0.1)), (scale, shift, self.between(-0.1, 0.1))]
            join = "next to" if kind < 0.4 else "and"
        elif kind < 0.8:
            boxes, join = [(scale, self.between(-0.1, 0.1), -shift), (scale, self.between(-0.1, 0.1), shift)], "above"
        else:
            boxes, join = [(0.46, self.between(-0.08, 0.08), -0.42), (0.62, 0.0, 0.36)], "on"
        words = [f"{a} {join} {b}{told}", f"{article(a)} {join} {article(b)}{told}"]
        self.scenes.add([first, second], boxes, list(turns), ground, words, label, weight)

    def several(self, weight: float) -> None:
        """Two or three of the same."""
        row, count = self.one(), int(self.rng.integers(2, 4))
        turn, name = self.thing(row)
        ground, told = self.ground(0.6)
        scale = self.between(0.46, 0.52)
        places = ((-0.47, 0.0), (0.47, 0.0)) if count == 2 else ((0.0, -0.44), (-0.47, 0.44), (0.47, 0.44))
        words = [f"{('two', 'three')[count - 2]} {plural(name)}{told}"]
        self.scenes.add([row] * count, [(scale, *place) for place in places], [turn] * count, ground, words,
                        self.rows[row]["set"], weight)  # fmt: skip


def plan(rows: list[dict], hue: np.ndarray, share: np.ndarray, count: int) -> Scenes:
    """Every picture by itself (half of all weight) and `count` scenes (the other half)."""
    planner = Planner(rows, hue, share)
    planner.singles()
    each = sum(planner.scenes.weights) / max(1, count)
    for kind in planner.rng.random(count):
        (planner.placed if kind < 0.55 else planner.pair if kind < 0.88 else planner.several)(each)
    return planner.scenes


def draw(scenes: dict[str, Tensor], part: slice, sources: Tensor, px: int) -> Tensor:
    """The scenes of a slice as (B, 3, px, px) in 0..1; `sources` (N, 4, S, S) uint8 on the device to draw on."""
    device, side = sources.device, sources.shape[-1]
    things, boxes, turns, grounds = (scenes[name][part].to(device) for name in ("things", "boxes", "turns", "grounds"))
    height = torch.linspace(-1, 1, side, device=device).view(1, 1, -1, 1)
    below = (height > grounds[:, 6].view(-1, 1, 1, 1)).float()
    canvas = torch.lerp(grounds[:, :3, None, None], grounds[:, 3:6, None, None], below)
    canvas = canvas.expand(-1, -1, -1, side).contiguous()
    for slot in range(MOST):
        there = (things[:, slot] >= 0).nonzero()[:, 0]
        if len(there):
            rgba = placed(sources[things[there, slot]].float() / 255, boxes[there, slot], turns[there, slot])
            canvas[there] = rgba[:, :3] + canvas[there] * (1 - rgba[:, 3:])
    return F.interpolate(canvas, size=(px, px), mode="area")


def placed(rgba: Tensor, boxes: Tensor, turns: Tensor) -> Tensor:
    """(B, 4, S, S) with hue turned, scaled and moved, colours times alpha."""
    turned = rgba[:, :3].clone()
    moved = turns.nonzero()[:, 0]
    turned[moved] = turn_hue(turned[moved], turns[moved])
    scale, x, y = boxes.unbind(1)
    zero = torch.zeros_like(scale)
    across, down = torch.stack([1 / scale, zero, -x / scale], 1), torch.stack([zero, 1 / scale, -y / scale], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(rgba.shape), align_corners=False)
    return F.grid_sample(compose.premultiplied(torch.cat([turned, rgba[:, 3:]], 1)), grid, align_corners=False)
