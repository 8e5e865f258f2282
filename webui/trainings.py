"""Picture folders and runs as the pages ask for them. Knows no page."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from difflora.config import TrainConfig, check_name
from difflora.errors import RequestError
from difflora.events import ignore
from difflora.training.control import ask
from difflora.training.data import ENDINGS, list_files, read_folder
from difflora.training.dropped import copy_in
from difflora.training.plan import make_plan
from difflora.training.survey import Survey, survey, write_caption
from difflora.training.watch import RunView

from .desk import Desk
from .safety import inside

MOST_OPEN, MOST_PICTURES = 200, 2000
DROPPING = threading.Lock()


def open_folder(desk: Desk, text: str) -> str:
    """A folder on this machine, inside the folders given at the start -> its key."""
    if not text.strip():
        raise RequestError("no folder named: expected one inside the folders of this studio")
    folder = inside(text.strip(), [*desk.config.images, desk.config.datasets])
    count = sum(file.suffix.lower() in ENDINGS for file in list_files(folder, ignore))
    if count > MOST_PICTURES:
        raise RequestError(f"{count:,} pictures there: expected the folder of one style, at most {MOST_PICTURES:,}")
    return remember(desk, folder)


def drop(desk: Desk, files: Sequence[Path], key: str | None) -> tuple[str, Survey]:
    """Dropped files -> a new folder of this studio, or more of them into the one that is open."""
    folder = desk.datasets.get(key or "")
    own = desk.config.datasets.resolve()
    # One at a time: two that drop at once would get one folder, or one name for two pictures.
    with DROPPING:
        if folder is None or not folder.resolve().is_relative_to(own):
            number = next(n for n in range(1, 10**6) if not (desk.config.datasets / f"style-{n}").exists())
            folder = desk.config.datasets / f"style-{number}"
        result = copy_in(files, folder, limit_pictures=desk.config.uploads)
        return remember(desk, folder), result


def remember(desk: Desk, folder: Path) -> str:
    """The key under which pages speak of a folder."""
    for key, known in desk.datasets.items():
        if known == folder:
            return key
    key = secrets.token_urlsafe(12)
    desk.datasets[key] = folder
    while len(desk.datasets) > MOST_OPEN:
        desk.datasets.pop(next(iter(desk.datasets)))
    return key


def folder_of(desk: Desk, key: str) -> Path:
    """The folder of a key; RequestError when it is none of this studio's."""
    folder = desk.datasets.get(key or "")
    if folder is None:
        raise RequestError("no pictures are open: drop some, or name a folder")
    return folder


def recaption(desk: Desk, key: str, picture: str, text: str) -> None:
    """Write one picture's caption; raises DiffloraError."""
    write_caption(folder_of(desk, key), picture, text)


def wall(desk: Desk, key: str) -> dict:
    """The pictures of a folder with their captions and what was found wrong, for a page."""
    folder = folder_of(desk, key)
    found = survey(folder)
    rows = [asdict(picture) for picture in found.pictures]
    return {"key": key, "name": folder.name, "rows": rows, "notes": list(found.notes), "ready": found.ready}


def picture_of(desk: Desk, key: str, name: str) -> Path:
    """A picture of an open folder by its relative name; raises RequestError for one outside."""
    folder = folder_of(desk, key)
    return inside(str(folder / name), [folder])


def settle(desk: Desk, config: TrainConfig, key: str) -> TrainConfig:
    """The config with what belongs to the studio: its base and its folders."""
    folder = folder_of(desk, key)
    name = check_name(config.name or folder.name)
    own = desk.config
    return replace(config, images=folder, name=name, base=own.base, out=own.loras, runs=own.runs)


def plan(desk: Desk, config: TrainConfig, key: str) -> dict:
    """What a training would do and why; raises DiffloraError for what it could not do."""
    config = settle(desk, config, key)
    made = make_plan(config, desk.model, read_folder(config.images, config.trigger))
    return made.row() | {"name": config.name, "taken": (desk.config.loras / f"{config.name}.safetensors").exists()}


def start(desk: Desk, config: TrainConfig, key: str) -> tuple[str, dict]:
    """Put a training into the queue: (its name, its plan); raises DiffloraError for what it could not do."""
    made = plan(desk, config, key)
    return desk.queue.add(settle(desk, config, key)), made


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


def run_row(view: RunView, runs: Path) -> dict:
    """A run for a page: figures, curve, previews as places below the runs folder."""
    previews = [
        {"step": step, "files": [path.relative_to(runs).as_posix() for path in paths]} for step, paths in view.previews
    ]
    row = {k: v for k, v in asdict(view).items() if k not in {"folder", "config", "file"}}
    row |= {"previews": previews, "style": view.file.stem if view.file else None}
    # The same name may be another run tomorrow: browsers keep previews under this one's time.
    with suppress(OSError):
        row["since"] = (view.folder / "key.json").stat().st_mtime_ns
    return row
