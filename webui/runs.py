"""Trainings as the pages ask for them: what one would take, what may be said to it, how it stands. Knows no page."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock

from difflora.adapters.disk import stamp
from difflora.config import TrainConfig, check_name
from difflora.errors import RequestError
from difflora.training.apart import plan_apart
from difflora.training.choose import choose_kept, used_step
from difflora.training.control import add_steps, ask
from difflora.training.data import read_folder
from difflora.training.doctor import exclude
from difflora.training.plan import make_plan
from difflora.training.watch import Checkpoint, RunView

from .desk import Desk
from .trainings import folder_of, remember, seen

MOST, MANY = 8, 24
MEASURING = Lock()


def settle(desk: Desk, config: TrainConfig, key: str) -> TrainConfig:
    """The config with what belongs to the studio: its base and its folders."""
    folder = folder_of(desk, key)
    name = check_name(config.name or folder.name)
    own = desk.config
    places = {"base": own.base, "bases": own.bases, "vae": own.vae, "out": own.loras, "runs": own.runs}
    return replace(config, images=folder, name=name, **places)


def plan(desk: Desk, config: TrainConfig, key: str) -> dict:
    """What a training would do and why, its minutes and memory measured; raises DiffloraError for what it cannot do."""
    config = settle(desk, config, key)
    # Each measuring opens a base of its own.
    with MEASURING:
        return plan_apart(config) | named(desk, config)


def start(desk: Desk, config: TrainConfig, key: str) -> tuple[str, dict]:
    """Put a training into the queue: (its name, its plan, not measured); DiffloraError for what it could not do."""
    config = settle(desk, config, key)
    made = make_plan(config, desk.model, read_folder(config.images, config.trigger)).row()
    return desk.queue.add(config), made | named(desk, config)


def named(desk: Desk, config: TrainConfig) -> dict:
    """The name that the style will have, and whether one has it now."""
    return {"name": config.name, "taken": (desk.config.loras / f"{config.name}.safetensors").exists()}


def speak(desk: Desk, name: str, what: str) -> None:
    """What a page may say to a run: pause, resume, stop, save, preview, sooner, later, remove, delete."""
    queue = desk.queue
    run = desk.runs.view(check_name(name)).folder
    match what:
        case "pause":
            queue.pause(name)
        case "resume":
            queue.resume(name)
        case "delete":
            queue.delete(name)
        case "remove":
            queue.remove(name)
        case "sooner" | "later":
            queue.move(name, -1 if what == "sooner" else 1)
        case "stop" | "save" | "preview":
            ask(run, what)  # type: ignore[arg-type]
        case _:
            raise RequestError(f"{what[:20]!r}: expected pause, resume, stop, save, preview, sooner, later or delete")


def more(desk: Desk, name: str, count: int) -> None:
    """Add steps to a run; one that rests goes on with them. Raises RequestError."""
    view = desk.runs.view(check_name(name))
    add_steps(view.folder, count)
    if view.state in ("paused", "finished", "failed"):
        desk.queue.resume(name)


def use(desk: Desk, name: str, step: int) -> str:
    """Make the checkpoint of a step the run's style, in the library; its name. Raises DiffloraError."""
    folder = desk.runs.view(check_name(name)).folder
    desk.queue.let_end(name)
    return choose_kept(folder, step, desk.config.loras).stem


def leave_out(desk: Desk, name: str, picture: str) -> None:
    """Leave a picture of a run's folder out of coming trainings; the picture itself stays. Raises DiffloraError."""
    view = desk.runs.view(check_name(name))
    folder = folder_seen(desk, view)
    if folder is None or picture not in {row.get("picture") for row in view.pictures}:
        raise RequestError(f"{picture[:80]!r}: expected a picture of this training, in a folder of this studio")
    verdict = next(row.get("verdict") for row in view.pictures if row.get("picture") == picture)
    exclude(folder, {picture: f"{verdict} by {name}"})


def folder_seen(desk: Desk, view: RunView) -> Path | None:
    """The folder that a run learnt from, if pages may see it."""
    place = str((view.config or {}).get("images", ""))
    return seen(desk, Path(place)) if place and view.pictures else None


def run_row(desk: Desk, view: RunView) -> dict:
    """A run for a page: figures, curve, the wall of checkpoints, what its pictures taught."""
    apart = {"folder", "config", "file", "plan", "previews", "pictures"}
    row = {k: v for k, v in asdict(view).items() if k not in apart}
    row["taught"] = taught(view)
    row["checkpoints"] = [mark_row(mark) for mark in view.checkpoints]
    row["style"] = view.file.stem if view.file else None
    row["used"] = None
    row["eighth"] = max(1, round((view.plan or {}).get("steps", 0) / 8))
    if folder := folder_seen(desk, view):
        row["key"] = remember(desk, folder)
    # The same name may be another run tomorrow: browsers keep previews under this one's time.
    with suppress(OSError):
        row["since"] = (view.folder / "key.json").stat().st_mtime_ns
        if view.file:
            row["used"] = step_of(view.folder / view.file.name, *stamp(view.folder / view.file.name))
    return row


def mark_row(mark: Checkpoint) -> dict:
    """A checkpoint for a page."""
    files = [path.name for path in mark.previews]
    return {"step": mark.step, "scores": mark.scores, "kept": mark.file is not None, "files": files}


def taught(view: RunView) -> dict[str, list[dict]]:
    """The pictures that taught most, those that were never learnt, and those that were learnt by heart."""

    def among(verdict: str) -> list[dict]:
        found = [row for row in view.pictures if row.get("verdict") == verdict]
        return [{"picture": row.get("picture"), "learnt": row.get("learnt")} for row in found]

    return {
        "most": among("learnt")[:MOST],
        "never": among("never learnt")[-MANY:],
        "heart": among("learnt by heart")[:MANY],
    }


@lru_cache(maxsize=256)
def step_of(file: Path, *version: int) -> int | None:
    """The step whose checkpoint a run's finished file is; read once for each state of the file."""
    return used_step(file)
