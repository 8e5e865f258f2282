"""A training repeated from what its file says of itself."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from glob import escape
from pathlib import Path

from ..adapters.files import read_header
from ..adapters.header import shown, shown_path
from ..config import TrainConfig, check_name
from ..drawing.again import compared
from ..errors import RequestError
from ..events import Note, Report, ignore
from ..models.family import base_sha256
from .choose import kept_steps, use_checkpoint, used_step
from .kept import BASE
from .train import Training, prepare

# Decided by the plan when it was made; another version, or more pictures, might decide otherwise.
PLANNED = ("rank", "alpha", "learning_rate", "batch", "steps", "resolution", "ema", "holdout", "preview_every")


@dataclass(frozen=True)
class Recipe:
    """What a style file says of its training."""

    config: TrainConfig
    fingerprint: str
    base: str
    """The SHA-256 of the base's UNet, if the file says it."""
    segments: tuple[tuple[int, int], ...]
    """(step, new last step) for steps that were added on the way."""


def read_recipe(file: Path, *, images: Path | None, name: str | None, out: Path, runs: Path) -> Recipe:
    """The config that trains this file again; raises DiffloraError when the file or the pictures don't tell enough.

    images: the folder of pictures; looked for in the run of that name and beside the working directory unless given.
    """
    known = read_header(file).metadata
    config = rows_of(file, known, "difflora.config")
    plan = rows_of(file, known, "difflora.plan") if "difflora.plan" in known else {}
    kinds = {f.name for f in fields(TrainConfig)}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key in kinds}
    values |= {key: plan[key] for key in PLANNED if plan.get(key) is not None}
    fingerprint = known.get("difflora.data", "")
    said = config.get("images", "")
    said = said if isinstance(said, str) else ""
    folder = images or find_images(said, file.stem, runs, fingerprint)
    if folder is None:
        raise RequestError(
            f"{shown_path(file)} was learnt from a folder called {shown(said)!r}, which is not here: "
            "say where it is with --images"
        )
    own = check_name(name or f"{file.stem}-again")
    try:
        segments = json.loads(known.get("difflora.segments", "[]"))
        made = TrainConfig(**values | {"images": folder, "name": own, "out": out, "runs": runs})
        return Recipe(made, fingerprint, known.get(BASE, ""), tuple((int(at), int(total)) for at, total in segments))
    except (TypeError, ValueError, OverflowError, RecursionError, RequestError) as error:
        raise RequestError(f"{shown_path(file)}: its training cannot be read ({shown(error)}); train it anew") from None


def rows_of(file: Path, known: Mapping[str, str], key: str) -> dict:
    """A JSON object of the metadata; RequestError without one."""
    try:
        values = json.loads(known[key])
    except (KeyError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise RequestError(
            f"{shown_path(file)} does not say how it was trained: expected a style file that difflora trained"
        )
    return values


def find_images(name: str, style: str, runs: Path, fingerprint: str) -> Path | None:
    """The folder of the run that used the same pictures, else one of that name here."""
    for run in (runs / style, *sorted(runs.glob(f"{escape(style)}-*"))):
        try:
            key = json.loads((run / "key.json").read_text(encoding="utf-8"))
            config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        folder = Path(str(config.get("images", "")))
        if key.get("data") == fingerprint and folder.is_dir():
            return folder
    try:
        return Path(name) if name and Path(name).is_dir() else None
    except OSError:
        return None


def prepare_again(recipe: Recipe, report: Report = ignore) -> Training:
    """The training of a recipe, with the steps that were added; says when the pictures are not those of the file."""
    training = prepare(recipe.config, report)
    if training.fingerprint != recipe.fingerprint:
        report(Note("the pictures or captions are not those that the file was learnt from: the result will differ"))
    if recipe.base and (now := base_sha256(recipe.config.base)) and now != recipe.base:
        said = f"sha256 of its UNet {now[:12]}, was {recipe.base[:12]}"
        report(Note(f"the base {recipe.config.base} has changed since ({said}): the result will differ"))
    for at, total in recipe.segments[len(training.run.segments()) :]:
        training.run.extend(at, total)
    return training


def at_its_step(original: Path, training: Training, made: Path) -> Path:
    """The new style at the original's own step, where the new run kept it: the original may have been chosen by hand.

    Raises OutputError.
    """
    step, run = used_step(original), training.run
    if step in (None, used_step(made)) or step not in kept_steps(run.folder):
        return made
    return use_checkpoint(run.folder, step, training.config.out, training.name)


def repeated(original: Path, made: Path) -> str:
    """Whether a training came out the same, in words."""
    why = "another machine, another number of threads, other pictures or another version of difflora or its libraries"
    return compared(original, made, why)
