"""Which pictures taught, which were never learnt: each one's loss before and after."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

import torch

from ..adapters.files import write_atomic
from . import judge
from .encoded import Encoded

if TYPE_CHECKING:
    from .loop import Loop
    from .train import Training

TIMES = (0.4, 0.7)
Verdict = Literal["learnt", "never learnt", "learnt by heart"]


@dataclass(frozen=True)
class Lesson:
    """One picture's loss at fixed noise and times; `learnt` is the share that the style took off."""

    picture: str
    before: float
    after: float
    learnt: float
    verdict: Verdict


@torch.inference_mode()
def picture_losses(model, data: Encoded, at_once: int) -> list[float]:
    """The mean loss of each picture at fixed noise and times."""
    found = [0.0] * len(data)
    for start in range(0, len(data), at_once):
        rows = range(start, min(start + at_once, len(data)))
        for group in data.plain(rows):
            noise = judge.fixed_noise(group.latents, len(TIMES))
            for k, time in enumerate(TIMES):
                losses = judge.losses_at(model, group.latents, group.cond, time, noise[k])
                for place, loss in zip(group.places, losses.tolist(), strict=True):
                    found[rows[place]] += loss / len(TIMES)
    return found


def lessons(names: list[str], before: list[float], after: list[float]) -> list[Lesson]:
    """Verdicts from losses: never learnt, where nothing was taken off; by heart, where far more than of the others."""
    shares = [(b - a) / max(b, 1e-12) for b, a in zip(before, after, strict=True)]
    middle = median(shares)
    spread = 1.4826 * median(abs(share - middle) for share in shares)

    def verdict(share: float) -> Verdict:
        if share <= 0:
            return "never learnt"
        return "learnt by heart" if share > max(middle + 4 * spread, 1.5 * middle, 0.2) else "learnt"

    rows = zip(names, before, after, shares, strict=True)
    return [Lesson(n, round(b, 5), round(a, 5), round(share, 4), verdict(share)) for n, b, a, share in rows]


def write_lessons(training: Training, loop: Loop, data: Encoded) -> list[Lesson]:
    """Measure every picture with the style and without, into pictures.json; the most learnt first."""
    with loop.average.shown():
        after = picture_losses(training.model, data, loop.fit.micro)
    with loop.layers.off():
        before = picture_losses(training.model, data, loop.fit.micro)
    folder = training.data.folder
    names = [item.path.relative_to(folder).as_posix() for item in training.data.items]
    table = sorted(lessons(names, before, after), key=lambda lesson: -lesson.learnt)
    text = json.dumps([asdict(lesson) for lesson in table], indent=1, ensure_ascii=False)
    write_atomic(training.run.folder / "pictures.json", text.encode("utf-8", "replace"))
    return table
