"""The `difflora` command: parse, call, render. No arithmetic, and no torch before a command needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Protocol

from .commands.adapter import Convert, Inspect
from .commands.bases import Bases
from .commands.caption import Caption
from .commands.conflict import Conflict
from .commands.doctor import Doctor
from .commands.draw import Generate, Sheet
from .commands.flags import cli, subcommand
from .commands.folder import Check
from .commands.merge import Extract, Merge, Resize
from .commands.runs import Runs
from .commands.style import Blend, Score
from .commands.train import Again, Train
from .commands.ui import Ui
from .config_file import read_config
from .errors import DiffloraError


class Command(Protocol):
    """What every verb is."""

    def run(self) -> None:
        """Call the library and render."""


Commands = (
    Annotated[Train, subcommand("train")]
    | Annotated[Again, subcommand("again")]
    | Annotated[Runs, subcommand("runs")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Sheet, subcommand("sheet")]
    | Annotated[Blend, subcommand("blend")]
    | Annotated[Score, subcommand("score")]
    | Annotated[Conflict, subcommand("conflict")]
    | Annotated[Inspect, subcommand("inspect")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Merge, subcommand("merge")]
    | Annotated[Resize, subcommand("resize")]
    | Annotated[Extract, subcommand("extract")]
    | Annotated[Caption, subcommand("caption")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Bases, subcommand("bases")]
    | Annotated[Doctor, subcommand("doctor")]
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
        quiet()
        parse(argv).run()
    except DiffloraError as error:
        print(f"difflora: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        # Whoever read has what it wanted, as head does; nothing is left to be written at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        print("difflora: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def parse(argv: list[str]) -> Command:
    """Flags -> one frozen command; `train --config FILE` takes its defaults from the file."""
    options = {"prog": "difflora", "description": "Learn image styles as small adapters, blend them, draw with them."}
    if argv[:1] == ["train"] and (file := config_file(argv)) is not None:
        default = Train(**read_config(file), config=file)
        return cli(Train, args=argv[1:], default=default, prog="difflora train")
    return cli(Commands, args=argv or ["--help"], **options)


def config_file(argv: list[str]) -> Path | None:
    """The value of --config, if there is one."""
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        if flag == "--config":
            return Path(value)
        if flag.startswith("--config="):
            return Path(flag.partition("=")[2])
    return None


def quiet() -> None:
    """Library notices are for developers; errors still show."""
    for library in ("TRANSFORMERS", "DIFFUSERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


if __name__ == "__main__":
    main()
