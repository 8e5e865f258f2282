"""What may differ on a CUDA device: precision, memory, resuming, folding, offloading. Run with -m gpu.

DIFFLORA_TEST_DEVICE=cpu rehearses them without one; --assert=plain --tb=short keeps a failure from printing the base.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from bases import base_folder  # noqa: F401
from conftest import random_adapter
from PIL import Image

from difflora import cli
from difflora.adapters.adapter import Adapter
from difflora.adapters.files import load_adapter
from difflora.adapters.precision import DTYPES
from difflora.config import BaseConfig, TrainConfig
from difflora.models.attach import attached
from difflora.models.family import BaseModel, open_model
from difflora.models.samplers import SAMPLERS
from difflora.training.cache import encode
from difflora.training.train import prepare, train

DEVICE = os.environ.get("DIFFLORA_TEST_DEVICE", "cuda")
WEIGHTS = (0.7, -0.4, 1.3)
HALVES = ("bf16", "fp16")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]


@cache
def base(precision: str = "fp32", **how: bool) -> BaseModel:
    """The embedded base on the device; opened once, whoever changes it puts it back."""
    return open_model(BaseConfig(base="tiny", precision=precision, **how), DEVICE)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32 compute in float32, not in TF32: what differs then is ours."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def config(tmp_path: Path, pictures_folder: Path) -> TrainConfig:
    """Six steps, alpha unlike the rank, no checkpoint but the last."""
    return TrainConfig(
        images=pictures_folder, name="blobs", rank=3, alpha=2.0, steps=6, batch=4, learning_rate=1e-3, ema=0.5,
        preview_every=0, out=tmp_path / "loras", runs=tmp_path / "runs",
    )  # fmt: skip


def styles(model: BaseModel) -> list[Adapter]:
    """Three styles of different ranks, alpha never the rank, the last on fewer layers, one on a convolution."""
    paths = [*model.targets("attention+mlp", True), "unet.conv_in"]
    known = [(4, 2.0, 1, paths), (2, 5.0, 2, paths), (3, 1.0, 3, paths[::2])]
    return [random_adapter(model, r, alpha, seed, size=0.06, paths=own) for r, alpha, seed, own in known]


def learnt(config: TrainConfig, model: BaseModel, stop: Callable[[], bool] = lambda: False) -> Adapter | None:
    """What one call of the training learns; nothing where it is paused."""
    file = train(prepare(config, model=model), stop=stop).file
    return file and load_adapter(file, model.shapes(), model.family)


def elsewhere(config: TrainConfig, place: str, **changes: object) -> TrainConfig:
    """The same training in other folders."""
    return replace(config, out=config.out / place, runs=config.runs / place, **changes)


def far(a: Adapter, b: Adapter) -> float:
    """How far an adapter's updates are from another's, as a share of those."""
    assert a.layers.keys() == b.layers.keys()
    apart = sum(float((a.layers[path].delta() - b.layers[path].delta()).square().sum()) for path in a.layers)
    return (apart / sum(float(update.delta().square().sum()) for update in b.layers.values())) ** 0.5


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far numbers are from others, as a share of their size."""
    a, b = a.float().cpu(), b.float().cpu()
    return float((a - b).norm() / b.norm())


def answer(model: BaseModel, texts: tuple[str, ...] = ("a cat", "a red apple")) -> torch.Tensor:
    """What text encoder and network say to fixed noise."""
    noise = torch.randn(len(texts), *model.latent_shape(model.side, model.side), generator=seeded(5))
    times = torch.full((len(texts),), 500, device=model.device)
    with torch.inference_mode():
        return model.predict(noise.to(model.device), times, model.encode_prompts(texts)).cpu()


def drawn(model: BaseModel, texts: tuple[str, ...] = ("a cat",), seed: int = 3, **how: object) -> torch.Tensor:
    """Pictures of a few steps, seeds counting up."""
    seeds, size = [seed + i for i in range(len(texts))], (model.side, model.side)
    usual = {"steps": 4, "guidance": 3.0, "size": size}
    return model.draw(list(texts), [""] * len(texts), seeds=seeds, **usual | how)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mean_loss(model: BaseModel, config: TrainConfig) -> float:
    """The loss of a training's own pictures at fixed noise and times."""
    training = prepare(config, model=model)
    data = encode(model, training.data, training.plan.resolution, config=config)
    with torch.inference_mode():
        groups = data.plain(range(len(data)))
        found = [model.loss(group.latents, group.cond, seeded(seed)) for group in groups for seed in range(4)]
    return float(torch.cat(found).mean())


# --- the device and the CPU


def test_what_the_device_computes_is_what_the_cpu_computes():
    here, there = base(), open_model("tiny", "cpu", "fp32")
    assert here.device.type == DEVICE
    for text in ("a (red:1.4) apple, a [blue] bird", "a cat", " ".join(["a house and a tree"] * 20)):
        features = [model.encode_prompts([text], least=2)["encoder_hidden_states"] for model in (here, there)]
        assert off(*features) < 1e-4
    assert off(answer(here), answer(there)) < 1e-3
    with attached(here.parts, styles(here)) as one, attached(there.parts, styles(there)) as two:
        one.weights(WEIGHTS), two.weights(WEIGHTS)
        assert off(answer(here), answer(there)) < 1e-3
    pixels = torch.rand(2, 3, there.side, there.side, generator=seeded(0)) * 2 - 1
    latents = there.encode_images(pixels)
    assert off(here.encode_images(pixels), latents) < 1e-3
    assert off(here.decode(latents.to(here.device)), there.decode(latents)) < 1e-3


# --- training


@pytest.mark.parametrize("precision", HALVES)
def test_training_in_half_precision_lowers_the_loss_and_stores_finite_updates(config, precision):
    model = base(precision)
    assert model.dtype == DTYPES[precision]
    before = mean_loss(model, elsewhere(config, "loss"))
    adapter = learnt(replace(config, steps=40), model)
    rows = (config.runs / "blobs" / "events.jsonl").read_text().splitlines()
    assert not any("learning rate of" in row for row in rows)
    plan = json.loads((config.runs / "blobs" / "plan.json").read_text())
    assert (plan["precision"], plan["device"].split(":")[0]) == (precision, DEVICE)
    for update in adapter.layers.values():
        assert torch.isfinite(update.delta()).all() and update.delta().abs().max() > 0
    with attached(model.parts, [adapter]):
        after = mean_loss(model, elsewhere(config, "loss"))
    print(f"{precision}: loss {before:.4f} -> {after:.4f}")
    assert after < 0.97 * before


def test_a_run_that_is_resumed_is_as_near_the_whole_one_as_a_repeated_one(config):
    model, calls = base(), iter(range(1, 100))
    whole, again = learnt(config, model), learnt(elsewhere(config, "again"), model)
    paused = elsewhere(config, "paused")
    assert learnt(paused, model, lambda: next(calls) >= 3) is None
    resumed = learnt(paused, model)
    print(f"repeated {far(again, whole):.2g}, resumed {far(resumed, whole):.2g}")
    assert far(resumed, whole) <= 2 * far(again, whole) + (1e-3 if DEVICE == "cuda" else 0)


def test_gradient_checkpointing_and_parts_of_a_step_change_no_update(config):
    model = base()
    whole = learnt(config, model)
    other = learnt(elsewhere(config, "other", gradient_checkpointing=True, micro_batch=3), model)
    model.checkpointing(False)
    print(f"checkpointing {far(other, whole):.2g}")
    assert far(other, whole) < 0.03


# --- folding and gates


@pytest.mark.parametrize("precision", HALVES)
def test_unfolding_restores_every_bit_in_half_precision(precision):
    model = base(precision)
    before = {f"{p}.{k}": v.clone() for p, part in model.parts.items() for k, v in part.state_dict().items()}
    plain = answer(model)
    with attached(model.parts, styles(model)) as stack:
        for weights in (WEIGHTS, (0.0, 1.0, -2.0), WEIGHTS):
            stack.fold(weights)
            assert not torch.equal(answer(model), plain)
    after = {f"{p}.{k}": v for p, part in model.parts.items() for k, v in part.state_dict().items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(answer(model), plain)


@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-3), ("fp16", 5e-3), ("bf16", 0.03)])
def test_a_blend_draws_the_same_attached_and_folded(precision, within):
    model = base(precision)
    plain = drawn(model)
    with attached(model.parts, styles(model)) as stack:
        stack.weights(WEIGHTS)
        gated, said = drawn(model), answer(model)
        stack.fold(WEIGHTS)
        folded, written = drawn(model), answer(model)
    print(f"{precision}: folded {off(said, written):.2g}, drawn {off(gated, folded):.2g} of {off(plain, folded):.2g}")
    assert off(said, written) < within and off(gated, folded) < 2 * within
    assert off(plain, folded) > 3 * off(gated, folded)
    assert torch.equal(drawn(model), plain)


@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-3), ("bf16", 0.03)])
def test_weights_of_each_picture_of_a_batch_draw_as_one_by_one(precision, within):
    model, texts = base(precision), ("a cat", "an apple", "a house", "a fish")
    table = torch.rand(4, 3, generator=seeded(0)) * 2 - 1
    with attached(model.parts, styles(model)) as stack:
        stack.weights(table)
        together, said = drawn(model, texts), answer(model, texts)
        for i, text in enumerate(texts):
            stack.weights(table[i].tolist())
            # The same noise as in the batch: the answer's by its row, the picture's by its seed.
            alone = off(answer(model, (text,) * len(texts))[i], said[i])
            picture = off(drawn(model, (text,), 3 + i)[0], together[i])
            stack.weights(table[i - 1].tolist())
            other = off(answer(model, (text,) * len(texts))[i], said[i])
            print(f"{precision}: alone {alone:.2g}, picture {picture:.2g}, another blend {other:.2g}")
            assert alone < within and picture < 2 * within and other > 2 * alone


# --- drawing


@pytest.mark.parametrize("precision", ["fp32", *HALVES])
def test_same_seed_same_picture_twice_and_another_seed_another(precision):
    model = base(precision)
    first = drawn(model, ("a cat", "a house"))
    assert torch.equal(first, drawn(model, ("a cat", "a house"))) and torch.isfinite(first).all()
    assert not torch.equal(first, drawn(model, ("a cat", "a house"), 7))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_on_the_device_with_noise_of_its_seed(sampler):
    first, again = (drawn(base(), sampler=sampler) for _ in range(2))
    assert torch.isfinite(first).all() and first.std() > 0.01 and torch.equal(first, again)


def test_layers_that_wait_in_main_memory_draw_the_same_picture_and_take_styles():
    plain, waiting = base(), base(offload=True)
    own = [(drawn(model), styles(model), model) for model in (plain, waiting)]
    assert off(own[1][0], own[0][0]) < 1e-4
    pictures = []
    for _, adapters, model in own:
        with attached(model.parts, adapters) as stack:
            stack.weights(WEIGHTS)
            gated = drawn(model)
            stack.fold(WEIGHTS)
            pictures += [gated, drawn(model)]
    assert all(off(picture, pictures[0]) < 2e-3 for picture in pictures)
    assert off(drawn(waiting), own[0][0]) < 1e-4


def test_tiles_and_slices_decode_nearly_the_same_picture():
    tiled, plain = base(tiling=True), base()
    latents = torch.randn(2, *plain.latent_shape(4 * plain.side, 4 * plain.side), generator=seeded(0)).to(plain.device)
    whole = plain.decode(latents)
    assert tiled.vae.use_tiling and 0 < (tiled.decode(latents) - whole).abs().mean() < 0.2
    tiled.vae.disable_tiling(), tiled.vae.enable_slicing()
    assert off(tiled.decode(latents), whole) < 1e-3
    tiled.vae.enable_tiling(), tiled.vae.disable_slicing()


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_other_families_train_a_step_and_draw(kind, precision, config, base_folder):  # noqa: F811
    model = open_model(BaseConfig(base=str(base_folder(kind)), precision=precision), DEVICE)
    adapter = learnt(replace(config, steps=2, resolution=model.side), model)
    assert all(torch.isfinite(update.delta()).all() for update in adapter.layers.values())
    plain = drawn(model)
    with attached(model.parts, [adapter, *styles(model)]) as stack:
        stack.weights([1.0, *WEIGHTS])
        assert torch.isfinite(drawn(model)).all() and not torch.equal(drawn(model), plain)


# --- the command line


def test_the_command_line_trains_draws_and_redraws_on_the_device(tmp_path, monkeypatch, pictures_folder):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        usual = ["--images", str(pictures_folder), "--rank", "2", "--alpha", "3", "--batch", "4", "--steps", "2"]
        cli.main(["train", *usual, "--name", name, "--learning-rate", "0.01"])
        assert json.loads((tmp_path / "runs" / name / "plan.json").read_text())["device"].split(":")[0] == DEVICE
    draw = ["generate", "a cat", "--steps", "3", "--lora", "one:0.7", "--lora", "two:-0.4", "--count", "3"]
    cli.main([*draw, "--budget", "matched"])
    cli.main(["generate", "--like", "pictures/a-cat-1.png"])
    pictures = [tmp_path / "pictures" / f"a-cat-{end}.png" for end in ("1", "1-2")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    with Image.open(pictures[0]) as picture:
        assert picture.width == base().side
