"""The folder of finished styles: from a name to a file. Knows no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

from ..errors import AdapterFileError
from .header import shown, shown_path

SUFFIX = ".safetensors"


def style_name(path: Path) -> str:
    """The name of a style by its file or folder."""
    return path.stem if path.suffix == SUFFIX else path.name


def adapter_names(folder: Path) -> list[str]:
    """Names of the styles in a folder, sorted; none if there is no such folder, and none that is not text."""
    try:
        names = [path.name.removesuffix(SUFFIX) for path in Path(folder).glob(f"[!.]*{SUFFIX}") if path.is_file()]
    except (OSError, ValueError):
        return []
    return sorted(name for name in names if name.encode(errors="ignore").decode() == name)


def adapter_named(name: str, folder: Path) -> Path:
    """The file of a style by its name alone: for names that come from strangers.

    Raises AdapterFileError for a name that is not in the folder, holds a separator, or is a link that leads out of it.
    """
    folder = Path(folder)
    if _is_path(name):
        raise AdapterFileError(f"{shown(name)!r} is a path; expected the name of a style in {shown_path(folder)}")
    try:
        place = folder / f"{name}{SUFFIX}"
        found, root = place.resolve(), folder.resolve()
        inside, exists = found.is_relative_to(root), place.is_file()
    except (OSError, ValueError, RuntimeError):
        raise missing(name, folder) from None
    if not inside:
        raise AdapterFileError(
            f"{shown_path(place)} leads out of the folder to {shown_path(found)}; pass that path itself"
        )
    if not exists:
        raise missing(name, folder)
    return found


def find_adapter(name_or_path: str, folder: Path) -> Path:
    """The file a person means: NAME is `folder`/NAME.safetensors; a path is anything that looks or exists like one.

    A path may be that of a folder as PEFT writes it.

    Raises AdapterFileError with the names that are in the folder, nearest first. Whether the file is an adapter is for
    `read_header` to say.
    """
    if not _is_path(name_or_path) and name_or_path in adapter_names(folder):
        return adapter_named(name_or_path, folder)
    path = Path(name_or_path)
    try:
        if path.is_file() or (_is_path(name_or_path) and path.is_dir()):
            return path
    except (OSError, ValueError):
        pass
    if _is_path(name_or_path):
        raise missing(name_or_path, folder)
    return adapter_named(name_or_path.removesuffix(SUFFIX), folder)


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text


class MissingStyleError(AdapterFileError):
    """A style that is not where it was looked for."""

    name = ""
    """As it was asked for."""


def missing(name: str, folder: Path, fitting: Sequence[str] | None = None) -> MissingStyleError:
    """The error for a style that is not there, with those that are, nearest first; fitting: those that fit the base."""
    wanted = Path(name).name.removesuffix(SUFFIX).lower()
    names = adapter_names(folder) if fitting is None else list(fitting)
    nearest = sorted(names, key=lambda n: -SequenceMatcher(None, wanted, n.lower()).ratio())
    more = f" … and {len(names) - 8} more" if len(names) > 8 else ""
    none = "it holds no styles yet" if not adapter_names(folder) else "none there fits this base"
    there = f"there are: {', '.join(shown(n) for n in nearest[:8])}{more}" if names else none
    what = f"no file {shown(name)!r}" if _is_path(name) else f"no style {shown(name)!r} in {shown_path(folder)}"
    where = f"{shown_path(folder)}: {there}" if _is_path(name) else there
    advice = "write one of these names, or the path of a file" if names else "train one, or write the path of a file"
    error = MissingStyleError(f"{what}; {where}; {advice}")
    error.name = name
    return error
