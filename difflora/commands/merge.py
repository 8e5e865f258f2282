"""difflora merge, resize and extract."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..config import Budget
from .flags import Json, Positional, Switch, arg, plain_flags


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Merge:
    """Write styles into a copy of a base model, for programs that draw without adapters."""

    lora: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="NAME[:WEIGHT] …", help="Styles and weights, -10 to 10: ink:0.7, ink:0.7/0.3, ink:0.7@up=0.4,mid=0."
        ),
    ] = ()
    out: Annotated[Path, arg(help="A folder to write for a folder, a file ending in .safetensors for a single file.")]
    base: Annotated[
        str, arg(help="tiny (embedded), a diffusers folder, or a .safetensors file of SD 1.x, 2.x or XL.")
    ] = "tiny"
    loras: Annotated[Path, arg(help="Folder where styles are looked up by name.")] = Path("loras")
    budget: Annotated[
        Budget, arg(help="How strong the blend is, as in difflora generate: the plain sum; normalised; matched.")
    ] = "normalised"
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, arg(help="Precision to store in; each tensor's own unless given.")
    ] = None
    force: Annotated[Switch, arg(help="Write over a model that is there.")] = False
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..drawing.merge import merge_files
        from ..render_merge import merged_lines, show_made

        screen = render.screen(self.json)
        with screen:
            made = merge_files(
                self.lora, self.base, self.out, folder=self.loras, budget=self.budget, precision=self.precision,
                overwrite=self.force, report=screen.report,
            )  # fmt: skip
        show_made(screen, "merged", made.row(), merged_lines(made))


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Resize:
    """Write a smaller copy of a style, with the error that it costs."""

    file: Annotated[Positional[Path], arg(help="A style: .safetensors in any dialect, or a folder as PEFT writes it.")]
    rank: Annotated[int | None, arg(help="Rank of every layer at most.")] = None
    max_error: Annotated[
        float | None, arg(help="Or the smallest copy whose relative error over all layers stays within this.")
    ] = None
    out: Annotated[
        Path | None, arg(help="What to write; beside the file, with the size in its name, unless given.")
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, arg(help="Precision to store in; the file's own unless given.")
    ] = None
    base: Annotated[str | None, arg(help="Model it belongs to, which DoRA needs to become plain.")] = None
    force: Annotated[Switch, arg(help="Write over what is there.")] = False
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..adapters.families import Match
        from ..adapters.lowrank import weights_of
        from ..adapters.resize import resize
        from ..models.family import base_sha256
        from ..render_merge import resized_lines, show_made
        from .adapter import open_base

        screen = render.screen(self.json)
        with screen:
            model = open_base(self.base)
            made = resize(
                self.file, self.out, rank=self.rank, max_error=self.max_error, precision=self.precision,
                base=Match(model.family, model.shapes()) if model else None,
                weights=weights_of(model.parts) if model else None,
                made_on={"base": self.base, "base_sha256": base_sha256(self.base)} if self.base else None,
                overwrite=self.force, report=screen.report,
            )  # fmt: skip
        show_made(screen, "resized", made.row(), resized_lines(made))


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Extract:
    """Write what a tuned model has that its base has not as a style, and say what no style can hold of it."""

    base: Annotated[str, arg(help="Model before tuning: tiny, a diffusers folder, or a .safetensors file.")]
    tuned: Annotated[str, arg(help="The same model after tuning, as a folder or a file.")]
    out: Annotated[Path, arg(help="The style to write, ending in .safetensors.")]
    rank: Annotated[int | None, arg(help="Rank of every layer at most.")] = None
    max_error: Annotated[
        float | None, arg(help="Or the smallest style whose relative error over all layers stays within this.")
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, arg(help="Precision to store in; fp16 unless given.")
    ] = None
    force: Annotated[Switch, arg(help="Write over a file that is there.")] = False
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..adapters.extract import extract
        from ..models.family import on_disk
        from ..render_merge import extracted_lines, show_made

        screen = render.screen(self.json)
        with screen:
            made = extract(
                on_disk(self.base), on_disk(self.tuned), self.out, rank=self.rank, max_error=self.max_error,
                precision=self.precision, named=(self.base, self.tuned), overwrite=self.force, report=screen.report,
            )  # fmt: skip
        show_made(screen, "extracted", made.row(), extracted_lines(made))
