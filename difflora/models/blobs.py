"""One large file that comes in pieces and is kept under its hash. Knows no hub."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BaseModelError

UNFINISHED = ".incomplete"
"""How files end that are not all there yet."""
PIECE = 2**20
TRIES, PAUSE = 5, 1.0
"""How often a broken connection is tried again in vain, and seconds between."""


@dataclass(frozen=True)
class Remote:
    """One file of a repository."""

    path: str
    size: int
    sha256: str = ""
    """Of its content, in hex; nothing for small files that have none."""


def unfinished(place: Path) -> Path:
    """Where a file lies until it is all there."""
    return place.with_name(f"{place.name}{UNFINISHED}")


def begun(place: Path) -> int:
    """Bytes of an unfinished file."""
    try:
        return unfinished(place).stat().st_size
    except OSError:
        return 0


def fetch(
    place: Path,
    file: Remote,
    pieces: Callable[[int], Iterator[bytes]],
    may_pass: Callable[[Exception], bool],
    add: Callable[[int], None],
) -> None:
    """Bring a file to its place; what is there of it is kept, and a broken connection is tried again.

    pieces: the content from a byte on. may_pass: whether it helps to try again after an error. add: told of bytes that
    came; what it raises breaks off. Raises BaseModelError when the content has another hash than it should.
    """
    half, tries = unfinished(place), 0
    digest = _known(half, file.size)
    while (have := begun(place)) < file.size:
        try:
            with half.open("ab") as out:
                for piece in pieces(have):
                    out.write(piece)
                    digest.update(piece)
                    add(len(piece))
                    if out.tell() > file.size:
                        break
            break
        except Exception as error:
            tries = tries + 1 if begun(place) == have else 1
            if tries > TRIES or not may_pass(error):
                raise
            time.sleep(PAUSE)
    came = begun(place)
    if came != file.size or digest.hexdigest() != file.sha256:
        half.unlink(missing_ok=True)
        size = "" if came == file.size else f" ({came:,} bytes came, {file.size:,} were promised)"
        raise BaseModelError(f"{file.path} is not what the hub says of it{size}: expected its hash; try again later")
    os.replace(half, place)


def _known(half: Path, size: int) -> hashlib._Hash:
    """The hash of what is there; a file that is too long is thrown away."""
    digest = hashlib.sha256()
    if half.exists() and half.stat().st_size > size:
        half.unlink()
    if half.exists():
        with half.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    return digest
