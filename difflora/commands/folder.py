"""difflora check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .flags import Json, Positional, Switch, arg, plain_flags


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Check:
    """Look a folder of pictures over before learning from it; exit code 1 while something should be left out."""

    folder: Annotated[Positional[Path], arg(help="Folder of pictures and captions; nothing in it is changed.")]
    trigger: Annotated[str | None, arg(help="Trigger word the style is to be learnt with.")] = None
    base: Annotated[str, arg(help="Model to learn on, by name or path; see difflora bases.")] = "tiny"
    resolution: Annotated[
        int | None, arg(help="Pixels of the shorter side at learning; the base's own unless given.")
    ] = None
    fix: Annotated[Switch, arg(help="Write what should be left out into excluded.txt, which training heeds.")] = False
    report: Annotated[Path | None, arg(help="HTML file to write, with the pictures in it.")] = None
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..events import Note, Saved
        from ..models.family import open_model
        from ..training.doctor import check, fix
        from ..training.report import write_report

        screen = render.screen(self.json)
        with screen:
            model = open_model(self.base)
            checkup = check(self.folder, trigger=self.trigger, model=model, side=self.resolution, report=screen.report)
            if self.report is not None:
                screen.report(Saved(write_report(checkup, self.report, screen.report)))
            if self.fix:
                new = fix(checkup)
                screen.report(Note(f"excluded.txt: {new} new line{'s' * (new != 1)}; the pictures stay where they are"))
        screen.checked(checkup)
        if checkup.count("exclude") and not self.fix:
            raise SystemExit(1)
