"""difflora generate and difflora sheet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..config import DrawConfig, SheetConfig
from .flags import Json, Positional, UseAppendAction, arg, plain_flags


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Generate(DrawConfig):
    """Draw pictures with any blend of styles."""

    prompts: Annotated[
        Positional[tuple[str, ...]], arg(metavar="PROMPT …", help="What to draw; several prompts share a batch.")
    ] = ()
    lora: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(metavar="NAME[:WEIGHT]", help="A style and its weight (-10 to 10, 1 unless given); repeat to blend."),
    ] = ()
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..drawing.request import draw_files

        screen = render.screen(self.json)
        with screen:
            files = draw_files(self, screen.report)
        screen.drawn(files)


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Sheet(SheetConfig):
    """Draw every blend between styles as one picture: a line for two, a triangle for three, strengths for one."""

    prompts: Annotated[
        Positional[tuple[str, ...]], arg(metavar="PROMPT …", help="What to draw, a row each; one for three styles.")
    ] = ()
    lora: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(metavar="NAME[:WEIGHT]", help="A style and its weight at its own end (1 unless given); one to three."),
    ] = ()
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..drawing.strip import draw_sheet

        screen = render.screen(self.json)
        with screen:
            _, cells = draw_sheet(self, screen.report)
        screen.sheet(cells)
