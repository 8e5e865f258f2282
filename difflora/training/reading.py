"""The files of a folder, listed and read; what is wrong with one is said in one line with its name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from ..errors import ImageFolderError
from ..events import Note, Report

SHOWN = 3
STRANGE = (".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif", ".avif", ".jxl", ".psd", ".svg", ".raw", ".dng")
MOST_TEXT = 64 * 2**20


def bad(name: str, found: str, expected: str) -> NoReturn:
    """Raise ImageFolderError in the house's sentence: what, found, expected and what to do."""
    raise ImageFolderError(f"{name}: found {found}, expected {expected}")


@contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """Keep what is wrong with one file, so that the next ones are looked at too."""
    try:
        yield
    except ImageFolderError as problem:
        problems.append(str(problem))


def shown(path: Path) -> str:
    """A path as it may stand in a one-line message."""
    text = path.as_posix()
    return text if text.isprintable() else ascii(text)


def one_line(text: str) -> str:
    """The text with every run of white space, line ends included, as one space."""
    return " ".join(text.split())


def list_files(folder: Path, report: Report) -> list[Path]:
    """All files below `folder` that are not hidden, relative to it and sorted."""
    if not folder.is_dir():
        bad(shown(folder), "a file" if folder.exists() else "nothing there", "a folder of pictures; correct the path")

    def refuse(error: OSError) -> None:
        bad(str(error.filename), f"a folder that cannot be opened ({error.strerror})", "one you may read")

    files, unreadable, linked = [], 0, []
    for place, folders, names in os.walk(folder, onerror=refuse):
        unreadable += sum(not is_text(name) for name in (*folders, *names))
        folders[:] = [name for name in folders if is_text(name) and not name.startswith(".")]
        here = Path(place).relative_to(folder)
        linked += [shown(here / name) for name in folders if (Path(place) / name).is_symlink()]
        files += [here / name for name in names if is_text(name) and not name.startswith(".")]
    if unreadable:
        report(Note(f"{shown(folder)}: {unreadable} left out, as their names are not UTF-8; rename them to use them"))
    if linked:
        report(Note(f"{shown(folder)}: not looked into, as they are links: {named(linked)}; put the pictures there"))
    if strange := [shown(file) for file in sorted(files) if file.suffix.lower() in STRANGE]:
        report(Note(f"{shown(folder)}: {len(strange)} not read: {named(strange)}; save them as PNG, JPEG or WebP"))
    return sorted(files, key=lambda file: file.parts)


def is_text(name: str) -> bool:
    """Whether it is valid text: undecodable bytes in a file's name arrive as lone surrogates."""
    return name.encode(errors="ignore").decode() == name


def open_file(path: Path, name: str) -> BinaryIO:
    """The file, open for reading. Raises ImageFolderError, beginning with `name`."""
    try:
        # A pipe or a device would wait for ever, and a link may lead nowhere.
        return path.open("rb") if path.is_file() else bad(name, "no ordinary file", "one; remove or replace it")
    except OSError as error:
        bad(name, f"a file that cannot be read ({error.strerror})", "one you may read; change its permissions")


def read_text(path: Path, name: str) -> str:
    """The whole file as text; a byte order mark is accepted."""
    with open_file(path, name) as file:
        data = file.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            bad(name, f"more than {MOST_TEXT // 2**20} MiB", "a file of captions; remove it")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            bad(name, f"a byte at {error.start} that is not UTF-8", "UTF-8 text; save it again with that encoding")


def named(names: Sequence[str]) -> str:
    """The first three names and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
