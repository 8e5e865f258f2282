"""An update in the numbers it is stored in: what a cast to half precision does to it. Knows no file."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .adapter import Factors, Update
from .norms import squared_gap
from .updates import Decomposed, Hadamard, Kronecker, Whole

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def stored(update: Update, dtype: torch.dtype, fold: bool = False) -> Update:
    """The update in the dtype that keeps it: the given one, or float32 for a layer that would suffer.

    fold: with the scale in its factors, so that alpha is the rank. Factors are balanced before they are cast: a scale
    of 1e-5 in one of them costs 3% in float16, in both of them nothing that matters.
    """
    if isinstance(update, Decomposed):
        # A magnitude rounded to half precision moves the whole weight, not only the update.
        return Decomposed(stored(update.inner, dtype, fold), plain(update.magnitude))
    if isinstance(update, Factors):
        return stored_factors(update, dtype, fold)
    whole = cast(update, torch.float32)
    if dtype == torch.float32:
        return whole
    half = cast(update, dtype)
    # Four tensors are rounded, where plain factors have two.
    return half if error(half, whole) <= 4 * torch.finfo(dtype).eps else whole


def stored_factors(factors: Factors, dtype: torch.dtype, fold: bool = False) -> Factors:
    """Plain factors in the dtype that keeps them; in float32 they stay as they are unless the scale goes into them."""
    if {factors.down.dtype, factors.up.dtype} == {dtype} and not (fold and factors.scale != 1):
        # Rounded once already: they stay as they are, and so does the hash by which recipes know them.
        return replace(factors, down=plain(factors.down).to(dtype), up=plain(factors.up).to(dtype))
    exact = replace(factors, down=plain(factors.down), up=plain(factors.up))
    if fold and exact.scale != 1:
        exact = Factors(exact.down, exact.up * exact.scale, float(exact.rank))
    if dtype == torch.float32:
        return exact
    even = exact.balanced()
    half = replace(even, down=even.down.to(dtype), up=even.up.to(dtype))
    # Rounding moves an update by about eps / 2 of its size; overflow (inf, NaN), denormals and cancellation by more.
    return half if error(half, exact) <= 2 * torch.finfo(dtype).eps else exact


def cast(update: Update, dtype: torch.dtype) -> Update:
    """Another kind of update with its tensors in that dtype."""
    if isinstance(update, Whole):
        return replace(update, difference=plain(update.difference).to(dtype))
    if isinstance(update, Hadamard | Kronecker):
        return replace(update, parts={name: plain(part).to(dtype) for name, part in update.parts.items()})
    raise TypeError(f"{type(update).__name__} is cast by its inner update")


def error(found: Update, wanted: Update) -> float:
    """The relative error of an update, infinite when it is not finite; 0 for nothing made of nothing."""
    gap, whole = squared_gap(found, wanted)
    if gap != gap:
        return math.inf
    return math.sqrt(gap / whole) if whole else math.sqrt(gap)


def plain(tensor: Tensor) -> Tensor:
    """A copy on the CPU in float32."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
