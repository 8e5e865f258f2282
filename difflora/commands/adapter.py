"""difflora inspect and difflora convert."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ..errors import RequestError
from .flags import Json, Positional, Switch, arg, plain_flags

if TYPE_CHECKING:
    from ..adapters.families import Match
    from ..models.family import BaseModel


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what a style file or a picture holds, what is wrong with it, and which programs load it how strongly."""

    file: Annotated[
        Positional[Path], arg(help="A style (.safetensors, or a folder as PEFT writes it), or a PNG drawn by difflora.")
    ]
    base: Annotated[str | None, arg(help="Model to judge it by; the family that fits it best unless given.")] = None
    modules: Annotated[Switch, arg(help="Show every module with its rank, alpha and norm.")] = False
    header: Annotated[Switch, arg(help="Read the header only: at once, without alphas and norms.")] = False
    repair: Annotated[Switch, arg(help="Write a sound copy, NAME-repaired.safetensors; the file itself stays.")] = False
    out: Annotated[Path | None, arg(help="The repaired copy; beside the file unless given.")] = None
    force: Annotated[Switch, arg(help="Write over a repaired copy that is there.")] = False
    json: Json = False

    def run(self) -> None:
        """Call the library and render; exit code 1 for a style that is not drawn as it is."""
        from .. import render

        screen = render.screen(self.json)
        if not self.file.is_dir() and self.file.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
            from dataclasses import asdict

            from ..drawing.recipe import read_recipe

            return screen.table(asdict(read_recipe(self.file)))
        from ..adapters.families import match
        from ..adapters.inspection import inspect_header
        from ..adapters.places import sources

        if self.out is not None and not self.repair:
            raise RequestError(f"--out {self.out} without --repair: expected both; add --repair")
        base = match_of(self.base) or match(sources(self.file))
        found = inspect_header(self.file, base)
        if not self.header:
            screen.inspected_header(found)
            from ..adapters.measure import inspect_numbers

            found = inspect_numbers(found, base)
        screen.inspected(found, self.modules)
        if self.repair:
            from ..adapters.convert import repair

            return screen.converted(
                repair(self.file, self.out, base=base if base.shapes else None, overwrite=self.force)
            )
        if not found.loads:
            raise SystemExit(1)
        return None


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a style for another program, and measure what that costs by reading it back."""

    file: Annotated[Positional[Path], arg(help="A style: .safetensors in any dialect, or a folder as PEFT writes it.")]
    to: Annotated[
        Literal["kohya", "diffusers", "peft"],
        arg(help="kohya (A1111, Forge, ComfyUI, InvokeAI and most), diffusers (one file), peft (a folder)."),
    ] = "kohya"
    out: Annotated[
        Path | None, arg(help="What to write; beside the file, with the format in its name, unless given.")
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, arg(help="Precision to store in; the file's own unless given.")
    ] = None
    rank: Annotated[int | None, arg(help="Make plain LoRA of this rank of what is none (LoHa, LoKr, DoRA, full).")] = (
        None
    )
    max_error: Annotated[
        float | None, arg(help="The same with the least rank of each module that stays within this relative error.")
    ] = None
    base: Annotated[str | None, arg(help="Model it belongs to, which DoRA needs to become plain.")] = None
    sidecar: Annotated[Switch, arg(help="Write what A1111 shows beside it: NAME.json and NAME.preview.png.")] = False
    force: Annotated[Switch, arg(help="Write over what is there.")] = False
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..adapters.convert import convert
        from ..adapters.families import Match
        from ..adapters.lowrank import weights_of
        from ..adapters.precision import DTYPES
        from ..models.family import base_sha256

        screen = render.screen(self.json)
        with screen:
            model = open_base(self.base)
            named = {"base": self.base, "base_sha256": base_sha256(self.base)} if self.base else None
            made = convert(
                self.file, self.to, self.out, dtype=DTYPES.get(self.precision or ""), rank=self.rank,
                max_error=self.max_error, base=Match(model.family, model.shapes()) if model else None,
                weights=weights_of(model.parts) if model else None, made_on=named, sidecar=self.sidecar,
                overwrite=self.force,
            )  # fmt: skip
        screen.converted(made)


def open_base(base: str | None) -> BaseModel | None:
    """The model of that name, if one was named."""
    if base is None:
        return None
    from ..models.family import open_model

    return open_model(base)


def match_of(base: str | None) -> Match | None:
    """The family and shapes of a model, if one was named."""
    from ..adapters.families import Match

    model = open_base(base)
    return Match(model.family, model.shapes()) if model else None
