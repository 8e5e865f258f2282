"""Training: the same settings give the same numbers, however often they are interrupted."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from difflora.adapters.adapter import Adapter
from difflora.adapters.files import load_adapter, read_header
from difflora.config import TrainConfig, as_row
from difflora.errors import OutputError, RequestError
from difflora.events import Event, Preview, Step
from difflora.models.attach import attached
from difflora.models.sd import StableDiffusion
from difflora.training import probe
from difflora.training.cache import encode
from difflora.training.choose import use_checkpoint
from difflora.training.plan import warm_cosine
from difflora.training.runs import open_run
from difflora.training.train import prepare, train


@pytest.fixture
def config(tmp_path: Path, pictures_folder: Path) -> TrainConfig:
    """Six steps, alpha unlike the rank, previews in between."""
    return TrainConfig(
        images=pictures_folder,
        name="blobs",
        rank=3,
        alpha=2.0,
        steps=6,
        batch=4,
        learning_rate=0.02,
        resolution=32,
        preview_every=2,
        trigger="blobby",
        out=tmp_path / "loras",
        runs=tmp_path / "runs",
    )


def run(config: TrainConfig, model: StableDiffusion, stops: Callable[[], bool] = lambda: False) -> list[Event]:
    """One call of the command; what it reported."""
    seen: list[Event] = []
    train(prepare(config, model=model), seen.append, stops)
    return seen


def learnt(config: TrainConfig, model: StableDiffusion) -> Adapter:
    """The finished file."""
    return load_adapter(config.out / "blobs.safetensors", model.shapes(), model.family)


def after(steps: int) -> Callable[[], bool]:
    """Ctrl+C during the given step."""
    calls = iter(range(1, 10**6))
    return lambda: next(calls) >= steps


def same_bits(a: Adapter, b: Adapter) -> bool:
    """Whether all factors are equal to the last bit."""
    pairs = [(a.layers[path], b.layers[path]) for path in a.layers]
    return a.layers.keys() == b.layers.keys() and all(
        torch.equal(x.down, y.down) and torch.equal(x.up, y.up) and x.alpha == y.alpha for x, y in pairs
    )


def test_same_seed_same_adapter_and_another_seed_another(config, model, tmp_path):
    config = replace(config, steps=3, preview_every=0)
    run(config, model)
    again = replace(config, out=tmp_path / "a", runs=tmp_path / "ra")
    run(again, model)
    assert same_bits(learnt(config, model), learnt(again, model))
    other = replace(config, out=tmp_path / "b", runs=tmp_path / "rb", seed=1)
    run(other, model)
    assert not same_bits(learnt(config, model), learnt(other, model))


def test_the_style_makes_its_own_pictures_likelier_than_the_base_finds_them(config, model):
    training = prepare(replace(config, steps=30, preview_every=0, trigger=None), model=model)
    train(training)
    (group,) = encode(model, training.data, 32, config=training.config).plain(range(9))

    def loss() -> float:
        rngs = [torch.Generator().manual_seed(seed) for seed in range(8)]
        with torch.inference_mode():
            return sum(float(model.loss(group.latents, group.cond, rng).mean()) for rng in rngs)

    before = loss()
    with attached(model.parts, [learnt(config, model)]):
        assert loss() < 0.95 * before
    assert all(factors.delta().abs().max() > 0 for factors in learnt(config, model).layers.values())


def test_previews_start_before_the_first_step_and_grow_into_one_sheet(config, model):
    events = run(config, model)
    steps = [event.step for event in events if isinstance(event, Preview)]
    assert steps == [0, 2, 4, 6]
    with Image.open(config.runs / "blobs" / "previews.png") as sheet:
        assert sheet.height > 4 * 160
    first = (config.runs / "blobs" / "previews" / "000000-0.png").read_bytes()
    assert first != (config.runs / "blobs" / "previews" / "000006-0.png").read_bytes()


def test_the_file_says_what_it_was_made_from(config, model):
    run(config, model)
    metadata = read_header(config.out / "blobs.safetensors").metadata
    assert metadata["ss_network_dim"] == "3"
    assert float(metadata["ss_network_alpha"]) == 2.0
    assert metadata["modelspec.trigger_phrase"] == "blobby"
    assert metadata["modelspec.thumbnail"].startswith("data:image/webp;base64,")
    assert json.loads(metadata["difflora.config"])["learning_rate"] == 0.02
    assert all(factors.alpha == 2.0 and factors.rank == 3 for factors in learnt(config, model).layers.values())


def test_the_run_folder_holds_config_plan_and_every_event(config, model):
    run(config, model)
    folder = config.runs / "blobs"
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert json.loads((folder / "plan.json").read_text())["steps"] == 6
    assert "rank = 3" in (folder / "config.toml").read_text()


def test_an_unfinished_run_is_not_overwritten_by_other_settings(config, model):
    run(config, model, after(2))
    with pytest.raises(RequestError, match="rank 3 there, 5 asked"):
        prepare(replace(config, rank=5), model=model)


def test_a_state_of_other_settings_is_never_gone_on_from(config, model):
    run(config, model, after(2))
    (config.runs / "blobs" / "key.json").unlink()
    with pytest.raises(RequestError, match="other settings"):
        run(replace(config, learning_rate=0.03), model)


def test_a_finished_run_is_put_aside_not_lost(config, model):
    run(config, model)
    old = (config.runs / "blobs" / "blobs.safetensors").read_bytes()
    run(replace(config, rank=5), model)
    assert (config.runs / "blobs-1" / "blobs.safetensors").read_bytes() == old
    assert learnt(config, model).layers["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"].rank == 5


def test_a_paused_run_is_never_put_aside_though_one_of_its_checkpoints_became_the_style(config, model):
    run(replace(config, preview_every=1), model, after(2))
    use_checkpoint(config.runs / "blobs", 1, config.out)
    with pytest.raises(RequestError, match="unfinished run with other settings"):
        prepare(replace(config, preview_every=1, seed=5), model=model)


def test_a_run_that_goes_on_with_other_folders_remembers_them(config, model, tmp_path):
    run(config, model, after(2))
    moved = replace(config, images=shutil.copytree(config.images, tmp_path / "moved"), out=tmp_path / "elsewhere")
    prepare(moved, model=model)
    kept = tomllib.loads((config.runs / "blobs" / "config.toml").read_text())
    assert (kept["images"], kept["out"]) == (str(moved.images), str(moved.out))


def test_repeating_a_finished_command_trains_nothing_and_keeps_the_file(config, model):
    run(config, model)
    before = learnt(config, model)
    events = run(config, model)
    assert not any(isinstance(event, Step) for event in events)
    assert same_bits(learnt(config, model), before)


def test_a_frozen_text_encoder_is_encoded_once_and_learns_nothing(config, model):
    run(replace(config, text_encoder=False), model)
    assert {path.split(".")[0] for path in learnt(config, model).layers} == {"unet"}


def test_a_place_that_cannot_be_written_is_refused_before_any_step(config, model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        prepare(replace(config, out=tmp_path / "file" / "loras"), model=model)
    with pytest.raises(OutputError):
        prepare(replace(config, runs=tmp_path / "file" / "runs"), model=model)


def test_a_size_the_base_cannot_take_is_refused(config, model):
    with pytest.raises(RequestError, match="multiples of 8"):
        prepare(replace(config, resolution=36), model=model)


def test_the_plan_is_measured_by_steps_that_change_nothing(config, model):
    before = {name: value.clone() for name, value in model.parts["unet"].state_dict().items()}
    plan = prepare(config, model=model).plan
    assert plan.minutes >= 0 and 0.05 < plan.memory < 64
    after = model.parts["unet"].state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in after)


def test_the_planned_minutes_are_those_of_the_pictures_as_they_are_learnt_not_of_the_largest(
    config, model, monkeypatch
):
    monkeypatch.setattr(probe, "timed", lambda *of: (60.0, 0.0))
    small = prepare(replace(config, resolution=64), model=model).plan
    assert small.buckets == "40 x 40: 4, 48 x 40: 4, 48 x 48: 1"
    assert small.area == pytest.approx((4 * 40 * 40 + 4 * 48 * 40 + 48 * 48) / 9 / 64**2, rel=1e-3)
    assert small.minutes == pytest.approx(small.steps * small.area, abs=0.01)
    assert prepare(replace(config, resolution=32, name="whole"), model=model).plan.area == pytest.approx(1, abs=0.1)


def test_a_step_that_something_else_holds_up_does_not_lengthen_the_planned_minutes(monkeypatch):
    now, left = [0.0], [90.0, 1.0, 1.0, 1.0, 1.0]
    monkeypatch.setattr(probe.time, "perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += left.pop(0) / 4

    assert probe.clock(work, torch.device("cpu")) == 0.25


def test_an_unfinished_run_goes_on_whatever_its_minutes_were_planned_by(config, model):
    training = prepare(config, model=model)
    row = training.plan.row()
    old = {name: value for name, value in row.items() if name != "area"}
    first = open_run(config.runs, "other", as_row(config), old, "pictures")
    assert open_run(config.runs, "other", as_row(config), row, "pictures").key == first.key


@pytest.mark.parametrize("kept", [True, False])
def test_everything_that_varies_varies_the_same_way_after_a_pause(config, model, tmp_path, kept):
    """Mixed sizes, repeats, crops, mirrored sides, shuffled, dropped and weighted tags; the cache there or gone."""
    art = tmp_path / "art"
    shutil.copytree(config.images, art / "2_blobs")
    with Image.open(art / "2_blobs" / "cat.png") as picture:
        picture.resize((64, 32)).save(art / "wide.png")
        picture.resize((32, 64)).save(art / "tall.png")
    (art / "wide.txt").write_text("a (wide:1.3) thing, on a table, red\na wide thing")
    how = {"crops": 0.25, "flip": True, "shuffle_tags": True, "tag_dropout": 0.2, "text_encoder": False}
    whole = replace(config, images=art, **how)
    run(whole, model)
    other = replace(whole, out=tmp_path / "b", runs=tmp_path / "rb")
    run(other, model, after(2))
    if not kept:
        shutil.rmtree(other.runs / ".cache")
    run(other, model)
    assert same_bits(learnt(other, model), learnt(whole, model))


def test_a_second_training_of_the_same_pictures_encodes_none_of_them(config, model, monkeypatch):
    run(config, model)
    monkeypatch.setattr("difflora.training.cache.to_latents", None)
    run(replace(config, name="again"), model)
    with pytest.raises(TypeError):
        run(replace(config, name="elsewhere", runs=config.runs / "other"), model)


def test_a_way_of_showing_pictures_that_is_asked_for_changes_what_is_learnt(config, model, tmp_path):
    art = shutil.copytree(config.images, tmp_path / "art")
    for path in art.glob("*.txt"):
        path.write_text(f"{path.read_text()}, red, on a table, round")
    plain = replace(config, images=art, steps=2, preview_every=0)
    run(plain, model)
    asked = {"shuffle_tags": True, "flip": True, "crops": 0.5, "tag_dropout": 0.5, "caption_dropout": 0.9}
    for name, value in asked.items():
        other = replace(plain, out=tmp_path / name, runs=plain.runs / name, **{name: value})
        run(other, model)
        assert not same_bits(learnt(plain, model), learnt(other, model)), name


def test_the_learning_rate_rises_then_falls():
    rates = [warm_cosine(step, 100) for step in range(100)]
    assert rates[0] < rates[4] == max(rates) == 1.0
    assert rates[-1] < 0.06
