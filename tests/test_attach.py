"""Adapters in a model: what acts is the exact weighted sum, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch

from difflora.adapters.adapter import Adapter, Factors
from difflora.adapters.blend import blend
from difflora.errors import AdapterFileError, RequestError
from difflora.models.attach import attached, learning
from difflora.models.sd import StableDiffusion

WEIGHTS = (0.7, -0.4, 1.3)


def numbers(model: StableDiffusion) -> dict[str, torch.Tensor]:
    """Every weight of the model, copied."""
    return {f"{p}.{k}": v.clone() for p, part in model.parts.items() for k, v in part.state_dict().items()}


def answer(model: StableDiffusion, prompts: tuple[str, ...] = ("cat", "a red apple")) -> torch.Tensor:
    """What the whole model says to fixed noise: UNet and text encoder together."""
    rng = torch.Generator().manual_seed(5)
    noise = torch.randn(len(prompts), 4, 8, 8, generator=rng)
    times = torch.full((len(prompts),), 500)
    with torch.inference_mode():
        return model.predict(noise, times, model.encode_prompts(prompts))


def close(a: torch.Tensor, b: torch.Tensor, bound: float = 1e-5) -> bool:
    """Equal up to rounding, relative to the size of b."""
    return float((a - b).norm() / b.norm()) < bound


def test_stack_equals_blended_adapter_equals_weights_written_into_the_model(model, adapters):
    plain = answer(model)
    with attached(model.parts, adapters) as stack:
        stack.weights(WEIGHTS)
        stacked = answer(model)
    with attached(model.parts, [blend(adapters, WEIGHTS)]):
        blended = answer(model)
    before = numbers(model)
    for adapter, weight in zip(adapters, WEIGHTS, strict=True):
        for path, factors in adapter.layers.items():
            part, _, rest = path.partition(".")
            model.parts[part].get_submodule(rest).weight.data += weight * factors.delta()
    merged = answer(model)
    for name, part in model.parts.items():
        part.load_state_dict({k.partition(".")[2]: v for k, v in before.items() if k.startswith(f"{name}.")})
    assert not close(stacked, plain, 0.05)
    assert close(stacked, merged)
    assert close(blended, merged)


def test_weight_zero_removes_a_style(model, adapters):
    with attached(model.parts, adapters[:1]) as stack:
        stack.weights([0.8])
        alone = answer(model)
    with attached(model.parts, adapters) as stack:
        stack.weights([0.8, 0.0, 0.0])
        assert close(answer(model), alone, 1e-6)
        stack.weights([0.0, 0.0, 0.0])
        assert torch.equal(answer(model), plain_answer(model, stack))


def plain_answer(model: StableDiffusion, stack) -> torch.Tensor:
    """The answer with every hook taken out."""
    stack.detach()
    return answer(model)


def test_a_negative_weight_subtracts(model, adapters):
    plain = answer(model)
    with attached(model.parts, [adapters[0], adapters[0]]) as stack:
        stack.weights([1.0, -1.0])
        assert close(answer(model), plain)


def test_blends_of_a_batch_equal_separate_runs(model, adapters):
    rng = torch.Generator().manual_seed(0)
    table = torch.rand(8, 3, generator=rng) * 2 - 1
    prompts = tuple(f"{word} {i}" for i, word in enumerate(["cat", "apple", "house", "fish"] * 2))
    noise, times = torch.randn(8, 4, 8, 8, generator=rng), torch.full((8,), 500)
    options = {"steps": 3, "guidance": 2.0, "size": (32, 32)}
    with attached(model.parts, adapters) as stack, torch.inference_mode():
        stack.weights(table)
        answers = model.predict(noise, times, model.encode_prompts(prompts))
        together = model.draw(prompts, [""] * 8, seeds=range(8), **options)
        for i, prompt in enumerate(prompts):
            stack.weights(table[i].tolist())
            one = model.predict(noise[i : i + 1], times[:1], model.encode_prompts([prompt]))
            assert close(answers[i : i + 1], one)
            alone = model.draw([prompt], [""], seeds=[i], **options)
            # Along the steps of a random network rounding grows; a wrong blend would be off by tens of percent.
            assert close(together[i], alone[0], 1e-3)


def test_guidance_rows_see_their_own_pictures_blend(model, adapters):
    """Negatives come first, then prompts: both halves must use the blend of their picture."""
    table = [[0.0, 0.0, 0.0], [1.5, -1.0, 0.5]]
    with attached(model.parts, adapters) as stack:
        stack.weights(table)
        both = model.encode_prompts(["", "", "cat", "cat"])["encoder_hidden_states"]
    plain = model.encode_prompts(["", "cat"])["encoder_hidden_states"]
    assert close(both[[0, 2]], plain, 1e-6)
    assert not close(both[[1, 3]], plain, 0.05)


def test_weights_may_change_at_every_step_without_touching_a_weight(model, adapters):
    before = numbers(model)
    seen = []
    with attached(model.parts, adapters) as stack:
        gates = [gated.gate.data_ptr() for gated in stack.gated]

        def on_step(i, clean):
            stack.weights([1.0 - i / 2, i / 2, 0.3])
            seen.append(i)

        moving = model.draw(["cat"], [""], seeds=[0], steps=3, guidance=2.0, size=(32, 32), on_step=on_step)
        stack.weights([1.0, 0.0, 0.3])
        still = model.draw(["cat"], [""], seeds=[0], steps=3, guidance=2.0, size=(32, 32))
        assert gates == [gated.gate.data_ptr() for gated in stack.gated]
    assert seen == [0, 1, 2]
    assert not torch.allclose(moving, still, atol=1e-2)
    after = numbers(model)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_folded_equals_gated_and_unfolding_restores_every_bit(model, adapters):
    before = numbers(model)
    with attached(model.parts, adapters) as stack:
        stack.weights(WEIGHTS)
        gated = answer(model)
        for _ in range(50):
            stack.fold(WEIGHTS)
        assert close(answer(model), gated)
        assert not torch.equal(numbers(model)["unet.conv_in.weight"], before["unet.conv_in.weight"])
        stack.unfold()
        assert torch.equal(answer(model), gated)
        stack.fold(WEIGHTS)
    after = numbers(model)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_model_is_as_before_after_an_error_inside(model, adapters):
    plain = answer(model)
    with pytest.raises(ZeroDivisionError), attached(model.parts, adapters) as stack:
        stack.fold(WEIGHTS)
        raise ZeroDivisionError
    assert torch.equal(answer(model), plain)


def test_a_layer_the_base_lacks_or_another_familys_shape_is_refused(model):
    stranger = Adapter({"unet.no.such.layer": Factors(torch.ones(1, 4), torch.ones(4, 1), 1.0)})
    wide = Adapter({"unet.conv_in": Factors(torch.ones(1, 9, 3, 3), torch.ones(32, 1, 1, 1), 1.0)})
    for adapter, words in ((stranger, "not a layer"), (wide, "another family")):
        with pytest.raises(AdapterFileError, match=words), attached(model.parts, [adapter]):
            pass


def test_weights_that_are_not_finite_are_refused(model, adapters):
    with attached(model.parts, adapters) as stack, pytest.raises(RequestError, match="finite"):
        stack.weights([float("nan"), 1.0, 1.0])


def test_a_fresh_adapter_changes_nothing(model):
    plain = answer(model)
    with learning(model.parts, model.targets("attention+mlp", True), rank=4, alpha=2.0, seed=0):
        assert torch.equal(answer(model), plain)
    assert torch.equal(answer(model), plain)


def test_what_was_learnt_acts_the_same_when_attached(model):
    paths = model.targets("attention+mlp", True)
    with learning(model.parts, paths, rank=3, alpha=7.0, seed=0) as layers:
        rng = torch.Generator().manual_seed(1)
        for parameter in layers.parameters():
            parameter.data = torch.randn(parameter.shape, generator=rng) * 0.2
        learnt = answer(model)
        adapter = Adapter(layers.factors())
    assert set(adapter.layers) == set(paths)
    with attached(model.parts, [adapter]):
        assert close(answer(model), learnt)


def test_only_factors_learn_and_the_base_never_moves(model):
    before = numbers(model)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with learning(model.parts, model.targets("attention", True), rank=2, alpha=1.0, seed=0) as layers:
        wanted = {id(p) for p in layers.parameters()}
        trainable = {id(p) for part in model.parts.values() for p in part.parameters() if p.requires_grad}
        assert trainable == wanted
        optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1)
        for step in range(3):
            rng = torch.Generator().manual_seed(step)
            model.loss(latents, model.tokenize(["cat", "dog"]), rng).mean().backward()
            optimizer.step()
        assert any(f.delta().abs().max() > 0 for f in layers.factors().values())
    after = numbers(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.requires_grad for part in model.parts.values() for p in part.parameters())
