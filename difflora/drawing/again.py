"""A blend or a converted file made again from what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..adapters.convert import MADE, convert, repair
from ..adapters.files import Dialect, adapter_named, adapter_names, content_sha256
from ..adapters.header import shown, shown_path
from ..adapters.places import sources
from ..adapters.precision import DTYPES
from ..config import check_name
from ..errors import AdapterFileError, RequestError
from ..events import Note, Report, ignore
from ..models.family import open_model
from .export import export
from .recipe import Style
from .request import numbered
from .styles import renamed_to

BLEND = "difflora.blend"


def is_made(file: Path) -> bool:
    """Whether a file says that it was blended or converted, not trained; raises AdapterFileError."""
    known = sources(file)[0].header.metadata
    return BLEND in known or MADE in known


def make_again(file: Path, loras: Path, out: Path, name: str | None = None, report: Report = ignore) -> Path:
    """Blend or convert once more what a file was made of, under a free name, and say whether the numbers are the same.

    Sources are looked for by their sha256, then by their name, beside the file and in `loras`; one that has changed
    since is used, and said. Raises RequestError for a recipe that cannot be read or a source that is not there.
    """
    known = sources(file)[0].header.metadata
    own = check_name(name or f"{file.stem}-again")
    target = numbered(out / f"{own}.safetensors")
    out.mkdir(parents=True, exist_ok=True)
    if MADE in known:
        made = convert_again(file, recipe_rows(file, known[MADE], dict), loras, target, report)
    else:
        made = blend_again(file, known, loras, target, report)
    report(Note(compared(file, made)))
    return made


def blend_again(file: Path, known: Mapping[str, str], loras: Path, out: Path, report: Report) -> Path:
    """The blend of the same styles at the same weights."""
    styles = []
    for row in recipe_rows(file, known[BLEND], list):
        try:
            style = Style(text(row["name"]), float(row["weight"]), sha256=text(row["sha256"]))
        except (TypeError, KeyError, ValueError, OverflowError):
            raise RequestError(f"{shown_path(file)}: its recipe is damaged; blend it anew") from None
        path = find_source(style.name, style.sha256, (file.parent, loras), report)
        styles.append(replace(style, path=str(path), sha256=content_sha256(path)))
    base = known.get("difflora.base") or "tiny"
    return export(styles, out, open_model(base), base=base)


def convert_again(file: Path, row: Mapping[str, object], loras: Path, out: Path, report: Report) -> Path:
    """The same conversion of the same source."""
    try:
        digests = [text(one["sha256"]) for one in row["sources"]]
        name, to, dtype = text(row["name"]), row["to"], DTYPES[row["precision"]]
        rank, max_error = number_or_none(row.get("rank"), int), number_or_none(row.get("max_error"), float)
        digest = digests[0]
    except (TypeError, KeyError, IndexError, OverflowError):
        raise RequestError(f"{shown_path(file)}: its recipe is damaged; convert it anew") from None
    if len(digests) > 1:
        raise RequestError(
            f"{shown_path(file)} was made of the folder {shown(name)}: expected one file; convert the folder anew"
        )
    source = find_source(name, digest, (file.parent, loras), report)
    if to == "repaired":
        return repair(source, out).path
    dialect: Dialect = to if to in ("kohya", "diffusers", "peft") else "kohya"
    place = out.with_suffix("") if dialect == "peft" else out
    return convert(source, dialect, place, dtype=dtype, rank=rank, max_error=max_error).path


def text(value: object) -> str:
    """Text of a recipe; TypeError for anything else."""
    if isinstance(value, str):
        return value
    raise TypeError("no text")


def number_or_none(value: object, kind: type[int] | type[float]) -> float | int | None:
    """A number of a recipe, where there is one; TypeError for anything else."""
    if value is None or type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise TypeError("no number")


def find_source(name: str, digest: str, folders: Sequence[Path], report: Report) -> Path:
    """The file that holds these numbers, whatever it is called now; else the one of that name, which is said."""
    for folder in folders:
        if (path := renamed_to(digest, folder)) is not None:
            return path
    for folder in folders:
        try:
            path = adapter_named(name, folder)
        except AdapterFileError:
            continue
        report(Note(f"{path} has changed since: sha256 of its numbers {content_sha256(path)[:12]}, was {digest[:12]}"))
        return path
    there = sorted({name for folder in folders for name in adapter_names(folder)})
    raise RequestError(
        f"the source {shown(name)!r} (sha256 {shown(digest)[:12]}) is not in {' or '.join(map(shown_path, folders))}: "
        f"expected it among {', '.join(map(shown, there[:8])) or 'no styles'}; say where it is with --loras"
    )


def recipe_rows(file: Path, line: str, kind: type) -> Sequence | Mapping:
    """JSON of the header; RequestError unless it is of that kind."""
    try:
        rows = json.loads(line)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, kind):
        raise RequestError(
            f"{shown_path(file)}: its recipe is damaged; expected what difflora wrote there; make it anew"
        )
    return rows


def compared(original: Path, made: Path) -> str:
    """Whether the numbers of both are the same, in words."""
    old, new = ([content_sha256(source.file) for source in sources(path)] for path in (original, made))
    if old == new:
        return f"{made} holds the same numbers as {original}, to the last bit"
    return f"{made} differs from {original}: a source has changed, or another version of difflora made it"
