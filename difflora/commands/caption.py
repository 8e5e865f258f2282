"""difflora caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ..errors import RequestError
from .flags import Json, Positional, arg, plain_flags
from .train import stop_on_signal

if TYPE_CHECKING:
    from ..events import Report
    from ..training.caption import Captioned


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Caption:
    """Describe the pictures of a folder that have no caption: writes NAME.txt beside each; Ctrl+C pauses."""

    images: Annotated[Positional[Path], arg(metavar="FOLDER", help="The folder with the pictures.")]
    model: Annotated[
        str | None,
        arg(name="with", metavar="MODEL", help="Captioning model: a folder, or a hub id.", help_behavior_hint=""),
    ] = None
    mode: Annotated[
        Literal["content", "full", "tags"],
        arg(help="content: what is shown, no words on the style. full: the model's own words. tags: comma-separated."),
    ] = "content"
    prompt: Annotated[
        str | None,
        arg(metavar="TEXT", help="What the model is asked instead of the mode's own question.", help_behavior_hint=""),
    ] = None
    prefix: Annotated[str, arg(help="Words before every caption; the trigger needs none, training adds it.")] = ""
    overwrite: Annotated[bool, arg(help="Describe pictures anew that have a caption.")] = False
    batch: Annotated[int, arg(help="Pictures described at once, 1 to 64.")] = 4
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..config import in_range
        from ..models.captioner import HOW_TO_GET_ONE
        from ..training.caption import Captioned, uncaptioned

        if self.model is None:
            raise RequestError(f"--with is missing: expected a captioning model; {HOW_TO_GET_ONE}")
        in_range("batch", self.batch, 1, 64)
        screen = render.screen(self.json)
        with screen:
            # Before the model is opened, which may take minutes.
            bare, _, had_one = uncaptioned(self.images, self.overwrite)
            done = self.describe(screen.report) if bare else Captioned(had_one=had_one)
        screen.table({"event": "captions"} | done.row() if self.json else done.words())
        if done.left:
            raise SystemExit(130)

    def describe(self, report: Report) -> Captioned:
        """Open the model and write the captions."""
        from ..models.captioner import open_captioner
        from ..models.family import best_device
        from ..training.caption import caption_folder

        return caption_folder(
            self.images,
            open_captioner(self.model or "", best_device()),
            mode=self.mode,
            prompt=self.prompt,
            prefix=self.prefix,
            overwrite=self.overwrite,
            batch=self.batch,
            report=report,
            stop=stop_on_signal(),
        )
