"""Weighted words: `(words:1.3)` in a caption or a prompt, as most trainers and front ends write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

MOST = 5.0
PIECES = re.compile(r"\\[\\()]|.", re.DOTALL)
LONGEST_WEIGHT = 24
WEIGHT = re.compile(r"\s*:\s*(\d{1,2}(\.\d{0,9})?|\.\d{1,9})\s*$")


@dataclass(frozen=True)
class Emphasised:
    """A text without its marks, and how much which part of it counts."""

    text: str
    spans: tuple[tuple[int, int, float], ...] = ()
    """(start, end, weight) of the characters that do not count 1: in order, never overlapping, weights 0 to 5."""


def parse(text: str) -> Emphasised:
    """Take `(words:1.3)` out of a text; weights inside each other multiply, up to 5.

    Parentheses without a weight of 0 to 5 after a colon are words like any other. A backslash before a parenthesis
    makes it a plain one, weight or not, and is left out itself.
    """
    shown: list[tuple[str, float]] = []
    opened: list[int] = []
    for piece in PIECES.findall(text):
        if piece == ")" and opened:
            start = opened.pop()
            last = max(start + 1, len(shown) - LONGEST_WEIGHT)
            found = WEIGHT.search("".join(character for character, _ in shown[last:]))
            # "(:1.3)" has no words, and "(at 10:30)" is a time.
            if found and last + found.start() > start + 1 and float(found[1]) <= MOST:
                weight = float(found[1])
                shown[start:] = [(c, min(weight * own, MOST)) for c, own in shown[start + 1 : last + found.start()]]
                continue
        if piece == "(":
            opened.append(len(shown))
        shown.append((piece[-1], 1.0))
    return Emphasised("".join(character for character, _ in shown), _spans([weight for _, weight in shown]))


def _spans(weights: list[float]) -> tuple[tuple[int, int, float], ...]:
    """Runs of one weight, those of 1 left out."""
    spans, start = [], 0
    for weight, run in groupby(weights):
        end = start + len(list(run))
        if weight != 1:
            spans.append((start, end, weight))
        start = end
    return tuple(spans)
