"""From what was measured to what is wrong, in a painter's words; each against the folder itself and a fixed floor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from . import wordcheck
from .marks import CORNERS, recurring
from .sight import Sight

Kind = Literal["keep", "look", "exclude"]

CRISP = 1.3
"""Edge width in px of a picture that shows all that its pixels can."""
SOFT, SOFTER = 1.65, 1.4
"""Edge width from which on a picture is soft: in px, and of the folder's median."""
ENOUGH, TOO_FEW = 2.0, 0.6
"""Of the training size: detail with which nothing is lost, and with which too much is."""
POOR, RUINED = 50, 25
"""JPEG qualities below which compression shows, and spoils."""
TRACE = 0.3
RHYTHM = 6.0
BLANK = 6.0
OUTLYING, HALVINGS, ENOUGH_PICTURES = 5.0, 8, 40
"""Deviations from the folder's median from which on a picture is unlike the rest, and how that is measured."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a picture."""

    name: str
    text: str
    """Follows the picture's name in a sentence."""
    figure: float | None = None
    kind: Kind = "look"


def unreadable(sight: Sight) -> list[Fault]:
    """A picture that training would stop at."""
    return [Fault("unreadable", f"cannot be used: {sight.problem.partition(': ')[2]}", kind="exclude")]


def blank(sight: Sight) -> list[Fault]:
    """Nothing is drawn."""
    if sight.contrast > BLANK or sight.edge:
        return []
    return [Fault("blank", "is of one colour all over", round(sight.contrast, 1), "exclude")]


def tiny(sight: Sight, side: int | None) -> list[Fault]:
    """Smaller than the base draws."""
    if side is None or sight.side >= side:
        return []
    kind: Kind = "exclude" if sight.side < TOO_FEW * side else "look"
    what = f"is {sight.width} × {sight.height}, smaller than the {side} px it is learnt at: it would be blown up"
    return [Fault("tiny", what, sight.side, kind)]


def soft(sight: Sight, usual: float, side: int | None, squeezed: bool) -> list[Fault]:
    """Blurred, or enlarged from a smaller one; usual: the folder's median edge width; squeezed: a poor JPEG."""
    if sight.repeated > 1:
        width, smooth = float(sight.repeated), False
    else:
        width, smooth = sight.edge / CRISP, True
        # What strong compression softens is named by that.
        if sight.edge < max(SOFT, SOFTER * usual) * (1.5 if squeezed else 1):
            return []
    detail = round(sight.side / width)
    if side is not None and detail >= ENOUGH * side:
        return []
    kind: Kind = "exclude" if side is not None and detail < TOO_FEW * side and width > 2 else "look"
    if not smooth:
        return [
            Fault("enlarged", f"was blown up from {detail} px: each pixel stands {sight.repeated} times", detail, kind)
        ]
    if sight.rhythm > RHYTHM and width > 2:
        return [Fault("enlarged", f"was blown up: it shows no more than {detail} px would", detail, kind)]
    return [
        Fault(
            "blurred",
            f"is soft, from blur or from being blown up: it shows no more than {detail} px would",
            detail,
            kind,
        )
    ]


def compressed(sight: Sight, usual: float) -> list[Fault]:
    """What JPEG took away; usual: the median trace of blocks in the folder."""
    if sight.quality is not None and sight.quality < POOR:
        kind: Kind = "exclude" if sight.quality < RUINED else "look"
        return [
            Fault(
                "compressed",
                f"was saved as JPEG of quality {sight.quality}: blocks and halos show",
                sight.quality,
                kind,
            )
        ]
    if sight.blocks > max(TRACE, usual + 0.2):
        return [
            Fault("compressed", "shows the blocks of a poor JPEG, though it was saved anew", round(sight.blocks, 2))
        ]
    return []


def framed(sight: Sight) -> list[Fault]:
    """A plain frame around it."""
    if not any(sight.frame):
        return []
    sides = " / ".join(map(str, sight.frame))
    return [Fault("frame", f"has a plain frame ({sides} px left / top / right / bottom): cut it off", max(sight.frame))]


def unlike(features: np.ndarray) -> list[list[Fault]]:
    """For each row of features (N, D) whether it lies farther than the rest from the ways in which the rows differ.

    Each row is measured (Mahalanobis, with a ridge) against halves of the rows that it is not in, as it would otherwise
    help to describe itself; the middle of several halvings counts, in deviations from the folder's median.
    """
    off = features - np.median(features, axis=0)
    floor = 1e-3 * np.abs(features).mean(0) + 1e-9
    rows = np.clip(off / np.maximum(1.4826 * np.median(np.abs(off), axis=0), floor), -8, 8)
    rng, found = np.random.default_rng(0), np.zeros((HALVINGS, len(rows)))
    for turn in found:
        order = rng.permutation(len(rows))
        for own, others in ((order[::2], order[1::2]), (order[1::2], order[::2])):
            turn[own] = _apart(rows[own], rows[others])
    apart = np.median(found, axis=0)
    middle = np.median(apart)
    far = (apart - middle) / (1.4826 * np.median(np.abs(apart - middle)) + 1e-9)
    text = "is unlike the rest in colours and strokes: is it of the same hand?"
    # The spread of few pictures is not known well.
    limit = OUTLYING * max(1.0, ENOUGH_PICTURES / len(rows))
    return [[Fault("unlike", text, round(float(value), 1))] if value > limit else [] for value in far]


def _apart(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances of rows from others, the farthest tenth of which is not heeded."""
    middle = np.median(others, axis=0)
    sizes = ((others - middle) ** 2).sum(1)
    _, values, ways = np.linalg.svd(others[sizes <= np.quantile(sizes, 0.9)] - middle, full_matrices=False)
    spread, along = values**2 / len(others), (rows - middle) @ ways.T
    ridge = 0.1 * spread.mean() + 1e-9
    rest = np.maximum(((rows - middle) ** 2).sum(1) - (along**2).sum(1), 0)
    return np.sqrt((along**2 / (spread + ridge)).sum(1) + rest / ridge)


def marked(sights: Sequence[Sight]) -> list[list[Fault]]:
    """For each picture what seems written in its corners; the same at the same place in many is nearly certain."""
    faults: list[list[Fault]] = [[] for _ in sights]
    for corner, where in enumerate(CORNERS):
        patches = [sight.patches[corner] for sight in sights]
        same = recurring(patches, max(2, len(sights) // 25))
        for i in same:
            what = f"has a mark at the {where} that {len(same) - 1} others have there too: a signature or watermark?"
            faults[i].append(Fault("mark", what, len(same)))
        for i, sight in enumerate(sights):
            if sight.written[corner] and i not in same:
                faults[i].append(Fault("mark", f"seems to be signed at the {where}", round(sight.written[corner], 3)))
    return [found[:1] for found in faults]


def usual_edge(sights: Sequence[Sight]) -> float:
    """The folder's median edge width in px."""
    return median([sight.edge for sight in sights if sight.edge] or [CRISP])


def styled(words: Sequence[str]) -> Fault:
    quoted = ", ".join(f"“{word}”" for word in words)
    return Fault("style words", f"has words of style in its caption ({quoted}): the style would hang on them")


def judge_captions(found: list[list[Fault]], texts: Sequence[str], named: Sequence[bool], trigger: str) -> list[str]:
    """Add what is wrong with captions to the faults, and return what is to be said of all of them."""
    for i, (name, text) in wordcheck.holes(texts, named).items():
        found[i].append(Fault(name, text))
    spoken = [wordcheck.style_words(text) for text in texts]
    common = Counter(word for words in spoken for word in words)
    usual = {word for word, n in common.items() if n >= wordcheck.OFTEN * len(texts) and n >= wordcheck.FEWEST}
    for own, words in zip(found, spoken, strict=True):
        if rare := [word for word in words if word not in usual]:
            own.append(styled(rare))
    notes = []
    written = [text for text, by_name in zip(texts, named, strict=True) if text and not by_name]
    if all(named):
        notes.append("captions: none written, the files' names are taken; a few words on what each shows teach more")
    if often := wordcheck.everywhere(written, trigger):
        words = ", ".join(f"“{word}” ({n})" for word, n in often[:5])
        notes.append(
            f"captions: in nearly all {len(written)} stands {words}; such words take the style upon themselves"
        )
    return notes + _judge_trigger(found, texts, trigger)


def _judge_trigger(found: list[list[Fault]], texts: Sequence[str], trigger: str) -> list[str]:
    """Add a fault to captions that lack a trigger which most hold."""
    if not trigger:
        return ["no trigger given: the style is then always on; a made-up word (--trigger) lets it be called"]
    held = [wordcheck.holds(text, trigger) for text in texts]
    if not any(held):
        return []
    if all(held):
        return [
            f"trigger: all captions hold “{trigger}”; training puts it in front of each once more: leave out --trigger"
        ]
    if sum(held) >= len(held) / 2:
        for own, holds in zip(found, held, strict=True):
            if not holds:
                own.append(Fault("no trigger", f"lacks the trigger “{trigger}” in its caption, which most others hold"))
    said = f"trigger: {sum(held)} of {len(held)} captions hold “{trigger}”"
    return [
        f"{said}; training puts it in front of each: take it out of them, or write it in all and leave out --trigger"
    ]
