"""difflora generate and difflora sheet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..config import DrawConfig, SheetConfig
from .flags import Json, Positional, Switch, UseAppendAction, arg, plain_flags

if TYPE_CHECKING:
    from ..render import Person, Script


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
    plan: Annotated[Switch, arg(help="Print the memory and time it will take; load no base and draw nothing.")] = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..drawing.request import draw_files

        screen = render.screen(self.json)
        with screen:
            if self.plan:
                self.foretell(screen)
                return
            files = draw_files(self, screen.report)
        screen.drawn(files)

    def foretell(self, screen: Person | Script) -> None:
        """Print what it needs."""
        from ..drawing.foretold import plan_drawing

        pictures, need = plan_drawing(self, screen.report)
        screen.drawing_plan(pictures, need, {"base": f"{self.base} on {need.device}, {need.precision}"})


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
