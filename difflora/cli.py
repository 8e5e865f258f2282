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

from .config import DrawConfig, TrainConfig
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


Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Blend, subcommand("blend")]
    | Annotated[Score, subcommand("score")]
    | Annotated[Inspect, subcommand("inspect")]
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


def parse(argv: list[str]) -> Train | Generate | Blend | Score | Inspect:
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


def read_toml(path: Path) -> dict:
    """A config file's values as TrainConfig takes them; RequestError names an unknown key."""
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"--config {path} is not readable: {error}") from error
    kinds = {f.name: f.type for f in fields(TrainConfig)}
    unknown = sorted(set(values) - set(kinds))
    if unknown or "images" not in values:
        what = f"the key {unknown[0]!r} is unknown" if unknown else "the key 'images' is missing"
        raise RequestError(f"--config {path}: {what}; expected keys among {', '.join(kinds)}")
    for name, value in values.items():
        if name in {"images", "out", "runs"}:
            values[name] = Path(value)
        elif isinstance(value, list):
            values[name] = tuple(value)
    return values


def run(command: Train | Generate | Blend | Score | Inspect) -> None:
    """Hand a command to the library."""
    # Library notices are for developers; errors still show.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    {Train: run_train, Generate: run_generate, Blend: run_blend, Score: run_score, Inspect: run_inspect}[type(command)](
        command
    )


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


if __name__ == "__main__":
    main()
