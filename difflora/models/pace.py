"""How quick this machine is at what networks do, measured in half a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..adapters.precision import DTYPES
from .meter import Reading

LONG_ENOUGH, PATIENCE = 0.02, 0.08
"""Seconds that a timed piece of work should take, and in which the quickest of several is looked for."""
CHANNELS, TOKENS, SIDES = 320, (64, 256, 1024, 4096, 16384), (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Pace:
    """Speed of one device in one precision."""

    convolutions: float
    """Floating point operations a second in a 3x3 convolution of a network's first level."""
    products: float
    """The same in a matrix product of its feed-forward layers."""
    traffic: float
    """Bytes a second in what is neither, read and written together."""

    def seconds(self, reading: Reading) -> float:
        """How long what was counted takes."""
        return (
            reading.convolutions / self.convolutions + reading.products / self.products + reading.traffic / self.traffic
        )


def speed(device: torch.device | str, precision: str) -> Pace:
    """The pace of a device in fp32, bf16 or fp16, by a convolution, a matrix product and an addition of real sizes."""
    place = torch.device(device)
    how = {"device": place, "dtype": DTYPES[precision]}
    with torch.inference_mode():
        weight, matrix = torch.ones(CHANNELS, CHANNELS, 3, 3, **how), torch.ones(4 * CHANNELS, 4 * CHANNELS, **how)
        pictures = (torch.ones(1, CHANNELS, side, side, **how) for side in SIDES)
        rows = (torch.ones(count, 4 * CHANNELS, **how) for count in TOKENS)
        convolved = rate(lambda x: F.conv2d(x, weight, padding=1), pictures, place, lambda x: 18 * CHANNELS * x.numel())
        multiplied = rate(lambda x: x @ matrix, rows, place, lambda x: 8 * CHANNELS * x.numel())
        rows = (torch.ones(count, 4 * CHANNELS, **how) for count in TOKENS)
        moved = rate(F.silu, rows, place, lambda x: 2 * x.nbytes)
    return Pace(convolved, multiplied, moved)


def rate(work: Callable, sizes, device: torch.device, amount: Callable) -> float:
    """The most that is done in a second, of sizes growing until one call takes long enough to be timed."""
    for given in sizes:
        start, best = time.perf_counter(), float("inf")
        while best == float("inf") or (best >= LONG_ENOUGH / 10 and time.perf_counter() - start < PATIENCE):
            best = min(best, timed(work, given, device))
        if best >= LONG_ENOUGH:
            break
    return amount(given) / best


def timed(work: Callable, given: torch.Tensor, device: torch.device) -> float:
    """Seconds of one call, the device's own work waited for."""
    start = time.perf_counter()
    work(given)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
