"""How sharp a picture is, whatever it shows: the width of its sharpest edges, and the traces of an enlargement.

Measures that count fine detail (the variance of the Laplacian and the like) call flat art blurred because it has little
detail; the width of the edges that there are says what was lost.
"""

from __future__ import annotations

import numpy as np

WINDOW, NEAR = 13, 9
SHARPEST = 20
STRONG = 0.4
"""Share of the picture's contrast from which on an edge is looked at."""
FEWEST = 20


def edge_width(grey: np.ndarray) -> float:
    """(H, W) 0..255 -> width in px of the sharpest fifth of its strong edges; 1: hard, 0: no edges to speak of.

    The contrast within 13 px divided by the steepest step: a Gaussian blur of radius s gives about 2.5 s.
    """
    low, high = np.percentile(grey[:: 1 + grey.shape[0] // 512, :: 1 + grey.shape[1] // 512], (1, 99))
    widths = []
    for plane in (grey, np.ascontiguousarray(grey.T)):
        step = np.abs(np.diff(plane, axis=0))
        contrast = (running(np.maximum, plane, WINDOW) - running(np.minimum, plane, WINDOW))[1:]
        strong = (contrast > max(STRONG * (high - low), 12)) & (step > 2)
        strong &= step == running(np.maximum, step, NEAR)
        widths.append(contrast[strong] / step[strong])
    found = np.concatenate(widths)
    return float(np.percentile(found, SHARPEST)) if len(found) >= FEWEST else 0.0


def running(pick: np.ufunc, plane: np.ndarray, window: int) -> np.ndarray:
    """The largest or smallest value of each `window` (odd) of rows around a row."""
    half = window // 2
    padded = np.pad(plane, ((half, half), (0, 0)), mode="edge")
    span = 1
    while span * 2 <= window:
        padded, span = pick(padded[span:], padded[:-span]), span * 2
    rest = window - span
    return pick(padded[rest:], padded[:-rest]) if rest else padded


def pixel_size(grey: np.ndarray) -> int:
    """How many px every pixel was repeated when the picture was enlarged without smoothing; 1: it was not."""
    for size in (8, 6, 5, 4, 3, 2):
        fits = []
        for plane in (grey, grey.T):
            step = np.abs(np.diff(plane, axis=0)).mean(1)
            rows = np.arange(1, len(step) + 1) % size
            fits.append(step[rows != 0].mean() < 0.02 * step[rows == 0].mean() if len(step) > 4 * size else False)
        if all(fits):
            return size
    return 1


def rhythm(grey: np.ndarray) -> float:
    """How strongly the curvature repeats every 3 or 4 px, as smooth enlargement leaves it (Gallagher 2005); 1: not.

    An enlargement to twice the size leaves no such trace: both new pixels lie equally far from an old one.
    """
    return max(_rhythm(plane) for plane in (grey, grey.T))


def _rhythm(plane: np.ndarray) -> float:
    bend = np.abs(2 * plane[1:-1] - plane[:-2] - plane[2:])
    lines = np.minimum(bend, np.percentile(bend[:, :: 1 + bend.shape[1] // 256], 99) + 1).mean(1)
    count = len(lines) // 12 * 12
    if count < 48:
        return 0.0
    even = lines[:count] / (np.median(lines) + 0.1 * lines.mean() + 1e-6)
    power = np.abs(np.fft.rfft(even - even.mean()))
    return float(max(power[count // 3], power[count // 4]) / (np.median(power) + 1e-6))
