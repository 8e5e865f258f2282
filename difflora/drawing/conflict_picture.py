"""Where styles clash as a picture: a card for each two of them, a row for each part of the network."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..adapters.conflict import Conflict, Pair
from ..adapters.conflict_words import MATTERS, Finding, Seen, percent
from ..adapters.files import writable_folder, write_atomic
from ..adapters.overlap import Share
from .request import numbered
from .sheet import INK, PAPER

SCALE = 2
"""Pixels for each unit below."""
GREEN, RED, AMBER = (88, 150, 108), (200, 88, 74), (222, 164, 64)
STYLES = ((64, 98, 160), (150, 96, 160), (60, 146, 150), (190, 120, 80), (110, 120, 60), (120, 120, 130))
GREY, PALE, FAINT, CARD, LINE = (122, 126, 134), (166, 169, 176), (206, 209, 214), (248, 248, 246), (228, 229, 228)
MARGIN, GAP, INSIDE = 28, 20, 20
ROW, SMALL_ROW = 27, 21
# Where the columns begin, from the card's inner edge, and how wide they are.
STRENGTH, PULL, COLLIDE, WORDS = (112, 84), (220, 176), (420, 92), (532, 168)
SEEN = 84
"""Width of one more column, where a base was asked."""
HEAD = 78
LEAST = 0.25
"""What a full bar stands for, unless something is larger."""
SHORT = {
    "same": "one and the same", "opposite": "each other's negative", "agree": "pull the same way",
    "cancel": "undo each other", "collide": "same strokes, other intent", "alone": "leave each other alone",
}  # fmt: skip
Box = tuple[float, float, float, float]


class Pen:
    """Draws in units of `SCALE` pixels."""

    def __init__(self, picture: Image.Image) -> None:
        self.draw = ImageDraw.Draw(picture)

    def text(self, x: float, y: float, words: str, size: float, fill=INK, anchor: str = "lm", most: float = 0) -> None:
        """Words in one line, cut where they would be wider than `most`."""
        font = ImageFont.load_default(size=size * SCALE)
        while most and len(words) > 1 and font.getlength(words) > most * SCALE:
            words = words[:-2].rstrip() + "…"
        self.draw.text((x * SCALE, y * SCALE), words, fill=fill, font=font, anchor=anchor)

    def box(self, box: Box, fill, radius: float = 0) -> None:
        """A filled box, (left, top, right, bottom)."""
        scaled = [side * SCALE for side in box]
        # Pillow counts the last pixel in.
        scaled[2:] = [max(low, high - 1) for low, high in zip(scaled[:2], scaled[2:], strict=True)]
        self.draw.rounded_rectangle(scaled, radius * SCALE, fill=fill)


def save_conflict(found: Conflict, path: Path) -> Path:
    """Write the picture as a PNG, numbered if there is one of that name, and return its path; raises OutputError."""
    writable_folder(path.parent)
    buffer = BytesIO()
    draw_conflict(found).save(buffer, format="PNG")
    free = numbered(path)
    write_atomic(free, buffer.getvalue())
    return free


def draw_conflict(found: Conflict) -> Image.Image:
    """The picture of a conflict, RGB: pairs in one column, or two where they are more than two, the worst first."""
    across, wide = 1 if len(found.pairs) < 3 else 2, width_of(found.pairs[0])
    height = card_height(found.pairs[0])
    down = -(-len(found.pairs) // across)
    width = 2 * MARGIN + across * wide + (across - 1) * GAP
    advice = advice_lines(found, width - 2 * MARGIN)
    top = MARGIN + HEAD
    bottom = top + down * (height + GAP)
    total = bottom + 26 + sum(size + 7 for _, size, _ in advice) + MARGIN - 8
    picture = Image.new("RGB", (round(width * SCALE), round(total * SCALE)), PAPER)
    pen = Pen(picture)
    title(pen, found, width)
    for number, pair in enumerate(found.pairs):
        x = MARGIN + number % across * (wide + GAP)
        card(pen, pair, found, x, top + number // across * (height + GAP), height)
    pen.text(MARGIN, bottom + 8, found.remark, 15, most=width - 2 * MARGIN)
    y = bottom + 36
    for words, size, fill in advice:
        pen.text(MARGIN, y, words, size, fill)
        y += size + 7
    return picture


def title(pen: Pen, found: Conflict, width: float) -> None:
    """What it is, how bad it is, and what the colours mean."""
    pen.text(MARGIN, MARGIN + 10, "Where the styles meet", 22)
    pen.text(MARGIN, MARGIN + 38, f"{percent(found.level)} of what they do is in conflict", 13, GREY)
    x = width - MARGIN
    legend = ((AMBER, "collide: same strokes, other intent"), (RED, "cancel"), (GREEN, "agree"))
    for colour, words in legend:
        x -= ImageFont.load_default(size=12 * SCALE).getlength(words) / SCALE
        pen.text(x, MARGIN + 10, words, 12, GREY)
        pen.box((x - 17, MARGIN + 5, x - 6, MARGIN + 16), colour, 2)
        x -= 36
    words = "by chance"
    x = width - MARGIN - ImageFont.load_default(size=12 * SCALE).getlength(words) / SCALE
    pen.text(x, MARGIN + 38, words, 12, GREY)
    pen.box((x - 12, MARGIN + 31, x - 10, MARGIN + 45), INK)


def card(pen: Pen, pair: Pair, found: Conflict, x: float, y: float, height: float) -> None:
    """Two styles."""
    right = x + width_of(pair)
    pen.box((x, y, right, y + height), CARD, 10)
    left, colours = x + INSIDE, [STYLES[found.names.index(name) % len(STYLES)] for name in pair.names]
    place = left
    for name, colour in zip(pair.names, colours, strict=True):
        pen.box((place, y + 20, place + 10, y + 30), colour, 5)
        pen.text(place + 17, y + 25, name, 16, most=170)
        place += 40 + min(170, ImageFont.load_default(size=16 * SCALE).getlength(name) / SCALE)
    pen.text(right - INSIDE, y + 25, f"{percent(pair.conflict)} in conflict", 13, GREY, "rm")
    scales = strongest_of(pair), most_of(pair)
    heads(pen, left, y + 54, scales[1], any(row.seen for row in pair.findings))
    y += 70
    for before, row in zip([None, *pair.findings], pair.findings, strict=False):
        if before is not None and before.part.kind != row.part.kind:
            pen.box((left, y + 5, right - INSIDE, y + 6), LINE)
            y += 11
        tall = row_height(row)
        line(pen, row, pair.names, left, y + tall / 2, scales, colours)
        y += tall


def heads(pen: Pen, left: float, y: float, most: float, seen: bool) -> None:
    """What the columns are, and what a full bar stands for."""
    pull, middle = left + PULL[0], left + PULL[0] + PULL[1] / 2
    pen.text(left + STRENGTH[0], y, "strength", 11, GREY)
    pen.text(middle - 9, y, "cancel", 11, GREY, "rm")
    pen.text(middle + 9, y, "agree", 11, GREY)
    pen.text(left + COLLIDE[0], y, "collide", 11, GREY)
    if seen:
        pen.text(left + sum(WORDS) + SEEN, y, "in pictures", 11, GREY, "rm")
    for x, anchor in ((pull, "lm"), (pull + PULL[1], "rm"), (left + sum(COLLIDE), "rm")):
        pen.text(x, y, f"{100 * most:.0f}%", 10, PALE, anchor)


def line(
    pen: Pen,
    row: Finding,
    names: tuple[str, str],
    left: float,
    y: float,
    scales: tuple[float, float],
    colours: Sequence[tuple[int, int, int]],
) -> None:
    """One part: how strong both are there, how they pull, how they collide, and that in words."""
    small, (strongest, most) = row.part.kind == "block", scales
    size, thick = (11.5, 7) if small else (13.5, 11)
    pen.text(left, y, row.part.name, size, most=STRENGTH[0] - 6)
    for place, (norm, colour) in enumerate(zip(row.meeting.strengths, colours, strict=True)):
        top, length = y - 5 + 5 * place, STRENGTH[1] * norm / strongest
        pen.box((left + STRENGTH[0], top + 0.5, left + STRENGTH[0] + max(1, length), top + 4.5), colour)
    half, middle = PULL[1] / 2, left + PULL[0] + PULL[1] / 2
    bar(pen, middle, y, thick, -half / most, row.meeting.cancel, RED)
    bar(pen, middle, y, thick, half / most, row.meeting.agree, GREEN)
    pen.box((middle - 0.5, y - thick, middle + 0.5, y + thick), FAINT)
    pen.box((left + COLLIDE[0] - 1, y - thick, left + COLLIDE[0], y + thick), FAINT)
    bar(pen, left + COLLIDE[0], y, thick, COLLIDE[1] / most, row.meeting.collide, AMBER)
    faint = row.seen is not None and row.seen.faint
    words = "hardly shows in pictures" if faint else SHORT.get(row.verdict) or only(row, names)
    fill = GREY if row.verdict in ("alone", "absent") or faint else INK
    pen.text(left + WORDS[0], y, words, 11 if small else 12, fill, most=WORDS[1] - 8)
    if row.seen is not None:
        pull = f"{100 * row.seen.cosine:+.0f}%"
        pen.text(left + sum(WORDS) + SEEN, y, pull, 11 if small else 12, PALE if faint else pulling(row.seen), "rm")


def pulling(seen: Seen) -> tuple[int, int, int]:
    """The colour of how two styles pull in pictures."""
    return GREY if abs(seen.cosine) < MATTERS else GREEN if seen.cosine > 0 else RED


def bar(pen: Pen, x: float, y: float, thick: float, per: float, share: Share, colour) -> None:
    """A bar from x, `per` units for a share of 1, to the left where that is negative; pale if it may be chance."""
    ends = sorted((x, x + per * share.value))
    pale = tuple((c + 2 * card) // 3 for c, card in zip(colour, CARD, strict=True))
    if ends[1] - ends[0] >= 0.5:
        pen.box((ends[0], y - thick / 2, ends[1], y + thick / 2), colour if share.clear else pale)
    mark = x + per * share.chance
    if abs(mark - x) >= 1:
        pen.box((mark - 0.75, y - thick / 2 - 2, mark + 0.75, y + thick / 2 + 2), INK)


def only(row: Finding, names: tuple[str, str]) -> str:
    """Who acts where not both do."""
    acting = [name for name, norm in zip(names, row.meeting.strengths, strict=True) if norm]
    return f"only {acting[0]}" if acting else "neither acts"


def row_height(row: Finding) -> float:
    """Blocks are lower than what they make up."""
    return SMALL_ROW if row.part.kind == "block" else ROW


def card_height(pair: Pair) -> float:
    """All of its rows, and the lines between their kinds."""
    kinds = len({row.part.kind for row in pair.findings})
    return 70 + sum(row_height(row) for row in pair.findings) + 11 * (kinds - 1) + 14


def width_of(pair: Pair) -> float:
    """All of its columns."""
    return INSIDE * 2 + sum(WORDS) + (SEEN if any(row.seen for row in pair.findings) else 0)


def most_of(pair: Pair) -> float:
    """What a full bar stands for."""
    meetings = [row.meeting for row in pair.findings]
    return min(1.0, max(LEAST, *(share.value for m in meetings for share in (m.agree, m.cancel, m.collide))))


def strongest_of(pair: Pair) -> float:
    """What a full bar of strength stands for; no part is beyond the whole."""
    return max(pair.whole.meeting.strengths) or 1.0


def advice_lines(found: Conflict, width: float) -> list[tuple[str, float, tuple[int, int, int]]]:
    """(words, size, colour) of every line at the foot."""
    found_lines = []
    for suggestion in found.suggestions:
        for flags in textwrap.wrap(suggestion.flags, round(width / 7.2), break_on_hyphens=False):
            found_lines.append((flags, 13, INK))
        for words in textwrap.wrap(suggestion.sentence, round(width / 6.2)):
            found_lines.append((words, 12, GREY))
        found_lines.append(("", 4, GREY))
    return found_lines
