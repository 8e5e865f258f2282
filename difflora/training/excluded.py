"""excluded.txt: which pictures training leaves out, and why. Originals are never touched."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ..adapters.files import write_atomic
from ..errors import RequestError
from ..events import ignore
from .data import ENDINGS, EXCLUDED, list_files, one_line, read_excluded, read_text, shown

# Two clicks at once must not write over each other.
WRITING = threading.Lock()
HEAD = "# Left out of training: one picture a line, the reason after two spaces and a #. Remove a line to use it again."


def exclude(folder: Path, paths: Mapping[str, str]) -> int:
    """Add pictures (relative path -> reason) to excluded.txt, and return how many were new; what stands there stays.

    Raises RequestError for a path that is no picture of the folder or cannot stand on a line, OutputError when it
    cannot be written, ImageFolderError when there is no such folder.
    """
    folder = Path(folder)
    _check(folder, paths)
    with WRITING:
        there, new = read_excluded(folder), []
        for path, why in paths.items():
            if path not in there:
                new.append(f"{path}  # {one_line(why)}" if one_line(why) else path)
        if new:
            _write(folder, [*(_lines(folder) or [HEAD]), *new])
        return len(new)


def include(folder: Path, paths: Collection[str]) -> int:
    """Take pictures out of excluded.txt and return how many lines went; other lines stay as they are.

    Raises OutputError, or ImageFolderError when the file cannot be read.
    """
    with WRITING:
        lines = _lines(Path(folder))
        kept = [line for line in lines if _path(line) not in set(paths)]
        if len(kept) < len(lines):
            _write(Path(folder), kept)
        return len(lines) - len(kept)


def _check(folder: Path, paths: Iterable[str]) -> None:
    pictures = {file.as_posix() for file in list_files(folder, ignore) if file.suffix.lower() in ENDINGS}
    for path in paths:
        if path not in pictures:
            raise RequestError(f"picture {path[:80]!r}: expected one of this folder's pictures")
        if one_line(path) != path or _path(path) != path:
            raise RequestError(
                f"{shown(Path(path))}: found a name that {EXCLUDED} cannot hold, expected a plain one; rename it"
            )


def _path(line: str) -> str:
    """The picture that a line names, or nothing."""
    line = line.strip()
    return "" if line.startswith("#") else re.split(r"\s{2,}#\s*", line, maxsplit=1)[0]


def _lines(folder: Path) -> list[str]:
    file = folder / EXCLUDED
    return read_text(file, shown(file)).rstrip("\n").split("\n") if file.exists() else []


def _write(folder: Path, lines: list[str]) -> None:
    write_atomic(folder / EXCLUDED, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
