"""Scores are of the pictures alone, and the halves of a score are what `score` says."""

from __future__ import annotations

import pytest
import torch
from conftest import random_adapter

from difflora.drawing.recipe import Style
from difflora.training.score import draw_set, energy_distance, likelihoods, read_set, score, share_followed

CAPTIONS = ("a cat", "a dog", "a house", "an apple")


@pytest.fixture(scope="module")
def artist() -> torch.Tensor:
    """Four pictures of noise."""
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_caption_is_as_likely_beside_any_others(model, artist):
    whole = likelihoods(model, artist, CAPTIONS)
    part = likelihoods(model, artist, CAPTIONS[2:])
    torch.testing.assert_close(whole[:, 2:], part)


def test_a_score_is_the_readings_of_the_base_and_of_the_style(model, artist, monkeypatch):
    monkeypatch.setattr("difflora.training.score.STEPS", 2)
    style, adapters = Style("toy", 1.0), {"toy": random_adapter(model, 4, 2.0, 1)}
    whole = score(model, style, adapters, artist, CAPTIONS)
    base = read_set(model, draw_set(model, CAPTIONS, None, {}, 0, print), artist, CAPTIONS)
    styled = read_set(model, draw_set(model, CAPTIONS, style, adapters, 0, print), artist, CAPTIONS)
    assert (whole.base_distance, whole.base_followed) == (base.distance, base.followed)
    assert (whole.distance, whole.followed) == (styled.distance, styled.followed)
    assert styled.distance != base.distance


def test_equal_sets_are_at_no_distance():
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert energy_distance(rows, rows) == pytest.approx(0, abs=1e-5)
    assert energy_distance(rows, rows + 1) > 0


def test_a_prompt_is_followed_when_fewer_than_three_captions_are_likelier():
    losses = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    assert share_followed(losses, [0, 1, 2, 3]) == 0.75
