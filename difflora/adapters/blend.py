"""The exact weighted sum of adapters: a stack of LoRAs is itself one LoRA."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .adapter import Adapter, Factors, Info


def blend(adapters: Sequence[Adapter], weights: Sequence[float], info: Info | None = None) -> Adapter:
    """One adapter whose update is sum_i weight_i · update_i, exactly, by concatenating factors; ranks add up.

    Weights may be negative or zero; adapters may differ in rank, alpha and in the modules they touch.
    """
    paths = dict.fromkeys(path for adapter in adapters for path in adapter.layers)
    layers = {}
    for path in paths:
        parts = [(a.layers[path], w) for a, w in zip(adapters, weights, strict=True) if path in a.layers]
        downs, ups = zip(*((f.halves()[0], f.halves()[1] * w) for f, w in parts), strict=True)
        down, up = torch.cat(downs), torch.cat(ups, dim=1)
        layers[path] = Factors(down, up, alpha=float(down.shape[0]))
    return Adapter(layers, info or (adapters[0].info if adapters else Info()))
