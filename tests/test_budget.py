"""How strong several styles are together: one alone is never changed, several are as strong as one."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.blend import blend
from difflora.adapters.budget import gains
from difflora.adapters.gram import gram, module_grams
from difflora.drawing.balance import Balance
from difflora.drawing.effect import effects
from difflora.strength import Strength, parse_strength
from tests.conftest import random_adapter

KINDS = ("normalised", "matched")
WEIGHTS = ((0.5, 0.5), (1.0, 1.0), (0.7, 0.4), (0.2, 0.1), (3.0, 1.0))


def norm(adapter: Adapter) -> float:
    """The Frobenius norm of the whole update, from dense updates."""
    return math.sqrt(sum(float(update.delta().double().square().sum()) for update in adapter.layers.values()))


def made(adapter: Adapter, weight: float) -> Adapter:
    """Every update times a number."""
    return replace(adapter, layers={p: replace(f, up=f.up * weight) for p, f in adapter.layers.items()})


def orthogonal_pair() -> list[Adapter]:
    """Two styles of equal norms whose updates have nothing in common: other outputs of the same modules."""
    down, up = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), torch.eye(6, 4)
    return [
        Adapter({path: Factors(down, columns, 3.0) for path in ("unet.mid_block.a", "text_encoder.b")}, Info(str(i)))
        for i, columns in enumerate((up[:, :2], up[:, 2:]))
    ]


@pytest.fixture(scope="module")
def mixed(model) -> list[Adapter]:
    """Styles of other ranks, alpha and layers, one of them much fainter."""
    few = [*model.targets("attention", False)[::2], "unet.conv_in"]
    return [
        random_adapter(model, 4, 2.0, 1, size=0.2),
        random_adapter(model, 2, 5.0, 2),
        random_adapter(model, 3, 1.0, 3, paths=few),
    ]


@pytest.fixture(scope="module")
def table(model, mixed) -> torch.Tensor:
    """Their effects."""
    return effects(model, mixed)


@pytest.mark.parametrize("kind", KINDS)
def test_one_style_alone_is_never_changed(mixed, table, kind):
    grams = module_grams(mixed)
    for weights in ((0.3, 0, 0), (0, 1, 0), (0, 0, -4), (Strength(2, 0.5, (("up", 0.1),)), 0, 0)):
        found = gains(weights, grams, kind, table)
        assert [gain for gain, weight in zip(found, weights, strict=True) if weight] == [1.0]
    one = module_grams(mixed[:1])
    assert gains([0.7], one, kind, table[:1, :1]) == [1.0] and gains([], {}, kind, table[:0, :0]) == []


@pytest.mark.parametrize("weights", WEIGHTS)
def test_orthogonal_styles_of_one_norm_together_have_that_norm_times_what_is_asked(weights):
    pair = orthogonal_pair()
    found = gains(weights, module_grams(pair), "normalised")
    volume = sum(weights) if sum(weights) <= 1 else max(1.0, *weights)
    together = blend(pair, [gain * weight for gain, weight in zip(found, weights, strict=True)])
    assert norm(together) == pytest.approx(volume * norm(pair[0]), rel=1e-5)


def test_shares_of_one_style_are_the_style():
    style = orthogonal_pair()[0]
    for weights in ((0.5, 0.5), (0.2, 0.3)):
        assert gains(weights, module_grams([style, style]), "normalised") == pytest.approx([1, 1])


def test_styles_that_cancel_each_other_are_not_blown_up(mixed):
    style = mixed[0]
    grams = module_grams([style, made(style, 0.99)])
    assert gains((1, -1), grams, "normalised") == pytest.approx([math.sqrt(0.5)] * 2, rel=0.02)
    assert max(gains((0.5, -0.5), grams, "normalised")) <= math.sqrt(2) * 1.01


def test_styles_that_change_other_parts_or_act_at_other_times_keep_their_weights(mixed, table):
    grams = module_grams(mixed[:2])
    for parts in (("1@up", "1@down"), ("0.4@self", "0.8@mlp"), ("0.5/0@steps=0-0.5", "1/0@steps=0.5-1")):
        assert gains([parse_strength(p) for p in parts], grams, "normalised") == pytest.approx([1, 1])
        matched = gains([parse_strength(p) for p in parts], grams, "matched", table[:2, :2])
        own = table.diagonal().sqrt()
        assert matched[0] / matched[1] == pytest.approx(float(own[1] / own[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_gain_does_not_depend_on_the_order_nor_on_styles_at_zero(mixed, table, kind):
    grams, weights = module_grams(mixed), (0.7, -0.4, 0.9)
    whole = gains(weights, grams, kind, table)
    for order in permutations(range(3)):
        own = module_grams([mixed[i] for i in order])
        rows = torch.tensor(order)
        found = gains([weights[i] for i in order], own, kind, table[rows[:, None], rows])
        assert found == pytest.approx([whole[i] for i in order])
    pair = gains((0.7, 0.9), module_grams([mixed[0], mixed[2]]), kind, table[::2, ::2])
    with_none = gains((0.7, 0, 0.9), grams, kind, table)
    assert with_none[::2] == pytest.approx(pair)


def test_no_blend_is_stronger_than_its_strongest_style_at_the_largest_weight(mixed):
    squares = gram(mixed)
    strongest = float(squares.diagonal().max().sqrt())
    for weights in ((1, 1, 1), (1 / 3, 1 / 3, 1 / 3), (2, -1, 0.5), (0.1, 0.1, -0.1)):
        found = torch.tensor(gains(weights, module_grams(mixed), "normalised"), dtype=torch.float64)
        own = found * torch.tensor(weights, dtype=torch.float64)
        volume = sum(map(abs, weights)) if sum(map(abs, weights)) <= 1 else max(1, *map(abs, weights))
        assert float(own @ squares @ own) ** 0.5 <= volume * strongest * 1.01


def test_matched_styles_change_the_answer_equally_and_together_as_one(model):
    # Faint ones: a network is not linear in what is added to its weights.
    pair = [random_adapter(model, 4, 2.0, 1, size=0.08), random_adapter(model, 2, 5.0, 2, size=0.06)]
    before = effects(model, pair).diagonal().sqrt()
    assert max(before[0] / before[1], before[1] / before[0]) > 1.3
    found = Balance(model).gains(pair, [0.5, 0.5], "matched")
    own = [made(style, gain * 0.5) for style, gain in zip(pair, found, strict=True)]
    *after, together = effects(model, [*own, blend(own, [1, 1])]).diagonal().sqrt()
    assert float(after[0] / after[1]) == pytest.approx(1, abs=0.05)
    assert float(together) == pytest.approx(float(before.mean()), rel=0.2)


def test_effects_are_measured_the_same_again_and_leave_no_trace(model, mixed, table):
    before = {path: value.clone() for path, value in model.parts["unet"].state_dict().items()}
    assert torch.equal(effects(model, mixed), table)
    assert torch.equal(effects(model, mixed[::-1]), table.flip(0, 1))
    assert all(torch.equal(before[path], value) for path, value in model.parts["unet"].state_dict().items())
    assert not any(module._forward_hooks for module in model.parts["unet"].modules())


def test_a_style_with_a_trigger_is_measured_with_it_on_both_sides(model, mixed):
    nothing = made(mixed[0], 0.0)
    spoken = replace(nothing, info=Info(trigger="in the manner of"))
    assert float(effects(model, [nothing])) == float(effects(model, [spoken])) == 0
    assert Balance(model).gains([mixed[0], nothing], [0.5, 0.5], "matched")[0] > 0


def test_a_plain_sum_measures_nothing_and_changes_nothing(mixed):
    assert Balance(None).gains(mixed, [1, 1, -3], "sum") == [1, 1, 1]
    assert all(gain < 1 for gain in Balance(None).gains(mixed, [1, 1, -3], "normalised"))
    with pytest.raises(ValueError, match="effects"):
        gains([1, 1, 1], module_grams(mixed), "matched")
