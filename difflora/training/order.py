"""Which pictures each step shows: a function of the seed and the step's number alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

WINDOW = 16


def order(seed: int, count: int, start: int, batch: int) -> list[int]:
    """The rows of one batch: every epoch is a fresh shuffle of all `count` pictures, a function of seed and place."""
    return [_shuffled(seed * 7_368_787 + place // count, count)[place % count] for place in range(start, start + batch)]


@lru_cache(maxsize=64)
def _shuffled(seed: int, count: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist())


class Schedule:
    """Batches that show every picture equally often, times its repeats, and hold one size where that is possible.

    sizes: of each picture, in any unit; repeats: how often each is shown an epoch.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], repeats: Sequence[int], seed: int, batch: int) -> None:
        self.seed, self.batch = seed, batch
        self.pictures = [row for row, count in enumerate(repeats) for _ in range(count)]
        self.sizes = list(sizes)
        self.mixed = len(set(self.sizes)) > 1

    def rows(self, step: int) -> list[int]:
        """The `batch` rows of one step, from 0."""
        if not self.mixed:
            return [self.pictures[place] for place in self.places(step, 1)]
        window, index = divmod(step, WINDOW)
        return _window(self, window)[index]

    def places(self, step: int, steps: int) -> list[int]:
        """The shuffled places of some steps."""
        return order(self.seed, len(self.pictures), step * self.batch, steps * self.batch)


@lru_cache(maxsize=8)
def _window(schedule: Schedule, window: int) -> tuple[list[int], ...]:
    """The batches of one window: of one size each, then what is left over, in shuffled order."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for place in schedule.places(window * WINDOW, WINDOW):
        row = schedule.pictures[place]
        by_size.setdefault(schedule.sizes[row], []).append(row)
    batches, left = [], []
    for rows in by_size.values():
        whole = len(rows) - len(rows) % schedule.batch
        batches += [rows[start : start + schedule.batch] for start in range(0, whole, schedule.batch)]
        left += rows[whole:]
    batches += [left[start : start + schedule.batch] for start in range(0, len(left), schedule.batch)]
    rng = torch.Generator().manual_seed(schedule.seed * 1_299_709 + window)
    return tuple(batches[i] for i in torch.randperm(len(batches), generator=rng))
