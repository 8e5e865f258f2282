"""What lies around or upon a picture: plain frames, signatures, and marks that many pictures have in one place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

CORNERS = ("top left", "top right", "bottom left", "bottom right")
PATCH = (24, 64)
"""Rows and columns of the part of a corner that is compared between pictures."""
REACH = (0.13, 0.36)
"""Height and width of a corner, in shares of the shorter side."""
EVEN, DIFFERENT, BLACK = 10, 24, 32
ALIKE = 0.62


def frame_of(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """(H, W, 3) 0..255 -> px of plain frame at the left, top, right and bottom; zeros without one.

    A frame ends along a straight line from side to side; a calm ground ends where things begin.
    """
    small = pixels.astype(np.int16)
    left, right = _sides(small.transpose(1, 0, 2))
    top, bottom = _sides(small)
    sides = (left, top, right, bottom)
    inner = small[top : len(small) - bottom, left : small.shape[1] - right]
    # A door on white paper has bars of paper at both sides too: only black ones are a frame for certain.
    bars = ((left and right) or (top and bottom)) and small[[0, -1]][:, [0, -1]].max() < BLACK
    return sides if (all(sides) or bars) and min(inner.shape[:2]) >= 16 and inner.std() > 4 else (0, 0, 0, 0)


def _sides(rows: np.ndarray) -> tuple[int, int]:
    return _depth(rows), _depth(rows[::-1])


def _depth(rows: np.ndarray) -> int:
    """How many of the first rows are of one colour, if they end along a line; else 0."""
    ground = np.median(rows[0], axis=0)
    for depth, row in enumerate(rows[: len(rows) // 3]):
        off = np.abs(row - ground).max(1)
        if (off <= EVEN).mean() < 0.97:
            # What lies across the frame's ends is itself frame: look at the middle. A line may be soft for a pixel.
            middle = np.abs(rows[depth : depth + 3, len(row) // 5 : -len(row) // 5] - ground).max(2).max(0)
            ends = np.abs(rows[depth : depth + 3] - ground).max(2).max(0)
            straight = (middle > DIFFERENT).mean() > 0.97 and (ends > DIFFERENT).mean() > 0.7
            return depth if straight else 0
    return 0


def corners_of(pixels: np.ndarray) -> list[np.ndarray]:
    """The four corners of (H, W, 3), in the order of CORNERS."""
    height, width = pixels.shape[:2]
    rows, columns = (max(8, round(share * min(height, width))) for share in REACH)
    tops, lefts = (slice(0, rows), slice(height - rows, height)), (slice(0, columns), slice(width - columns, width))
    return [pixels[row, column] for row in tops for column in lefts]


def strokes_of(corner: np.ndarray, right: bool, bottom: bool) -> np.ndarray | None:
    """Where a corner (H, W, 3) on calm ground is drawn on by what ends within it, (H, W) bool; None: no calm ground.

    What goes on beyond the corner belongs to the picture, and so it does if the larger part of all pieces goes on.
    """
    drawn = np.abs(corner.astype(np.int16) - np.median(corner.reshape(-1, 3), axis=0)).max(2) > 36
    if drawn.mean() > 0.35:
        return None
    labels, count = ndimage.label(drawn, np.ones((3, 3), int))
    beyond = {*labels[0 if bottom else -1].tolist(), *labels[:, 0 if right else -1].tolist(), 0}
    own = np.isin(labels, list(beyond), invert=True)
    return own if count + 1 - len(beyond) >= count / 2 else np.zeros_like(own)


def signature_in(corner: np.ndarray, right: bool, bottom: bool) -> float:
    """How much a corner (H, W, 3) looks as if words were written on a calm ground: their share of it, or 0."""
    own = strokes_of(corner, right, bottom)
    if own is None or not own.any():
        return 0.0
    rows, columns = np.nonzero(own)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    written = width >= 2.2 * height and height >= 4 and _turns(own) >= 8 and own.sum() < 0.62 * height * width
    return float(own.mean()) if written and height < 0.75 * len(own) and width < 0.95 * own.shape[1] else 0.0


def _turns(own: np.ndarray) -> int:
    """How often a row changes between drawn and not drawn, at most: letters change often, a shadow or a star twice."""
    return int(np.abs(np.diff(own.astype(np.int8), axis=1)).sum(1).max())


def patch_of(corner: np.ndarray, right: bool, bottom: bool) -> np.ndarray:
    """A corner's lines as one vector of length 1, to be compared by its dot product; zeros where nothing is drawn."""
    own = strokes_of(corner, right, bottom)
    grey = np.asarray(Image.fromarray(corner).convert("L"), np.float32)
    if own is not None:
        if _turns(own) < 6:
            return np.zeros(PATCH[0] * PATCH[1], np.float32)
        grey = np.where(ndimage.binary_dilation(own, iterations=2), grey, np.median(grey))
    small = np.asarray(Image.fromarray(grey).resize(PATCH[::-1], Image.Resampling.BOX))
    lines = np.minimum(np.hypot(*np.gradient(small)), 40)
    # On busy ground too, letters change more often along a line than the edge of a shape does.
    if (lines > 6).mean() < 0.02 or _turns(lines > 10) < (6 if own is not None else 10):
        return np.zeros(lines.size, np.float32)
    flat = (lines - lines.mean()).ravel()
    return flat / (np.linalg.norm(flat) + 1e-6)


def recurring(patches: Sequence[np.ndarray], fewest: int) -> list[int]:
    """Which of the patches (N, D) of one corner show what at least `fewest` others show there too."""
    if len(patches) <= fewest:
        return []
    alike = np.stack(patches) @ np.stack(patches).T
    np.fill_diagonal(alike, 0)
    return np.nonzero((alike > ALIKE).sum(1) >= fewest)[0].tolist()
