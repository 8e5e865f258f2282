"""difflora blend and score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..config import BlendConfig
from .flags import Json, Positional, Switch, arg, plain_flags


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Blend(BlendConfig):
    """Write a blend of styles as one file: the exact sum of their updates, unless a smaller one is asked for."""

    lora: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="NAME[:WEIGHT] …",
            help="Styles and weights, -10 to 10: ink:0.7, ink:0.7/0.3 (words apart), ink:0.7@up=0.4,mid=0 (by block), "
            "ink:0.7@texture (in that alone).",
        ),
    ] = ()
    out: Annotated[Path, arg(help="The file to write, ending in .safetensors.")]
    base: Annotated[str, arg(help="Model the styles were learnt on.")] = "tiny"
    loras: Annotated[Path, arg(help="Folder where styles are looked up by name.")] = Path("loras")
    force: Annotated[Switch, arg(help="Write over a file that is there.")] = False
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..drawing.request import blend_file

        screen = render.screen(self.json)
        with screen:
            made = blend_file(self.lora, self.out, self.base, self.loras, self, screen.report)
        screen.blended(made)


@dataclass(frozen=True, kw_only=True)
class Score:
    """Measure a style on concepts it has not seen: style reached, prompt still followed."""

    lora: Annotated[Positional[str], arg(metavar="NAME[:WEIGHT]", help="The style to measure.")]
    images: Annotated[Path, arg(help="Folder with the artist's held-out pictures and their captions.")]
    base: Annotated[str, arg(help="Model to draw with, by name or path; see difflora bases.")] = "tiny"
    loras: Annotated[Path, arg(help="Folder where styles are looked up by name.")] = Path("loras")
    seed: Annotated[int, arg(help="Seed of the first picture.")] = 0
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..training.score import score_file

        screen = render.screen(self.json)
        with screen:
            scores = score_file(
                self.lora,
                self.images,
                base=self.base,
                loras=self.loras,
                seed=self.seed,
                report=screen.report,
            )
        screen.scored(scores)
