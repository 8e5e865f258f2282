"""A folder of pictures as it is, faults and all: for a page that shows, mends and fills it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..adapters.files import write_atomic
from ..errors import RequestError
from ..events import Event, Note, Progress, Report, ignore
from .captions import EXCLUDED, Captions
from .data import left_out, read_excluded
from .pictures import ENDINGS, open_picture
from .reading import bad, list_files, noted, one_line, open_file, shown


@dataclass(frozen=True)
class Picture:
    """One picture of a folder; `problem` is empty, or one line."""

    path: str
    """Relative to the folder, with forward slashes."""
    caption: str
    """Without the trigger; a line each when there are several."""
    source: str
    """Where it stands, one of SOURCES in captions.py."""
    width: int
    height: int
    """In pixels, upright; 0 for a picture that cannot be read."""
    problem: str = ""
    refused: bool = False
    """Whether training would stop at it."""
    excluded: bool = False
    """Whether excluded.txt names it, so that training passes over it."""


@dataclass(frozen=True)
class Survey:
    """All pictures of a folder, and what is to be said of the folder itself."""

    folder: Path
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    ready: bool
    """Whether training would take the folder as it is."""


def survey(
    folder: Path,
    trigger: str | None = None,
    report: Report = ignore,
    known: Mapping[Path, tuple[int, int]] | None = None,
) -> Survey:
    """Look at every picture of a folder as `read_folder` does, without stopping at what is wrong.

    trigger: with one, a picture needs no caption of its own. known: sizes of pictures that were looked through just
    now. Raises ImageFolderError when there is no such folder.
    """
    folder, notes, problems = Path(folder), [], []

    def keep(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)
        report(event)

    files = list_files(folder, keep)
    paths = [file for file in files if file.suffix.lower() in ENDINGS]
    out: set[Path] = set()
    with noted(problems):
        out = left_out(folder, paths, keep)
    look = Look(folder, Captions(folder, files, paths, problems, out), one_line(trigger or ""), out, known or {})
    pictures = []
    for done, path in enumerate(paths, 1):
        pictures.append(look.at(path))
        report(Progress("checking pictures", done, len(paths)))
    if len(out) == len(paths):
        found = f"no pictures but those that {EXCLUDED} names" if paths else "no pictures"
        notes.append(f"{shown(folder)}: found {found}, expected {', '.join(ENDINGS)} files; add some")
    ready = len(out) < len(paths) and not problems and not any(picture.refused for picture in pictures)
    return Survey(folder, tuple(pictures), (*notes, *problems, *look.captions.unused()), ready)


def write_caption(folder: Path, picture: str, text: str) -> None:
    """Write the captions of one picture into NAME.txt beside it, each non-empty line of `text` as one.

    picture: its path as `survey` gives it. Raises RequestError for any other, for an empty text, and where two pictures
    share the name that the caption would have; OutputError when it cannot be written.
    """
    files = list_files(folder, ignore)
    found = next((file for file in files if file.as_posix() == picture and file.suffix.lower() in ENDINGS), None)
    if found is None:
        raise RequestError(f"picture {picture[:80]!r}: expected one of this folder's pictures")
    lines = [line for line in map(one_line, text.splitlines()) if line]
    if not lines:
        raise RequestError(f"an empty caption for {picture}: expected some words")
    out = read_excluded(folder)
    wanted = caption_file(found, [file for file in files if file == found or file.as_posix() not in out])
    write_atomic(folder / wanted, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))


def caption_file(picture: Path, files: Sequence[Path]) -> Path:
    """Where the caption of a picture is written, relative to its folder as `files` are.

    Raises RequestError where two pictures share that name, or where something else has it.
    """
    wanted = picture.with_suffix(".txt")
    twins = [f.name for f in files if f.suffix.lower() in ENDINGS and f.with_suffix("") == picture.with_suffix("")]
    if len(twins) > 1:
        raise RequestError(f"{' and '.join(twins)} would share one caption: expected different names; rename one")
    if wanted == Path(EXCLUDED):
        raise RequestError(f"{picture}: its caption would be {EXCLUDED}, which names pictures to pass over; rename it")
    # The ending may stand there in capitals.
    return next((file for file in files if file.with_suffix(file.suffix.lower()) == wanted), wanted)


@dataclass(frozen=True)
class Look:
    """What is known of a folder while its pictures are looked at, one after the other."""

    folder: Path
    captions: Captions
    trigger: str
    excluded: set[Path]
    known: Mapping[Path, tuple[int, int]]
    hashes: dict[str, Path] = field(default_factory=dict)
    """Pictures seen, by their bytes."""

    def at(self, path: Path) -> Picture:
        """One picture with its captions and what is wrong with it; copies stop nothing."""
        found: list[str] = []
        texts, source, size, out = (), "", self.known.get(path), path in self.excluded
        with noted(found):
            texts, source = self.captions.of(path)
            if not texts and not self.trigger:
                bad(shown(path), "no caption and no words in the name", "a caption; write one")
        with noted(found):
            size = size or open_picture(self.folder / path, shown(path)).size
        refused = bool(found) and not out
        if size and not out:
            with noted(found), open_file(self.folder / path, shown(path)) as file:
                first = self.hashes.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), path)
                if first != path:
                    bad(shown(path), f"the same picture as {shown(first)}", "each once; remove one")
        width, height = size or (0, 0)
        return Picture(path.as_posix(), "\n".join(texts), source, width, height, "; ".join(found), refused, out)
