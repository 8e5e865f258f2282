"""Where a checkpoint is written to: looked at before the work, put in place after it. Knows no tensors."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..config import demand
from ..errors import OutputError
from .checkpoint import INDEX, Checkpoint
from .disk import refused
from .header import shown_path, unreadable
from .library import SUFFIX
from .stream import PIECE, taken

SPARE = 2**21
"""Bytes that headers may take."""


def check_target(opened: Checkpoint, out: Path, overwrite: bool) -> None:
    """Look at the name before time is spent: RequestError for one that does not suit the base, OutputError if taken."""
    if opened.is_folder:
        demand(
            out.suffix != SUFFIX, f"--out {shown_path(out)} for a folder as base",
            "a folder's name, without .safetensors: a folder gives a folder",
        )  # fmt: skip
        own, other = opened.path.resolve(), out.resolve()
        nested = own != other and (own.is_relative_to(other) or other.is_relative_to(own))
        demand(not nested, f"--out {shown_path(out)} and the base, one inside the other", "a folder beside it")
    else:
        demand(
            out.suffix == SUFFIX, f"--out {shown_path(out)} for a single file as base",
            "a name ending in .safetensors: a single file gives a single file",
        )  # fmt: skip
    try:
        there, folder = out.exists() or out.is_symlink(), out.parent.is_dir()
    except (OSError, ValueError) as error:
        raise refused(out, error) from None
    if not folder:
        raise refused(out, FileNotFoundError(2, "no such folder"))
    if there and not overwrite:
        raise taken(out)
    if there and out.is_dir() is not opened.is_folder:
        raise OutputError(
            f"{shown_path(out)} is there already, and something else; expected a free name; choose another"
        )


def check_room(out: Path, size: int) -> None:
    """OutputError when the disk cannot hold so many bytes more."""
    try:
        free = shutil.disk_usage(out.parent).free
    except OSError:
        return
    if free < size + SPARE:
        raise OutputError(
            f"{shown_path(out)} takes {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free there; expected more room; "
            "free some space or choose another folder"
        )


@contextmanager
def folder_in_place(out: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder to fill, which takes the name `out` when the block ends well; else nothing of it is left.

    A folder that was there is replaced at the end, and only one of a model with no other files. Raises OutputError.
    """
    temp, old = (out.parent / f".{secrets.token_hex(8)}.tmp" for _ in range(2))
    try:
        temp.mkdir()
        yield temp
        if out.exists():
            _check_replaced(out, temp, overwrite)
            os.replace(out, old)
        os.rename(temp, out)
    except OSError as error:
        raise refused(out, error) from error
    finally:
        if old.exists() and not out.exists():
            os.replace(old, out)
        shutil.rmtree(temp, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):
        handle = os.open(out.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_replaced(out: Path, new: Path, overwrite: bool) -> None:
    if not overwrite:
        raise taken(out)
    names = {file.name for file in out.iterdir()}
    if INDEX not in names or names - {file.name for file in new.iterdir()}:
        raise OutputError(
            f"{shown_path(out)} holds other files than a model's; expected a free name; choose another, nothing of it "
            "was changed"
        )


def inside(folder: Path, place: Path) -> Path:
    """A file's place in a folder, with the folders that lead to it."""
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def copy_file(source: Path, target: Path, done: Callable[[int], None]) -> None:
    """A file's bytes under a new name, told as they go; AdapterFileError, OutputError."""
    try:
        old = source.open("rb")
    except OSError as error:
        raise unreadable(source, error) from None
    try:
        with old, open(target, "xb") as new:
            while piece := old.read(PIECE):
                new.write(piece)
                done(len(piece))
            new.flush()
            os.fsync(new.fileno())
    except OSError as error:
        raise refused(target, error) from error
