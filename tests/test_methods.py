"""What each method makes of styles, against the papers' formulas written out on dense updates."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from test_compress import CONV, FEW, MLP, SHAPES, TEXT, Q, adapter, dense, error_of, factors
from torch import Tensor

from difflora.adapters.adapter import Adapter
from difflora.adapters.blend import blend
from difflora.adapters.compress import compress, true_error
from difflora.adapters.dense import elected
from difflora.adapters.knobs import HELP, Knobs, turn
from difflora.adapters.methods import METHODS, blend_by, switch_distance
from difflora.adapters.orthogonal import orthogonalised, turned
from difflora.adapters.updates import Decomposed, Whole
from difflora.errors import AdapterFileError, RequestError
from difflora.events import Progress
from difflora.strength import parse_strength

FILES = [name for name in HELP if name != "switch"]
DENSE = ["ties", "dare", "magnitude"]
ALL = Knobs(density=1.0, amount=0.0)
"""With these every method is the sum, unless styles pull apart."""


def styles() -> list[Adapter]:
    """Mixed ranks, an alpha that is none of them, convolutions of both kinds, modules that only one of them touches."""
    return [adapter(1, Q, MLP, CONV, FEW), adapter(4, Q, CONV, TEXT), adapter(2, Q, MLP)]


def flat(update) -> Tensor:
    """The dense update in double precision, as a matrix."""
    return update.delta().double().flatten(1)


def deltas(path: str, made: list[Adapter], weights: list[float]) -> list[Tensor]:
    """Weight times update of each style that touches a module."""
    return [w * flat(one.layers[path]) for one, w in zip(made, weights, strict=True) if path in one.layers]


def largest(delta: Tensor, density: float) -> Tensor:
    """The paper's trim: all but the top share of the numbers become zero."""
    kept = torch.zeros(delta.numel(), dtype=torch.bool)
    kept[delta.abs().flatten().topk(round(density * delta.numel())).indices] = True
    return delta * kept.view_as(delta)


def ties_of_the_paper(updates: list[Tensor], density: float, scale: float) -> Tensor:
    """Algorithm 1 of arXiv 2306.01708: trim, elect, disjoint mean, times lambda."""
    tau = torch.stack([largest(update, density) for update in updates])
    gamma = tau.sum(dim=0).sign()
    agreeing = (tau.sign() == gamma) & (tau != 0)
    mean = (tau * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp_min(1)
    return scale * mean


def close(found: Tensor, wanted: Tensor, relative: float = 1e-5) -> bool:
    return found.shape == wanted.shape and float((found - wanted).norm()) <= relative * float(wanted.norm())


# --- every method


def test_every_method_has_a_line_of_help():
    assert HELP.keys() == METHODS.keys() and all(HELP.values())


@pytest.mark.parametrize("method", FILES)
@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.7, 0.3]])
def test_equal_styles_whose_weights_make_one_are_that_style(method, weights):
    one = adapter(3)
    made = blend_by([one, one], weights, method, ALL)
    assert true_error(made.adapter, one) < 1e-5 and made.distance < 1e-6


@pytest.mark.parametrize("method", FILES)
def test_one_style_alone_keeps_its_weight(method):
    one = adapter(3)
    for weight in (0.4, -1.5):
        made = blend_by([one], [weight], method, ALL)
        assert true_error(made.adapter, blend([one], [weight])) < 1e-5


@pytest.mark.parametrize("method", FILES)
def test_a_style_at_weight_zero_is_not_there(method):
    first, second, third = styles()
    knobs = Knobs(seed=3)
    with_it = blend_by([first, second, third], [0.6, 0.0, -0.8], method, knobs, whole=method in DENSE)
    without = blend_by([first, third], [0.6, -0.8], method, knobs, whole=method in DENSE)
    assert with_it.distance == without.distance and set(with_it.adapter.layers) == set(without.adapter.layers)
    for path, update in without.adapter.layers.items():
        assert torch.equal(with_it.adapter.layers[path].delta(), update.delta()), path
    assert TEXT not in with_it.adapter.layers


@pytest.mark.parametrize("method", ["ties", "magnitude"])
def test_a_style_whose_weight_goes_to_zero_goes_without_a_jump(method):
    first, second, _ = styles()
    almost = blend_by([first, second], [0.6, 1e-5], method, Knobs(density=0.3), whole=True)
    gone = blend_by([first], [0.6], method, Knobs(density=0.3), whole=True)
    for path, update in gone.adapter.layers.items():
        assert close(flat(almost.adapter.layers[path]), flat(update), 1e-4), path


@pytest.mark.parametrize("method", FILES)
def test_distance_is_that_of_the_uncut_result_from_the_sum(method):
    parts, weights = styles(), [0.7, -0.5, 0.3]
    made = blend_by(parts, weights, method, Knobs(density=0.4, amount=0.6), whole=method in DENSE)
    total = blend(parts, weights)
    gap = sum(float((flat(made.adapter.layers[p]) - flat(u)).square().sum()) for p, u in total.layers.items())
    size = sum(float(flat(u).square().sum()) for u in total.layers.values())
    assert made.distance == pytest.approx(math.sqrt(gap / size), rel=1e-4, abs=1e-6)
    assert (made.distance == 0) is (method == "sum") and made.error == 0


@pytest.mark.parametrize("method", FILES)
@pytest.mark.parametrize("asked", [{"rank": 2}, {"max_error": 0.2}, {}])
def test_the_error_of_cutting_is_told_apart_from_the_distance(method, asked):
    parts, weights = styles(), [0.7, -0.5, 0.3]
    knobs = Knobs(density=0.4, amount=0.6, seed=5)
    made = blend_by(parts, weights, method, knobs, **asked)
    uncut = blend_by(parts, weights, method, knobs, whole=method in DENSE)
    gap = sum(
        float((flat(made.adapter.layers[p]) - flat(u)).square().sum()) if p in made.adapter.layers
        else float(flat(u).square().sum())
        for p, u in uncut.adapter.layers.items()
    )  # fmt: skip
    size = sum(float(flat(u).square().sum()) for u in uncut.adapter.layers.values())
    assert made.error == pytest.approx(math.sqrt(gap / size), rel=1e-4, abs=1e-6)
    assert made.distance == uncut.distance
    assert made.error <= asked.get("max_error", 1)
    assert max(update.rank for update in made.adapter.layers.values()) <= asked.get("rank", 99)
    assert made.worst[1] >= made.error


@pytest.mark.parametrize("method", FILES)
def test_the_rank_is_at_most_that_of_all_styles_together(method):
    parts = styles()
    made = blend_by(parts, [0.7, -0.5, 0.3], method)
    for path, update in made.adapter.layers.items():
        most = sum(one.layers[path].rank for one in parts if path in one.layers)
        assert update.rank <= most and update.shape == SHAPES[path], path


def test_weights_may_differ_by_block():
    parts = styles()
    made = blend_by(parts, [parse_strength("0.7/0.3@conv=0"), 0.5, parse_strength("@mid")])
    assert set(made.adapter.layers) == {Q, MLP, CONV, TEXT}
    assert close(flat(made.adapter.layers[CONV]), 0.5 * flat(parts[1].layers[CONV]))
    wanted = 0.7 * flat(parts[0].layers[MLP]) + flat(parts[2].layers[MLP])
    assert close(flat(made.adapter.layers[MLP]), wanted)


def test_progress_is_told_with_the_time_that_is_left():
    events: list[Progress] = []
    blend_by(styles(), [1, 1, 1], "ties", report=events.append)
    assert [(e.what, e.done, e.total) for e in events] == [("blending", i, 5) for i in range(1, 6)]
    assert events[-1].eta == 0


# --- sum


def test_the_sum_is_exact_and_cutting_it_is_compressing_it():
    parts, weights = styles(), [0.7, -1.3, 2.0]
    made, total = blend_by(parts, weights), blend(parts, weights)
    for path in total.layers:
        assert close(flat(made.adapter.layers[path]), sum(deltas(path, parts, weights)))
    cut, wanted = blend_by(parts, weights, rank=2), compress(total, rank=2)
    assert cut.error == wanted.error and cut.worst == wanted.worst
    assert true_error(cut.adapter, wanted.adapter) == 0
    assert cut.error == pytest.approx(error_of(cut.adapter, total), rel=1e-6)


# --- ties, magnitude


@pytest.mark.parametrize("path", [Q, MLP, CONV, FEW])
@pytest.mark.parametrize(("weight", "signs"), [(0.5, (1, 1, 1)), (1.0, (1, -1, 1)), (0.3, (-1, 1, -1))])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_with_equal_weights_is_the_papers_with_their_sum_for_lambda(path, weight, signs, density):
    parts = styles()
    weights = [weight * sign for sign in signs]
    made = blend_by(parts, weights, "ties", Knobs(density=density), whole=True)
    taus = [update / weight for update in deltas(path, parts, weights)]
    assert close(flat(made.adapter.layers[path]), ties_of_the_paper(taus, density, weight * len(taus)))


def test_ties_of_one_style_trims_it():
    one = adapter(1, TEXT)
    made = blend_by([one], [0.8], "ties", Knobs(density=0.25), whole=True).adapter.layers[TEXT]
    assert close(flat(made), 0.8 * largest(flat(one.layers[TEXT]), 0.25))
    assert int((flat(made) != 0).sum()) == 100


def test_a_negative_weight_votes_the_other_way():
    up, down = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    # Together 2 - 1 and 1 - 3: the first place is the first style's, the second place the other's.
    assert elected([up, -down], [1, -1]).tolist() == [[4.0, -6.0]]
    assert elected([up, down], [1, 1]).tolist() == [[3.0, 4.0]]


def test_opposite_styles_leave_nothing():
    one = adapter(2)
    for method in ("ties", "magnitude", "knots", "sum"):
        made = blend_by([one, one], [1, -1], method)
        assert not any(flat(update).abs().max() > 1e-5 for update in made.adapter.layers.values()), method


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_magnitude_adds_up_the_largest_numbers_of_each_style(density):
    parts, weights = styles(), [0.7, -0.5, 0.3]
    made = blend_by(parts, weights, "magnitude", Knobs(density=density), whole=True)
    for path, update in made.adapter.layers.items():
        wanted = sum(largest(delta, density) for delta in deltas(path, parts, weights))
        assert close(flat(update), wanted), path


# --- dare


def test_the_same_seed_drops_the_same_and_another_seed_drops_others():
    parts = styles()
    first, again, other = (
        blend_by(parts, [0.7, -0.5, 0.3], "dare", Knobs(seed=seed), whole=True) for seed in (7, 7, 8)
    )
    for path, update in first.adapter.layers.items():
        assert torch.equal(update.delta(), again.adapter.layers[path].delta())
        assert not torch.equal(update.delta(), other.adapter.layers[path].delta())


def test_dare_drops_other_numbers_in_each_module():
    same = factors((24, 16), 3, 2.0)
    made = blend_by([Adapter({Q: same, MLP: same})], [1], "dare", whole=True).adapter
    assert not torch.equal(made.layers[Q].delta() != 0, made.layers[MLP].delta() != 0)


def test_dare_keeps_each_number_over_the_density_or_not_at_all():
    one = adapter(1, TEXT)
    made = flat(blend_by([one], [-0.8], "dare", Knobs(density=0.3), whole=True).adapter.layers[TEXT])
    kept = made != 0
    assert 0.2 < float(kept.double().mean()) < 0.4
    assert close(made, -0.8 / 0.3 * flat(one.layers[TEXT]) * kept)


def test_dare_is_the_sum_on_average():
    parts, weights, tries = styles()[:2], [0.7, -0.5], 400
    total = sum(
        flat(METHODS["dare"]([one.layers[Q] for one in parts], weights, Knobs(seed=seed, path=Q)))
        for seed in range(tries)
    )
    wanted = deltas(Q, parts, weights)
    spread = torch.stack(wanted).square().sum(dim=0).sqrt() / math.sqrt(tries)
    misses = (total / tries - sum(wanted)) / spread.clamp_min(1e-12)
    # Standard scores of 384 numbers.
    assert float(misses.square().mean()) == pytest.approx(1, abs=0.3) and float(misses.abs().max()) < 5


# --- knots


@pytest.mark.parametrize("path", [Q, MLP, CONV, FEW])
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_knots_is_ties_in_the_basis_of_the_updates_side_by_side(path, density):
    parts, weights = styles(), [0.5, -0.5, 0.5]
    made = blend_by(parts, weights, "knots", Knobs(density=density)).adapter.layers[path]
    updates = deltas(path, parts, weights)
    u, s, v = torch.linalg.svd(torch.cat(updates, dim=1), full_matrices=False)
    kept = int((s > 1e-6 * s[0]).sum())
    rows = [s[:kept, None] * piece for piece in v[:kept].split(updates[0].shape[1], dim=1)]
    aligned = ties_of_the_paper([2 * row for row in rows], density, 0.5 * len(rows))
    assert made.rank == kept
    assert close(flat(made), u[:, :kept] @ aligned, 1e-4)


# --- orthogonal


def test_orthogonal_at_amount_zero_is_the_sum():
    parts, weights = styles(), [0.7, -0.5, 0.3]
    made = blend_by(parts, weights, "orthogonal", Knobs(amount=0))
    assert made.distance == 0 and true_error(made.adapter, blend(parts, weights)) == 0


def overlap(first: Tensor, second: Tensor) -> float:
    """Cosine of two updates."""
    return abs(float((first * second).sum() / (first.norm() * second.norm())))


def test_orthogonal_takes_away_what_is_shared_by_its_amount_and_keeps_ranks():
    shared, own = factors((24, 16), 3, 2.0, 1), factors((24, 16), 2, 1.0, 2)
    both = blend([Adapter({Q: shared}), Adapter({Q: own})], [1.0, 1.0]).layers[Q]
    first = dense(shared)
    overlaps = []
    for amount in (0.0, 0.5, 1.0):
        kept, later = turned([shared, both], amount)
        assert kept is shared and later.rank == both.rank
        overlaps.append(float((first * dense(later)).sum()))
    assert overlaps[1] == pytest.approx(overlaps[0] / 2, rel=1e-5)
    assert abs(overlaps[2]) < 1e-5 * overlaps[0]


def test_orthogonal_at_amount_one_leaves_no_overlap_between_any_two_styles():
    parts = [adapter(seed, Q, MLP, CONV, TEXT) for seed in (1, 4, 2)]
    before = [overlap(flat(a.layers[Q]), flat(b.layers[Q])) for a, b in pairwise(parts)]
    made = orthogonalised(parts, 1.0)
    assert max(before) > 0.01 and made[0].layers == parts[0].layers
    for path in (Q, MLP, CONV, TEXT):
        for i, one in enumerate(made):
            assert one.layers[path].rank == parts[i].layers[path].rank
            for other in made[:i]:
                assert overlap(flat(one.layers[path]), flat(other.layers[path])) < 1e-5, path


def test_apart_and_in_one_orthogonal_styles_are_the_same_update():
    parts = styles()
    for weights in ([0.7, -0.5, 0.3], [0.0, -0.5, 0.3], [parse_strength("0.7@self=0"), -0.5, 0.3]):
        apart = blend(orthogonalised(parts, 0.6, weights), weights)
        made = blend_by(parts, weights, "orthogonal", Knobs(amount=0.6))
        assert true_error(made.adapter, apart) < 1e-6 and made.distance > 0.01


def test_an_equal_style_leaves_nothing_and_a_silent_one_takes_nothing():
    one, silent = factors((24, 16), 3, 2.0), replace(factors((24, 16), 2, 2.0), up=torch.zeros(24, 2))
    assert float(dense(turned([one, one], 1.0)[1]).norm()) < 1e-5 * float(dense(one).norm())
    assert close(dense(turned([silent, one], 1.0)[1]), dense(one))


# --- switch


def test_turns_are_shared_out_in_order():
    assert [turn(step / 8, 4, 2) for step in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [turn(step / 6, 6, 3) for step in range(6)] == [0, 1, 2, 0, 1, 2]
    assert turn(1.0, 4, 3) == 0 and turn(0.5, 1, 2) == 0


def test_at_any_time_switch_is_one_style_at_its_weight():
    parts = [one.layers[Q] for one in styles()]
    weights = [0.7, -0.5, 0.3]
    for step in range(6):
        made = METHODS["switch"](parts, weights, Knobs(turns=6, share=step / 6))
        assert close(flat(made), weights[step % 3] * flat(parts[step % 3]))


def test_switch_is_no_file_but_its_distance_is_known():
    parts, weights = styles(), [0.7, -0.5, 0.3]
    with pytest.raises(RequestError, match="--switch"):
        blend_by(parts, weights, "switch")
    total = blend(parts, weights)
    gaps = []
    for one, weight in zip(parts, weights, strict=True):
        alone = {path: weight * flat(update) for path, update in one.layers.items()}
        gaps.append(sum(float((flat(u) - alone.get(p, 0)).square().sum()) for p, u in total.layers.items()))
    size = sum(float(flat(u).square().sum()) for u in total.layers.values())
    assert switch_distance(parts, weights) == pytest.approx(math.sqrt(sum(gaps) / 3 / size), rel=1e-6)
    assert switch_distance(parts[:1], [0.7]) == pytest.approx(0, abs=1e-6)
    assert switch_distance([*parts, adapter(3)], [*weights, 0.0]) == pytest.approx(switch_distance(parts, weights))


# --- what is refused


@pytest.mark.parametrize(
    "values",
    [{"density": 0}, {"density": 1.1}, {"density": math.nan}, {"amount": -0.1}, {"turns": 0}, {"share": 2}],
)
def test_knobs_out_of_range_are_refused(values):
    with pytest.raises(RequestError, match="expected"):
        Knobs(**values)


def test_what_cannot_be_blended_is_refused_in_one_line():
    parts = styles()
    for method, weights, asked, words in (
        ("tie", [1, 1, 1], {}, "no method 'tie': expected ties"),
        ("sum", [0, 0, 0], {}, "every weight is 0"),
        ("ties", [1, 1, 1], {"rank": 0}, "rank 0: expected 1 to 20"),
        ("sum", [1, 1, 1], {"rank": 65}, "expected 1 to 20"),
        ("dare", [1, 1, 1], {"max_error": 2}, "0 to 1"),
        ("ties", [1, 1, 1], {"rank": 2, "max_error": 0.5}, "one of the two"),
        ("ties", [1, 1, 1], {"rank": 2, "whole": True}, "one or the other"),
    ):
        with pytest.raises(RequestError, match=words) as refused:
            blend_by(parts, weights, method, **asked)
        assert "\n" not in str(refused.value)
    dora = Adapter({Q: Decomposed(factors((24, 16), 2, 1.0), torch.ones(24, 1))})
    for update in (dora, Adapter({Q: Whole(torch.ones(24, 16), (24, 16))})):
        with pytest.raises(AdapterFileError):
            blend_by([update, parts[0]], [1, 1], "ties")
        with pytest.raises(AdapterFileError):
            orthogonalised([parts[0], update], 0.5)
