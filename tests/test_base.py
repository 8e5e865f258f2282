"""The embedded base is a Stable Diffusion folder: plain diffusers opens it, draws the same, loads our styles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import random_adapter
from diffusers import StableDiffusionPipeline

from difflora.adapters.files import load_adapter, save_adapter
from difflora.drawing.generate import to_pictures
from difflora.errors import BaseModelError
from difflora.models.attach import attached
from difflora.models.family import EMBEDDED, open_model

FOLDER = EMBEDDED["tiny"]


@pytest.fixture(scope="module")
def tiny():
    """The embedded base as difflora opens it."""
    return open_model("tiny", "cpu")


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    """The embedded base as anybody opens it."""
    pipe = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plainly(pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], steps: int) -> np.ndarray:
    """Pictures by plain diffusers from the noise that difflora starts with."""
    noise = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    options = {"latents": torch.stack(noise), "num_inference_steps": steps, "guidance_scale": 5.0, "output_type": "np"}
    return pipeline(prompts, **options).images * 255


def ours(model, prompts: list[str], seeds: list[int], steps: int) -> np.ndarray:
    """Pictures by difflora."""
    side = (model.side, model.side)
    drawn = model.draw(prompts, [""] * len(prompts), seeds=seeds, steps=steps, guidance=5.0, size=side)
    return np.stack([np.asarray(picture).astype(float) for picture in to_pictures(drawn)])


def test_it_is_small_and_never_clips_latents():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 60e6
    assert json.loads((FOLDER / "scheduler" / "scheduler_config.json").read_text())["clip_sample"] is False
    assert (FOLDER / "README.md").exists()


def test_plain_diffusers_opens_it_and_draws_the_same_picture(tiny, pipeline):
    prompts, seeds = ["a red apple", "cat"], [3, 4]
    assert np.abs(plainly(pipeline, prompts, seeds, 6) - ours(tiny, prompts, seeds, 6)).max() <= 2


def test_plain_diffusers_draws_the_same_picture_with_our_style_file(tiny, pipeline, tmp_path):
    paths = tiny.targets("attention+mlp", True)
    adapter = random_adapter(tiny, 4, 6.0, 0, size=0.12, paths=paths)
    file = save_adapter(tmp_path / "style.safetensors", adapter, {})
    prompts, seeds = ["a red apple", "cat"], [3, 4]
    before = plainly(pipeline, prompts, seeds, 6)
    with attached(tiny.parts, [load_adapter(file, tiny.shapes(), tiny.family)]):
        mine = ours(tiny, prompts, seeds, 6)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    try:
        theirs = plainly(pipeline, prompts, seeds, 6)
    finally:
        pipeline.unload_lora_weights()
    assert np.abs(theirs - before).mean() > 5
    assert np.abs(theirs - mine).max() <= 3


def test_it_draws_what_it_is_asked_for(tiny):
    """A red apple is red, a green one green, and the ground has the colour that was said."""
    apple, green, ground = ours(tiny, ["red apple", "green apple", "cat, blue background"], [0, 1, 2], 15)
    assert apple[24:40, 24:40, 0].mean() > apple[24:40, 24:40, 1].mean() + 40
    assert green[24:40, 24:40, 1].mean() > green[24:40, 24:40, 0].mean()
    assert ground[2:6, 2:-2, 2].mean() > ground[2:6, 2:-2, 0].mean() + 40


def test_its_tokenizer_knows_capitals_strange_letters_and_long_prompts(tiny):
    ids = tiny.tokenize(["A Red APPLE", "a red apple", "日本 zürich 🦊", "cat " * 200, ""])["input_ids"]
    assert ids.shape == (5, tiny.tokenizer.model_max_length)
    assert torch.equal(ids[0], ids[1])
    assert (ids[:, 0] == tiny.tokenizer.bos_token_id).all()
    assert (ids == tiny.tokenizer.eos_token_id).any(dim=1).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [("no-such-folder", "no base of that name"), ("tests", "no model_index.json"), ("./a/b", "no such folder")],
)
def test_a_base_that_is_not_there_is_one_line(name, words, monkeypatch):
    monkeypatch.chdir(FOLDER.parents[2])
    with pytest.raises(BaseModelError, match=words) as error:
        open_model(name, "cpu")
    assert "\n" not in str(error.value)


def test_a_folder_of_another_kind_or_with_a_part_missing_is_one_line(tmp_path):
    index = tmp_path / "model_index.json"
    index.write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(BaseModelError, match="holds a FluxPipeline"):
        open_model(str(tmp_path), "cpu")
    index.write_text((FOLDER / "model_index.json").read_text())
    with pytest.raises(BaseModelError, match="not whole: text_encoder is missing"):
        open_model(str(tmp_path), "cpu")
    index.write_text("{")
    with pytest.raises(BaseModelError, match="not readable"):
        open_model(str(tmp_path), "cpu")
