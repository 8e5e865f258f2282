"""The `difflora` command: parse, call, render. No arithmetic, and no torch before a command needs it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from .config import DrawConfig, SheetConfig, TrainConfig, UiConfig, read_toml
from .errors import DiffloraError, RequestError

Json = Annotated[bool, arg(help="Print JSON lines for a script instead of text for a person.")]


def plain_flags(config: type) -> type:
    """The same dataclass, its help saying `--rank INT` and not `{None}|INT` where None means that difflora decides."""
    open_fields = []
    for name, hint in get_type_hints(config, include_extras=True).items():
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if type(None) in get_args(hint):
            shown = arg(metavar=kinds[0].__name__.upper(), help_behavior_hint="")
            open_fields.append((name, Annotated[hint, shown], field(default=None)))
    plain = make_dataclass(config.__name__, open_fields, bases=(config,), frozen=True, kw_only=True)
    plain.__doc__ = config.__doc__
    return plain


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Learn a style from a folder of captioned pictures; Ctrl+C pauses, the same command goes on."""

    json: Json = False
    config: Annotated[
        Path | None,
        arg(metavar="FILE", help="TOML file with the same keys; flags beside it win.", help_behavior_hint=""),
    ] = None


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


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Write a blend of styles as one file: the exact sum of their updates."""

    lora: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME[:WEIGHT] …", help="Styles and weights, -10 to 10.")]
    out: Annotated[Path, arg(help="The file to write, ending in .safetensors.")]
    base: Annotated[str, arg(help="Model the styles were learnt on.")] = "tiny"
    loras: Annotated[Path, arg(help="Folder where styles are looked up by name.")] = Path("loras")


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what a style file or a picture holds."""

    file: Annotated[Positional[Path], arg(help="A .safetensors style or a PNG drawn by difflora.")]
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """Measure a style on concepts it has not seen: style reached, prompt still followed."""

    lora: Annotated[Positional[str], arg(metavar="NAME[:WEIGHT]", help="The style to measure.")]
    images: Annotated[Path, arg(help="Folder with the artist's held-out pictures and their captions.")]
    base: Annotated[str, arg(help="Model to draw with: tiny (embedded), a diffusers folder, or a hub id.")] = "tiny"
    loras: Annotated[Path, arg(help="Folder where styles are looked up by name.")] = Path("loras")
    seed: Annotated[int, arg(help="Seed of the first picture.")] = 0
    json: Json = False


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Ui(UiConfig):
    """Open the studio in a browser: mix, draw, train and export; Ctrl+C ends it."""

    images: UseAppendAction[tuple[Path, ...]] = ()
    auth: UseAppendAction[tuple[str, ...]] = ()
    hash: Annotated[
        str | None,
        arg(
            metavar="USER", help="Ask for a password, print what --auth takes for USER, and end.", help_behavior_hint=""
        ),
    ] = None


Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Sheet, subcommand("sheet")]
    | Annotated[Blend, subcommand("blend")]
    | Annotated[Score, subcommand("score")]
    | Annotated[Inspect, subcommand("inspect")]
    | Annotated[Ui, subcommand("ui")]
)


def main(argv: list[str] | None = None) -> None:
    """Run one command; a DiffloraError becomes one line on stderr and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["--version"]:
            from . import __version__

            print(f"difflora {__version__}")
            return
        run(parse(argv))
    except DiffloraError as error:
        print(f"difflora: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("difflora: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def parse(argv: list[str]) -> Train | Generate | Sheet | Blend | Score | Inspect | Ui:
    """Flags -> one frozen command; `train --config FILE` takes its defaults from the file."""
    options = {"prog": "difflora", "description": "Learn image styles as small adapters, blend them, draw with them."}
    if argv[:1] == ["train"] and (file := config_file(argv)) is not None:
        default = Train(**read_toml(file), config=file)
        return tyro.cli(Train, args=argv[1:], default=default, prog="difflora train")
    return tyro.cli(Command, args=argv or ["--help"], **options)


def config_file(argv: list[str]) -> Path | None:
    """The value of --config, if there is one."""
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        if flag == "--config":
            return Path(value)
        if flag.startswith("--config="):
            return Path(flag.partition("=")[2])
    return None


def run(command: Train | Generate | Sheet | Blend | Score | Inspect | Ui) -> None:
    """Hand a command to the library."""
    # Library notices are for developers; errors still show.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    work = {
        Train: run_train, Generate: run_generate, Sheet: run_sheet, Blend: run_blend, Score: run_score,
        Inspect: run_inspect, Ui: run_ui,
    }  # fmt: skip
    work[type(command)](command)


def config_of(command: Train) -> TrainConfig:
    """The command without what belongs to the command line only."""
    return TrainConfig(**{f.name: getattr(command, f.name) for f in fields(TrainConfig)})


def run_train(command: Train) -> None:
    """difflora train"""
    from . import render
    from .training.train import prepare, train

    screen = render.screen(command.json)
    with screen:
        training = prepare(config_of(command), screen.report)
        screen.plan(training.plan, training)
        result = train(training, screen.report, stop=stop_on_signal())
    screen.trained(result)
    if result.file is None:
        raise SystemExit(130)


def stop_on_signal():
    """A function that says whether Ctrl+C was pressed; pressed twice, it stops at once."""
    pressed = threading.Event()

    def handler(number, frame) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()

    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
    return pressed.is_set


def run_generate(command: Generate) -> None:
    """difflora generate"""
    from . import render
    from .drawing.request import draw_files

    screen = render.screen(command.json)
    with screen:
        files = draw_files(command, screen.report)
    screen.drawn(files)


def run_sheet(command: Sheet) -> None:
    """difflora sheet"""
    from . import render
    from .drawing.strip import draw_sheet

    screen = render.screen(command.json)
    with screen:
        _, cells = draw_sheet(command, screen.report)
    screen.sheet(cells)


def run_blend(command: Blend) -> None:
    """difflora blend"""
    from .drawing.request import blend_file

    print(blend_file(command.lora, command.out, command.base, command.loras))


def run_score(command: Score) -> None:
    """difflora score"""
    from . import render
    from .training.score import score_file

    screen = render.screen(command.json)
    with screen:
        scores = score_file(
            command.lora,
            command.images,
            base=command.base,
            loras=command.loras,
            seed=command.seed,
            report=screen.report,
        )
    screen.scored(scores)


def run_inspect(command: Inspect) -> None:
    """difflora inspect"""
    from . import render

    if command.file.suffix.lower() == ".safetensors":
        from .adapters.files import describe

        values = describe(command.file)
    else:
        from dataclasses import asdict

        from .drawing.recipe import read_recipe

        values = asdict(read_recipe(command.file))
    render.screen(command.json).table(values)


def run_ui(command: Ui) -> None:
    """difflora ui"""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise RequestError("the studio needs gradio, which is not installed: pip install 'difflora[ui]'")
    # The one look up: the studio stands on top of the library, and only its command opens it.
    from webui import server

    if command.hash is not None:
        server.print_account(command.hash)
    else:
        server.serve(UiConfig(**{f.name: getattr(command, f.name) for f in fields(UiConfig)}))


if __name__ == "__main__":
    main()
