"""difflora train and difflora again."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..config import TrainConfig
from .flags import Json, Positional, Switch, arg, plain_flags

if TYPE_CHECKING:
    from ..render import Person, Script


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Learn a style from a folder of captioned pictures; Ctrl+C pauses, the same command goes on."""

    json: Json = False
    config: Annotated[
        Path | None,
        arg(metavar="FILE", help="TOML file with the same keys; flags beside it win.", help_behavior_hint=""),
    ] = None

    plan: Annotated[
        Switch, arg(help="Print the plan with the memory and time it will take; load no base and train nothing.")
    ] = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..training.train import prepare, train

        screen = render.screen(self.json)
        with screen:
            if self.plan:
                self.foretell(screen)
                return
            training = prepare(config_of(self), screen.report)
            screen.plan(training.plan, training.name)
            result = train(training, screen.report, stop=stop_on_signal())
        screen.trained(result)
        if result.file is None:
            raise SystemExit(130)

    def foretell(self, screen: Person | Script) -> None:
        """Print the plan, its memory and its time."""
        from ..training.foretold import plan_training

        plan, need = plan_training(config_of(self), screen.report)
        screen.foretold(plan, self.name or self.images.resolve().name, need)


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Again:
    """Repeat the training, blend or conversion that made a style file, from its own recipe, and compare the two."""

    file: Annotated[Positional[Path], arg(help="A .safetensors style that difflora made.")]
    images: Annotated[Path | None, arg(help="Folder with the pictures; looked for unless given.")] = None
    name: Annotated[str | None, arg(help="Name of the new style; the old one and -again unless given.")] = None
    out: Annotated[Path, arg(help="Folder for finished styles.")] = Path("loras")
    runs: Annotated[Path, arg(help="Folder for run folders.")] = Path("runs")
    loras: Annotated[Path, arg(help="Folder where the sources of a blend are looked for, beside that of the file.")] = (
        Path("loras")
    )
    base: Annotated[str | None, arg(help="Model to blend or convert on; the one that the file names unless given.")] = (
        None
    )
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..drawing.again import is_made, make_again
        from ..events import Saved

        screen = render.screen(self.json)
        if is_made(self.file):
            with screen:
                made = make_again(self.file, self.loras, self.out, self.name, screen.report, self.base)
                screen.report(Saved(made))
        else:
            self.train(screen)

    def train(self, screen: Person | Script) -> None:
        """Train once more."""
        from ..events import Note
        from ..training.again import at_its_step, prepare_again, read_recipe, repeated
        from ..training.train import train

        with screen:
            recipe = read_recipe(self.file, images=self.images, name=self.name, out=self.out, runs=self.runs)
            training = prepare_again(recipe, screen.report)
            screen.plan(training.plan, training.name)
            result = train(training, screen.report, stop=stop_on_signal())
            if result.file is not None:
                screen.report(Note(repeated(self.file, at_its_step(self.file, training, result.file))))
        screen.trained(result)
        if result.file is None:
            raise SystemExit(130)


def config_of(command: Train) -> TrainConfig:
    """The command without what belongs to the command line only."""
    return TrainConfig(**{f.name: getattr(command, f.name) for f in fields(TrainConfig)})


def stop_on_signal():
    """A function that says whether Ctrl+C was pressed; pressed twice, it stops at once."""
    pressed = threading.Event()

    def handler(number, frame) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()

    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
    return pressed.is_set
