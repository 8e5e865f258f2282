"""What a person decides, as frozen dataclasses: one field is the CLI flag, the TOML key, and the metadata key.

The text under each field is its help wherever it is shown. `None` means that difflora decides and says what and why.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from .errors import RequestError
from .strength import Strength, parse_strength

Targets = Literal["attention", "attention+mlp"]
Method = Literal["sum", "ties", "dare", "magnitude", "knots", "orthogonal", "switch"]
Precision = Literal["fp32", "bf16", "fp16"]
Budget = Literal["sum", "normalised", "matched"]
Attention = Literal["sdpa", "xformers"]


def demand(holds: bool, found: str, expected: str) -> None:
    """Raise RequestError with both halves of the sentence unless `holds`."""
    if not holds:
        raise RequestError(f"{found}: expected {expected}")


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Raise RequestError unless low <= value <= high; NaN never is."""
    demand(low <= value <= high, f"--{name.replace('_', '-')} {value}", f"a number from {low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Which base model, and how it is opened."""

    base: str = "tiny"
    """Model: tiny (embedded), sd15, sd21 or sdxl, a name in --bases, a diffusers folder, a .safetensors, a hub id."""
    bases: Path = Path("bases")
    """Folder of your own checkpoints, where --base looks names up."""
    vae: str | None = None
    """Another autoencoder for the base: a .safetensors file, a diffusers folder, or a hub id."""
    precision: Precision | None = None
    """Precision of the base: fp32, bf16 or fp16; chosen from the device unless given."""
    attention: Attention | None = None
    """How attention is computed: PyTorch's own (sdpa) unless given, or xformers where it is installed."""
    offload: bool | None = None
    """Keep layers in main memory until each is needed: slow, in little memory; done when the device is too small."""
    tiling: bool = False
    """Decode pictures in tiles: for sizes whose decoding does not fit; seams may show faintly."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Learn a style from a folder of captioned pictures."""

    images: Path
    """Folder with the pictures; captions beside them (.txt, .caption, .json), in metadata files, or as names."""
    name: str | None = None
    """Name of the style and of its file; the folder's name unless given."""
    base: str = "tiny"
    """Model to learn on: tiny (embedded), sd15, sd21, sdxl, a name in --bases, a folder, a .safetensors, a hub id."""
    bases: Path = Path("bases")
    """Folder of your own checkpoints, where --base looks names up."""
    vae: str | None = None
    """Another autoencoder for the base: a .safetensors file, a diffusers folder, or a hub id."""
    trigger: str | None = None
    """Word put before every caption, to call the style up by; none unless given."""
    rank: int | None = None
    """Rank of each adapter: more can hold more, and makes a larger file; chosen from the folder unless given."""
    alpha: float | None = None
    """The update is scaled by alpha / rank; rank unless given."""
    targets: Targets = "attention+mlp"
    """Layers of the image network that learn: its attention, or its attention and feed-forward layers."""
    text_encoder: bool = True
    """Let the projections of the text encoders learn too; off, their features are computed once."""
    clip_skip: int | None = None
    """Layer of the text encoder that is read, counted from its end (1 is the last); the base's own unless given."""
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
    shuffle_tags: bool = False
    """Show comma-separated tags in a new order each time, the trigger and the first --keep-tags in place."""
    keep_tags: int = 0
    """Tags at the start of a caption, after the trigger, that stay there and are never dropped."""
    tag_dropout: float = 0.0
    """Share of tags left out, anew each time."""
    crops: float = 0.0
    """Random crops: up to this share of each side is cut off, elsewhere each time; 0 shows whole pictures."""
    flip: bool = False
    """Show pictures mirrored half of the time; off, as signatures and faces are not symmetric."""
    ema: float | None = None
    """Decay of the moving average of what was learnt, which is what is kept; chosen from the steps unless given."""
    holdout: int | None = None
    """Pictures kept back to see how well unseen ones are drawn; chosen from the folder unless given, 0 for none."""
    early_stop: bool = True
    """End when three checkpoints in a row were no better than the best one; steps added later are made all the same."""
    precision: Precision | None = None
    """Precision of the base: fp32, bf16 or fp16; chosen from the device unless given."""
    micro_batch: int | None = None
    """Most pictures on the device at once, a step being gathered from several; as many as fit unless given."""
    gradient_checkpointing: bool = False
    """Compute more to need less memory; switched on by itself when memory runs out."""
    tensorboard: bool = False
    """Write curves and previews for TensorBoard into the run folder."""
    seed: int = 0
    """Same seed, same pictures, same machine: same file."""
    preview_every: int | None = None
    """Steps between checkpoints, drawn, scored and kept; an eighth of the run unless given, 0 for only the ends."""
    preview_prompts: tuple[str, ...] = ()
    """Prompts drawn as previews; three captions of the folder unless given."""
    out: Path = Path("loras")
    """Folder for finished styles."""
    runs: Path = Path("runs")
    """Folder for run folders: config, events, previews, resume state."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rank", 1, 1024), ("alpha", 1e-4, 1e4), ("learning_rate", 1e-8, 1), ("steps", 1, 10**7),
            ("batch", 1, 1024), ("micro_batch", 1, 1024), ("resolution", 16, 4096), ("preview_every", 0, 10**7),
            ("caption_dropout", 0, 1), ("tag_dropout", 0, 0.9), ("keep_tags", 0, 100), ("crops", 0, 0.5),
            ("ema", 0, 0.99999), ("holdout", 0, 1000), ("seed", 0, 2**31 - 1), ("clip_skip", 1, 12),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                in_range(name, value, low, high)
        if self.name is not None:
            check_name(self.name)


@dataclass(frozen=True, kw_only=True)
class PictureConfig(BaseConfig):
    """What every drawing is asked with."""

    prompts: tuple[str, ...] = ()
    """What to draw; several prompts are drawn in one batch."""
    prompts_file: Path | None = None
    """A text file with one prompt a line."""
    lora: tuple[str, ...] = ()
    """A style and its weight, NAME:WEIGHT or PATH:WEIGHT; repeat to blend (weights -10 to 10, 1 unless given)."""
    budget: Budget = "normalised"
    """How strong a blend is: the plain sum; normalised, as one style is; matched, each style also as it looks."""
    orthogonal: float = 0.0
    """Keep each style out of the way of those named before it: 0 adds them as they are, 1 leaves nothing in common."""
    switch: int = 0
    """Let the styles take turns of that many steps instead of acting together; 0 for together."""
    negative: str = ""
    """What the picture should keep away from."""
    seed: int = 0
    """Seed of the first picture; the next ones count up."""
    count: int = 1
    """Pictures per prompt."""
    steps: int = 25
    """Denoising steps."""
    guidance: float | None = None
    """How strictly the prompt is followed; 1 turns guidance off; as the base draws best unless given."""
    size: str | None = None
    """Side in pixels, or WIDTHxHEIGHT; the base's own unless given."""
    sampler: str | None = None
    """Sampler by name (euler a, dpm++ 2m karras, ddim, unipc, lcm …); the base's own unless given."""
    clip_skip: int | None = None
    """Layer of the text encoder that is read, counted from its end (1 is the last); the base's own unless given."""
    loras: Path = Path("loras")
    """Folder where styles are looked up by name."""

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0, 2**31 - 1)
        in_range("count", self.count, 1, 10_000)
        in_range("steps", self.steps, 1, 1000)
        in_range("orthogonal", self.orthogonal, 0, 1)
        in_range("switch", self.switch, 0, 1000)
        for name, low, high in (("guidance", 0, 100), ("clip_skip", 1, 12)):
            if getattr(self, name) is not None:
                in_range(name, getattr(self, name), low, high)


@dataclass(frozen=True, kw_only=True)
class DrawConfig(PictureConfig):
    """Draw pictures with any blend of styles."""

    batch: int = 8
    """Most pictures drawn at once."""
    out: Path = Path("pictures")
    """Folder for the pictures."""
    like: Path | None = None
    """Redraw this picture from the recipe inside it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("batch", self.batch, 1, 1024)


@dataclass(frozen=True, kw_only=True)
class SheetConfig(PictureConfig):
    """Draw every blend between two styles, or three, or the strengths of one, as one picture."""

    steps_between: int | None = None
    """Blends along each edge, its ends counted; 7, or 4 for three styles, unless given."""
    out: Path = Path("sheet.png")
    """The picture to write, ending in .png; numbered if there is one already."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps_between is not None:
            in_range("steps_between", self.steps_between, 2, 16)
        demand(self.out.suffix == ".png", f"--out {self.out}", "a name ending in .png")


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Write a blend of styles as one file: the exact sum of their updates, unless a smaller one is asked for."""

    budget: Budget = "normalised"
    """How strong the blend is: the plain sum; normalised, as one style is; matched, each style also as it looks."""
    rank: int | None = None
    """Rank of every layer at most, by the nearest factors; all of the styles' ranks, which is exact, unless given."""
    max_error: float | None = None
    """Or the smallest file whose relative error over all layers stays within this, with a rank for each layer."""
    method: Method = "sum"
    """How styles are put together; all but sum change the blend, and say by how much."""
    density: float = 0.5
    """Share of the numbers that ties, dare, magnitude and knots keep."""
    orthogonal: float = 0.0
    """Keep each style out of the way of those named before it: 0 adds them as they are, 1 leaves nothing in common."""
    seed: int = 0
    """Seed of what dare leaves out; recorded in the file."""
    precision: Precision = "fp16"
    """Precision to store in."""
    force: bool = False
    """Write over a file that is there."""

    def __post_init__(self) -> None:
        in_range("density", self.density, 0.01, 1)
        in_range("orthogonal", self.orthogonal, 0, 1)
        in_range("seed", self.seed, 0, 2**31 - 1)
        if self.rank is not None:
            in_range("rank", self.rank, 1, 4096)
        if self.max_error is not None:
            in_range("max_error", self.max_error, 0, 0.999)
        demand(self.rank is None or self.max_error is None, "--rank beside --max-error", "one of them")
        demand(
            self.method != "switch", "--method switch for a file",
            "a method that one set of numbers can hold; draw with it: difflora generate --switch 1",
        )  # fmt: skip
        demand(
            self.method in ("sum", "orthogonal") or not self.orthogonal, f"--orthogonal beside --method {self.method}",
            "one of them",
        )  # fmt: skip


def check_name(name: str) -> str:
    """A style's name as it may stand in a file name and before a colon; raises RequestError otherwise."""
    allowed = all(c.isalnum() or c in "._- " for c in name) and 0 < len(name) <= 80 and name == name.strip()
    # A file's name has 255 bytes, endings such as -step-000200.safetensors included.
    allowed = allowed and not name.startswith(".") and len(name.encode()) <= 200
    demand(allowed, f"name {name!r}", "letters, digits, '.', '_', '-' or spaces between them, at most 80")
    return name


def parse_lora(text: str) -> tuple[str, Strength]:
    """NAME or NAME:WEIGHT, as `parse_strength` takes it -> (name, strength); raises RequestError."""
    name, colon, said = text.rpartition(":")
    # A path may hold colons and slashes, and a weight a slash: C:\\styles\\ink, a:b/ink, ink:0.7/0.3.
    if not colon and "@" in text and not text.endswith(".safetensors"):
        # ink@colour: at its own weight, in that part.
        name, _, blocks = text.rpartition("@")
        colon, said = ":", f"@{blocks}"
    if not colon or said.startswith(("/", "\\")) or (said[:1].isalpha() and set(said) & {"/", "\\"}):
        return text, Strength()
    demand(bool(name), f"--lora {text}", "NAME:WEIGHT, such as ink:0.7")
    try:
        return name, parse_strength(said)
    except RequestError as error:
        raise RequestError(f"--lora {text}: {error}") from None


def parse_size(text: str) -> tuple[int, int]:
    """ "64" or "96x64" -> (width, height) in pixels; raises RequestError otherwise."""
    parts = text.lower().split("x")
    demand(len(parts) <= 2 and all(p.isdecimal() for p in parts), f"--size {text}", "a side like 64, or WIDTHxHEIGHT")
    width, height = int(parts[0]), int(parts[-1])
    demand(8 <= width <= 4096 and 8 <= height <= 4096, f"--size {text}", "sides from 8 to 4096 pixels")
    return width, height


def as_row(config: TrainConfig | PictureConfig) -> dict:
    """The config as JSON- and TOML-ready values, without what was left to difflora."""
    row = {f.name: getattr(config, f.name) for f in fields(config)}
    plain = {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in row.items()}
    return {k: v for k, v in plain.items() if v is not None}
