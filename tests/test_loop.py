"""What may go wrong in a training, and what it does about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import random_model

from difflora.adapters.adapter import Adapter
from difflora.adapters.files import content_sha256, load_adapter
from difflora.config import TrainConfig
from difflora.errors import OutputError, RequestError
from difflora.events import Best, Event, Note, Paused, Scored, Step
from difflora.models.attach import learning
from difflora.models.sd import StableDiffusion
from difflora.training import judge
from difflora.training.again import at_its_step, prepare_again, read_recipe, repeated
from difflora.training.choose import use_checkpoint, used_step
from difflora.training.control import add_steps, ask
from difflora.training.loop import Average, Loop
from difflora.training.runs import Run
from difflora.training.train import encoded_sets, prepare, split, train


@pytest.fixture
def config(tmp_path: Path, pictures_folder: Path) -> TrainConfig:
    """Six steps, alpha unlike the rank, checkpoints in between."""
    return TrainConfig(
        images=pictures_folder,
        name="blobs",
        rank=3,
        alpha=2.0,
        steps=6,
        batch=4,
        learning_rate=0.02,
        resolution=32,
        preview_every=3,
        ema=0.6,
        out=tmp_path / "loras",
        runs=tmp_path / "runs",
    )


def run(config: TrainConfig, model: StableDiffusion, stop: Callable[[], bool] = lambda: False) -> list[Event]:
    """One call of the command; what it reported."""
    seen: list[Event] = []
    train(prepare(config, model=model), seen.append, stop)
    return seen


def elsewhere(config: TrainConfig, place: Path, **changes: object) -> TrainConfig:
    """The same training in other folders."""
    return replace(config, out=place / "loras", runs=place / "runs", **changes)


def learnt(config: TrainConfig, model: StableDiffusion) -> Adapter:
    """The finished file."""
    return load_adapter(config.out / "blobs.safetensors", model.shapes(), model.family)


def same_update(a: Adapter, b: Adapter, within: float = 0.0) -> bool:
    """Whether both change every layer alike."""
    return a.layers.keys() == b.layers.keys() and all(
        (a.layers[path].delta() - b.layers[path].delta()).norm() <= within * b.layers[path].delta().norm()
        for path in a.layers
    )


def notes(events: list[Event]) -> str:
    """All notes in one text."""
    return "\n".join(event.text for event in events if isinstance(event, Note))


def counted(steps: int) -> Callable[[], bool]:
    """Ctrl+C during the given step."""
    calls = iter(range(1, 10**6))
    return lambda: next(calls) >= steps


@pytest.mark.parametrize("stops", [1, 3, 5])
def test_a_pause_anywhere_changes_no_bit_of_factors_average_or_scores(config, model, tmp_path, stops):
    run(config, model)
    other = elsewhere(config, tmp_path / "b")
    run(other, model, counted(stops))
    run(other, model)
    assert same_update(learnt(config, model), learnt(other, model))
    scores = [(c.runs / "blobs" / "scores.json").read_text() for c in (config, other)]
    assert scores[0] == scores[1]
    (_, one, _), (_, two, _) = (prepare(c, model=model).run.load_state() for c in (config, other))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_memory_that_runs_out_makes_smaller_parts_of_a_step_and_the_same_update(config, model, tmp_path, monkeypatch):
    run(config, model)
    whole, loss_at = StableDiffusion.loss_at, StableDiffusion.loss_at

    def small(self, latents, *more):
        if len(latents) > 1 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_at(self, latents, *more)

    monkeypatch.setattr(StableDiffusion, "loss_at", small)
    other = elsewhere(config, tmp_path / "b")
    training = prepare(other, model=model)
    assert training.plan.micro_batch == 1
    assert "memory is short" in " ".join(training.plan.reasons)
    train(training)
    monkeypatch.setattr(StableDiffusion, "loss_at", whole)
    assert same_update(learnt(config, model), learnt(other, model), within=0.01)


def test_memory_that_runs_out_later_is_met_in_the_same_step(config, model, monkeypatch):
    training = prepare(config, model=model)
    loss_at, calls = StableDiffusion.loss_at, iter(range(10**6))

    def sometimes(self, latents, *more):
        if torch.is_grad_enabled() and len(latents) > 2 and next(calls) >= 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_at(self, latents, *more)

    monkeypatch.setattr(StableDiffusion, "loss_at", sometimes)
    seen: list[Event] = []
    train(training, seen.append)
    assert "out of memory at step 3; going on with 2 at once" in notes(seen)
    assert [event.step for event in seen if isinstance(event, Step)] == [1, 2, 3, 4, 5, 6]


def test_memory_too_small_for_one_picture_is_one_clear_line(config, model, monkeypatch):
    def never(self, *more):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StableDiffusion, "loss_at", never)
    with pytest.raises(RequestError, match="too small for one picture even with gradient checkpointing"):
        prepare(config, model=model)


def test_other_errors_are_not_taken_for_memory(config, model, monkeypatch):
    training = prepare(config, model=model)

    def broken(self, *more):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(StableDiffusion, "loss_at", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(training)


def test_gradient_checkpointing_and_parts_of_a_step_change_no_update(config, model, tmp_path):
    run(config, model)
    other = elsewhere(config, tmp_path / "b", gradient_checkpointing=True, micro_batch=3)
    run(other, model)
    model.checkpointing(False)
    assert same_update(learnt(config, model), learnt(other, model), within=0.01)


def spoil(monkeypatch, when: Callable[[int, float], bool], value: float) -> None:
    """The losses become `value` where `when(step, rate)` says so."""
    gradients = Loop.try_gradients

    def spoilt(self, step):
        losses = gradients(self, step)
        return torch.full_like(losses, value) if when(step, self.rate) else losses

    monkeypatch.setattr(Loop, "try_gradients", spoilt)


def test_a_loss_that_is_no_number_goes_back_to_the_checkpoint_with_half_the_rate(config, model, monkeypatch):
    spoil(monkeypatch, lambda step, rate: step == 4 and rate == 1, float("nan"))
    seen = run(config, model)
    assert "the loss is nan at step 5: back to step 3 with a learning rate of 0.01" in notes(seen)
    assert [event.step for event in seen if isinstance(event, Step)] == [1, 2, 3, 4, 4, 5, 6]
    assert all(torch.isfinite(f.delta()).all() for f in learnt(config, model).layers.values())


def test_a_training_mended_once_is_the_same_with_a_pause_in_it(config, model, tmp_path, monkeypatch):
    spoil(monkeypatch, lambda step, rate: step == 4 and rate == 1, float("inf"))
    run(config, model)
    for stops in (2, 4, 5):
        other = elsewhere(config, tmp_path / str(stops))
        run(other, model, counted(stops))
        run(other, model)
        assert same_update(learnt(config, model), learnt(other, model))


def test_a_loss_that_stays_no_number_stops_in_one_line_and_writes_no_file(config, model, monkeypatch):
    spoil(monkeypatch, lambda step, rate: step == 4, float("nan"))
    with pytest.raises(RequestError, match="the loss is nan at step 5 and lower learning rates did not help"):
        run(config, model)
    assert not list(config.out.glob("*.safetensors"))


def test_a_loss_that_explodes_is_noticed_though_it_is_a_number(config, model, monkeypatch):
    long = replace(config, steps=40, preview_every=20)
    spoil(monkeypatch, lambda step, rate: step > 21 and rate == 1, 50.0)
    seen = run(long, model)
    assert "the loss is 50 at step" in notes(seen)
    assert "back to step 20 with a learning rate of 0.01" in notes(seen)
    assert [event.step for event in seen if isinstance(event, Step)][-1] == 40


def test_losses_that_only_fluctuate_are_left_alone(config, model):
    training = prepare(replace(config, steps=40, batch=1, preview_every=0), model=model)
    seen: list[Event] = []
    train(training, seen.append)
    assert "back to step" not in notes(seen)


def first_gradients(config: TrainConfig, model: StableDiffusion) -> torch.Tensor:
    """The gradients of the first step, all factors in a row."""
    training = prepare(config, model=model)
    data, _ = encoded_sets(training, lambda event: None)
    paths = model.targets(config.targets, config.text_encoder)
    with learning(model.parts, paths, 3, 2.0, config.seed) as layers:
        loop = Loop(training, layers, data, lambda event: None)
        loop.gradients(0)
        return torch.cat([p.grad.flatten() for p in layers.parameters() if p.grad is not None])


def test_gradients_too_small_for_float16_are_not_lost(config, monkeypatch):
    found, whole = {}, StableDiffusion.loss_at
    monkeypatch.setattr(StableDiffusion, "loss_at", lambda *of: whole(*of) * 1e-3)
    for dtype in (torch.float32, torch.float16):
        model = random_model()
        for network in (*model.parts.values(), model.vae):
            torch.nn.Module.to(network, dtype)
        found[dtype] = first_gradients(replace(config, name=str(dtype)[6:]), model)
    exact, half = found.values()
    assert (half - exact).norm() < 0.05 * exact.norm()


def test_the_average_follows_slowly_and_leaves_the_factors_as_they_are():
    factors = [torch.zeros(3, requires_grad=True)]
    average = Average(factors, 0.9)
    with torch.no_grad():
        factors[0] += 1
    average.take(100)
    assert torch.allclose(average.values[0], torch.full((3,), 0.1))
    with average.shown():
        assert torch.allclose(factors[0], torch.full((3,), 0.1))
    assert torch.equal(factors[0], torch.ones(3))
    none = Average(factors, 0.0)
    none.take(100)
    assert torch.equal(none.values[0], torch.ones(3))


def test_a_damaged_state_is_noticed_and_the_one_before_goes_on_to_the_same_end(config, model, tmp_path):
    run(config, model)
    other = elsewhere(config, tmp_path / "b")
    run(other, model, counted(3))
    run(other, model, counted(1))
    state = other.runs / "blobs" / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-5] ^= 1
    state.write_bytes(data)
    seen = run(other, model)
    assert "state.safetensors is damaged; going on from the save before it, of step 3" in notes(seen)
    assert same_update(learnt(config, model), learnt(other, model))
    for file in other.runs.glob("blobs/*state*.safetensors"):
        file.write_bytes(b"gone")
    with pytest.raises(RequestError, match="is damaged"):
        run(other, model)


def test_a_full_disk_keeps_the_last_state_and_the_same_command_goes_on(config, model, tmp_path, monkeypatch):
    run(config, model)
    other = elsewhere(config, tmp_path / "b")
    run(other, model, counted(2))
    save = Loop.save

    def full(self, step, which="state"):
        raise OutputError("the disk is full; free some space")

    monkeypatch.setattr(Loop, "save", full)
    with pytest.raises(OutputError, match="disk is full"):
        run(other, model)
    monkeypatch.setattr(Loop, "save", save)
    run(other, model)
    assert same_update(learnt(config, model), learnt(other, model))


def test_a_checkpoint_that_a_kill_cost_is_made_up_for(config, model, tmp_path, monkeypatch):
    run(config, model)
    other = elsewhere(config, tmp_path / "b")
    from difflora.training.checkpoints import Checkpoints

    take = Checkpoints.take

    def killed(self, step):
        if step == 3:
            self.loop.save(step)
            raise KeyboardInterrupt
        take(self, step)

    monkeypatch.setattr(Checkpoints, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        run(other, model)
    monkeypatch.setattr(Checkpoints, "take", take)
    seen = run(other, model)
    assert [event.step for event in seen if isinstance(event, Scored)] == [3, 6]
    assert same_update(learnt(config, model), learnt(other, model))


def test_steps_can_be_added_while_it_runs_paused_and_finished(config, model):
    training = prepare(config, model=model)
    seen: list[Event] = []

    def stop() -> bool:
        if sum(isinstance(event, Step) for event in seen) == 3 and not training.run.segments():
            add_steps(training.run.folder, 2)
        return False

    train(training, seen.append, stop)
    assert [event.step for event in seen if isinstance(event, Step)] == list(range(1, 9))
    add_steps(training.run.folder, 3)
    seen = run(config, model)
    assert [event.step for event in seen if isinstance(event, Step)] == [9, 10, 11]
    assert max(json.loads(row)["step"] for row in lines(config) if '"step"' in row) == 11
    assert not any(isinstance(event, Step) for event in run(config, model))


def lines(config: TrainConfig) -> list[str]:
    """The run's log."""
    return (config.runs / "blobs" / "events.jsonl").read_text().splitlines()


def test_steps_added_and_a_pause_make_the_same_numbers_as_without_the_pause(config, model, tmp_path):
    both = []
    for place, stops in (("a", 99), ("b", 2)):
        own = elsewhere(config, tmp_path / place)
        run(own, model)
        add_steps(own.runs / "blobs", 4)
        run(own, model, counted(stops))
        run(own, model)
        both.append(learnt(own, model))
    assert same_update(*both)


def test_the_style_is_the_best_checkpoint_and_says_why(config, model):
    seen = run(config, model)
    scores = {event.step: event for event in seen if isinstance(event, Scored)}
    chosen = [event for event in seen if isinstance(event, Best)][-1]
    assert set(scores) == {0, 3, 6}
    assert scores[chosen.step].total <= min(scores[step].total for step in (3, 6)) + 0.02
    assert "style" in chosen.why
    kept = config.runs / "blobs" / "checkpoints" / f"step-{chosen.step:06}.safetensors"
    assert content_sha256(kept) == content_sha256(config.out / "blobs.safetensors")


def steps_of(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, Step)]


def test_no_improvement_in_three_checkpoints_ends_early_and_added_steps_are_made_all_the_same(config, model):
    plain = replace(config, steps=30, preview_every=3, learning_rate=1e-8)
    seen = run(plain, model)
    assert "three checkpoints in a row were no better" in notes(seen)
    end = steps_of(seen)[-1]
    assert end == 12 and not any(isinstance(event, Paused) for event in seen)
    assert (plain.out / "blobs.safetensors").exists()
    assert not steps_of(run(plain, model))
    add_steps(plain.runs / "blobs", 7)
    assert steps_of(run(plain, model, counted(2)))[-1] == end + 2
    assert steps_of(run(plain, model))[-1] == end + 7
    assert not steps_of(run(plain, model))
    assert steps_of(run(replace(plain, early_stop=False, name="whole"), model))[-1] == 30


@pytest.mark.parametrize("when", ["paused", "killed in the checkpoint", "killed after it"])
def test_an_early_end_is_the_same_after_an_interruption_at_its_very_step(config, model, tmp_path, monkeypatch, when):
    monkeypatch.setattr("difflora.training.judge.plateau", lambda scores: len(scores) > 3)
    long = replace(config, steps=30)
    run(long, model)
    other = elsewhere(long, tmp_path / "other")
    if when == "paused":
        run(other, model, counted(9))
    else:
        place = (judge, "scored") if "in" in when else (Run, "end")
        own, calls = getattr(*place), iter(range(10**6))

        def dying(*args):
            if place[0] is Run or next(calls) == 3:
                raise KeyboardInterrupt
            return own(*args)

        monkeypatch.setattr(*place, dying)
        with pytest.raises(KeyboardInterrupt):
            run(other, model)
        monkeypatch.setattr(*place, own)
    assert not steps_of(run(other, model))
    assert content_sha256(other.out / "blobs.safetensors") == content_sha256(long.out / "blobs.safetensors")


def test_a_run_stopped_by_hand_goes_on_only_for_steps_that_are_added(config, model):
    training = prepare(config, model=model)
    train(training, lambda event: ask(training.run.folder, "stop") if isinstance(event, Step) else None)
    assert not steps_of(run(config, model))
    add_steps(training.run.folder, 2)
    assert steps_of(run(config, model)) == [3, 4]


def test_a_training_that_ended_early_and_went_on_is_repeated_from_its_file(config, model, tmp_path, monkeypatch):
    monkeypatch.setattr("difflora.training.judge.plateau", lambda scores: len(scores) > 3)
    monkeypatch.setattr("difflora.training.judge.choose", lambda scores: (max(scores), "the last one"))
    monkeypatch.setattr("difflora.training.train.open_model", lambda base, **how: model)
    long = replace(config, steps=30)
    assert steps_of(run(long, model))[-1] == 9
    add_steps(long.runs / "blobs", 2)
    assert steps_of(run(long, model)) == [10, 11]
    file = long.out / "blobs.safetensors"
    recipe = read_recipe(file, images=None, name=None, out=tmp_path / "o", runs=long.runs)
    assert content_sha256(train(prepare_again(recipe)).file) == content_sha256(file)


def test_pictures_kept_back_are_never_learnt_from(config, model):
    training = prepare(replace(config, holdout=3), model=model)
    learn, back = ({item.path.name for item in part.items} for part in (training.data, training.unseen))
    assert len(back) == 3 and len(learn) == 6 and not learn & back
    again = split(replace(training.data, items=training.data.items + training.unseen.items), 3, seed=1)
    assert {item.path.name for item in again[1].items} != back


def test_every_picture_gets_its_lesson(config, model):
    run(config, model)
    rows = json.loads((config.runs / "blobs" / "pictures.json").read_text())
    assert len(rows) == 9
    assert rows == sorted(rows, key=lambda row: -row["learnt"])
    assert all(row["verdict"] in ("learnt", "never learnt", "learnt by heart") for row in rows)


def test_a_training_is_repeated_from_its_file_alone_bit_for_bit(config, model, tmp_path, monkeypatch):
    run(replace(config, steps=None, preview_every=None, batch=9, trigger="blobby"), model)
    file = config.out / "blobs.safetensors"
    recipe = read_recipe(file, images=None, name=None, out=tmp_path / "o", runs=config.runs)
    assert recipe.config.name == "blobs-again"
    monkeypatch.setattr("difflora.training.train.open_model", lambda base, **how: model)
    training = prepare_again(recipe)
    made = train(training).file
    assert made is not None and "to the last bit" in repeated(file, made)


def test_a_checkpoint_chosen_by_hand_is_what_repeating_it_makes(config, model, tmp_path, monkeypatch):
    run(config, model)
    steps = {3, 6} - {used_step(config.out / "blobs.safetensors")}
    file = use_checkpoint(config.runs / "blobs", steps.pop(), config.out)
    monkeypatch.setattr("difflora.training.train.open_model", lambda base, **how: model)
    recipe = read_recipe(file, images=None, name=None, out=tmp_path / "o", runs=config.runs)
    training = prepare_again(recipe)
    made = at_its_step(file, training, train(training).file)
    assert "to the last bit" in repeated(file, made)


def test_a_file_that_tells_nothing_of_its_training_is_refused(config, model, tmp_path):
    run(config, model)
    file = config.out / "blobs.safetensors"
    moved = tmp_path / "elsewhere" / "blobs.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    with pytest.raises(RequestError, match="--images"):
        read_recipe(moved, images=None, name=None, out=tmp_path, runs=tmp_path / "none")


def test_an_autoencoder_that_overflows_in_half_precision_is_used_in_float32_instead_of_drawing_black():
    model = random_model()
    with torch.no_grad():
        model.vae.decoder.conv_in.weight.mul_(1e4)
    latents = 1000 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = model.decode(latents)
    model.vae.half()
    found = model.decode(latents)
    assert model.vae.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert (found - wanted).abs().max() < 0.05


def test_pictures_that_come_out_blank_are_told_of(config, model, monkeypatch):
    monkeypatch.setattr(StableDiffusion, "draw", lambda self, prompts, *a, **k: torch.zeros(len(prompts), 3, 32, 32))
    assert "the pictures after step 3 are blank" in notes(run(config, model))
