"""Pictures that show the same: found by perceptual hashes, sure after a look side by side. The door to imagehash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

CUTS = (1.0, 0.94, 0.87)
"""Shares of the middle that are hashed, so that a picture is found in one that was cut from it."""
SIDE, FINE = 96, 48
NEAR = 16
"""Bits of 64 by which the hashes of twins may differ."""
MEAN, WORST = 2.5, 30.0
"""How far twins may differ, of 255: on average, and at their worst hundredth."""


def hashes_of(picture: Image.Image) -> np.ndarray:
    """(4, 64) bits: the perceptual hash of the whole, of two cuts of its middle, and of the whole mirrored."""
    import imagehash

    grey = picture.convert("L").resize((128, 128), Image.Resampling.BOX)
    edges = [64 * (1 - cut) for cut in CUTS]
    views = [grey.crop((round(e), round(e), round(128 - e), round(128 - e))) for e in edges]
    views.append(grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return np.stack([imagehash.phash(view).hash.ravel() for view in views])


def thumb_of(picture: Image.Image) -> np.ndarray:
    """The whole picture as (96, 96, 3), whatever its shape."""
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


def twins(hashes: Sequence[np.ndarray], thumbs: Sequence[np.ndarray], shapes: Sequence[float]) -> list[tuple]:
    """(i, j, mirrored) for every two pictures that show the same.

    hashes and thumbs as above; shapes: width / height. Colours count: the same drawing in red and in blue is two.
    """
    if len(hashes) < 2:
        return []
    near = candidates(np.stack(hashes))
    found = []
    for i, j, mirrored in near:
        if abs(np.log(shapes[i] / shapes[j])) > 0.25:
            continue
        second = thumbs[j][:, ::-1] if mirrored else thumbs[j]
        if same(thumbs[i], second):
            found.append((i, j, mirrored))
    return found


def candidates(bits: np.ndarray) -> list[tuple[int, int, bool]]:
    """Pairs whose hashes (N, 4, 64) are near enough for a look."""
    signs = bits.astype(np.float32) * 2 - 1
    whole, mirror = signs[:, 0], signs[:, 3]
    apart = [(64 - whole @ signs[:, cut].T) / 2 for cut in range(len(CUTS))]
    plain = np.minimum.reduce([np.minimum(a, a.T) for a in apart])
    flipped = (64 - whole @ mirror.T) / 2
    rows, columns = np.nonzero(np.triu((np.minimum(plain, flipped) <= NEAR), 1))
    # A symmetrical picture is its own mirror image: the plain reading goes first.
    return [(int(i), int(j), bool(plain[i, j] > NEAR)) for i, j in zip(rows, columns, strict=True)]


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether one of two thumbnails shows what the other shows, or a part of it that lacks a little at the edges."""
    if np.abs(first.mean((0, 1)) - second.mean((0, 1))).max() > 24:
        return False
    return any(_found_in(*pair) for pair in ((first, second), (second, first)))


def _found_in(whole: np.ndarray, part: np.ndarray) -> bool:
    """Whether `part` is `whole`, or what is left of it with up to a sixth cut away at each edge."""
    picture, wanted = Image.fromarray(whole), _fine(Image.fromarray(part), (0, 0, 0, 0))
    for start in (0, 3, 6):
        edges, best = (start,) * 4, np.inf
        for step in (4, 2, 1):
            moved = True
            while moved:
                moved = False
                for nearby in _moves(edges, step):
                    off = float(np.abs(_fine(picture, nearby) - wanted).mean())
                    if off < best - 1e-6:
                        edges, best, moved = nearby, off, True
        if _alike(_fine(picture, edges), wanted):
            return True
        if best > 10 * MEAN:
            return False
    return False


def _moves(edges: tuple[int, ...], step: int) -> list[tuple[int, ...]]:
    """The edges as they are, and each moved in or out by a step, within a sixth of the picture."""
    moved = [tuple(e + sign * step * (i == k) for i, e in enumerate(edges)) for k in range(4) for sign in (1, -1)]
    return [edges, *(cut for cut in moved if min(cut) >= 0 and max(cut) <= SIDE // 6)]


def _fine(picture: Image.Image, edges: tuple[int, ...]) -> np.ndarray:
    left, top, right, bottom = edges
    box = (left, top, SIDE - right, SIDE - bottom)
    return np.asarray(picture.resize((FINE, FINE), Image.Resampling.BILINEAR, box=box), np.int16)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two small pictures agree, a shift of one pixel forgiven."""
    if np.abs(a - b).mean() > 5 * MEAN:
        return False
    off = np.maximum(_beyond(a, b), _beyond(b, a))
    return bool(off.mean() < MEAN and np.percentile(off, 99) < WORST)


def _beyond(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By how much each pixel of `a` lies outside of what `b` shows around it, (H, W)."""
    padded = np.pad(b, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = np.stack([padded[y : y + FINE, x : x + FINE] for y in range(3) for x in range(3)])
    return np.maximum(np.maximum(a - around.max(0), around.min(0) - a), 0).max(2)


def grouped(pairs: Sequence[tuple[int, int, bool]]) -> list[tuple[list[int], set[int]]]:
    """Pairs joined to groups in order: (all of a group, those of it that only a mirror joins to the others)."""
    home: dict[int, list[int]] = {}
    plain = {i for first, second, mirrored in pairs if not mirrored for i in (first, second)}
    for i, j, _ in pairs:
        joined = home.get(i, [i])
        joined += [k for k in home.get(j, [j]) if k not in joined]
        home.update(dict.fromkeys(joined, joined))
    groups = {id(group): sorted(group) for group in home.values()}
    return [(group, set(group) - plain) for group in groups.values()]
