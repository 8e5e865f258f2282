"""A folder of pictures and captions -> StyleDataset. Every picture is checked before any training time is spent."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from ..errors import ImageFolderError
from ..events import Note, Progress, Report, ignore
from .captions import EXCLUDED, METADATA, SIDECARS, SOURCES, Captions, numbered_folder
from .pictures import DECODER_ERRORS, ENDINGS, open_picture, square
from .reading import SHOWN, bad, is_text, list_files, named, noted, one_line, open_file, read_text, shown

__all__ = [
    "DECODER_ERRORS", "ENDINGS", "EXCLUDED", "METADATA", "SIDECARS", "SOURCES", "Captions", "Item", "StyleDataset",
    "bad", "fingerprint", "is_text", "left_out", "list_files", "noted", "one_line", "open_file", "open_picture",
    "read_excluded", "read_folder", "read_text", "shown", "square",
]  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One picture file and the captions it is learnt with."""

    path: Path
    caption: str
    others: tuple[str, ...] = ()
    """Further captions of the same picture."""
    repeats: int = 1
    """How often the picture is shown for each time that one of 1 is."""
    size: tuple[int, int] = (0, 0)
    """(width, height) in pixels, upright."""

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions, the first one first."""
        return (self.caption, *self.others)


@dataclass(frozen=True, eq=False)
class StyleDataset(Sequence[tuple[Image.Image, str]]):
    """What a style is learnt from: `dataset[i]` is (upright RGB picture in sRGB, first caption).

    `found` counts "pictures" and, under the names in SOURCES, where their captions came from.
    `dataset[i]` raises ImageFolderError when the file is no longer what was checked.
    """

    items: tuple[Item, ...]
    folder: Path
    found: dict[str, int]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:  # type: ignore[override]
        item = self.items[index]
        return open_picture(item.path, shown(item.path)), item.caption


def read_folder(folder: Path, trigger: str | None = None, report: Report = ignore) -> StyleDataset:
    """Read the pictures of `folder` and its subfolders, ordered by name, and decode each once to know that it is whole.

    Captions come from the first of SOURCES that has one, see captions.py; `trigger` is put before each ("trigger,
    caption"). Pictures in a folder named `10_words` count ten times. Left out are hidden files and folders and, with
    a Note, what excluded.txt names and names that are not text; caption files that are not used get a Note too.
    Raises ImageFolderError with one line that names the first three bad files.
    """
    folder, trigger = Path(folder), one_line(trigger or "")
    files = list_files(folder, report)
    pictures = [file for file in files if file.suffix.lower() in ENDINGS]
    out = left_out(folder, pictures, report)
    kept = [picture for picture in pictures if picture not in out] or _nothing(folder, files, len(pictures))
    problems: list[str] = []
    captions = Captions(folder, files, pictures, problems, out)
    found = dict.fromkeys(("pictures", *SOURCES), 0)
    items = []
    for done, picture in enumerate(kept, 1):
        with noted(problems):
            texts, source = captions.of(picture)
            if not texts and not trigger:
                bad(shown(picture), "no caption and no words in the name", "a caption; write a .txt file of that name")
            size = open_picture(folder / picture, shown(picture)).size
            first, *others = [", ".join(part for part in (trigger, text) if part) for text in texts or ("",)]
            items.append(Item(folder / picture, first, tuple(others), repeats_of(picture), size))
            found["pictures"] += 1
            found[source] += 1
        report(Progress("checking pictures", done, len(kept)))
    if problems:
        more = f"; … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ImageFolderError(f"{shown(folder)}: {'; '.join(problems[:SHOWN])}{more}")
    dataset = StyleDataset(tuple(items), folder, found)
    for text in (*captions.unused(), *_remarks(dataset)):
        report(Note(text))
    return dataset


def fingerprint(dataset: StyleDataset) -> str:
    """The sha256 of the files' contents, captions and repeats in order as hex, wherever they lie; ImageFolderError."""
    whole = hashlib.sha256()
    for item in dataset.items:
        with open_file(item.path, shown(item.path)) as file:
            content = hashlib.file_digest(file, "sha256").digest()
        # Digests of fixed length, so that no caption can pass for a part of a picture.
        whole.update(content + hashlib.sha256(item.caption.encode()).digest())
        if item.others or item.repeats != 1:
            whole.update(hashlib.sha256(json.dumps([item.others, item.repeats]).encode()).digest())
    return whole.hexdigest()


def repeats_of(picture: Path) -> int:
    """How often a picture counts: 10 in a folder named `10_words`, as kohya's trainer reads it, else 1.

    picture: relative to the folder; a year before the words, as in `2024_sketches`, is no number of repeats.
    """
    return numbered_folder(picture)[0]


def read_excluded(folder: Path) -> dict[str, str]:
    """What excluded.txt says: relative path -> reason, "" without one; nothing when there is no such file.

    One path a line, forward slashes, `  # reason` after two spaces allowed; empty lines and those that begin with #
    say nothing. Raises ImageFolderError when it cannot be read.
    """
    file = Path(folder) / EXCLUDED
    if not file.exists():
        return {}
    lines = [line.strip() for line in read_text(file, shown(file)).split("\n")]
    split = [re.split(r"\s{2,}#\s*", line, maxsplit=1) for line in lines if line and not line.startswith("#")]
    return {path: "".join(reason) for path, *reason in split}


def left_out(folder: Path, pictures: Sequence[Path], report: Report = ignore) -> set[Path]:
    """Which of the pictures excluded.txt names; Notes say how many, and which lines name none."""
    known = {picture.as_posix(): picture for picture in pictures}
    lines = {PurePosixPath(path).as_posix(): path for path in read_excluded(folder)}
    out = {known[path] for path in lines if path in known}
    if out:
        report(Note(f"{shown(folder)}: {counted(len(out), 'picture')} left out, as {EXCLUDED} says"))
    if lost := [ascii(line) for path, line in lines.items() if path not in known]:
        report(Note(f"{shown(folder / EXCLUDED)}: {named(lost)} named there, but no such picture; correct or remove"))
    return out


def _nothing(folder: Path, files: Sequence[Path], pictures: int) -> list[Path]:
    """Refuse a folder in which there is nothing to learn from, saying what there is."""
    if pictures:
        bad(shown(folder), f"{EXCLUDED} naming every picture ({pictures})", "some that are kept; remove lines from it")
    kinds = ", ".join(sorted({file.suffix.lower() or "no ending" for file in files})[:8])
    there = f"{counted(len(files), 'file')}: {kinds}" if files else "it is empty"
    bad(shown(folder), f"no pictures ({there})", f"{', '.join(ENDINGS)} files; convert them or name another folder")


def counted(count: int, what: str) -> str:
    """ "1 file", "2 files"."""
    return f"{count} {what}{'s' * (count != 1)}"


def _remarks(dataset: StyleDataset) -> list[str]:
    """What a person may not expect of how the folder was read."""
    items, said = dataset.items, []
    sources = {name: n for name, n in dataset.found.items() if n and name != "pictures"}
    if len(sources) > 1:
        said.append("captions come from " + ", ".join(f"{name} ({n})" for name, n in sources.items()))
    if several := sum(bool(item.others) for item in items):
        said.append(f"{counted(several, 'picture')} with several captions: one of them is taken at each showing")
    folders = {item.path.relative_to(dataset.folder).parts[0]: item.repeats for item in items if item.repeats > 1}
    if folders:
        names = [f"{shown(Path(name))} {n} times" for name, n in folders.items()]
        said.append(f"pictures count as often as the number before their folder's name: {named(names)}")
    return [f"{shown(dataset.folder)}: {text}" for text in said]
