"""A folder of pictures as it is, faults and all: for a page that shows, mends and fills it."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..adapters.files import writable_folder, write_atomic
from ..errors import RequestError
from ..events import Event, Note, Progress, Report, ignore
from .data import (
    ENDINGS,
    METADATA,
    SIDECARS,
    Captions,
    bad,
    is_text,
    list_files,
    noted,
    one_line,
    open_file,
    open_picture,
    read_text,
    shown,
)

ROWS = ".jsonl"


@dataclass(frozen=True)
class Picture:
    """One picture of a folder; `problem` is empty, or one line."""

    path: str
    """Relative to the folder, with forward slashes."""
    caption: str
    """Without the trigger."""
    source: str
    width: int
    height: int
    """In pixels, upright; 0 for a picture that cannot be read."""
    problem: str = ""
    refused: bool = False
    """Whether training would stop at it."""


@dataclass(frozen=True)
class Survey:
    """All pictures of a folder, and what is to be said of the folder itself."""

    folder: Path
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    ready: bool
    """Whether training would take the folder as it is."""


def survey(folder: Path, trigger: str | None = None, report: Report = ignore) -> Survey:
    """Look at every picture of a folder as `read_folder` does, without stopping at what is wrong.

    trigger: with one, a picture needs no caption of its own. Raises ImageFolderError when there is no such folder.
    """
    return _survey(Path(folder), trigger, report, {})


def write_caption(folder: Path, picture: str, text: str) -> None:
    """Write the caption of one picture into NAME.txt beside it, on one line.

    picture: its path as `survey` gives it. Raises RequestError for any other, for an empty text, and where two pictures
    share the name that the caption would have; OutputError when it cannot be written.
    """
    files = list_files(folder, ignore)
    found = next((file for file in files if file.as_posix() == picture and file.suffix.lower() in ENDINGS), None)
    if found is None:
        raise RequestError(f"picture {picture[:80]!r}: expected one of this folder's pictures")
    twins = [f.name for f in files if f.suffix.lower() in ENDINGS and f.with_suffix("") == found.with_suffix("")]
    if len(twins) > 1:
        raise RequestError(f"{' and '.join(twins)} would share one caption: expected different names; rename one")
    words = one_line(text)
    if not words:
        raise RequestError(f"an empty caption for {picture}: expected some words")
    wanted = found.with_suffix(".txt")
    # The ending may stand there in capitals.
    there = next((file for file in files if file.with_suffix(file.suffix.lower()) == wanted), wanted)
    write_atomic(folder / there, f"{words}\n".encode("utf-8", "replace"))


def copy_in(
    files: Sequence[Path], folder: Path, *, limit_pictures: int = 500, limit_bytes: int = 2**30, report: Report = ignore
) -> Survey:
    """Copy pictures and their captions (.txt, .caption, .jsonl) into a folder, under clean names, and survey it.

    Pictures of the same name are numbered, each with its own caption. What is refused is said in the survey's notes, a
    line a file; the limits are for the whole folder. Raises OutputError when the folder cannot be written.
    """
    copy = Copy(writable_folder(folder), limit_pictures, limit_bytes)
    ordered = sorted(map(Path, files), key=lambda file: file.parts)
    kinds = {suffix: "picture" for suffix in ENDINGS} | {f".{kind}": "caption" for kind in SIDECARS} | {ROWS: "rows"}
    # Captions follow the names that the pictures were given.
    places = ("picture", "caption", "rows", "")
    ordered.sort(key=lambda file: places.index(kinds.get(file.suffix.lower(), "")))
    for done, file in enumerate(ordered, 1):
        with noted(copy.notes):
            take = {"picture": copy.picture, "caption": copy.caption, "rows": copy.rows}
            take.get(kinds.get(file.suffix.lower(), ""), _refuse)(file)
        report(Progress("copying pictures", done, len(ordered)))
    found = _survey(folder, None, report, copy.sizes)
    return Survey(folder, found.pictures, (*copy.notes, *found.notes), found.ready)


class Copy:
    """What one call of `copy_in` has put where."""

    def __init__(self, folder: Path, limit_pictures: int, limit_bytes: int) -> None:
        self.folder, self.limit_pictures, self.limit_bytes = folder, limit_pictures, limit_bytes
        self.notes: list[str] = []
        self.sizes: dict[Path, tuple[int, int]] = {}
        there = list_files(folder, ignore)
        self.taken = {file.stem.lower() for file in there}
        self.pictures = sum(file.suffix.lower() in ENDINGS for file in there)
        self.bytes = sum((folder / file).lstat().st_size for file in there)
        # By the names they were dropped with: stem -> (folder it came from, picture).
        self.given: dict[str, list[tuple[Path, Path]]] = {}
        self.renamed: dict[str, Path] = {}
        self.in_rows: set[Path] = set()

    def picture(self, file: Path) -> None:
        """One picture, looked through before it is copied."""
        name = shown(Path(file.name))
        if self.pictures >= self.limit_pictures:
            bad(name, f"more than {self.limit_pictures} pictures", f"at most {self.limit_pictures}; leave some out")
        self._room_for(file, name)
        size = open_picture(file, name).size
        stem = clean_name(file.stem)
        number = 1
        while (numbered := f"{stem}-{number}" if number > 1 else stem).lower() in self.taken:
            number += 1
        path = Path(f"{numbered}{file.suffix.lower()}")
        with open_file(file, name) as picture:
            self._write(path, picture.read())
        self.taken.add(numbered.lower())
        self.pictures += 1
        self.sizes[path] = size
        self.given.setdefault(file.stem, []).append((file.parent, path))
        self.renamed.setdefault(file.name, path)

    def caption(self, file: Path) -> None:
        """One caption file, for the picture that lay beside it, or for the only one of that name."""
        name, kind = shown(Path(file.name)), file.suffix.lower()
        self._room_for(file, name)
        text = read_text(file, name)
        pictures = self.given.get(file.stem, [])
        beside = [path for place, path in pictures if place == file.parent]
        fitting = beside or [path for _, path in pictures]
        if len(fitting) != 1 or (self.folder / fitting[0].with_suffix(kind)).exists():
            count = f"{len(fitting) or 'no'} picture{'s' * (len(fitting) != 1)} of that name"
            bad(name, count if len(fitting) != 1 else "a second caption", "one picture and one caption; rename them")
        self._write(fitting[0].with_suffix(kind), text.encode())

    def rows(self, file: Path) -> None:
        """The lines of one metadata.jsonl, with the pictures' new names; what training would stop at is left out."""
        name = shown(Path(file.name))
        self._room_for(file, name)
        kept = []
        for number, line in enumerate(read_text(file, name).split("\n"), 1):
            if not line.strip():
                continue
            with noted(self.notes):
                wanted, text = _row(line, f"{name} line {number}")
                path = self.renamed.get(Path(wanted).name)
                if path is None or path in self.in_rows:
                    what = f"file_name {ascii(wanted)[:80]}"
                    bad(f"{name} line {number}", what, "a picture dropped with it, once; the line is left out")
                self.in_rows.add(path)
                kept.append(json.dumps({"file_name": path.name, "text": text}, ensure_ascii=False))
        place = self.folder / METADATA
        before = place.read_bytes().rstrip(b"\n") + b"\n" if place.exists() else b""
        self._write(Path(METADATA), before + "".join(f"{line}\n" for line in kept).encode())

    def _room_for(self, file: Path, name: str) -> None:
        size = file.stat().st_size if file.is_file() else 0
        if self.bytes + size > self.limit_bytes:
            bad(name, f"{size:,} bytes more", f"at most {self.limit_bytes:,} in all; leave some files out")

    def _write(self, path: Path, data: bytes) -> None:
        write_atomic(self.folder / path, data)
        self.bytes += len(data)


def clean_name(text: str) -> str:
    """The words of a file's name as letters, digits, '.', '_', '-' and spaces, at most 80."""
    plain = "".join(c if c.isalnum() or c in "._- " else "_" for c in unicodedata.normalize("NFC", text))
    return plain.lstrip(" .")[:80].rstrip(" ") or "picture"


def _refuse(file: Path) -> None:
    endings = ", ".join([*ENDINGS, *(f".{kind}" for kind in SIDECARS), ROWS])
    bad(shown(Path(file.name)), file.suffix or "no ending", f"{endings}; convert it or leave it out")


def _row(line: str, where: str) -> tuple[str, str]:
    """(file name, caption) of one line of metadata."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    values = [row.get(key) for key in ("file_name", "text")] if isinstance(row, dict) else [None]
    if not all(isinstance(value, str) and is_text(value) and one_line(value) for value in values):
        form = '{"file_name": "a.png", "text": "words"} as JSON; the line is left out'
        bad(where, ascii(line.strip()[:40]), form)
    return values[0], one_line(values[1])


def _survey(folder: Path, trigger: str | None, report: Report, known: Mapping[Path, tuple[int, int]]) -> Survey:
    """The survey; sizes of pictures that were looked through just now are `known`."""
    notes: list[str] = []

    def keep(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)
        report(event)

    files = list_files(folder, keep)
    paths = [file for file in files if file.suffix.lower() in ENDINGS]
    problems: list[str] = []
    captions = Captions(folder, files, paths, problems)
    hashes: dict[str, Path] = {}
    pictures = []
    for done, path in enumerate(paths, 1):
        pictures.append(_look(folder, path, captions, one_line(trigger or ""), known.get(path), hashes))
        report(Progress("checking pictures", done, len(paths)))
    if not paths:
        notes.append(f"{shown(folder)}: found no pictures, expected {', '.join(ENDINGS)} files; add some")
    ready = bool(paths) and not problems and not any(picture.refused for picture in pictures)
    return Survey(folder, tuple(pictures), (*notes, *problems), ready)


def _look(
    folder: Path,
    path: Path,
    captions: Captions,
    trigger: str,
    size: tuple[int, int] | None,
    hashes: dict[str, Path],
) -> Picture:
    """One picture with its caption; `hashes` tells copies of one seen before, which training would take."""
    found: list[str] = []
    text, source = "", ""
    with noted(found):
        text, source = captions.find(path)
        if not text and not trigger:
            bad(shown(path), "no caption and no words in the name", "a caption; write one")
    with noted(found):
        size = size or open_picture(folder / path, shown(path)).size
    refused = bool(found)
    if size:
        with noted(found), open_file(folder / path, shown(path)) as file:
            first = hashes.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), path)
            if first != path:
                bad(shown(path), f"the same picture as {shown(first)}", "each once; remove one")
    width, height = size or (0, 0)
    return Picture(path.as_posix(), text, source, width, height, "; ".join(found), refused)
