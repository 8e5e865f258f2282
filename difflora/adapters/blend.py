"""The exact weighted sum of adapters: a stack of LoRAs is itself one LoRA."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import AdapterFileError
from ..strength import Strength, weight_at
from .adapter import Adapter, Factors, Info


def blend(adapters: Sequence[Adapter], weights: Sequence[float | Strength], info: Info | None = None) -> Adapter:
    """One adapter whose update is sum_i weight_i · update_i, exactly, by concatenating factors; ranks add up.

    Weights may be negative or zero, or differ by block; adapters may differ in rank, alpha and in the modules they
    touch. Raises AdapterFileError for an update that is no product of smaller factors, such as DoRA.
    """
    plain = [plain_layers(adapter) for adapter in adapters]
    paths = dict.fromkeys(path for layers in plain for path in layers)
    layers = {}
    for path in paths:
        parts = [(layers[path], weight_at(w, path)) for layers, w in zip(plain, weights, strict=True) if path in layers]
        downs, ups = zip(*((f.halves()[0], f.halves()[1] * w) for f, w in parts), strict=True)
        down, up = torch.cat(downs), torch.cat(ups, dim=1)
        layers[path] = Factors(down, up, alpha=float(down.shape[0]))
    return Adapter(layers, info or (adapters[0].info if adapters else Info()))


def plain_layers(adapter: Adapter) -> dict[str, Factors]:
    """Every update as plain factors, which is exact for LoHa and LoKr too; AdapterFileError where there are none."""
    layers = {}
    for path, update in adapter.layers.items():
        factors = update.factors()
        if factors is None:
            raise AdapterFileError(
                f"{adapter.info.name or 'an adapter'} has {update.kind} layers: expected plain LoRA to add up to "
                "one file; draw with both instead, or make it plain with difflora convert --rank"
            )
        layers[path] = factors
    return layers
