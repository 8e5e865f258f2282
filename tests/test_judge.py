"""Which checkpoint is the best, and when no better one is to be expected."""

from __future__ import annotations

from difflora.events import Scored
from difflora.training.judge import choose, learnt, plateau


def scored(*rows: tuple[float, float]) -> dict[int, Scored]:
    """(loss, total) of the base and of checkpoints ten steps apart."""
    return {10 * i: Scored(10 * i, total, 1.0, 0.0, 0.0, loss, total) for i, (loss, total) in enumerate(rows)}


def test_the_lowest_total_wins_and_of_equals_the_latest():
    assert choose(scored((1.0, 1.0), (0.8, 0.5), (0.8, 0.3), (0.8, 0.31), (0.8, 0.4)))[0] == 30


def test_what_hardly_learnt_is_not_chosen_though_its_pictures_look_near():
    scores = scored((1.0, 1.0), (0.95, 0.1), (0.82, 0.6), (0.8, 0.7), (0.81, 0.9))
    assert learnt(scores) == [20, 30, 40]
    step, why = choose(scores)
    assert step == 20 and "style 0.60" in why and "18% lower" in why and "the last one: 0.90, 100%, 19%" in why


def test_where_the_loss_hardly_moves_all_have_learnt():
    scores = scored((1.0, 1.0), (0.999, 0.9), (1.002, 0.4), (0.996, 0.8))
    assert learnt(scores) == [10, 20, 30] and choose(scores)[0] == 20


def test_three_that_are_no_better_are_a_plateau_and_one_that_is_better_ends_it():
    flat = [(1.0, 1.0), (0.8, 0.4), (0.8, 0.5), (0.8, 0.4)]
    assert not plateau(scored(*flat))
    assert plateau(scored(*flat, (0.8, 0.39)))
    assert not plateau(scored(*flat, (0.8, 0.3)))


def test_checkpoints_that_still_learn_are_no_plateau():
    assert not plateau(scored((1.0, 1.0), (0.95, 0.1), (0.9, 0.5), (0.85, 0.6), (0.8, 0.7)))
    assert plateau(scored((1.0, 1.0), (0.8, 0.5), (0.9, 0.1), (0.9, 0.1), (0.9, 0.1)))


def test_a_base_alone_and_its_first_checkpoint_are_no_plateau():
    assert not plateau(scored((1.0, 1.0)))
    assert not plateau(scored((1.0, 1.0), (0.8, 0.5)))
