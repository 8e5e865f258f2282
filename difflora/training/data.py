"""A folder of pictures and captions -> StyleDataset. Every picture is checked before any training time is spent."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from PIL import Image, ImageCms, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import ImageFolderError
from ..events import Note, Progress, Report, ignore

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
SIDECARS = ("txt", "caption")
METADATA = "metadata.jsonl"
SOURCES = (*SIDECARS, METADATA, "file name")
MIN_SIDE, MAX_SIDE, MAX_PIXELS = 16, 16_384, 100_000_000
SHOWN = 3
# What decoders raise about bytes they cannot use; anything else is a bug and shows itself.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)


@dataclass(frozen=True)
class Item:
    """One picture file and the caption it is learnt with."""

    path: Path
    caption: str


@dataclass(frozen=True, eq=False)
class StyleDataset(Sequence[tuple[Image.Image, str]]):
    """What a style is learnt from: `dataset[i]` is (upright RGB picture in sRGB, caption).

    `found` counts "pictures" and where their captions came from: "txt", "caption", "metadata.jsonl", "file name".
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

    A caption is, in this order: NAME.txt or NAME.caption beside NAME.png, the picture's "text" in a metadata.jsonl, or
    the file name in words; `trigger` is put before it ("trigger, caption"). Hidden files and folders are left out, and,
    with a Note, names that are not text. Raises ImageFolderError with one line that names the first three bad files.
    """
    folder, trigger = Path(folder), one_line(trigger or "")
    files = list_files(folder, report)
    pictures = [file for file in files if file.suffix.lower() in ENDINGS]
    if not pictures:
        kinds = ", ".join(sorted({file.suffix.lower() or "no ending" for file in files})[:8])
        there = f"{len(files)} file{'s' * (len(files) != 1)}: {kinds}" if files else "it is empty"
        bad(shown(folder), f"no pictures ({there})", f"{', '.join(ENDINGS)} files; convert them or name another folder")
    problems: list[str] = []
    captions = Captions(folder, files, pictures, problems)
    found = dict.fromkeys(("pictures", *SOURCES), 0)
    items = []
    for done, picture in enumerate(pictures, 1):
        with noted(problems):
            text, source = captions.find(picture)
            if not text and not trigger:
                bad(shown(picture), "no caption and no words in the name", "a caption; write a .txt file of that name")
            open_picture(folder / picture, shown(picture))
            items.append(Item(folder / picture, ", ".join(part for part in (trigger, text) if part)))
            found["pictures"] += 1
            found[source] += 1
        report(Progress("checking pictures", done, len(pictures)))
    if problems:
        more = f"; … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ImageFolderError(f"{shown(folder)}: {'; '.join(problems[:SHOWN])}{more}")
    return StyleDataset(tuple(items), folder, found)


def fingerprint(dataset: StyleDataset) -> str:
    """The sha256 of the files' contents and captions in order as hex, wherever they lie; raises ImageFolderError."""
    whole = hashlib.sha256()
    for item in dataset.items:
        with open_file(item.path, shown(item.path)) as file:
            content = hashlib.file_digest(file, "sha256").digest()
        # Two digests of fixed length, so that no caption can pass for a part of a picture.
        whole.update(content + hashlib.sha256(item.caption.encode()).digest())
    return whole.hexdigest()


def square(picture: Image.Image, px: int) -> Image.Image:
    """The picture resized so that its shorter side is `px`, and its central (px, px) part."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # Resizing only the part that is kept: a 16 x 16,000 strip would otherwise grow to a billion pixels first.
    return picture.resize((px, px), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


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

    files, unreadable = [], 0
    for place, folders, names in os.walk(folder, onerror=refuse):
        unreadable += sum(not is_text(name) for name in (*folders, *names))
        folders[:] = [name for name in folders if is_text(name) and not name.startswith(".")]
        here = Path(place).relative_to(folder)
        files += [here / name for name in names if is_text(name) and not name.startswith(".")]
    if unreadable:
        report(Note(f"{shown(folder)}: {unreadable} left out, as their names are not UTF-8; rename them to use them"))
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
        try:
            return file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            bad(name, f"a byte at {error.start} that is not UTF-8", "UTF-8 text; save it again with that encoding")


class Captions:
    """Where the caption of each picture stands; what is wrong with metadata.jsonl goes to `problems`."""

    def __init__(self, folder: Path, files: list[Path], pictures: list[Path], problems: list[str]) -> None:
        self.folder = folder
        self.files = {file.with_suffix(file.suffix.lower()): file for file in reversed(files)}
        self.sharing: dict[Path, list[Path]] = {}
        for picture in pictures:
            self.sharing.setdefault(picture.with_suffix(""), []).append(picture)
        self.told: dict[Path, str] = {}
        for file in (file for file in files if file.name == METADATA):
            with noted(problems):
                for number, line in enumerate(read_text(folder / file, shown(file)).split("\n"), 1):
                    with noted(problems):
                        self.tell(file.parent, line, f"{shown(file)} line {number}")

    def tell(self, place: Path, line: str, where: str) -> None:
        """Take in one line of the metadata.jsonl in `place`; empty lines say nothing."""
        if not line.strip():
            return
        form = '{"file_name": "a.png", "text": "words"} as JSON; correct or remove the line'
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            bad(where, ascii(line.strip()[:40]), form)
        values = [row.get(key) for key in ("file_name", "text")] if isinstance(row, dict) else [None]
        if not all(isinstance(value, str) and is_text(value) for value in values):
            bad(where, "no file_name or no text", form)
        picture, text = place / row["file_name"], one_line(row["text"])
        if picture not in self.sharing.get(picture.with_suffix("") if picture.name else picture, ()):
            bad(where, f"file_name {ascii(row['file_name'])}", "a picture in this folder; correct or remove the line")
        if picture in self.told:
            bad(where, f"{shown(picture)} a second time", "one line each; remove one")
        if not text:
            bad(where, f"an empty caption for {shown(picture)}", "some words; write them or remove the line")
        self.told[picture] = text

    def find(self, picture: Path) -> tuple[str, str]:
        """(caption, where it came from); the caption is empty only for a file name without words."""
        for source in SIDECARS:
            if file := self.files.get(picture.with_suffix(f".{source}")):
                names = list(map(shown, self.sharing[picture.with_suffix("")]))
                if len(names) > 1:
                    bad(
                        shown(file), f"a caption for both {' and '.join(names)}", "one picture of that name; rename one"
                    )
                text = one_line(read_text(self.folder / file, shown(file)))
                return text or bad(shown(file), "an empty caption", "some words, or no such file"), source
        if picture in self.told:
            return self.told[picture], METADATA
        words = one_line(re.sub(r"[-_]+", " ", picture.stem))
        return re.sub(r"(( |^)\d+| ?\(\d+\))$", "", words), "file name"


def open_picture(path: Path, name: str) -> Image.Image:
    """The file as an upright RGB picture in sRGB, alpha over white. Raises ImageFolderError, beginning with `name`."""
    with open_file(path, name) as file:
        try:
            picture = read_header(file, name)
            check_size(picture.size, name)
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                bad(name, f"an animation of {frames} frames", "a still picture; save one of them or remove it")
            picture.load()
            picture = ImageOps.exif_transpose(picture)
        except DECODER_ERRORS as error:
            reason = one_line(str(error))[:80] or type(error).__name__
            bad(name, f"damaged or incomplete data ({reason})", "a whole picture; copy or save it again, or remove it")
    return to_srgb(picture, name)


def read_header(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """The picture, not decoded yet: by what the file contains, whatever its name ends in."""
    start = file.read(12)
    file.seek(0)
    # Image.open would warn of large pictures or refuse them by a limit that belongs to the whole process, and would
    # try every format there is; here the limits are difflora's own.
    if start.startswith(b"\x89PNG"):
        return PngImageFile(file)
    if start.startswith(b"\xff\xd8"):
        return JpegImageFile(file)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return WebPImageFile(file)
    bad(name, f"data that begin with {start[:8]!r}" if start else "an empty file", "PNG, JPEG or WebP; save it as one")


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise ImageFolderError unless (width, height) in pixels can be learnt from and decoded safely."""
    found = f"{size[0]:,} x {size[1]:,} pixels"
    if min(size) < MIN_SIDE:
        bad(name, found, f"sides of at least {MIN_SIDE}; remove it")
    if max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
        bad(name, found, f"sides up to {MAX_SIDE:,} and at most {MAX_PIXELS // 10**6} megapixels; make it smaller")


def to_srgb(picture: Image.Image, name: str) -> Image.Image:
    """The picture as RGB over white, its colours taken through the embedded profile when there is one."""
    embedded, alpha = picture.info.get("icc_profile"), None
    if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip instead of scaling
        picture = picture.convert("I").point(lambda value: value / 257).convert("L")
    elif picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        alpha, picture = rgba.getchannel("A"), rgba.convert("L" if picture.mode.startswith("L") else "RGB")
    if embedded:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
            mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(profile.profile.xcolor_space.strip())
            # A grey or CMYK profile on a picture of another kind says nothing about its colours.
            if mode in ("RGB", picture.mode):
                srgb = ImageCms.createProfile("sRGB")
                picture = ImageCms.profileToProfile(picture.convert(mode), profile, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            bad(name, f"a damaged colour profile ({one_line(str(error))[:80]})", "a readable one; save it as sRGB")
    page = Image.new("RGB", picture.size, "white")
    page.paste(picture.convert("RGB"), mask=alpha)
    return page
