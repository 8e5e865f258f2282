"""Picture sizes to learn at: each keeps its shape, small art is not enlarged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL import Image

Size = tuple[int, int]
LONGEST = 3.0


def bucket_of(size: Size, side: int, unit: int) -> Size:
    """The (width, height) in pixels at which a picture of `size` is learnt: multiples of `unit`, about side² in area.

    The shape is kept as far as the units allow, up to 1:3; a picture too small for that area gets the largest size that
    it fills, and one below a unit is the only kind that is enlarged.
    """
    width, height = size
    fitting = [bucket for bucket in _sizes(side, unit) if bucket[0] <= width and bucket[1] <= height]
    if not fitting:
        # Too small on one side at least for every size of the full area.
        fitting = [(min(side, max(unit, width // unit * unit)), min(side, max(unit, height // unit * unit)))]
    return min(fitting, key=lambda bucket: (_apart(bucket, size), -bucket[0] * bucket[1]))


def _sizes(side: int, unit: int) -> list[Size]:
    """Every size of about the area: for each width the height that fills it best."""
    found = []
    for width in range(unit, int(side * LONGEST**0.5) + unit, unit):
        height = max(unit, int(side * side / width) // unit * unit)
        if max(width, height) <= LONGEST * min(width, height):
            found.append((width, height))
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
