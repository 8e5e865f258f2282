"""One picture looked at once: everything the doctor measures, small enough to be kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..adapters.disk import stamp
from ..errors import ImageFolderError
from .data import open_picture, shown, square
from .marks import corners_of, frame_of, patch_of, signature_in
from .softness import edge_width, pixel_size, rhythm
from .squeezed import block_trace, jpeg_quality
from .twins import hashes_of, thumb_of

SHARP_AT = 1024
"""Shorter side in px above which sharpness is measured on a smaller copy: no base sees more."""
SMALL = 192
CLEAR = 2.2


@dataclass(frozen=True, eq=False)
class Sight:
    """What one picture measures; `problem` is the one line of a picture that cannot be read."""

    width: int = 0
    height: int = 0
    bytes: int = 0
    problem: str = ""
    contrast: float = 0.0
    """Between its darkest and lightest hundredth, 0..255."""
    edge: float = 0.0
    """Width in px of its sharpest edges; 0: none to measure."""
    repeated: int = 1
    """Px by which every pixel was repeated."""
    rhythm: float = 0.0
    quality: int | None = None
    blocks: float = 0.0
    frame: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Px at the left, top, right and bottom."""
    written: tuple[float, ...] = ()
    """For each corner how much is written in it."""
    patches: tuple[np.ndarray, ...] = ()
    hashes: np.ndarray | None = None
    thumb: np.ndarray | None = None
    small: np.ndarray | None = None
    """Its central square as (192, 192, 3), for the base's own eyes."""

    @property
    def side(self) -> int:
        """Its shorter side in px."""
        return min(self.width, self.height)


def look_at(paths: Sequence[Path]) -> Iterator[Sight]:
    """Every picture's sight in order; each is remembered for as long as its file stays as it is."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(look, paths)


def look(path: Path) -> Sight:
    """One picture's sight; never raises for what the file holds."""
    try:
        return _look(path, stamp(path))
    except OSError as error:
        return Sight(problem=f"{shown(path)}: found a file that cannot be read ({error.strerror}), expected a picture")


@lru_cache(maxsize=2000)
def _look(path: Path, at: tuple[int, int, int]) -> Sight:
    try:
        picture = open_picture(path, shown(path))
    except ImageFolderError as problem:
        return Sight(problem=str(problem), bytes=at[2])
    return measure(picture, jpeg_quality(path), at[2])


def measure(picture: Image.Image, quality: int | None, size: int) -> Sight:
    """The sight of an RGB picture; quality: of its JPEG file, None for another; size: of the file in bytes."""
    pixels = np.asarray(picture)
    frame = frame_of(pixels)
    left, top, right, bottom = frame
    inside = pixels[top : len(pixels) - bottom, left : pixels.shape[1] - right]
    corners = corners_of(inside)
    grey = np.asarray(picture.convert("L"), np.float32)
    copy, scale = grey, min(picture.size) / SHARP_AT
    if scale > 1:
        smaller = picture.convert("L").resize([round(n / scale) for n in picture.size], Image.Resampling.BOX)
        copy = np.asarray(smaller, np.float32)
    edge = edge_width(copy) * max(scale, 1)
    darkest, lightest = np.percentile(copy[::2, ::2], (1, 99))
    return Sight(
        width=picture.width,
        height=picture.height,
        bytes=size,
        contrast=float(lightest - darkest),
        edge=edge,
        repeated=pixel_size(grey),
        rhythm=rhythm(copy),
        quality=quality,
        # A soft picture has no fine waves on any grid.
        blocks=block_trace(grey) if edge < CLEAR * max(scale, 1) and (quality is None or quality >= 90) else 0.0,
        frame=frame,
        written=tuple(signature_in(corner, i % 2 == 1, i > 1) for i, corner in enumerate(corners)),
        patches=tuple(patch_of(corner, i % 2 == 1, i > 1) for i, corner in enumerate(corners)),
        hashes=hashes_of(picture),
        thumb=thumb_of(picture),
        small=np.asarray(square(picture, SMALL)),
    )
