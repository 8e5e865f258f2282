"""difflora bases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .flags import Json, arg, plain_flags


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Bases:
    """List the base models that are here, with what is wrong with broken ones, and those that may be downloaded."""

    bases: Annotated[Path, arg(help="Folder of your own checkpoints, where --base looks names up.")] = Path("bases")
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..models.bases import here, not_here
        from ..render_bases import show_bases

        show_bases(render.screen(self.json), here(self.bases), not_here(), self.bases)
