"""What a person decides, as frozen dataclasses: one field is the CLI flag, the TOML key, and the metadata key.

The text under each field is its help wherever it is shown. `None` means that difflora decides and says what and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from .errors import RequestError

Targets = Literal["attention", "attention+mlp"]
WEIGHT_LIMIT = 10.0


def demand(holds: bool, found: str, expected: str) -> None:
    """Raise RequestError with both halves of the sentence unless `holds`."""
    if not holds:
        raise RequestError(f"{found}: expected {expected}")


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Raise RequestError unless low <= value <= high; NaN never is."""
    demand(low <= value <= high, f"--{name.replace('_', '-')} {value}", f"a number from {low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Learn a style from a folder of captioned pictures."""

    images: Path
    """Folder with the pictures; captions beside them (.txt, .caption), in metadata.jsonl, or as file names."""
    name: str | None = None
    """Name of the style and of its file; the folder's name unless given."""
    base: str = "tiny"
    """Model to learn on: tiny (embedded), a diffusers folder, or a hub id."""
    trigger: str | None = None
    """Word put before every caption, to call the style up by; none unless given."""
    rank: int = 16
    """Rank of each adapter: more can hold more, and makes a larger file."""
    alpha: float | None = None
    """The update is scaled by alpha / rank; rank unless given."""
    targets: Targets = "attention+mlp"
    """Layers of the image network that learn: its attention, or its attention and feed-forward layers."""
    text_encoder: bool = True
    """Let the text encoder's projections learn too."""
    learning_rate: float | None = None
    """Step size of the optimizer; chosen for the base unless given."""
    steps: int | None = None
    """Number of optimizer steps; chosen from the number of pictures unless given."""
    batch: int | None = None
    """Pictures per step; chosen for the base unless given."""
    resolution: int | None = None
    """Side of the training pictures in pixels; the base's own unless given."""
    caption_dropout: float = 0.1
    """Share of pictures shown without their caption, so that guidance still works."""
    seed: int = 0
    """Same seed, same pictures, same machine: same file."""
    preview_every: int | None = None
    """Steps between previews; a quarter of the run unless given, 0 for only the first and the last."""
    preview_prompts: tuple[str, ...] = ()
    """Prompts drawn as previews; three captions of the folder unless given."""
    out: Path = Path("loras")
    """Folder for finished styles."""
    runs: Path = Path("runs")
    """Folder for run folders: config, events, previews, resume state."""

    def __post_init__(self) -> None:
        in_range("rank", self.rank, 1, 1024)
        in_range("caption_dropout", self.caption_dropout, 0, 1)
        in_range("seed", self.seed, 0, 2**31 - 1)
        for name, low, high in (
            ("alpha", 1e-4, 1e4), ("learning_rate", 1e-8, 1), ("steps", 1, 10**7), ("batch", 1, 1024),
            ("resolution", 16, 4096), ("preview_every", 0, 10**7),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                in_range(name, value, low, high)
        if self.name is not None:
            check_name(self.name)


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """Draw pictures with any blend of styles."""

    prompts: tuple[str, ...] = ()
    """What to draw; several prompts are drawn in one batch."""
    prompts_file: Path | None = None
    """A text file with one prompt a line."""
    lora: tuple[str, ...] = ()
    """A style and its weight, NAME:WEIGHT or PATH:WEIGHT; repeat to blend (weights -10 to 10, 1 unless given)."""
    negative: str = ""
    """What the picture should keep away from."""
    base: str = "tiny"
    """Model to draw with: tiny (embedded), a diffusers folder, or a hub id."""
    seed: int = 0
    """Seed of the first picture; the next ones count up."""
    count: int = 1
    """Pictures per prompt."""
    steps: int = 25
    """Denoising steps."""
    guidance: float = 7.5
    """How strictly the prompt is followed; 1 turns guidance off."""
    size: str | None = None
    """Side in pixels, or WIDTHxHEIGHT; the base's own unless given."""
    sampler: str | None = None
    """Sampler by name (ddim, euler, dpm++ …); the base's own unless given."""
    batch: int = 8
    """Most pictures drawn at once."""
    loras: Path = Path("loras")
    """Folder where styles are looked up by name."""
    out: Path = Path("pictures")
    """Folder for the pictures."""
    like: Path | None = None
    """Redraw this picture from the recipe inside it."""

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0, 2**31 - 1)
        in_range("count", self.count, 1, 10_000)
        in_range("steps", self.steps, 1, 1000)
        in_range("guidance", self.guidance, 0, 100)
        in_range("batch", self.batch, 1, 1024)


def check_name(name: str) -> str:
    """A style's name as it may stand in a file name and before a colon; raises RequestError otherwise."""
    allowed = all(c.isalnum() or c in "._- " for c in name) and 0 < len(name) <= 80
    demand(
        allowed and not name.startswith("."), f"name {name!r}", "letters, digits, '.', '_', '-' or spaces, at most 80"
    )
    return name


def parse_lora(text: str) -> tuple[str, float]:
    """NAME or NAME:WEIGHT -> (name, weight); raises RequestError for a weight that is no number from -10 to 10."""
    name, colon, number = text.rpartition(":")
    if not colon or "/" in number or "\\" in number:
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    demand(bool(name) and abs(weight) <= WEIGHT_LIMIT, f"--lora {text}", "NAME:WEIGHT with a weight from -10 to 10")
    return name, weight


def parse_size(text: str) -> tuple[int, int]:
    """ "64" or "96x64" -> (width, height) in pixels; raises RequestError otherwise."""
    parts = text.lower().split("x")
    demand(len(parts) <= 2 and all(p.isdecimal() for p in parts), f"--size {text}", "a side like 64, or WIDTHxHEIGHT")
    width, height = int(parts[0]), int(parts[-1])
    demand(8 <= width <= 4096 and 8 <= height <= 4096, f"--size {text}", "sides from 8 to 4096 pixels")
    return width, height


def as_row(config: TrainConfig | DrawConfig) -> dict:
    """The config as JSON- and TOML-ready values, without what was left to difflora."""
    row = {f.name: getattr(config, f.name) for f in fields(config)}
    plain = {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in row.items()}
    return {k: v for k, v in plain.items() if v is not None}
