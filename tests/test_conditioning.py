"""The texts of a batch: each read under its own picture's blend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_adapter
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from difflora.drawing.conditioning import conditioning
from difflora.drawing.generate import batched, generate, mark_folded, set_weights, sized
from difflora.drawing.mixing import strengths
from difflora.drawing.recipe import Recipe, Style
from difflora.models.attach import attached

SIZE = {"steps": 2, "width": 32, "height": 32}
LONG = "a red cat on a green sofa in an old house, " * 4
TEXTS = ("a cat", "a (red:1.5) cat", "", "(dog:0.4)", "a dog (sitting)", r"\(a\)")


class Stand:
    """A model and a stack in one that write down what is asked; a text's row holds it and the weight it was read at."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.rows: list[float] = []

    def weights(self, table) -> None:
        self.rows = [blend[0].image for blend in table]
        self.calls.append(("weights", *self.rows))

    def encode_prompts(self, texts, clip_skip=None, least=1) -> dict[str, Tensor]:
        self.calls.append(("read", *texts))
        rows = [[hash(t) % 1000, self.rows[i % len(self.rows)] if self.rows else 0.0] for i, t in enumerate(texts)]
        features = torch.tensor(rows)[:, None, :].repeat(1, least, 1)
        return {"encoder_hidden_states": features, "pooled": features[:, 0] + (clip_skip or 0)}


def recipe(prompt: str, weight: float, **values) -> Recipe:
    return Recipe(prompt=prompt, styles=(Style("ink", weight),), **SIZE | values)


def row(text: str, weight: float) -> list[float]:
    return [hash(text) % 1000, weight]


def put_back(stack: Stand, group: list[Recipe]) -> None:
    stack.weights([strengths(one) for one in group])


def read(group: list[Recipe]) -> tuple[dict[str, Tensor], list[tuple]]:
    """The conditioning of a group whose weights are set, and what was asked for it."""
    stand = Stand()
    put_back(stand, group)
    stand.calls.clear()
    return conditioning(stand, stand, group, put_back), stand.calls


def test_plain_texts_are_read_at_once():
    group = [recipe("a cat", 0.7, guidance=3.0, negative="a dog"), recipe("a fish (red)", 0.2, guidance=3.0)]
    cond, calls = read(group)
    assert calls == [("read", "a dog", "", "a cat", "a fish (red)")]
    rows = [row("a dog", 0.7), row("", 0.2), row("a cat", 0.7), row("a fish (red)", 0.2)]
    assert cond["encoder_hidden_states"][:, 0].tolist() == pytest.approx(np.array(rows))
    assert read([replace(one, guidance=1.0) for one in group])[1] == [("read", "a cat", "a fish (red)")]


@given(st.lists(st.tuples(*[st.sampled_from(TEXTS)] * 2), min_size=1, max_size=5), st.booleans(), st.integers(1, 2))
def test_every_text_is_read_under_the_blend_of_its_own_picture(texts, guided, windows):
    group = [
        recipe(prompt, i / 4, negative=negative, guidance=1.0 + guided, windows=windows, clip_skip=2)
        for i, (prompt, negative) in enumerate(texts)
    ]
    cond, calls = read(group)
    wanted = [row(one.negative, one.styles[0].weight) for one in group] if guided else []
    wanted += [row(one.prompt, one.styles[0].weight) for one in group]
    assert cond["encoder_hidden_states"].tolist() == [[one] * windows for one in wanted]
    assert cond["pooled"].tolist() == [[number + 2 for number in one] for one in wanted]
    # The whole batch's weights act when the drawing begins.
    last = [call for call in calls if call[0] == "weights"][-1:]
    assert not last or last == [("weights", *[one.styles[0].weight for one in group])]


def test_a_folded_blend_and_the_base_alone_have_no_weights_to_set():
    group = [recipe("a (red:1.5) cat", 0.5, folded=True, guidance=2.0), recipe("a dog", 0.5, folded=True, guidance=2.0)]
    assert not any(call[0] == "weights" for call in read(group)[1])
    stand = Stand()
    cond = conditioning(stand, None, [replace(one, folded=False) for one in group], put_back)
    assert not any(call[0] == "weights" for call in stand.calls)
    assert cond["encoder_hidden_states"][:, 0, 0].tolist() == [
        hash(t) % 1000 for t in ("", "", "a (red:1.5) cat", "a dog")
    ]


def test_what_a_text_gets_does_not_depend_on_the_others_bit_for_bit(model):
    adapters = {"ink": random_adapter(model, 4, 2.0, 1)}
    first = recipe("a cat", 0.7, guidance=2.0)
    for others in (("a dog", "a fish"), ("a (dog:1.3)", "a (fish:0.2)")):
        group = [first, *(recipe(text, 0.1 * i, guidance=2.0) for i, text in enumerate(others))]
        for own in (group, [first] * 3):
            with torch.inference_mode(), attached(model.parts, list(adapters.values())) as stack:
                set_weights(stack, own)
                cond = conditioning(model, stack, own, set_weights)["encoder_hidden_states"]
            if own is group:
                found = cond
        assert torch.equal(found[0::3], cond[0::3])


@pytest.mark.parametrize(
    "texts", [("a (red:1.6) cat", "(a dog:0.3)"), ("a cat", "(a dog:0.3)"), (LONG, f"({LONG}:1.4)")]
)
def test_one_batch_of_blends_and_weighted_texts_is_each_drawn_alone(model, texts):
    adapters = {name: random_adapter(model, 2 + seed, 3.0, seed) for seed, name in enumerate(("ink", "wash"))}
    recipes = [
        Recipe(
            prompt=text, negative=text[:3], seed=seed, guidance=3.0, **SIZE,
            styles=(Style("ink", seed * 1.0), Style("wash", 1.0 - 2 * seed)),
        )
        for seed, text in enumerate(texts)
    ]  # fmt: skip
    together = list(generate(model, recipes, adapters))
    assert [drawn.batch for drawn, _ in together] == [2, 2]
    for one, (drawn, picture) in zip(recipes, together, strict=True):
        [(_, alone)] = generate(model, [one], adapters)
        [(_, folded)] = generate(model, mark_folded([one]), adapters)
        for other in (alone, folded):
            assert np.abs(np.asarray(picture, int) - np.asarray(other, int)).max() <= 1
        again = [p for r, p in generate(model, [one] * drawn.batch, adapters) if r.row == drawn.row]
        assert np.array_equal(picture, again[0])
    plain = replace(recipes[1], prompt="a dog")
    assert not np.array_equal(next(generate(model, [plain], adapters))[1], together[1][1])


def test_pictures_of_one_batch_fill_as_many_windows(model):
    recipes = [recipe(text, 1.0, guidance=2.0) for text in ("a cat", LONG, "a (red:1.3) cat", LONG + LONG)]
    assert [one.windows for one in sized(recipes, model)] == [1, 2, 1, 4]
    assert [len(group) for group in batched(sized(recipes, model), 8)] == [1, 1, 1, 1]
    negative = replace(recipes[0], negative=LONG)
    assert [one.windows for one in sized([negative, replace(negative, guidance=1.0)], model)] == [2, 1]
