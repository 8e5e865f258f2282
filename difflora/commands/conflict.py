"""difflora conflict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..config import demand
from .flags import Json, Positional, Switch, arg, plain_flags


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Show where styles agree, undo each other or paint over each other, and what would help."""

    lora: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="NAME[:WEIGHT] …",
            help="Two styles or more, at the weights they are to be drawn with: ink fluent:0.7.",
        ),
    ] = ()
    base: Annotated[
        str | None, arg(help="Model to ask what of it shows in pictures; the weights alone are compared unless given.")
    ] = None
    loras: Annotated[Path, arg(help="Folder where styles are looked up by name.")] = Path("loras")
    out: Annotated[Path | None, arg(help="Draw it as a picture too, ending in .png; numbered if there is one.")] = None
    modules: Annotated[Switch, arg(help="Show every module, the worst first.")] = False
    json: Json = False

    def __post_init__(self) -> None:
        demand(self.out is None or self.out.suffix == ".png", f"--out {self.out}", "a name ending in .png")

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..drawing.clash import find_conflict
        from ..render_conflict import show_conflict

        screen = render.screen(self.json)
        with screen:
            found = find_conflict(self.lora, self.loras, self.base, modules=self.modules, report=screen.report)
            if self.out is not None:
                from ..drawing.conflict_picture import save_conflict
                from ..events import Saved

                screen.report(Saved(save_conflict(found, self.out)))
        show_conflict(screen, found)
