"""Several pictures as one, with words along the edges."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

INK, PAPER, GAP = (40, 42, 48), (255, 255, 255), 6


def grid(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    cell: int = 160,
) -> Image.Image:
    """A labelled sheet of pictures `cell` pixels wide: column words on top, row words at the left."""
    font = ImageFont.load_default(size=max(11, cell // 10))
    left = max((int(font.getlength(word)) for word in labels), default=0) + (2 * GAP if labels else GAP)
    top = (cell // 6 + GAP) if columns else GAP
    width = left + (cell + GAP) * max((len(row) for row in rows), default=1)
    sheet = Image.new("RGB", (width, top + (cell + GAP) * max(len(rows), 1)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for x, word in enumerate(columns):
        pen.text((left + x * (cell + GAP) + cell / 2, top / 2), word, fill=INK, font=font, anchor="mm")
    for y, row in enumerate(rows):
        down = top + y * (cell + GAP)
        if y < len(labels):
            pen.text((left - GAP, down + cell / 2), labels[y], fill=INK, font=font, anchor="rm")
        for x, picture in enumerate(row):
            sheet.paste(shown(picture, cell), (left + x * (cell + GAP), down))
    return sheet


def shown(picture: Image.Image, cell: int) -> Image.Image:
    """The picture inside a square of `cell` pixels, its shape kept."""
    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    square = Image.new("RGB", (cell, cell), PAPER)
    square.paste(picture.resize(size, Image.Resampling.LANCZOS), ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square
