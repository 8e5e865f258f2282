"""Where the caption of a picture stands. The first of these that has one is taken, and what is not used is said:

1. NAME.txt, 2. NAME.caption: every line that is not empty is a caption of its own.
3. NAME.json: {"caption": words, "tags": words or a list}, joined with a comma, as kohya's trainer does.
4. metadata.jsonl, 5. metadata.csv: rows of file_name and text (or caption, captions), relative to where they lie.
6. Any other .json: {path or name of a picture: what a NAME.json holds, or the words themselves}.
7. The folder's name, when it is `10_words`.  8. The file's name, in words.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from .pictures import ENDINGS
from .reading import bad, is_text, named, noted, one_line, read_text, shown

SIDECARS = ("txt", "caption", "json")
METADATA, TABLE, SHARED = "metadata.jsonl", "metadata.csv", "shared json"
TOLD = (METADATA, TABLE, SHARED)
SOURCES = (*SIDECARS, *TOLD, "folder name", "file name")
EXCLUDED = "excluded.txt"
ROW_FORM = '{"file_name": "a.png", "text": "words"} as JSON; correct or remove the line'
Texts = tuple[str, ...]


class Captions:
    """The captions of the pictures of one folder; what is wrong with a file for many of them goes to `problems`."""

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        pictures: Sequence[Path],
        problems: list[str],
        excluded: Collection[Path] = (),
    ) -> None:
        """files, pictures, excluded: relative to `folder`; excluded pictures may be named but need no caption."""
        self.folder, self.excluded = folder, excluded
        self.pictures = set(pictures)
        self.files = {file.with_suffix(file.suffix.lower()): file for file in reversed(files)}
        self.files.pop(Path(EXCLUDED), None)
        self.sharing: dict[Path, list[Path]] = {}
        self.by_name: dict[str, list[Path]] = {}
        for picture in pictures:
            self.sharing.setdefault(picture.with_suffix(""), []).append(picture)
            for name in (picture.name, picture.stem):
                self.by_name.setdefault(name, []).append(picture)
        self.told: dict[str, dict[Path, Texts]] = {source: {} for source in TOLD}
        self.lonely: list[str] = []
        self.strange: list[str] = []
        self.lost: dict[str, list[str]] = {}
        self.overruled: dict[str, list[str]] = {}
        for file in files:
            low = file.with_suffix(file.suffix.lower())
            with noted(problems):
                if self.files.get(low) == file:
                    self._take_in(low, file, problems)
                elif low in self.files and low.suffix not in ENDINGS:
                    self.strange.append(f"{shown(file)} (beside {shown(self.files[low])})")

    def of(self, picture: Path) -> tuple[Texts, str]:
        """(captions, the one of SOURCES they came from); none only for names without words. ImageFolderError."""
        texts, source, passed = (), "", []
        for kind in SIDECARS:
            if file := self.files.get(picture.with_suffix(f".{kind}")):
                if texts:
                    passed.append(shown(file))
                else:
                    texts, source = self._sidecar(file, kind), kind
        for name in TOLD:
            if picture in self.told[name]:
                if texts:
                    passed.append(f"{name} for {shown(picture)}")
                else:
                    texts, source = self.told[name][picture], name
        if passed:
            self.overruled.setdefault(source, []).extend(passed)
        return (texts, source) if texts else from_name(picture)

    def unused(self) -> list[str]:
        """A line for each way in which words that lie in the folder are not taken; known once `of` ran for each."""
        said = []
        if self.lonely:
            said.append(f"{len(self.lonely)} not used, as no picture has that name: {named(self.lonely)}")
        if self.strange:
            said.append(f"{len(self.strange)} not used, as no captions are found in it: {named(self.strange)}")
        for source, names in self.overruled.items():
            said.append(f"{len(names)} not used, as {source} comes first: {named(names)}")
        for file, keys in self.lost.items():
            said.append(f"{len(keys)} in {file} not used, as no picture has that name: {named(keys)}")
        return [f"{shown(self.folder)}: captions: {text}" for text in said]

    def _take_in(self, low: Path, file: Path, problems: list[str]) -> None:
        """Read a file that speaks of several pictures, or note one that speaks of none."""
        kind, beside = low.suffix.removeprefix("."), low.with_suffix("") in self.sharing
        if file.name in (METADATA, TABLE):
            for where, name, texts in read_rows(self.folder / file, shown(file), problems):
                with noted(problems):
                    self._tell(file, where, name, texts)
        elif kind == "json" and not beside:
            self._tell_shared(file)
        elif kind in ("txt", "caption") and not beside:
            self.lonely.append(shown(file))
        elif kind in ("jsonl", "csv"):
            self.strange.append(f"{shown(file)} (only {METADATA} and {TABLE} are read)")

    def _tell(self, file: Path, where: str, name: str, texts: Texts) -> None:
        """Take in one row of a metadata file."""
        picture = file.parent / name
        if picture not in self.pictures:
            bad(where, f"file_name {ascii(name)}", "a picture in this folder; correct or remove the line")
        if picture in self.told[file.name]:
            bad(where, f"{shown(picture)} a second time", "one line each; remove one")
        if not texts:
            bad(where, f"an empty caption for {shown(picture)}", "some words; write them or remove the line")
        self.told[file.name][picture] = texts

    def _tell_shared(self, file: Path) -> None:
        """Take in one JSON file of captions for many pictures."""
        entries = read_shared(self.folder / file, shown(file))
        known = [(key, texts, self._meant(file.parent, key)) for key, texts in entries.items()]
        if not any(pictures for _, _, pictures in known):
            self.strange.append(shown(file))
            return
        for key, texts, pictures in known:
            if len(pictures) > 1:
                names = " and ".join(map(shown, pictures[:2]))
                bad(shown(file), f"{ascii(key)} for both {names}", "a path that tells them apart; correct it")
            if not pictures:
                self.lost.setdefault(shown(file), []).append(ascii(key))
            elif pictures[0] in self.told[SHARED]:
                bad(shown(file), f"{shown(pictures[0])} a second time", "one entry each; remove one")
            else:
                self.told[SHARED][pictures[0]] = texts

    def _meant(self, place: Path, key: str) -> list[Path]:
        """The pictures that a key may mean: kohya writes names with or without ending, or paths of another machine."""
        parts = PurePosixPath(key.replace("\\", "/")).parts
        for i in range(len(parts)):
            path = place.joinpath(*parts[i:])
            if path in self.pictures:
                return [path]
            if path in self.sharing:
                return [picture for picture in self.sharing[path] if picture not in self.excluded]
        last = parts[-1] if parts else ""
        return [p for p in self.by_name.get(last, ()) if p.is_relative_to(place) and p not in self.excluded]

    def _sidecar(self, file: Path, kind: str) -> Texts:
        """The captions in a file of one picture's own; none only for a JSON file that holds other things."""
        sharing = [p for p in self.sharing[file.with_suffix("")] if p not in self.excluded]
        if len(sharing) > 1:
            names = " and ".join(map(shown, sharing))
            bad(shown(file), f"a caption for both {names}", "one picture of that name; rename one")
        if kind == "json":
            texts = entry_texts(read_json(self.folder / file, shown(file)))
            if texts is None:
                self.strange.append(shown(file))
            elif not texts:
                bad(shown(file), "an empty caption", "some words, or no such file")
            return texts or ()
        lines = map(one_line, read_text(self.folder / file, shown(file)).splitlines())
        return once(lines) or bad(shown(file), "an empty caption", "some words, or no such file")


def from_name(picture: Path) -> tuple[Texts, str]:
    """The caption of last resort: the words of a folder named `10_words`, else those of the file's name."""
    if words := plain_words(numbered_folder(picture)[1]):
        return (words,), "folder name"
    words = re.sub(r"(( |^)\d+| ?\(\d+\))$", "", plain_words(picture.stem))
    return ((words,) if words else ()), "file name"


def numbered_folder(picture: Path) -> tuple[int, str]:
    """(10, "words") for a picture, relative to its folder, in one named `10_words`; (1, "") for any other."""
    found = re.fullmatch(r"([1-9]\d{0,2})_(.*)", picture.parts[0]) if len(picture.parts) > 1 else None
    return (int(found[1]), found[2]) if found else (1, "")


def plain_words(name: str) -> str:
    """A name's words without the dashes between them."""
    return one_line(re.sub(r"[-_]+", " ", name))


def read_rows(path: Path, name: str, problems: list[str]) -> Iterator[tuple[str, str, Texts]]:
    """(where, file_name, captions) of each row of a .jsonl or .csv; what is wrong with a row goes to `problems`."""
    text = read_text(path, name)
    if path.suffix.lower() == ".csv":
        yield from _table_rows(text, name, problems)
        return
    for number, line in enumerate(text.split("\n"), 1):
        with noted(problems):
            if line.strip():
                yield _checked(_json_row(line), f"{name} line {number}", ascii(line.strip()[:40]))


def _json_row(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _table_rows(text: str, name: str, problems: list[str]) -> Iterator[tuple[str, str, Texts]]:
    """The rows of a table with a header."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = reader.fieldnames or []
        if "file_name" not in header or not {"text", "caption"} & set(header):
            found = f"the header {ascii(','.join(map(str, header)))[:80]}"
            bad(name, found, "file_name,text on the first line, with a comma between; correct it")
        for row in reader:
            with noted(problems):
                where = f"{name} line {reader.line_num}"
                if None in row:
                    bad(where, "more fields than the header has", "captions with commas in double quotes; quote it")
                yield _checked({key: value for key, value in row.items() if value is not None}, where, "")
    except csv.Error as error:
        bad(f"{name} line {reader.line_num}", f"no table ({error})", "rows of file_name,text; correct the quotes")


def _checked(row: object, where: str, line: str) -> tuple[str, str, Texts]:
    """One row, when it names a picture and has words."""
    if not isinstance(row, dict):
        bad(where, line, ROW_FORM)
    name, texts = row.get("file_name"), words_of(row)
    if not isinstance(name, str) or not is_text(name) or texts is None:
        bad(where, "no file_name or no text", ROW_FORM)
    return where, name, texts


def read_json(path: Path, name: str) -> object:
    """What a JSON file holds; raises ImageFolderError."""
    try:
        return json.loads(read_text(path, name))
    except (ValueError, RecursionError) as error:
        bad(name, f"no JSON ({one_line(str(error))[:80]})", "whole JSON; save it again or remove it")


def read_shared(path: Path, name: str) -> dict[str, Texts]:
    """Path or name of a picture -> captions, from a JSON file; empty when it holds other things. ImageFolderError."""
    whole = read_json(path, name)
    entries = whole.items() if isinstance(whole, dict) else ()
    texts = {key: entry_texts(value if isinstance(value, dict) else {"caption": value}) for key, value in entries}
    return {key: found for key, found in texts.items() if found and is_text(key)}


def entry_texts(entry: object) -> Texts | None:
    """The captions of one picture's JSON, its tags behind each; None when it has neither."""
    if not isinstance(entry, dict):
        return None
    texts, tags = words_of(entry), entry.get("tags")
    if isinstance(tags, list):
        tags = ", ".join(tag for tag in tags if isinstance(tag, str))
    tags = one_line(tags) if isinstance(tags, str) and is_text(tags) else ""
    if not tags:
        return texts
    return once(f"{text}, {tags}" for text in texts) if texts else (tags,)


def words_of(row: dict) -> Texts | None:
    """What stands under "text", "caption" and "captions", each words or a list of them; None when none does."""
    values = [row[key] for key in ("text", "caption", "captions") if row.get(key) is not None]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    if not texts or not all(isinstance(text, str) and is_text(text) for text in texts):
        return None
    return once(map(one_line, texts))


def once(texts: Iterator[str]) -> Texts:
    """The texts without empty ones and repetitions."""
    return tuple(dict.fromkeys(text for text in texts if text))
