"""difflora doctor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .flags import Json, arg, plain_flags


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Show what this machine has and what is wrong with it, with the command that mends it; exit code 1 if anything."""

    bases: Annotated[Path, arg(help="Folder of your own checkpoints.")] = Path("bases")
    loras: Annotated[Path, arg(help="Folder of styles.")] = Path("loras")
    runs: Annotated[Path, arg(help="Folder for run folders, and for encoded pictures.")] = Path("runs")
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..machine import look_over
        from ..models.checkup import caches, damage, outlook
        from ..models.hub import cache_folder
        from ..render_bases import show_machine

        places = {"downloads": cache_folder(), "bases": self.bases, "styles": self.loras, "runs": self.runs}
        machine = look_over(places, damage())
        show_machine(render.screen(self.json), machine, caches(self.runs), outlook())
        if machine.faults:
            raise SystemExit(1)
