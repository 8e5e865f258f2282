"""A training that is killed anywhere loses nothing: the same command ends with the same numbers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difflora.adapters.files import content_sha256
from difflora.config import TrainConfig
from difflora.errors import RequestError
from difflora.training import control
from difflora.training.train import prepare, train


class Killed(BaseException):
    """The end of the process: nothing catches it."""


@pytest.fixture
def config(tmp_path: Path, pictures_folder: Path) -> TrainConfig:
    """Four steps, two checkpoints."""
    return TrainConfig(
        images=pictures_folder, name="blobs", rank=2, alpha=3.0, steps=4, batch=2, learning_rate=0.02, resolution=32,
        preview_every=2, preview_prompts=("a cat",), ema=0.5, out=tmp_path / "loras", runs=tmp_path / "runs",
    )  # fmt: skip


@pytest.fixture(scope="module")
def wanted(tmp_path_factory, pictures_folder, model) -> tuple[str, int]:
    """What the training learns uninterrupted, and how many names it gives to files."""
    place, count, own = tmp_path_factory.mktemp("whole"), [0], os.replace

    def counting(source, target):
        count[0] += 1
        own(source, target)

    whole = TrainConfig(
        images=pictures_folder, name="blobs", rank=2, alpha=3.0, steps=4, batch=2, learning_rate=0.02, resolution=32,
        preview_every=2, preview_prompts=("a cat",), ema=0.5, out=place / "loras", runs=place / "runs",
    )  # fmt: skip
    os.replace = counting
    try:
        file = train(prepare(whole, model=model)).file
    finally:
        os.replace = own
    return content_sha256(file), count[0]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.85, 0.97])
def test_a_kill_around_the_naming_of_any_file_costs_nothing(config, model, wanted, monkeypatch, when, share):
    numbers, writes = wanted
    left, own = [int(share * writes)], os.replace

    def dying(source, target):
        left[0] -= 1
        if left[0] == -1 and when == "before":
            raise Killed
        own(source, target)
        if left[0] == -1:
            raise Killed

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(Killed):
        train(prepare(config, model=model))
    monkeypatch.setattr(os, "replace", own)
    assert content_sha256(train(prepare(config, model=model)).file) == numbers


@pytest.mark.parametrize("step", [1, 2])
def test_a_kill_in_the_middle_of_any_step_costs_nothing(config, model, wanted, monkeypatch, step):
    from difflora.training.loop import Loop

    gradients = Loop.try_gradients

    def dying(self, at):
        losses = gradients(self, at)
        if at == step:
            raise Killed
        return losses

    monkeypatch.setattr(Loop, "try_gradients", dying)
    with pytest.raises(Killed):
        train(prepare(config, model=model))
    monkeypatch.setattr(Loop, "try_gradients", gradients)
    assert content_sha256(train(prepare(config, model=model)).file) == wanted[0]


def test_two_trainings_of_one_name_never_share_a_run(config, model):
    training = prepare(config, model=model)
    with (
        control.holding(training.run.folder),
        pytest.raises(RequestError, match="is being trained by another process"),
    ):
        prepare(config, model=model)
    first = train(prepare(config, model=model)).file
    kept = content_sha256(first)
    second = train(prepare(replace(config, seed=5), model=model)).file
    assert second == first and content_sha256(second) != kept
    assert content_sha256(config.runs / "blobs-1" / "blobs.safetensors") == kept
    assert any(content_sha256(old) == kept for old in (config.out / ".trash").glob("*.safetensors"))


def test_a_power_cut_leaves_the_old_state_whole(config, model, monkeypatch):
    """Between the writing of the new bytes and their name, as if the machine had stopped there."""
    training = prepare(config, model=model)
    training.run.save_state(1, {"a": torch.ones(3)}, {"x": "1"})
    own = os.replace

    def cut(source, target):
        if Path(target).name == "state.safetensors":
            raise Killed
        own(source, target)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(Killed):
        training.run.save_state(2, {"a": torch.zeros(3)}, {"x": "2"})
    monkeypatch.setattr(os, "replace", own)
    step, tensors, words = training.run.load_state()
    assert (step, words["x"]) == (1, "1") and torch.equal(tensors["a"], torch.ones(3))
