"""A blend or a converted file made again from what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import get_args

from ..adapters.convert import MADE, convert, repair
from ..adapters.edits import good_name
from ..adapters.families import Match
from ..adapters.files import Dialect, adapter_named, adapter_names, content_sha256, writable_folder
from ..adapters.header import shown, shown_path
from ..adapters.library import style_name
from ..adapters.lowrank import weights_of
from ..adapters.places import is_adapter, sources
from ..adapters.precision import DTYPES
from ..adapters.resize import resize
from ..config import BlendConfig, check_name, demand
from ..errors import AdapterFileError, BaseModelError, RequestError
from ..events import Note, Report, ignore
from ..models.family import on_disk, open_model
from .export import BLEND, HOW, export
from .recipe import style_of
from .request import numbered
from .styles import is_same

DIALECTS = get_args(Dialect)
Find = Callable[[str, str], Path]


def is_made(file: Path) -> bool:
    """Whether a file says that it was blended or converted, not trained; raises AdapterFileError."""
    known = sources(file)[0].header.metadata
    return BLEND in known or MADE in known


def make_again(
    file: Path, loras: Path, out: Path, name: str | None = None, report: Report = ignore, base: str | None = None
) -> Path:
    """Blend or convert once more what a file was made of, under a free name, and say whether the numbers are the same.

    Sources are looked for by their sha256, then by their name, beside the file and in `loras`; one that has changed
    since is used, and said. base: the model to make it on, the one that the recipe names unless given. Raises
    RequestError for a recipe that cannot be read, a source that is not there, or a base that only the recipe names and
    that is not on this machine.
    """
    known = sources(file)[0].header.metadata
    own = check_name(name) if name else good_name(f"{style_name(file)}-again")
    writable_folder(out)
    find = partial(find_source, file, (file.parent, loras), report)
    if MADE in known:
        made = convert_again(file, recipe_rows(file, known[MADE], dict), find, out / own, base)
    else:
        made = blend_again(file, known, find, numbered(out / f"{own}.safetensors"), base)
    report(Note(compared(file, made, "a source has changed, or another version of difflora made it")))
    return made


def blend_again(file: Path, known: Mapping[str, str], find: Find, out: Path, base: str | None) -> Path:
    """The blend of the same styles at the same weights, made the same way."""
    styles, changed = [], False
    try:
        for row in recipe_rows(file, known[BLEND], list):
            style = style_of({"sha256": text(row["sha256"])} | row)
            path = find(text(style.name), style.sha256)
            styles.append(replace(style, path=str(path), sha256=content_sha256(path)))
            changed = changed or styles[-1].sha256 != style.sha256
        how = recipe_rows(file, known[HOW], dict) if HOW in known else {"budget": "sum"}
        asked = BlendConfig(**{name: value for name, value in how.items() if name != "force"})
    except (TypeError, KeyError, ValueError, OverflowError):
        raise RequestError(f"{shown_path(file)}: its recipe is damaged; blend it anew") from None
    if changed:
        styles = [replace(style, gain=None) for style in styles]
    own = base or here(known.get("difflora.base") or "tiny")
    return export(styles, out, open_model(own), asked, base=own).path


def convert_again(file: Path, row: Mapping[str, object], find: Find, out: Path, base: str | None) -> Path:
    """The same conversion, or the same cut, of the same source."""
    if row.get("verb") in ("merge", "extract"):
        hint = "merge STYLES" if row["verb"] == "merge" else "extract --base MODEL --tuned MODEL"
        raise RequestError(
            f"{shown_path(file)} was made of whole models: expected them by name; give difflora {hint} once more"
        )
    try:
        [one] = row["sources"]
        name, digest, to, dtype = text(one["name"]), text(one["sha256"]), text(row["to"]), DTYPES[row["precision"]]
        rank, max_error = number_or_none(row.get("rank"), int), number_or_none(row.get("max_error"), float)
    except (TypeError, KeyError, ValueError, OverflowError):
        raise RequestError(f"{shown_path(file)}: its recipe is damaged; convert it anew") from None
    demand(to in (*DIALECTS, "repaired"), f"{shown_path(file)}: made --to {shown(to)}", ", ".join(DIALECTS))
    asked = base or (here(text(row["base"])) if isinstance(row.get("base"), str) else None)
    model = open_model(asked) if asked else None
    match = Match(model.family, model.shapes()) if model else None
    source = find(name, digest)
    names = (out.with_name(out.name if n == 1 else f"{out.name}-{n}") for n in count(1))
    file_name = out.with_name(f"{out.name}.safetensors")
    target = next(place for place in names if not place.exists()) if to == "peft" else numbered(file_name)
    if to == "repaired":
        return repair(source, target, base=match).path
    if row.get("verb") == "resize":
        return resize(
            source, target, rank=rank, max_error=max_error, precision=text(row["precision"]), base=match,
            weights=weights_of(model.parts) if model else None, made_on={"base": asked} if asked else None,
        ).path  # fmt: skip
    return convert(
        source, to, target, dtype=dtype, rank=rank, max_error=max_error, base=match,
        weights=weights_of(model.parts) if model else None, made_on={"base": asked} if asked else None,
    ).path  # fmt: skip


def here(base: str) -> str:
    """A base that a file names, if it is on this machine; RequestError else: a stranger's file downloads nothing."""
    try:
        on_disk(base)
    except BaseModelError:
        raise RequestError(
            f"the base {shown(base)!r} that the file names is not here: expected --base; name it yourself"
        ) from None
    return base


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


def find_source(file: Path, folders: Sequence[Path], report: Report, name: str, digest: str) -> Path:
    """The style that holds these numbers, whatever it is called now; else the one of that name, which is said.

    The file that is made again is none.
    """
    there = [path for folder in folders for path in styles_in(folder) if path.resolve() != file.resolve()]
    for path in there:
        if is_same(path, digest):
            return path
    for path in there:
        if style_name(path) == name:
            now = content_sha256(path)
            report(Note(f"{path} has changed since: sha256 of its numbers {now[:12]}, was {shown(digest)[:12]}"))
            return path
    names = ", ".join(sorted({shown(style_name(path)) for path in there})[:8])
    raise RequestError(
        f"the source {shown(name)!r} (sha256 {shown(digest)[:12]}) is not in {' or '.join(map(shown_path, folders))}: "
        f"expected it among {names or 'no styles'}; say where it is with --loras"
    )


def styles_in(folder: Path) -> list[Path]:
    """The style files of a folder that do not lead out of it, and its folders as PEFT writes them."""
    found = []
    for name in adapter_names(folder):
        with suppress(AdapterFileError):
            found.append(adapter_named(name, folder))
    with suppress(OSError):
        found += sorted(path for path in folder.iterdir() if path.is_dir() and is_adapter(path))
    return found


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


def compared(original: Path, made: Path, why: str) -> str:
    """Whether the numbers of both are the same, in words; why: what may be the reason where they are not."""
    if content_sha256(original) == content_sha256(made):
        return f"{made} holds the same numbers as {original}, to the last bit"
    return f"{made} differs from {original}: {why}"
