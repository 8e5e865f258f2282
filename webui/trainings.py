"""Picture folders as the pages ask for them. Knows no page."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from difflora.errors import RequestError
from difflora.events import ignore
from difflora.training.data import ENDINGS, list_files
from difflora.training.doctor import check, exclude, include
from difflora.training.dropped import copy_in
from difflora.training.survey import Survey, survey, write_caption

from .desk import Desk
from .safety import inside
from .words import in_words

MOST_OPEN, MOST_PICTURES = 200, 2000
DROPPING, LOOKING = threading.Lock(), threading.Lock()


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


def leave_out(desk: Desk, key: str, why: Mapping[str, str]) -> None:
    """Leave pictures (path -> reason) out of training; they stay where they are. Raises DiffloraError."""
    exclude(folder_of(desk, key), why)


def take_back(desk: Desk, key: str, pictures: Sequence[str]) -> None:
    """Learn from pictures again that were left out; raises DiffloraError."""
    include(folder_of(desk, key), pictures)


def verdicts(desk: Desk, key: str, trigger: str) -> dict:
    """What the doctor says of a folder's pictures, for a page."""
    folder = folder_of(desk, key)
    # One at a time: what one page had looked at, the next one knows.
    with LOOKING:
        row = check(folder, trigger=trigger[:200], model=desk.model).row()
    return {"verdicts": row["verdicts"], "groups": row["groups"], "notes": [in_words(note) for note in row["notes"]]}


def wall(desk: Desk, key: str) -> dict:
    """The pictures of a folder with their captions and what was found wrong, for a page."""
    folder = folder_of(desk, key)
    found = survey(folder)
    rows = [asdict(picture) for picture in found.pictures]
    return {
        "key": key,
        "name": folder.name,
        "rows": rows,
        "notes": [in_words(note) for note in found.notes],
        "ready": found.ready,
    }


def picture_of(desk: Desk, key: str, name: str) -> Path:
    """A picture of an open folder by its relative name; raises RequestError for one outside."""
    folder = folder_of(desk, key)
    return inside(str(folder / name), [folder])
