"""Weights as gates: by picture, by block and by step, at once, for nothing, and without a trace in the base."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_adapter
from test_attach import answer, close, numbers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from difflora.adapters.adapter import Adapter, Factors
from difflora.adapters.updates import Decomposed, Whole
from difflora.errors import RequestError
from difflora.models.attach import attached
from difflora.models.resident import Resident
from difflora.strength import Strength

# The same thing said twice: as strengths, and as what each module's path begins with; the first that fits counts.
BLOCKS = Strength(0.9, 0.3, (("up", -0.5), ("mid", 0.0), ("down1", 1.6)))
BY_HAND = {"text_encoder": 0.3, "unet.up_blocks": -0.5, "unet.mid_block": 0.0, "unet.down_blocks.0": 1.6, "": 0.9}
OTHER = Strength(-0.6, 1.2, (("self", 0.8), ("conv", -1.1)))
SIZE = {"steps": 3, "guidance": 2.0, "size": (32, 32)}


@pytest.fixture(scope="module")
def wide(model) -> list[Adapter]:
    """Adapters of mixed ranks on all layers there are: attention, resnets, convolutions, time, text."""
    every = list(model.shapes())
    return [
        random_adapter(model, 3, 7.0, 11, paths=every, size=0.06),
        random_adapter(model, 1, 0.5, 12, paths=every[1::2], size=0.2),
        random_adapter(model, 4, 2.0, 13, paths=every[::3], size=0.1),
    ]


def scaled(adapter: Adapter, weights: dict[str, float]) -> Adapter:
    """Every update times the weight of the first beginning that its path has."""
    return Adapter(
        {
            path: replace(
                factors, alpha=factors.alpha * next(w for start, w in weights.items() if path.startswith(start))
            )
            for path, factors in adapter.layers.items()
        }
    )


def drawn(model, *, prompts=("cat",), seeds=(4,), on_step=None) -> torch.Tensor:
    return model.draw(list(prompts), [""] * len(prompts), seeds=list(seeds), on_step=on_step, **SIZE)


@contextmanager
def written(model, adapters, weights):
    """Updates times weights added to the base's own weights, and taken out again."""
    before = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for path, update in adapter.layers.items():
            part, _, rest = path.partition(".")
            module = model.parts[part].get_submodule(rest)
            before.setdefault(path, (module, module.weight.data))
            module.weight.data = module.weight.data + weight * update.delta()
    yield
    for module, weight in before.values():
        module.weight.data = weight


def test_weights_by_block_are_the_adapter_scaled_by_hand_block_by_block(model, wide):
    plain = drawn(model)
    with attached(model.parts, wide[:1]) as stack:
        even = drawn(model)
        stack.weights([BLOCKS])
        gated = drawn(model)
        stack.fold([BLOCKS])
        folded = drawn(model)
    with attached(model.parts, [scaled(wide[0], BY_HAND)]):
        wanted = drawn(model)
    assert close(gated, wanted, 1e-4) and close(folded, wanted, 1e-4)
    assert not close(wanted, plain, 0.05) and not close(wanted, even, 0.05)


def test_weights_by_step_are_the_base_rewritten_by_hand_before_each_step(model, wide):
    table = [[1.0, 0.0, -0.4], [0.2, 0.9, 0.0], [-0.5, 0.3, 1.1]]
    with attached(model.parts, wide) as stack:
        stack.weights(table[0])
        gated = drawn(model, on_step=lambda i, clean: stack.weights(table[i]))
        stack.weights(table[0])
        constant = drawn(model)
    model_steps = []
    with written(model, wide, table[0]):
        features = model.encode_prompts(["", "cat"])
    encode, model_predict = type(model).encode_prompts, type(model).predict

    def predict(self, noisy, times, cond):
        with written(self, wide, table[len(model_steps)]):
            model_steps.append(int(times))
            return model_predict(self, noisy, times, cond)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "encode_prompts", lambda self, texts, clip_skip=None: features)
        patch.setattr(type(model), "predict", predict)
        wanted = drawn(model)
    assert len(model_steps) == 3 and type(model).encode_prompts is encode
    assert close(gated, wanted, 1e-4) and not close(constant, wanted, 0.05)


def test_a_batch_of_strengths_that_differ_by_picture_is_each_picture_drawn_alone(model, wide):
    rows = [
        [BLOCKS, 0.0, OTHER],
        [-0.7, OTHER, BLOCKS.scaled(-0.5)],
        [Strength(0.0), Strength(1.0, 0.0), 1.3],
        [0.0, 0.0, 0.0],
    ]
    prompts, seeds = ("cat", "a red apple", "house", "fish"), (1, 2, 3, 4)
    plain = drawn(model, prompts=prompts, seeds=seeds)
    with attached(model.parts, wide) as stack:
        stack.weights(rows)
        together = drawn(model, prompts=prompts, seeds=seeds)
        for i, row in enumerate(rows):
            stack.weights(row)
            assert close(together[i], drawn(model, prompts=prompts[i : i + 1], seeds=seeds[i : i + 1])[0], 1e-3)
    assert close(together[3], plain[3], 1e-3) and not close(together[:3], plain[:3], 0.05)


def test_the_two_text_encoders_of_a_larger_family_have_weights_of_their_own():
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = CLIPTextConfig(**sizes, num_attention_heads=2, projection_dim=24, eos_token_id=98)
    parts = {"text_encoder": CLIPTextModel(config), "text_encoder_2": CLIPTextModelWithProjection(config)}
    ids = torch.arange(12).view(2, 6)
    paths = [
        f"{name}.{path}" for name, part in parts.items() for path, module in part.eval().named_modules()
        if isinstance(module, nn.Linear)
    ]  # fmt: skip
    assert sum(path.startswith("text_encoder_2.") for path in paths) == 13
    shapes = {p: parts[p.split(".")[0]].get_submodule(p.partition(".")[2]).weight.shape for p in paths}
    adapter = Adapter(
        {path: Factors(torch.randn(2, i) * 0.1, torch.randn(o, 2) * 0.1, 5.0) for path, (o, i) in shapes.items()}
    )

    def said() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([parts["text_encoder"](ids).pooler_output, parts["text_encoder_2"](ids).text_embeds], 1)

    strength = Strength(0.0, 0.8, (("text2", -1.5),))
    with attached(parts, [adapter]) as stack:
        stack.weights([[strength], [0.0]])
        mixed = said()
        stack.weights([strength])
        alone = said()
        stack.fold([strength])
        folded = said()
    plain = said()
    with attached(parts, [scaled(adapter, {"text_encoder_2": -1.5, "text_encoder.": 0.8})]):
        wanted = said()
    assert close(alone, wanted) and close(folded, wanted) and close(mixed[0], wanted[0]) and close(mixed[1], plain[1])
    assert not close(plain[:, :32], wanted[:, :32], 0.05) and not close(plain[:, 32:], wanted[:, 32:], 0.05)


def test_dense_updates_take_weights_by_picture_and_by_block(model):
    rng = torch.Generator().manual_seed(3)
    linear, conv = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "unet.up_blocks.0.resnets.0.conv1"
    shapes = model.shapes()
    inner = random_adapter(model, 2, 3.0, 5, paths=[linear]).layers[linear]
    adapter = Adapter(
        {
            linear: Decomposed(inner, torch.rand(shapes[linear][0], 1, generator=rng) + 0.5),
            conv: Whole(torch.randn(shapes[conv], generator=rng) * 0.1, shapes[conv]),
        }
    )
    weights = {path: model.parts["unet"].get_submodule(path.partition(".")[2]).weight for path in adapter.layers}
    deltas = Adapter({path: Whole(u.delta(weights[path]), u.shape) for path, u in adapter.layers.items()})
    by_hand = replace(deltas.layers[linear], difference=deltas.layers[linear].difference * -0.4)
    with attached(model.parts, [adapter]) as stack:
        stack.weights([[Strength(1.0, None, (("mid", -0.4),))], [0.5]])
        first, second = answer(model)
    for weight, layers, seen in (
        (1.0, {linear: by_hand, conv: deltas.layers[conv]}, first),
        (0.5, deltas.layers, second),
    ):
        with written(model, [Adapter(layers)], [weight]):
            assert close(seen, answer(model)[0 if seen is first else 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gates_are_the_float32_ones_up_to_its_rounding(dtype, model, wide):
    unet, times = model.parts["unet"], torch.full((2,), 500)
    rng = torch.Generator().manual_seed(7)
    noisy, features = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 5, 32, generator=rng)
    own = [Adapter({p: u for p, u in adapter.layers.items() if p.startswith("unet.")}) for adapter in wide]
    said = {}
    for part in (unet, deepcopy(unet).to(dtype)):
        with attached({"unet": part}, own) as stack, torch.inference_mode():
            stack.weights([[BLOCKS, -0.5, OTHER], [0.3, OTHER, 0.0]])
            said[part.dtype] = part(noisy.to(part.dtype), times, features.to(part.dtype)).sample.float()
            stack.weights([0.0, 0.0, 0.0])
            said["plain"] = part(noisy.to(part.dtype), times, features.to(part.dtype)).sample.float()
    assert close(said[dtype], said[torch.float32], 0.06 if dtype == torch.bfloat16 else 0.01)
    assert not close(said["plain"], said[torch.float32], 0.2)


# --- nothing is left behind


def test_a_thousand_changes_of_weight_leave_every_bit_of_the_base_and_of_the_output(model, wide):
    before = numbers(model)
    rng = torch.Generator().manual_seed(0)
    with attached(model.parts, wide) as stack:
        stack.weights([BLOCKS, -0.3, OTHER])
        first = answer(model)
        for i in range(1000):
            row = (torch.rand(3, generator=rng) * 20 - 10).tolist()
            stack.weights([row, row[::-1]] if i % 7 == 0 else [BLOCKS.scaled(row[0]), *row[1:]] if i % 2 else row)
        stack.weights([BLOCKS, -0.3, OTHER])
        assert torch.equal(answer(model), first)
        after = numbers(model)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_thousand_times_in_and_out_leaves_the_base_bit_for_bit(model, wide):
    before, plain, resident = numbers(model), answer(model), Resident(2**30)
    few = [Adapter(dict(list(adapter.layers.items())[i::12])) for i, adapter in enumerate(wide)]
    for i in range(1000):
        with attached(model.parts, few[i % 3 :], resident) as stack:
            if i % 4 == 0:
                stack.fold([0.1 * (i % 50)] * (3 - i % 3))
    assert torch.equal(answer(model), plain)
    after = numbers(model)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert not any(m._forward_hooks for part in model.parts.values() for m in part.modules())


def test_folded_strengths_are_the_gated_ones_and_unfolding_restores_the_same_tensors(model, wide):
    places = {name: weight.data_ptr() for part in model.parts.values() for name, weight in part.named_parameters()}
    before = numbers(model)
    with attached(model.parts, wide) as stack:
        stack.weights([BLOCKS, -0.3, OTHER])
        gated = answer(model)
        stack.fold([OTHER, 0.0, 1.0])
        stack.fold([BLOCKS, -0.3, OTHER])
        assert close(answer(model), gated)
        stack.unfold()
        assert torch.equal(answer(model), gated)
        stack.fold([0.0, 0.0, 0.0])
    after = numbers(model)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert places == {n: weight.data_ptr() for part in model.parts.values() for n, weight in part.named_parameters()}


# --- a change costs nothing


class NoNewMemory(TorchDispatchMode):
    """Fails for an operation whose answer is not one of its own arguments' memory."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(answer):
            assert not isinstance(tensor, torch.Tensor) or tensor.untyped_storage().data_ptr() in given, func
        return answer


def changes() -> list:
    """Blends of two pictures, by number and by strength."""
    return [[[0.1, -2.0, 0.3], [1.0, 0.0, 0.5]], [[BLOCKS, OTHER, 0.2], [0.0, BLOCKS, OTHER]], [[OTHER] * 3, [0.0] * 3]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_change_of_weight_makes_no_tensor_and_moves_none(dtype, model, wide):
    from torch.profiler import ProfilerActivity, profile

    parts = {name: deepcopy(part).to(dtype) for name, part in model.parts.items()}
    with attached(parts, wide) as stack:
        stack.weights(changes()[0])
        gates = [gated.gate.data_ptr() for gated in stack.gated]
        with NoNewMemory():
            for blends in changes():
                stack.weights(blends)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            for blends in changes():
                stack.weights(blends)
        assert [gated.gate.data_ptr() for gated in stack.gated] == gates
        # All of them are parts of one buffer.
        assert len({gated.gate.untyped_storage().data_ptr() for gated in stack.gated}) == 1
    assert not [event for event in seen.events() if event.name == "[memory]" or event.cpu_memory_usage > 0]
    with pytest.raises(AssertionError), NoNewMemory():
        torch.zeros(1)


def test_a_graph_that_was_captured_once_draws_with_every_later_weight(model, wide):
    from torch.fx.experimental.proxy_tensor import make_fx

    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    module = model.parts["unet"].get_submodule(path.partition(".")[2])
    x = torch.randn(2, 3, module.in_features, generator=torch.Generator().manual_seed(0))
    own = [Adapter({path: adapter.layers[path]}) for adapter in wide if path in adapter.layers]
    with attached(model.parts, own) as stack, torch.no_grad():
        stack.weights([[0.5] * len(own), [1.0] * len(own)])
        graph = make_fx(module)(x)
        for row in (0.0, -2.0, Strength(1.0, None, (("mid", 0.25),))):
            stack.weights([[row] * len(own), [0.75] * len(own)])
            assert close(graph(x), module(x), 1e-6)


def test_a_compiled_layer_is_compiled_once_for_all_weights(model, wide):
    import torch._dynamo.testing as dynamo

    torch._dynamo.reset()
    path = "unet.conv_in"
    module, count = model.parts["unet"].conv_in, dynamo.CompileCounter()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with attached(model.parts, [Adapter({path: wide[0].layers[path]})]) as stack, torch.no_grad():
        compiled = torch.compile(module, backend=count, fullgraph=True)
        # Nothing acts at first: what is left out then must not stay left out.
        for weight in (0.0, 1.0, 0.0, -0.5, BLOCKS):
            stack.weights([weight])
            assert close(compiled(x), module(x), 1e-6)
    assert count.frame_count == 1


def test_layers_that_no_weight_reaches_cost_nothing(model, wide):
    with attached(model.parts, wide) as stack:
        stack.weights([Strength(0.0, 0.0, (("mid", 1.0),))] * 3)
        awake = {path for path, gated in zip(stack.updates, stack.gated, strict=True) if not gated.asleep}
        assert awake == {path for path in stack.updates if path.startswith("unet.mid_block")}
        stack.weights([[0.0] * 3, [0.0, 0.0, 1e-3]])
        awake = {path for path, gated in zip(stack.updates, stack.gated, strict=True) if not gated.asleep}
        assert awake == set(wide[2].layers)


def test_a_stack_that_was_set_while_drawing_can_be_set_afterwards(model, adapters):
    with torch.inference_mode(), attached(model.parts, adapters) as stack:
        stack.weights([[0.5] * 3, [0.1] * 3])
        with torch.inference_mode(False):
            stack.weights([[1.0] * 3, [0.0] * 3])
            stack.weights([1.0, 0.0, 0.5])
        assert stack.table.shape[0] == 1
        for own, weight, factors in zip((0, 1, 2), (1.0, 0.0, 0.5), stack.factors, strict=True):
            start = sum(map(len, stack.factors[:own]))
            assert np.allclose(stack.table[0, start : start + len(factors)], factors * weight)


def test_a_blend_of_the_wrong_length_or_of_no_numbers_changes_nothing(model, adapters):
    with attached(model.parts, adapters) as stack:
        stack.weights([0.5, -0.5, 0.25])
        wanted = answer(model)
        for wrong, error in (([1.0], ValueError), ([[1.0] * 3, [1.0] * 2], ValueError), ([1e39, 0, 0], RequestError)):
            with pytest.raises(error):
                stack.weights(wrong)
            with pytest.raises(error):
                stack.fold(wrong)
            assert torch.equal(answer(model), wanted)


# --- what stays on the device


def size_of(model, adapter: Adapter) -> int:
    """Bytes of an adapter made ready for the model."""
    resident = Resident(2**30)
    with attached(model.parts, [adapter], resident):
        return resident.bytes


def test_adapters_stay_within_the_budget_and_least_lately_used_ones_leave_first(model):
    same = [random_adapter(model, 4, 2.0, seed) for seed in range(4)]
    size = size_of(model, same[0])
    resident = Resident(2 * size)

    def draw_with(*indices: int) -> list[int]:
        with attached(model.parts, [same[i] for i in indices], resident):
            pass
        assert resident.bytes <= resident.limit_bytes
        return [i for i in range(4) if same[i] in resident]

    assert draw_with(0) == [0]
    assert draw_with(1) == [0, 1]
    assert draw_with(0) == [0, 1]
    assert draw_with(2) == [0, 2]
    assert draw_with(3, 2) == [2, 3]
    assert draw_with(0, 1, 2) == [1, 2]
    assert Resident(0).bytes == 0


def test_what_was_evicted_or_never_kept_draws_the_same(model, wide):
    part = {name: deepcopy(part).half() for name, part in model.parts.items()}
    for parts in (model.parts, part):
        said = []
        for resident in (None, Resident(0), Resident(2**30), Resident(1), Resident(size_of(model, wide[0]))):
            for turn in (wide, wide[:1], wide[1:], wide):
                with attached(parts, turn, resident) as stack:
                    stack.weights([BLOCKS, -0.4, OTHER][: len(turn)])
                    last = [gated.up for gated in stack.gated]
            said.append(torch.cat([up.flatten() for up in last]))
        assert all(torch.equal(one, said[0]) for one in said)
    kept = Resident(2**30)
    for _ in range(2):
        with attached(model.parts, wide, kept) as stack:
            stack.weights([BLOCKS, -0.4, OTHER])
            drawn_once = answer(model)
    with attached(model.parts, wide) as stack:
        stack.weights([BLOCKS, -0.4, OTHER])
        assert torch.equal(answer(model), drawn_once)


def test_the_adapters_of_one_stack_are_all_there_though_they_exceed_the_budget(model, wide):
    resident = Resident(size_of(model, wide[1]))
    for _ in range(2):
        with attached(model.parts, wide, resident) as stack:
            stack.weights([1.0, -1.0, 0.5])
            seen = answer(model)
            assert resident.bytes <= resident.limit_bytes
    with attached(model.parts, wide) as stack:
        stack.weights([1.0, -1.0, 0.5])
        assert torch.equal(answer(model), seen)


def test_an_adapter_at_hand_is_not_read_again_and_float32_factors_are_never_copied(model, wide, monkeypatch):
    from difflora.models import resident as room

    resident, made = Resident(2**30), []
    ready = room.make_ready
    monkeypatch.setattr(room, "make_ready", lambda *given: made.append(1) or ready(*given))
    for _ in range(3):
        with attached(model.parts, wide[:1], resident) as stack:
            for gated, factors in zip(stack.gated, wide[0].layers.values(), strict=True):
                assert gated.up.data_ptr() == factors.up.data_ptr() and gated.down.data_ptr() == factors.down.data_ptr()
    assert len(made) == len(wide[0].layers)


def test_an_adapter_that_nobody_holds_any_more_leaves(model, wide):
    resident, other = Resident(2**30), random_adapter(model, 2, 3.0, 0)
    with attached(model.parts, [other], resident):
        pass
    size = resident.bytes
    del other
    with attached(model.parts, wide[:1], resident):
        assert size > 0 and resident.bytes == size_of(model, wide[0])


def test_many_threads_may_take_from_one_budget(model, wide):
    modules = {p: model.parts[p.split(".")[0]].get_submodule(p.partition(".")[2]) for p in model.shapes()}
    resident, wrong = Resident(size_of(model, wide[0]) + 1), []

    def work(turn: int) -> None:
        for i in range(60):
            adapter = wide[(turn + i) % 3]
            [layers] = resident.take([adapter], modules)
            if list(layers) != list(adapter.layers) or resident.bytes > resident.limit_bytes:
                wrong.append(turn)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not wrong
