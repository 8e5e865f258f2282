"""Pictures and captions that were dropped on a page -> a folder that training takes."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ..adapters.files import writable_folder, write_atomic
from ..events import Progress, Report, ignore
from .captions import EXCLUDED, METADATA, SIDECARS, read_rows, read_shared
from .pictures import ENDINGS, open_picture
from .reading import bad, list_files, noted, open_file, read_text, shown
from .survey import Survey, survey


def copy_in(
    files: Sequence[Path], folder: Path, *, limit_pictures: int = 500, limit_bytes: int = 2**30, report: Report = ignore
) -> Survey:
    """Copy pictures and the files with their captions into a folder, under clean names, and survey it.

    Pictures of the same name are numbered, each with its own caption. What is refused is said in the survey's notes, a
    line a file; the limits are for the whole folder. Raises OutputError when the folder cannot be written.
    """
    copy = Copy(writable_folder(folder), limit_pictures, limit_bytes)
    ordered = sorted(map(Path, files), key=lambda file: file.parts)
    kinds = dict.fromkeys(ENDINGS, "picture") | dict.fromkeys((".txt", ".caption"), "caption")
    kinds |= dict.fromkeys((".jsonl", ".csv"), "rows") | {".json": "json"}
    # Captions follow the names that the pictures were given.
    places = ("picture", "caption", "rows", "json", "")
    ordered.sort(key=lambda file: places.index(kinds.get(file.suffix.lower(), "")))
    for done, file in enumerate(ordered, 1):
        with noted(copy.notes):
            take = {"picture": copy.picture, "caption": copy.caption, "rows": copy.rows, "json": copy.json}
            take.get(kinds.get(file.suffix.lower(), ""), _refuse)(file)
        report(Progress("copying pictures", done, len(ordered)))
    found = survey(folder, report=report, known=copy.sizes)
    return Survey(folder, found.pictures, (*copy.notes, *found.notes), found.ready)


class Copy:
    """What one call of `copy_in` has put where."""

    def __init__(self, folder: Path, limit_pictures: int, limit_bytes: int) -> None:
        self.folder, self.limit_pictures, self.limit_bytes = folder, limit_pictures, limit_bytes
        self.notes: list[str] = []
        self.sizes: dict[Path, tuple[int, int]] = {}
        there = list_files(folder, ignore)
        # A picture of that name would need a caption file that names pictures to pass over.
        self.taken = {file.stem.lower() for file in there} | {Path(EXCLUDED).stem}
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
        """The rows of metadata, by the pictures' new names; what training would stop at is left out."""
        name = shown(Path(file.name))
        self._room_for(file, name)
        kept = []
        for where, wanted, texts in read_rows(file, name, self.notes):
            with noted(self.notes):
                path = self.renamed.get(PurePosixPath(wanted).name)
                if path is None or path in self.in_rows or not texts:
                    found = f"file_name {ascii(wanted)[:80]}"
                    bad(where, found, "a picture dropped with it, once, and words; the line is left out")
                self.in_rows.add(path)
                kept.append((path, texts))
        self._keep(kept)

    def json(self, file: Path) -> None:
        """The captions of one picture, when it has that name, or of many."""
        if file.stem in self.given:
            self.caption(file)
            return
        name, kept = shown(Path(file.name)), {}
        self._room_for(file, name)
        entries = read_shared(file, name) or bad(name, "no captions", '{"a.png": {"caption": "words"}}; leave it out')
        for key, texts in entries.items():
            path = self._meant(key)
            if path is not None and path not in self.in_rows:
                kept[path] = texts
        self.in_rows.update(kept)
        if len(kept) < len(entries):
            lost = f"{len(entries) - len(kept)} of {len(entries)} captions left out"
            self.notes.append(f"{name}: {lost}, as no picture dropped has that name, or has one already")
        self._keep(kept.items())

    def _meant(self, key: str) -> Path | None:
        """The one picture that a key of shared captions means: a name with or without ending, or a path."""
        name = PurePosixPath(key.replace("\\", "/")).name
        pictures = self.given.get(name, [])
        return self.renamed.get(name) or (pictures[0][1] if len(pictures) == 1 else None)

    def _keep(self, rows: Iterable[tuple[Path, tuple[str, ...]]]) -> None:
        """Write rows behind those that are there."""
        lines = [{"file_name": path.name, "text": list(texts) if len(texts) > 1 else texts[0]} for path, texts in rows]
        place = self.folder / METADATA
        before = place.read_bytes().rstrip(b"\n") + b"\n" if place.exists() else b""
        self._write(Path(METADATA), before + "".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in lines).encode())

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
    endings = ", ".join([*ENDINGS, *(f".{kind}" for kind in SIDECARS), ".jsonl", ".csv"])
    bad(shown(Path(file.name)), file.suffix or "no ending", f"{endings}; convert it or leave it out")
