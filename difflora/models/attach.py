"""Adapters into a model's modules and out again: a gated stack for drawing, peft layers for training.

A stack of adapters is one pair of wide factors per module; the weights are a gate between them:
    y = W x + up_cat (gate * (down_cat x)),   gate of shape (rows, sum of ranks)
so every picture of a batch has its own blend, and a weight changes by writing into a buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..adapters.adapter import Adapter, Factors, Update
from ..errors import AdapterFileError, RequestError

Parts = Mapping[str, nn.Module]


def module_at(parts: Parts, path: str) -> nn.Module:
    """The module of a path such as "unet.mid_block.attentions.0.proj_in"; AdapterFileError if there is none."""
    part, _, rest = path.partition(".")
    try:
        return parts[part].get_submodule(rest)
    except (KeyError, AttributeError) as error:
        raise AdapterFileError(f"{path} is not a layer of this base: the adapter was made for another one") from error


class Gated:
    """The stacked update of one module, added to its output by a forward hook."""

    def __init__(self, module: nn.Module, updates: Sequence[tuple[int, Update]]) -> None:
        weight = module.weight
        self.module = module
        self.updates = updates
        exact = [(i, update, update.factors()) for i, update in updates]
        plain = [(i, factors) for i, _, factors in exact if factors is not None]
        # Lopsided factors overflow in float16 though their product does not.
        halves = [(f.balanced() if weight.dtype == torch.float16 else f).halves() for _, f in plain]
        self.down = torch.cat([down for down, _ in halves]).to(weight) if plain else None
        self.up = torch.cat([up for _, up in halves], dim=1).to(weight) if plain else None
        # What is no product of smaller factors acts as one dense update, DoRA as it is on this weight.
        dense = [(i, update) for i, update, factors in exact if factors is None]
        self.dense = [update.delta(weight).to(weight) for _, update in dense]
        # Which adapter each inner channel, and then each dense update, belongs to.
        columns = [i for i, f in plain for _ in range(f.rank)] + [i for i, _ in dense]
        self.columns = torch.tensor(columns, device=weight.device)
        self.gate = torch.zeros(1, len(columns), dtype=weight.dtype, device=weight.device)
        self.original: Tensor | None = None
        self.hook = module.register_forward_hook(self.forward)

    def set(self, table: Tensor) -> None:
        """Take the weights (rows, adapters); in place when the number of rows stays."""
        gate = table[:, self.columns].to(self.gate)
        if gate.shape == self.gate.shape:
            self.gate.copy_(gate)
        else:
            self.gate = gate

    def forward(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """output + up (gate * (down input)) + gate * (dense input)."""
        if self.original is not None:
            return output
        x = inputs[0]
        # With guidance the networks see several rows a picture: all negatives, then all prompts.
        gate = self.gate.repeat(len(x) // len(self.gate), 1) if len(self.gate) > 1 else self.gate
        if isinstance(module, nn.Conv2d):
            around = (None, module.stride, module.padding, module.dilation, module.groups)
            apply, up, gate = partial(_conv, around=around), F.conv2d, gate[:, :, None, None]
        else:
            apply, up, gate = F.linear, F.linear, gate.view(-1, *[1] * (x.dim() - 2), gate.shape[1])
        axis = 1 if isinstance(module, nn.Conv2d) else -1
        inner, *rest = gate.split([gate.shape[axis] - len(self.dense), *[1] * len(self.dense)], axis)
        if self.down is not None:
            output = output + up(apply(x, self.down) * inner, self.up)
        for own, delta in zip(rest, self.dense, strict=True):
            output = output + apply(x, delta) * own
        return output

    def fold(self, weights: Tensor) -> None:
        """Put the constant blend (adapters,) into the weight itself, keeping the original aside."""
        total = sum(weights[i].item() * update.delta(self.module.weight) for i, update in self.updates)
        weight = self.module.weight
        self.original = weight.data
        weight.data = (weight.data.float() + total.to(weight.device)).to(weight.dtype)

    def unfold(self) -> None:
        """Put the original weight back: the same tensor, bit for bit."""
        if self.original is not None:
            self.module.weight.data = self.original
            self.original = None


def _conv(x: Tensor, weight: Tensor, around: tuple) -> Tensor:
    return F.conv2d(x, weight, *around)


class Stack:
    """Attached adapters; the handle that `attached` gives."""

    def __init__(self, parts: Parts, adapters: Sequence[Adapter]) -> None:
        self.count = len(adapters)
        by_path: dict[str, list[tuple[int, Update]]] = {}
        for i, adapter in enumerate(adapters):
            for path, update in adapter.layers.items():
                by_path.setdefault(path, []).append((i, update))
        modules = {path: module_at(parts, path) for path in by_path}
        for path, entries in by_path.items():
            check_shapes(path, modules[path], entries)
        self.gated = [Gated(modules[path], entries) for path, entries in by_path.items()]
        self.weights([1.0] * self.count)

    def weights(self, table: Sequence[float] | Sequence[Sequence[float]] | Tensor) -> None:
        """Set the blend: (adapters,) for all pictures alike, or (pictures, adapters)."""
        rows = torch.as_tensor(table, dtype=torch.float32).reshape(-1, self.count) if self.count else None
        if rows is not None and not torch.isfinite(rows).all():
            raise RequestError("weights must be finite numbers: expected -10 to 10")
        for gated in self.gated:
            gated.set(rows)

    def fold(self, weights: Sequence[float]) -> None:
        """Write one constant blend into the model: no cost per picture. `unfold` restores every bit."""
        self.unfold()
        table = torch.as_tensor(weights, dtype=torch.float32)
        for gated in self.gated:
            gated.fold(table)

    def unfold(self) -> None:
        """Put the original weights back; the gates act again."""
        for gated in self.gated:
            gated.unfold()

    def detach(self) -> None:
        """Leave the model as it was before."""
        self.unfold()
        for gated in self.gated:
            gated.hook.remove()


def check_shapes(path: str, module: nn.Module, entries: Sequence[tuple[int, Update]]) -> None:
    """AdapterFileError when an update does not fit the module's weight."""
    for _, update in entries:
        if update.shape != tuple(module.weight.shape):
            found, wanted = "x".join(map(str, update.shape)), "x".join(map(str, module.weight.shape))
            raise AdapterFileError(f"{path}: the update is {found}, the layer {wanted}: made for another family")


@contextmanager
def attached(parts: Parts, adapters: Sequence[Adapter]) -> Iterator[Stack]:
    """The adapters act inside the block, each at weight 1 until told otherwise; after it no trace is left."""
    stack = Stack(parts, adapters)
    try:
        yield stack
    finally:
        stack.detach()


class Learning:
    """Trainable factors inside a model; the handle that `learning` gives."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.layers = layers

    def parameters(self) -> list[nn.Parameter]:
        """Every trainable tensor, in a fixed order."""
        return [
            p for layer in self.layers.values() for p in (layer.lora_A["style"].weight, layer.lora_B["style"].weight)
        ]

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model is the base alone inside the block."""
        for layer in self.layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)
            # peft freezes what it switches off.
            for parameter in self.parameters():
                parameter.requires_grad_(True)

    def factors(self) -> dict[str, Factors]:
        """Copies of what was learnt so far, by module path."""
        return {
            path: Factors(
                layer.lora_A["style"].weight.detach().float().cpu().clone(),
                layer.lora_B["style"].weight.detach().float().cpu().clone(),
                alpha=float(layer.lora_alpha["style"]),
            )
            for path, layer in self.layers.items()
        }


@contextmanager
def learning(parts: Parts, paths: Sequence[str], rank: int, alpha: float, seed: int) -> Iterator[Learning]:
    """Fresh rank-r factors at `paths`, A random and B zero, through peft; the model is as before after the block."""
    from peft import LoraConfig, inject_adapter_in_model

    layers = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, part in parts.items():
            own = [path.partition(".")[2] for path in paths if path.partition(".")[0] == name]
            if own:
                config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=own, lora_dropout=0.0, bias="none")
                inject_adapter_in_model(config, part, adapter_name="style")
                layers |= {f"{name}.{path}": part.get_submodule(path) for path in own}
    for layer in layers.values():
        # Small steps vanish in half precision; the factors stay float32 over any base.
        layer.lora_A.float(), layer.lora_B.float()
    try:
        yield Learning(layers)
    finally:
        for path, layer in layers.items():
            name, _, rest = path.partition(".")
            parent, _, leaf = rest.rpartition(".")
            setattr(parts[name].get_submodule(parent), leaf, layer.base_layer)
            layer.base_layer.requires_grad_(False)
        for name in {path.partition(".")[0] for path in layers}:
            del parts[name].peft_config
