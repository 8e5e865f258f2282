"""At which size a picture is learnt, and in which order pictures are shown."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from PIL import Image

from difflora.training.buckets import bucket_of, fit, table
from difflora.training.order import Schedule, order

SIZES = [(64, 64), (4000, 3000), (3000, 4000), (1920, 1080), (700, 330), (512, 2000), (65, 90), (130, 4000), (513, 511)]
# A landscape, a portrait, a square: pictures of three sizes, unevenly many.
MIXED = [(8, 6)] * 13 + [(6, 8)] * 6 + [(8, 8)] * 4


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (16, 16_000), (63, 700)])
@pytest.mark.parametrize(("side", "unit"), [(512, 64), (768, 64), (64, 64), (256, 8)])
def test_a_bucket_has_whole_units_no_more_than_the_area_and_a_shape_up_to_1_to_3(size, side, unit):
    width, height = bucket_of(size, side, unit)
    assert width % unit == 0 and height % unit == 0 and min(width, height) >= unit
    assert width * height <= side * side
    assert max(width, height) <= 3 * min(width, height)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "unit"), [(512, 64), (1024, 64), (64, 16)])
def test_no_picture_is_enlarged(size, side, unit):
    width, height = bucket_of(size, side, unit)
    assert width <= size[0] and height <= size[1]


def test_only_a_picture_below_one_unit_is_enlarged_and_no_further_than_to_it():
    assert bucket_of((40, 40), 512, 64) == (64, 64)
    assert bucket_of((40, 400), 512, 64) == (64, 192)


def test_a_small_picture_gets_the_largest_size_it_fills():
    assert bucket_of((511, 511), 512, 64) == (448, 448)
    assert bucket_of((500, 300), 512, 64) == (448, 256)
    assert bucket_of((700, 330), 512, 64) == (640, 320)


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_on_its_side_gets_the_same_bucket_on_its_side(size):
    assert bucket_of(size[::-1], 512, 64) == bucket_of(size, 512, 64)[::-1]


def test_the_shape_is_kept_as_well_as_by_any_other_size_of_nearly_the_area():
    def cut(bucket, size):
        return 1 - min(bucket[0] * size[1], bucket[1] * size[0]) / max(bucket[0] * size[1], bucket[1] * size[0])

    sizes = [(w, h) for w in range(64, 897, 64) for h in range(64, 897, 64) if 0.85 <= w * h / 512**2 <= 1]
    for size in [(4000, 3000), (1080, 1920), (2000, 1000), (1500, 1400)]:
        best = min(cut(other, size) for other in sizes if max(other) <= 3 * min(other))
        assert cut(bucket_of(size, 512, 64), size) <= best + 0.01


def test_a_large_picture_fills_most_of_the_area():
    for size in [(4000, 3000), (3000, 4000), (4000, 4000), (4000, 2000), (4000, 1400)]:
        width, height = bucket_of(size, 512, 64)
        assert width * height > 0.74 * 512**2


def test_square_pictures_stay_at_the_side_itself():
    assert all(bucket_of((px, px), side, 16) == (side, side) for side in (64, 96) for px in (96, 128, 1000))


def test_fit_shows_the_middle_and_distorts_nothing():
    picture = Image.new("RGB", (400, 100), "red")
    picture.paste("blue", (100, 0, 300, 100))
    fitted = fit(picture, (128, 64))
    assert fitted.size == (128, 64)
    assert fitted.getpixel((2, 32))[2] > 200 and fitted.getpixel((125, 32))[2] > 200


def test_the_table_counts_every_picture_once_the_commonest_size_first():
    counts = table([(512, 512)] * 2 + [(640, 512)] * 3, 512, 64)
    assert sum(counts.values()) == 5
    assert list(counts.values()) == [3, 2]


def test_every_epoch_shows_every_picture_once_and_each_place_alone_is_known():
    rows = order(7, 10, 0, 30)
    assert all(sorted(rows[start : start + 10]) == list(range(10)) for start in (0, 10, 20))
    assert rows[:10] != rows[10:20]
    assert order(7, 10, 13, 4) == rows[13:17]


def test_order_draws_each_epoch_from_a_seed_of_its_own_as_ever():
    for seed, count, place in [(0, 7, 0), (3, 7, 6), (3, 7, 7), (5, 10, 39)]:
        rng = torch.Generator().manual_seed(seed * 7_368_787 + place // count)
        assert order(seed, count, place, 1) == [torch.randperm(count, generator=rng)[place % count].item()]


def test_pictures_of_one_size_come_in_plain_order():
    schedule = Schedule([(8, 8)] * 10, [1] * 10, 3, 4)
    assert all(schedule.rows(step) == order(3, 10, step * 4, 4) for step in range(40))


def batches_of(sizes: list[tuple[int, int]], repeats: list[int], batch: int, epochs: int) -> list[list[int]]:
    """The steps that hold some whole epochs, and the last one's overhang."""
    schedule = Schedule(sizes, repeats, 1, batch)
    return [schedule.rows(step) for step in range(-(-epochs * sum(repeats) // batch))]


@pytest.mark.parametrize("batch", [1, 3, 4, 8, 23, 40])
@pytest.mark.parametrize("sizes", [MIXED, [(8, 8)] * 23, [(8, row) for row in range(23)], [(8, 8)] * 22 + [(6, 8)]])
@pytest.mark.parametrize("most", [1, 3])
def test_every_epoch_shows_every_picture_as_often_as_its_repeats_say(sizes, batch, most):
    repeats = [most if row % 5 == 0 else 1 for row in range(len(sizes))]
    epoch = sum(repeats)
    rows = [row for rows in batches_of(sizes, repeats, batch, 12) for row in rows]
    for start in range(0, 12 * epoch, epoch):
        assert Counter(rows[start : start + epoch]) == dict(enumerate(repeats))


@pytest.mark.parametrize("batch", [4, 8])
def test_a_step_shows_a_picture_twice_only_where_an_epoch_ends_within_it(batch):
    for step, rows in enumerate(batches_of([(8, 8)] * 19 + [(6, 8)], [1] * 20, batch, 30)):
        ends_within = step * batch // 20 != ((step + 1) * batch - 1) // 20
        assert len(set(rows)) == batch or ends_within


def test_batches_are_full_and_hold_one_size_but_for_what_is_left_over():
    sizes = MIXED * 3
    batches = batches_of(sizes, [1] * len(sizes), 4, 12)
    assert all(len(rows) == 4 for rows in batches)
    mixed = sum(len({sizes[row] for row in rows}) > 1 for rows in batches)
    # Of an epoch's 69 showings 60 fill batches of one size at least, whatever its first and last step take.
    assert mixed <= 12 * 3


def test_sizes_do_not_come_in_turns():
    schedule = Schedule(MIXED, [1] * len(MIXED), 5, 4)
    shapes = [[MIXED[rows[0]] for rows in (schedule.rows(23 * e + s) for s in range(5))] for e in range(6)]
    assert len({tuple(epoch) for epoch in shapes}) > 4


def test_a_schedule_gone_on_with_is_the_uninterrupted_one():
    whole = [Schedule(MIXED, [2] * len(MIXED), 9, 3).rows(step) for step in range(60)]
    fresh = Schedule(MIXED, [2] * len(MIXED), 9, 3)
    assert [fresh.rows(step) for step in range(37, 60)] == whole[37:]
    assert [fresh.rows(step) for step in reversed(range(60))] == whole[::-1]


def test_another_seed_is_another_order():
    assert [Schedule(MIXED, [1] * 23, 0, 4).rows(s) for s in range(4)] != [
        Schedule(MIXED, [1] * 23, 1, 4).rows(s) for s in range(4)
    ]
