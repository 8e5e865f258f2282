"""Picture folders as the pages ask for them. Knows no page."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from difflora.adapters.files import writable_folder, write_atomic
from difflora.errors import RequestError
from difflora.events import ignore
from difflora.training.data import ENDINGS, list_files
from difflora.training.doctor import check, exclude, include
from difflora.training.dropped import copy_in
from difflora.training.survey import Survey, survey, write_caption

from .desk import Desk
from .safety import inside
from .words import in_words

MOST_OPEN, MOST_PICTURES = 1000, 2000
DROPPING, KEYS = threading.Lock(), threading.RLock()
# Each reading decodes every picture of a folder.
READING = threading.Semaphore(2)


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
    folder = known_folders(desk).get(key or "")
    own = desk.config.datasets.resolve()
    # One at a time: two that drop at once would get one folder, or one name for two pictures.
    with DROPPING:
        if folder is None or not folder.resolve().is_relative_to(own):
            number = next(n for n in range(1, 10**6) if not (desk.config.datasets / f"style-{n}").exists())
            folder = desk.config.datasets / f"style-{number}"
        result = copy_in(files, folder, limit_pictures=desk.config.uploads)
        return remember(desk, folder), result


def remember(desk: Desk, folder: Path) -> str:
    """The key under which pages speak of a folder: unguessable, and the same after a restart."""
    with KEYS:
        known = known_folders(desk)
        key = next((key for key, place in known.items() if place == folder), "")
        if not key:
            key = secrets.token_urlsafe(12)
            # The newest last: what is forgotten first was opened first.
            known[key] = folder
            while len(known) > MOST_OPEN:
                known.pop(next(iter(known)))
            writable_folder(desk.config.datasets)
            rows = {key: str(place) for key, place in known.items()}
            write_atomic(desk.config.datasets / ".keys.json", json.dumps(rows).encode())
        return key


def known_folders(desk: Desk) -> dict[str, Path]:
    """All folders that pages have keys for, read from disk once."""
    if not desk.datasets:
        with suppress(OSError, ValueError, AttributeError):
            rows = json.loads((desk.config.datasets / ".keys.json").read_text(encoding="utf-8"))
            desk.datasets.update({str(key): Path(place) for key, place in rows.items()})
    return desk.datasets


def folder_of(desk: Desk, key: str) -> Path:
    """The folder of a key; RequestError when it is none of this studio's, or lies in none of its folders any more."""
    folder = known_folders(desk).get(key or "")
    if folder is None:
        raise RequestError("no pictures are open: drop some, or name a folder")
    if (found := seen(desk, folder)) is None:
        raise RequestError(f"{folder.name} is not there any more: drop its pictures, or name another folder")
    return found


def seen(desk: Desk, folder: Path) -> Path | None:
    """The folder, links followed, if it is there and pages may see it."""
    with suppress(RequestError):
        found = inside(str(folder), [*desk.config.images, desk.config.datasets])
        return found if found.is_dir() else None
    return None


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
    row = check(folder_of(desk, key), trigger=trigger[:200], model=desk.model).row()
    return {"verdicts": row["verdicts"], "groups": row["groups"], "notes": [in_words(note) for note in row["notes"]]}


def wall(desk: Desk, key: str) -> dict:
    """The pictures of a folder with their captions and what was found wrong, for a page."""
    folder = folder_of(desk, key)
    with READING:
        found = survey(folder)
    rows = [asdict(picture) for picture in found.pictures]
    return {"key": key, "name": folder.name, "rows": rows, "notes": [in_words(note) for note in found.notes]}


def picture_of(desk: Desk, key: str, name: str) -> Path:
    """A picture of an open folder by its relative name; raises RequestError for one outside."""
    folder = folder_of(desk, key)
    return inside(str(folder / name), [folder])
