"""Counts what code needs while it runs, on real tensors or on fake ones: memory, arithmetic, traffic."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Scratch = Callable[[object, Sequence, Sequence[Tensor]], int]
aten = torch.ops.aten
CONVOLUTIONS = (aten.convolution, aten.convolution_backward)
# A CPU's own attention, which torch's table of formulas lacks: arguments as those of the others.
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACK = aten._scaled_dot_product_flash_attention_for_cpu_backward
QUESTIONS = (torch.ops.prim.device.default,)
CONVOLVING = 7 * 10**6
"""What every convolution of a CPU holds besides, in bytes."""


@dataclass(frozen=True)
class Reading:
    """What a block of code needed."""

    peak: int = 0
    """Most bytes alive at once of the tensors that it made, those kept for the way back among them."""
    left: int = 0
    """Bytes of those that are alive after it."""
    convolutions: int = 0
    """Floating point operations of convolutions, a multiplication and an addition being two."""
    products: int = 0
    """Those of matrix products and attention."""
    traffic: int = 0
    """Bytes read and written by all other operations."""

    @property
    def flops(self) -> int:
        """Floating point operations of convolutions and products."""
        return self.convolutions + self.products


class Meter(TorchDispatchMode):
    """Counts untyped storages as they are made and freed inside a block, views once, and what their making takes.

    scratch: bytes that an operation holds while it computes beside what it gives back, by its name, what it is given
    and the tensors that it makes.
    """

    def __init__(self, scratch: Scratch | None = None) -> None:
        super().__init__()
        self.scratch = scratch
        self.live = self.peak = self.convolutions = self.products = self.traffic = 0
        self.known: dict[int, weakref.ref] = {}

    def reading(self) -> Reading:
        """What was counted so far."""
        return Reading(self.peak, self.live, self.convolutions, self.products, self.traffic)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation and count it."""
        kwargs = kwargs or {}
        if func in QUESTIONS:
            return func(*args, **kwargs)
        given = tensors([*args, *kwargs.values()])
        for tensor in given:
            self.know(tensor, 0)
        result = func(*args, **kwargs)
        made = tensors(result)
        fresh = sum(self.know(tensor, 1) for tensor in made)
        if fresh or func._schema.is_mutable:
            self.count(func, args, kwargs, result, given, made)
        return result

    def know(self, tensor: Tensor, share: int) -> bool:
        """Take a tensor's storage into account, unless it is already; whether it was new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return False
        size = share * storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        self.known[key] = weakref.ref(storage, lambda _: self.forget(key, size))
        return True

    def forget(self, key: int, size: int) -> None:
        """A storage was freed."""
        self.live -= size
        self.known.pop(key, None)

    def count(self, func, args, kwargs, result, given: list[Tensor], made: list[Tensor]) -> None:
        """Add up arithmetic, or traffic where there is none to speak of."""
        if self.scratch is not None:
            self.peak = max(self.peak, self.live + self.scratch(func.overloadpacket, args, made))
        flops = operations(func.overloadpacket, args, kwargs, result)
        if func.overloadpacket in CONVOLUTIONS:
            self.convolutions += flops
        elif flops:
            self.products += flops
        else:
            self.traffic += sum(tensor.nbytes for tensor in (*given, *made))


def tensors(tree: object) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, list | tuple):
        return [tensor for leaf in tree if isinstance(leaf, Tensor | list | tuple) for tensor in tensors(leaf)]
    return []


def operations(packet, args, kwargs, result) -> int:
    """Floating point operations of one operation, by torch's own formulas."""
    if packet is ATTENTION:
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
    if packet is ATTENTION_BACK:
        return sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
    formula = flop_registry.get(packet)
    return formula(*args, **kwargs, out_val=result) if formula else 0


def cpu_scratch(packet: object, args: Sequence, made: Sequence[Tensor]) -> int:
    """Bytes that a CPU holds during a convolution beside its result, measured on single ones of torch 2.13.

    Its weights and its picture in an order of their own; in float16, which few CPUs multiply in, all of its windows.
    """
    if packet is aten.convolution:
        picture, weight, ways = args[0], args[1], 1
    elif packet is aten.convolution_backward:
        picture, weight, ways = args[0], args[2], 3
    else:
        return 0
    larger, window = max(tensor.nbytes for tensor in (picture, *made)), weight[0, 0].numel()
    if picture.dtype == torch.float16:
        return ways * window * larger
    if picture.dtype == torch.bfloat16 and window == 1:
        return 3 * larger + CONVOLVING
    return weight.nbytes + larger + CONVOLVING
