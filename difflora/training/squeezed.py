"""What JPEG did to a picture: told by the file itself, or by what it left in pixels that were saved anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

# ITU T.81 annex K, table K.1: its coarser waves, which poor qualities do not clip at 255.
STANDARD = {0: 16, 1: 11, 2: 10, 3: 16, 8: 12, 9: 12, 10: 14, 11: 19}
BLOCKS = 160
FEWEST, ENOUGH = 12, 48


def jpeg_quality(path: Path) -> int | None:
    """The quality, 1..100, at which a JPEG file was saved, as libjpeg counts it; None for other files."""
    with path.open("rb") as file:
        if not file.read(2).startswith(b"\xff\xd8"):
            return None
        file.seek(0)
        tables = JpegImageFile(file).quantization
    if not tables:
        return None
    table = tables[min(tables)]
    scale = 100 * sum(table[place] for place in STANDARD) / sum(STANDARD.values())
    return int(np.clip(round(100 - scale / 2 if scale <= 100 else 5000 / scale), 1, 100))


def block_trace(grey: np.ndarray) -> float:
    """(H, W) 0..255 -> how much more often the fine waves of 8 x 8 blocks vanish on one grid than on the others, 0..1.

    Strong compression rounds them to nothing on its own grid only, so that what is drawn does not matter.
    """
    rows, columns = _places(grey)
    if len(rows) < FEWEST:
        return 0.0
    shares = np.array([[_still(grey, rows + y, columns + x) for x in range(8)] for y in range(8)])
    best = np.unravel_index(shares.argmax(), shares.shape)
    others = np.roll(shares, (-best[0], -best[1]), (0, 1))[2:7, 2:7]
    return float(shares.max() - np.median(others)) * min(1.0, len(rows) / ENOUGH) ** 0.5


def _places(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of up to 160 blocks in which something is drawn, spread over the picture.

    Where white or black was clipped, rounding is no longer to be seen.
    """
    height, width = (np.array(grey.shape) - 8) // 8
    if min(height, width) < 3:
        return np.empty(0, int), np.empty(0, int)
    whole = grey[: height * 8, : width * 8].reshape(height, 8, width, 8)
    lightest, darkest = whole.max((1, 3)), whole.min((1, 3))
    lively = (lightest - darkest > 40) & (lightest < 252) & (darkest > 3)
    rows, columns = np.nonzero(lively)
    keep = np.linspace(0, len(rows) - 1, min(len(rows), BLOCKS)).astype(int) if len(rows) else np.empty(0, int)
    return rows[keep] * 8, columns[keep] * 8


def _still(grey: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> float:
    """Share of the finer waves that are next to nothing, in the blocks that begin there."""
    at = np.arange(8)
    blocks = grey[rows[:, None, None] + at[:, None], columns[:, None, None] + at]
    waves = np.abs(_WAVES @ blocks @ _WAVES.T)
    fine = waves[:, np.add.outer(at, at) >= 3]
    return float((fine < 2.5).mean())


def _waves() -> np.ndarray:
    turn = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(8) + 1) / 16) / 2
    turn[0] /= 2**0.5
    return turn.astype(np.float32)


_WAVES = _waves()
