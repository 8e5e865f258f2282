"""Bytes on disk: written whole or not at all. Knows no tensors."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from ..errors import AdapterFileError, OutputError
from .header import header_length, shown, shown_path, unreadable

READ_ONLY = "the place is read-only or belongs to someone else; choose another folder"
REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your share of the disk is used up; free some space or choose another folder",
    errno.EROFS: READ_ONLY,
    errno.EACCES: READ_ONLY,
    errno.EPERM: READ_ONLY,
    errno.ENOENT: "there is no such folder; create it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.EISDIR: "a folder has that name; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that its name always shows either all of the old bytes or all of the new ones.

    The folder must exist. Raises OutputError, with the old file left as it was and nothing else left behind.
    """
    path = Path(path)
    temp = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(temp, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except (OSError, ValueError) as error:
        raise refused(path, error) from error
    finally:
        with suppress(OSError, ValueError):
            temp.unlink(missing_ok=True)
    with suppress(OSError):
        _sync_folder(path.parent)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write a folder of files, whole or not at all; one that was written so before is replaced.

    Raises OutputError, also when something else has that name.
    """
    folder = Path(folder)
    old = folder.with_name(f".{secrets.token_hex(8)}.tmp")
    if folder.exists() and not (
        folder.is_dir() and {p.name for p in folder.iterdir()} <= {n.split("/")[0] for n in files}
    ):
        raise OutputError(
            f"{shown_path(folder)} is there already, with other files; expected a free name; choose another"
        )
    temp = folder.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        for name, data in files.items():
            (temp / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(temp / name, data)
        if folder.exists():
            os.replace(folder, old)
        os.replace(temp, folder)
    except (OSError, ValueError) as error:
        raise refused(folder, error) from error
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(temp, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):
        _sync_folder(folder.parent)
    return folder


def refused(path: Path, error: Exception, what: str = "written") -> OutputError:
    """Why a place could not be written, as our own error."""
    number = error.errno if isinstance(error, OSError) else None
    reason = REASONS.get(number or 0) or f"{shown(getattr(error, 'strerror', None) or error)}; choose another place"
    return OutputError(f"{shown_path(path)} cannot be {what}: {reason}")


def take_name(temp: Path, path: Path) -> bool:
    """Give a finished file of the same disk a name, if that is free; False, with `temp` left, if it is taken.

    Raises OutputError.
    """
    try:
        try:
            os.link(temp, path)
        except FileExistsError:
            return False
        except OSError:
            # Some file systems know no links; there the last look and the new name are two steps.
            if path.exists():
                return False
            os.rename(temp, path)
        temp.unlink(missing_ok=True)
    except OSError as error:
        raise refused(path, error) from error
    with suppress(OSError):
        _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name outlast a power cut, on systems that can: the file itself is complete already."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def writable_folder(folder: Path) -> Path:
    """Make the folder if need be and try it, before time is spent on what goes there; raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error, "made") from error
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    write_atomic(probe, b"")
    with suppress(OSError):
        probe.unlink()
    return folder


def sha256(path: Path) -> str:
    """The SHA-256 of a whole file, in hex; raises AdapterFileError if it cannot be read."""
    try:
        with opened(Path(path)) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise unreadable(Path(path), error) from None


def opened(path: Path) -> BinaryIO:
    """A regular file to read; OSError for a pipe or a device, which may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")
    return path.open("rb")


def content_sha256(path: Path) -> str:
    """The SHA-256 of a style's numbers, all bytes after the header, in hex: renaming or editing its words keeps it.

    Of a folder it is that of its files' hashes and settings. Computed once for as long as the file stays as it is.
    Raises AdapterFileError if it cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            kinds = ("*.safetensors", "*/*.safetensors", "adapter_config.json", "*/adapter_config.json")
            files = sorted({file for kind in kinds for file in path.glob(kind)})
            parts = [sha256(f) if f.suffix == ".json" else _content_sha256(f, stamp(f)) for f in files]
            return hashlib.sha256("".join(parts).encode()).hexdigest()
        return _content_sha256(path, stamp(path))
    except AdapterFileError as error:
        raise AdapterFileError(f"{shown_path(path)}: {error}") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file does: its place on the disk, its time in nanoseconds, its size; raises OSError."""
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


@lru_cache(maxsize=4096)
def _content_sha256(path: Path, at: tuple[int, int, int]) -> str:
    with opened(path) as file:
        file.seek(8 + header_length(file.read(64), at[2]))
        return hashlib.file_digest(file, "sha256").hexdigest()
