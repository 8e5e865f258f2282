"""Blind picks: the weights go where the chooser wants them, even when the chooser errs."""

from __future__ import annotations

import math
from random import Random
from statistics import median

import pytest

from difflora.drawing.duel import Duel, direction


def searched(count: int, rng: Random, rounds: int = 12) -> tuple[float, float]:
    """(distance before, after) for an artist with a hidden favourite who picks the nearer, one time in ten wrongly."""
    favourite = [rng.uniform(-0.5, 1.5) for _ in range(count)]
    duel = Duel((0.7,) * count, seed=rng.randrange(1000))
    before = math.dist(duel.weights, favourite)
    for _ in range(rounds):
        near = [math.dist(blend, favourite) for blend in duel.pair()]
        duel = duel.chosen(near.index(min(near)) ^ (rng.random() < 0.1))
    return before, math.dist(duel.weights, favourite)


@pytest.mark.parametrize("count", [2, 3])
def test_twelve_rounds_bring_a_chooser_who_errs_three_times_nearer_to_the_favourite(count):
    runs = [searched(count, Random(i)) for i in range(400)]
    assert median(after for _, after in runs) <= median(before for before, _ in runs) / 3


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_as_many_rounds_as_styles_cover_every_direction(count):
    for turn in range(4):
        ways = [direction(count, turn * count + i, seed=5) for i in range(count)]
        for i, a in enumerate(ways):
            for j, b in enumerate(ways):
                assert sum(x * y for x, y in zip(a, b, strict=True)) == pytest.approx(float(i == j), abs=1e-9)


def test_the_first_rounds_ask_about_one_style_each():
    duel = Duel((0.5, 0.5, 0.5), seed=3)
    moved = []
    for _ in range(3):
        a, b = duel.pair()
        moved.append([i for i in range(3) if a[i] != b[i]])
        duel = duel.chosen(None)
    assert sorted(moved) == [[0], [1], [2]]


def test_the_same_fields_give_the_same_two_blends():
    duel = Duel((0.7, 0.4), round=5, seed=9)
    assert duel.pair() == Duel((0.7, 0.4), 0.5, 5, 9).pair()
    assert {Duel((0.7, 0.4), seed=s).pair() for s in range(20)} != {duel.pair()}


def test_choosing_moves_there_and_no_difference_only_narrows():
    duel = Duel((0.7, -0.4), seed=1)
    for which in (0, 1):
        assert duel.chosen(which).weights == duel.pair()[which]
    same = duel.chosen(None)
    assert same.weights == duel.weights and same.spread < duel.spread and same.round == 1


def test_weights_stay_within_two_or_where_they_were():
    duel = Duel((1.9, -2.0, 5.0), spread=3.0)
    for i in range(30):
        assert all(-2 <= w <= 2 for blend in duel.pair() for w in blend[:2])
        assert all(abs(blend[2]) <= 5 for blend in duel.pair())
        assert len(set(duel.pair())) == 2
        duel = duel.chosen(i % 2)
