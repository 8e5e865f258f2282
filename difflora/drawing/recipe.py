"""The recipe inside every picture: all that is needed to draw it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from io import BytesIO
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..adapters.files import write_atomic
from ..config import Budget
from ..errors import RequestError
from ..strength import Strength

KEY = "difflora"


@dataclass(frozen=True)
class Style:
    """One adapter of a blend: where it was found, its sha256, and its weight as it was asked for, see `Strength`."""

    name: str
    weight: float
    path: str = ""
    sha256: str = ""
    text: float | None = None
    blocks: tuple[tuple[str, float], ...] = ()
    start: float = 0.0
    end: float = 1.0
    gain: float | None = None
    """What the budget multiplies all of its weights with; None until it is known."""

    @property
    def asked(self) -> Strength:
        """Its weights as they were asked for."""
        return Strength(self.weight, self.text, self.blocks, self.start, self.end)

    @property
    def strength(self) -> Strength:
        """Its weights as they act."""
        return self.asked if self.gain is None else self.asked.scaled(self.gain)

    def at(self, strength: Strength) -> Style:
        """The style with other weights; what the budget makes of them is not known yet."""
        own = strength
        return replace(
            self, weight=own.image, text=own.text, blocks=own.blocks, start=own.start, end=own.end, gain=None
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One picture: what was asked, and the few facts of the run that its last bits depend on."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 25
    guidance: float = 7.5
    width: int
    height: int
    sampler: str | None = None
    clip_skip: int | None = None
    base: str = "tiny"
    vae: str | None = None
    """Another autoencoder than the base's own."""
    styles: tuple[Style, ...] = ()
    budget: Budget = "sum"
    orthogonal: float = 0.0
    switch: int = 0
    batch: int = 1
    """Pictures in the batch it was drawn in: matrix products round differently at other sizes."""
    row: int = 0
    """Its place in that batch."""
    windows: int = 1
    """Windows of the text encoder that its texts fill: all of a batch have as many."""
    folded: bool = False
    """Whether the blend was written into the weights."""
    version: str = ""

    def text(self) -> str:
        """The recipe as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def infotext(self) -> str:
        """The recipe in the words other programs read from a PNG's "parameters"."""
        tags = "".join(f" <lora:{s.name}:{s.strength.image:g}>" for s in self.styles if s.strength.image)
        more = f"VAE: {Path(self.vae).name}, " if self.vae else ""
        more += f"Clip skip: {self.clip_skip}, " if self.clip_skip else ""
        lines = [self.prompt + tags]
        if self.negative:
            lines.append(f"Negative prompt: {self.negative}")
        lines.append(
            f"Steps: {self.steps}, Sampler: {self.sampler or 'base'}, CFG scale: {self.guidance:g}, Seed: {self.seed}, "
            f"Size: {self.width}x{self.height}, Model: {self.base}, {more}Version: difflora {self.version}"
        )
        return "\n".join(lines)

    def copies(self) -> list[Recipe]:
        """The recipe once for each row of its batch: drawn so, its own row comes out bit for bit."""
        return [replace(self, row=i) for i in range(self.batch)]


def parse_recipe(text: str) -> Recipe:
    """JSON -> Recipe; raises ValueError or TypeError when it is none."""
    values = json.loads(text)
    known = {f.name for f in fields(Recipe)}
    values = {k: v for k, v in values.items() if k in known}
    styles = tuple(style_of(row) for row in values.pop("styles", ()))
    recipe = Recipe(styles=styles, **values)
    numbers = (recipe.seed, recipe.steps, recipe.width, recipe.height, recipe.batch, recipe.row, recipe.windows)
    if not all(isinstance(n, int) and 0 <= n < 2**31 for n in numbers) or not recipe.row < recipe.batch <= 1024:
        raise ValueError("numbers out of range")
    return recipe


def style_of(row: dict) -> Style:
    """A style of a recipe; raises ValueError or TypeError for what is none."""
    known = {f.name for f in fields(Style)}
    row = {key: value for key, value in row.items() if key in known}
    blocks = tuple((str(name), float(weight)) for name, weight in row.pop("blocks", ()))
    style = Style(**row, blocks=blocks)
    try:
        if not isinstance(style.strength.image, int | float):
            raise ValueError("a weight is no number")
    except RequestError as error:
        raise ValueError(str(error)) from None
    return style


def save_picture(picture: Image.Image, recipe: Recipe, path: Path) -> None:
    """Write a PNG that carries its recipe; raises OutputError."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", recipe.infotext())
    info.add_itxt(KEY, recipe.text())
    buffer = BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info)
    write_atomic(path, buffer.getvalue())


def read_recipe(path: Path) -> Recipe:
    """The recipe inside a picture; raises RequestError when the file or the recipe is not readable."""
    try:
        with Image.open(path) as picture:
            text = getattr(picture, "text", {}).get(KEY)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise RequestError(f"{path} is not a readable picture ({error}): expected a PNG drawn by difflora") from error
    if text is None:
        raise RequestError(f"{path} holds no recipe: expected a PNG drawn by difflora, not one that was re-saved")
    try:
        return parse_recipe(text)
    except (ValueError, TypeError, AttributeError) as error:
        raise RequestError(f"{path}: its recipe is damaged ({error}); draw from a prompt instead") from error
