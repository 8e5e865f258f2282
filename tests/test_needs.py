"""What a training and a drawing will need is foretold from configs, with nothing loaded."""

from __future__ import annotations

import resource
from dataclasses import replace

import pytest
import torch

from difflora.config import BaseConfig
from difflora.models.family import open_model
from difflora.models.imagined import imagined
from difflora.models.needs import drawing_need, training_need, weight_bytes
from difflora.models.pace import Pace


def test_foretold_weights_are_those_of_the_open_base():
    whole = open_model("tiny", "cpu")
    with imagined(BaseConfig(base="tiny")) as base:
        assert weight_bytes(base.model) == weight_bytes(whole)


def test_more_pictures_need_more_and_computing_twice_needs_less():
    with imagined(BaseConfig(base="tiny")) as base:
        one, four = (training_need(base, rank=4, batch=count) for count in (1, 4))
        twice = training_need(base, rank=4, batch=4, checkpointing=True)
        parts = training_need(base, rank=4, batch=4, micro_batch=1)
    assert one.activations < four.activations and twice.activations < four.activations
    assert parts.total < four.total and parts.flops == pytest.approx(4 * one.flops, rel=0.01)


def test_the_largest_family_is_foretold_without_its_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with imagined(BaseConfig(base="sdxl", precision="bf16")) as base:
        need = drawing_need(base, steps=2, sampler="ddim", pace=Pace(1e12, 1e12, 1e11))
    assert 6.9e9 < sum(need.weights.values()) < 7.0e9 and need.seconds > 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000
    assert replace(need, free=10**9).fits is False and torch.get_default_dtype() == torch.float32
