"""Changes to the library: a style's words edited, renamed, thrown away, taken in. Its numbers stay as they are."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from ..config import check_name, demand
from ..errors import AdapterFileError, OutputError
from ..strength import WEIGHT_LIMIT
from .adapter import Adapter
from .convert import Converted, repair
from .disk import content_sha256, refused, take_name, writable_folder, write_atomic
from .families import Match
from .files import load_adapter, save_adapter
from .header import parse_header, read_header, shown, shown_path, unreadable
from .library import SUFFIX
from .metadata import THUMBNAIL, TRIGGER, WEIGHT, data_url, trigger_rows
from .names import Shapes
from .packing import pack
from .thumbnail import clean_thumbnail

__all__ = [
    "content_sha256",
    "edit",
    "good_name",
    "install",
    "mend_style",
    "put_style",
    "rename",
    "replace_style",
    "trash",
]

# A file that is rewritten while another thread renames it or throws it away would come back under its old name.
CHANGING = threading.RLock()
MAX_FILE = 2 * 2**30
TRASH = ".trash"


def edit(
    path: Path, *, trigger: str | None = None, weight: float | None = None, thumbnail: bytes | None = None
) -> Path:
    """Change a style's trigger, preferred weight (-10 to 10) or picture in its header, and leave what is None.

    An empty trigger or picture takes the old one away. Raises RequestError for a value that cannot be kept,
    AdapterFileError for a file that cannot be read, OutputError for a place that cannot be written.
    """
    rows: dict[str, str] = {}
    if trigger is not None:
        words = trigger.strip()
        fits = words.isprintable() and len(words) <= 120
        demand(fits, f"trigger {shown(words)!r}", "one line of at most 120 letters")
        # The row stays when it is empty: it says that there is no trigger, whatever lies beside the file.
        rows |= {TRIGGER: ""} | trigger_rows(words)
    if weight is not None:
        demand(abs(weight) <= WEIGHT_LIMIT, f"weight {weight:g}", "a number from -10 to 10")
        rows[WEIGHT] = f"{weight:g}"
    if thumbnail is not None:
        clean = clean_thumbnail(thumbnail)
        expected = "a PNG, JPEG or WebP of at most 1 MB and 1024 px a side"
        demand(bool(clean) or not thumbnail, f"picture of {len(thumbnail):,} bytes", expected)
        rows[THUMBNAIL] = data_url(clean) if clean else ""
    with CHANGING:
        if rows:
            write_atomic(Path(path), _rewritten(Path(path), rows))
    return Path(path)


def rename(path: Path, name: str) -> Path:
    """Give a style another name, in the folder and inside its file; both files exist for a moment, never neither.

    Raises RequestError for a name that is bad or taken, and what `edit` raises.
    """
    path = Path(path)
    target = path.with_name(f"{check_name(name)}{SUFFIX}")
    temp = path.with_name(f".{secrets.token_hex(8)}{SUFFIX}")
    with CHANGING:
        data = _rewritten(path, {"ss_output_name": name, "modelspec.title": name})
        try:
            write_atomic(temp, data)
            demand(take_name(temp, target), f"name {name!r} is taken in {shown_path(path.parent)}", "a free one")
            path.unlink()
        except OSError as error:
            raise refused(path, error, "removed") from error
        finally:
            with suppress(OSError):
                temp.unlink(missing_ok=True)
        _take_along(path, target)
    return target


def trash(path: Path) -> Path:
    """Move a style to the .trash folder beside it, with the time in its name; raises OutputError."""
    path = Path(path)
    folder = writable_folder(path.parent / TRASH)
    stem = f"{path.stem}-{datetime.now():%Y%m%d-%H%M%S}"
    if not path.is_file():
        raise OutputError(f"{shown_path(path)}: no such file; expected a style; look at the folder again")
    with CHANGING:
        target = _free(path, folder, stem)
        _take_along(path, target)
    return target


def replace_style(path: Path, adapter: Adapter, metadata: Mapping[str, str]) -> Path:
    """Save a style as `save_adapter` does; another one that had its name is kept in the .trash folder.

    Raises OutputError, with the old style left as it was.
    """
    return _replaced(path, lambda: save_adapter(path, adapter, metadata))


def put_style(path: Path, data: bytes) -> Path:
    """Write a style's whole file; another one that had its name is kept in the .trash folder.

    Raises OutputError, with the old style left as it was.
    """
    return _replaced(path, lambda: write_atomic(path, data))


def mend_style(path: Path, base: Match | None = None) -> Converted:
    """Put the copy that `repair` writes in a style's place; the old file is kept in the .trash folder in any case.

    base: as for `repair`. Raises what `repair` raises, with the old style left as it was.
    """
    path = Path(path)
    place = path.with_name(f".{secrets.token_hex(8)}")
    with CHANGING:
        try:
            made = repair(path, writable_folder(place) / path.name, base=base)
            _replaced(path, lambda: os.replace(made.path, path), forget=False)
        except OSError as error:
            raise refused(path, error) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return replace(made, path=path)


def _replaced(path: Path, write: Callable[[], object], forget: bool = True) -> Path:
    """forget: whether the old file goes where the new one has the same numbers."""
    if not path.is_file():
        write()
        return path
    temp = path.with_name(f".{secrets.token_hex(8)}{SUFFIX}")
    try:
        _copy(path, temp)
        old = _free(temp, writable_folder(path.parent / TRASH), f"{path.stem}-{datetime.now():%Y%m%d-%H%M%S}")
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
    write()
    with suppress(AdapterFileError, OSError):
        # The same training once more: nothing is lost.
        if forget and content_sha256(old) == content_sha256(path):
            old.unlink()
    return path


def install(source: Path, folder: Path, shapes: Shapes, family: str, name: str | None = None) -> Path:
    """Copy a style into the library under a free name (name, name-2 …) after checking every number of the copy.

    Raises AdapterFileError for a file over 2 GB or one that `load_adapter` refuses, RequestError for a bad name,
    OutputError for a folder that cannot be written; nothing is left behind then.
    """
    source, folder = Path(source), Path(folder)
    stem = check_name(name) if name else good_name(source.stem)
    read_header(source)
    writable_folder(folder)
    temp = folder / f".{secrets.token_hex(8)}{SUFFIX}"
    try:
        _copy(source, temp)
        load_adapter(temp, shapes, family)
        return _free(temp, folder, stem)
    except AdapterFileError as error:
        raise AdapterFileError(str(error).replace(shown_path(temp), shown_path(source))) from None
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)


def _rewritten(path: Path, rows: Mapping[str, str]) -> bytes:
    """The file with other words in its header; hashes are made anew, numbers are the same bytes."""
    read_header(path)
    try:
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        parse_header(data[:start], len(data))
        tensors = json.loads(data[8:start])
        packed = pack(tensors, memoryview(data)[start:], tensors.pop("__metadata__", {}) | dict(rows))
        parse_header(packed[: 8 + int.from_bytes(packed[:8], "little")], len(packed))
    except AdapterFileError as error:
        raise AdapterFileError(f"{shown_path(path)}: {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    return packed


def _copy(source: Path, temp: Path) -> None:
    """A complete copy on the disk; raises AdapterFileError, OutputError."""
    try:
        size = source.stat().st_size
        if size > MAX_FILE:
            raise AdapterFileError(
                f"{shown_path(source)}: {size:,} bytes; expected a style of at most 2 GB; choose another file"
            )
        with source.open("rb") as old, temp.open("xb") as new:
            shutil.copyfileobj(old, new, 2**20)
            new.flush()
            os.fsync(new.fileno())
    except OSError as error:
        raise refused(temp, error) from error


def _free(file: Path, folder: Path, stem: str) -> Path:
    """Move a file to the first free of stem, stem-2 …"""
    number = 1
    while not take_name(file, target := folder / f"{stem if number == 1 else f'{stem}-{number}'}{SUFFIX}"):
        number += 1
    return target


def _take_along(old: Path, new: Path) -> None:
    """Move what A1111 keeps beside a style, unless something of that name is there already."""
    beside, target = old.with_suffix(".json"), new.with_suffix(".json")
    with suppress(OSError):
        if beside.is_file() and not target.exists():
            beside.rename(target)


def good_name(stem: str) -> str:
    """A file's name without what a style's name may not hold."""
    kept = "".join(c if c.isalnum() or c in "._- " else "-" for c in stem).lstrip(".").strip()[:70]
    return check_name(kept.encode()[:160].decode(errors="ignore").strip() or "style")
