"""Captions for pictures that have none, by a model that describes them: ordinary .txt files, to be read and edited."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..adapters.files import write_atomic
from ..errors import DiffloraError, ImageFolderError
from ..events import Note, Progress, Report, ignore
from ..models.captioner import LENGTHS, Captioner, Mode
from .captions import Captions
from .contentwords import content_tags, content_words
from .data import left_out
from .pictures import ENDINGS, open_picture
from .reading import SHOWN, bad, list_files, named, noted, one_line, shown
from .survey import caption_file

MOST_SIDE = 2048
NAMES = ("folder name", "file name", "")


@dataclass(frozen=True)
class Captioned:
    """What became of the pictures of a folder; paths are relative to it."""

    written: tuple[Path, ...] = ()
    had_one: int = 0
    """Pictures that were passed over, as they have a caption."""
    refused: tuple[str, ...] = ()
    """One line for each picture that got none."""
    left: int = 0
    """Pictures still to come when it was stopped."""
    overwrite: bool = False
    """Whether pictures with a caption get new ones, so that beginning again begins with the first."""

    def row(self) -> dict:
        """JSON-ready values."""
        written = [path.as_posix() for path in self.written]
        return {"written": written, "had_one": self.had_one, "refused": list(self.refused), "left": self.left}

    def words(self) -> dict[str, str]:
        """For a person."""
        again = "describes all of them again" if self.overwrite else "goes on"
        rows = {
            "described": f"{len(self.written)}, each in a .txt file beside its picture to be read and corrected"
            if self.written
            else "0",
            "passed over": f"{self.had_one} with a caption; --overwrite describes them anew" if self.had_one else "",
            "refused": f"{len(self.refused)} without a caption" if self.refused else "",
            "paused": f"{self.left} left; the same command {again}" if self.left else "",
        }
        return {name: text for name, text in rows.items() if text}


def caption_folder(
    folder: Path,
    captioner: Captioner,
    *,
    mode: Mode = "content",
    prompt: str | None = None,
    prefix: str = "",
    overwrite: bool = False,
    batch: int = 4,
    report: Report = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> Captioned:
    """Write NAME.txt for each picture of `folder` without a caption, as soon as it is made; names are no captions.

    mode: "content" leaves out words about the style, "full" takes the model at its word, "tags" writes tags. prompt:
    asked in place of the mode's own question. prefix: put before each. overwrite: pictures with captions get new ones.
    `stop` is asked between batches; the same call goes on. Raises DiffloraError for what concerns the whole folder.
    """
    question = captioner.question(mode, prompt)
    paths, files, had_one = uncaptioned(Path(folder), overwrite, report)
    written: list[Path] = []
    refused: list[str] = []
    began = time.monotonic()
    for start in range(0, len(paths), batch):
        if stop():
            return Captioned(tuple(written), had_one, tuple(refused), len(paths) - start, overwrite)
        opened = _open(Path(folder), paths[start : start + batch], files, refused)
        said = captioner.describe([picture for _, picture in opened], question, LENGTHS[mode]) if opened else []
        for (path, _), text in zip(opened, said, strict=True):
            with noted(refused):
                words = _words(text, mode) or bad(shown(path), _answer(text), "words on what is shown; write them")
                file = caption_file(path, files)
                write_atomic(Path(folder) / file, f"{one_line(f'{prefix} {words}')}\n".encode("utf-8", "replace"))
                written.append(path)
        done = min(start + batch, len(paths))
        report(Progress("describing", done, len(paths), (time.monotonic() - began) / done * (len(paths) - done)))
    if refused:
        report(Note(f"{shown(Path(folder))}: {len(refused)} without a caption: {named(refused)}"))
    return Captioned(tuple(written), had_one, tuple(refused))


def uncaptioned(folder: Path, overwrite: bool, report: Report = ignore) -> tuple[list[Path], list[Path], int]:
    """(pictures to describe, all files, number of pictures that have a caption); what excluded.txt names is neither.

    Raises ImageFolderError for a folder without pictures, and for captions that cannot be read.
    """
    files = list_files(folder, report)
    pictures = [file for file in files if file.suffix.lower() in ENDINGS]
    if not pictures:
        bad(shown(folder), "no pictures", f"{', '.join(ENDINGS)} files; name another folder")
    out = left_out(folder, pictures, report)
    problems: list[str] = []
    captions = Captions(folder, files, pictures, problems, out)
    if problems:
        raise ImageFolderError(f"{shown(folder)}: {'; '.join(problems[:SHOWN])}")
    kept = [picture for picture in pictures if picture not in out]
    bare = [picture for picture in kept if overwrite or _source(captions, picture) in NAMES]
    # One that is left out takes no other's place for a caption.
    files = [file for file in files if file not in out]
    return bare, files, len(kept) - len(bare)


def _source(captions: Captions, picture: Path) -> str:
    """Where the caption stands; "" for one that cannot be used, such as an empty file."""
    try:
        return captions.of(picture)[1]
    except ImageFolderError:
        return ""


def _open(folder: Path, paths: list[Path], files: list[Path], refused: list[str]) -> list[tuple[Path, Image.Image]]:
    """The pictures that can be opened and whose captions have a place; the others are said."""
    opened = []
    for path in paths:
        try:
            caption_file(path, files)
            picture = open_picture(folder / path, shown(path))
            # No model looks closer, and a batch of large pictures would fill the memory.
            picture.thumbnail((MOST_SIDE, MOST_SIDE))
            opened.append((path, picture))
        except DiffloraError as problem:
            refused.append(str(problem))
    return opened


def _words(text: str, mode: Mode) -> str:
    """What is kept of a model's answer."""
    return {"content": content_words, "tags": content_tags, "full": one_line}[mode](text)


def _answer(text: str) -> str:
    return f"an answer of nothing but style, {ascii(text)[:60]}" if text.strip() else "an empty answer of the model"
