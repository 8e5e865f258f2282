"""Which pictures each step shows: a function of the seed and the step's number alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

Size = tuple[int, int]


def order(seed: int, count: int, start: int, batch: int) -> list[int]:
    """The rows of one batch: every epoch is a fresh shuffle of all `count` pictures, a function of seed and place."""
    return [_shuffled(seed * 7_368_787 + place // count, count)[place % count] for place in range(start, start + batch)]


@lru_cache(maxsize=64)
def _shuffled(seed: int, count: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist())


class Schedule:
    """Batches that show every picture as often as its repeats say in every epoch, of one size where possible.

    sizes: of each picture, in any unit; repeats: how often each is shown an epoch.
    """

    def __init__(self, sizes: Sequence[Size], repeats: Sequence[int], seed: int, batch: int) -> None:
        self.seed, self.batch = seed, batch
        self.pictures = [row for row, count in enumerate(repeats) for _ in range(count)]
        self.sizes = list(sizes)
        self.mixed = len(set(self.sizes)) > 1

    def rows(self, step: int) -> list[int]:
        """The `batch` rows of one step, from 0."""
        places, count = range(step * self.batch, (step + 1) * self.batch), len(self.pictures)
        return [_epoch(self, place // count)[place % count] for place in places]


@lru_cache(maxsize=8)
def _epoch(schedule: Schedule, epoch: int) -> tuple[int, ...]:
    """The rows of one epoch: shuffled, and where sizes differ sorted so that most steps hold one size."""
    count, batch = len(schedule.pictures), schedule.batch
    rows = [schedule.pictures[place] for place in order(schedule.seed, count, epoch * count, count)]
    if not schedule.mixed:
        return tuple(rows)
    whole, left = _batches(rows, schedule)
    # The last step of the epoch before needs some rows more, and the next epoch's first step has the last ones.
    head = -epoch * count % batch
    tail = max(0, count - head) % batch
    while len(left) < min(head + tail, count):
        left = whole.pop() + left
    middle = left[head : len(left) - tail]
    whole += [middle[start : start + batch] for start in range(0, len(middle), batch)]
    rng = torch.Generator().manual_seed(schedule.seed * 1_299_709 + epoch)
    shuffled = [row for i in torch.randperm(len(whole), generator=rng).tolist() for row in whole[i]]
    return (*left[:head], *shuffled, *left[len(left) - tail :])


def _batches(rows: Sequence[int], schedule: Schedule) -> tuple[list[list[int]], list[int]]:
    """(batches of one size each, what is left over, sizes together)."""
    by_size: dict[Size, list[int]] = {}
    for row in rows:
        by_size.setdefault(schedule.sizes[row], []).append(row)
    whole, left = [], []
    for some in by_size.values():
        cut = len(some) - len(some) % schedule.batch
        whole += [some[start : start + schedule.batch] for start in range(0, cut, schedule.batch)]
        left += some[cut:]
    return whole, left
