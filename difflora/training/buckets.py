"""Picture sizes to learn at: each keeps its shape, small art is not enlarged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL import Image

Size = tuple[int, int]
LONGEST = 3.0


def bucket_of(size: Size, side: int, unit: int) -> Size:
    """The (width, height) in pixels at which a picture of `size` is learnt: multiples of `unit`, up to side² in area.

    The shape is kept as far as the units allow, up to 1:3; a picture too small for that area gets the largest size that
    it fills, and one below a unit is the only kind that is enlarged.
    """
    width, height = (max(unit, own // unit * unit) for own in size)
    upright = _sizes(width, height, side, unit)
    lying = [(wide, high) for high, wide in _sizes(height, width, side, unit)]
    return min(upright + lying, key=lambda bucket: (_apart(bucket, size), -bucket[0] * bucket[1]))


def _sizes(width: int, height: int, side: int, unit: int) -> list[Size]:
    """For each width up to `width` the largest height within `height`, the area and the longest shape."""
    found = []
    for wide in range(unit, min(width, int(side * LONGEST**0.5)) + 1, unit):
        high = min(height, side * side // wide // unit * unit, int(LONGEST * wide))
        if wide <= LONGEST * high:
            found.append((wide, high))
    return found


def _apart(a: Size, b: Size) -> float:
    """How unlike two shapes are: the share that cropping one to the other would cut off."""
    first, second = a[0] / a[1], b[0] / b[1]
    return round(1 - min(first, second) / max(first, second), 6)


def fit(picture: Image.Image, bucket: Size) -> Image.Image:
    """The picture resized to cover `bucket`, and its central part of that size."""
    width, height = picture.size
    scale = min(width / bucket[0], height / bucket[1])
    across, down = bucket[0] * scale, bucket[1] * scale
    left, top = (width - across) / 2, (height - down) / 2
    # Resizing only the part that is kept: a 16 x 16,000 strip would otherwise grow to a billion pixels first.
    return picture.resize(bucket, Image.Resampling.LANCZOS, box=(left, top, left + across, top + down))


def table(sizes: Sequence[Size], side: int, unit: int) -> dict[Size, int]:
    """How many pictures are learnt at each size, the commonest first."""
    return dict(Counter(bucket_of(size, side, unit) for size in sizes).most_common())
