"""Factors that learn inside a model, through peft; what only acts there is in gates.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..adapters.adapter import Factors
from .gates import Parts, Stack, attached, check_shapes, module_at
from .resident import Resident, resident_on

__all__ = [
    "Learning", "Parts", "Resident", "Stack", "attached", "check_shapes", "learning", "module_at", "resident_on",
]  # fmt: skip


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
