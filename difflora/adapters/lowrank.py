"""What is no plain LoRA as one, with the error that it costs. Knows no file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import AdapterFileError, RequestError
from .adapter import Adapter, Factors, Update
from .norms import squared_norm
from .updates import Decomposed, plain_factors

EXACT_SIDE = 512
"""Up to which side a full decomposition is as quick as a sketch."""
OVERSAMPLE, ROUNDS = 16, 4
Weights = Callable[[str], Tensor]


@dataclass(frozen=True)
class Plain:
    """An adapter of plain factors, and how far it is from what it was."""

    adapter: Adapter
    error: float
    """Relative, in the Frobenius norm over all modules."""
    worst: tuple[str, float]
    """The module with the largest error of its own, and that."""


def made_plain(
    adapter: Adapter, *, rank: int | None = None, max_error: float | None = None, weights: Weights | None = None
) -> Plain:
    """Every update as plain factors: LoHa and LoKr exactly where that is smaller than they are, else the nearest.

    rank: of the nearest ones, 1 and more; max_error: or the smallest rank of each module that stays within it, 0 to 1.
    weights: the base's, by module path, which DoRA needs. Plain LoRA stays as it is. Raises RequestError when neither
    rank nor max_error is given and something is not exact, or the weights are lacking, AdapterFileError for an update
    that is not finite.
    """
    layers, gap, whole, worst = {}, 0.0, 0.0, ("", 0.0)
    for path, update in adapter.layers.items():
        exact = update.factors()
        if exact is not None and (update is exact or rank is None or exact.rank <= rank):
            layers[path] = exact
            whole += squared_norm(exact)
            continue
        if rank is None and max_error is None:
            raise RequestError(
                f"{path} is {update.kind}, no plain LoRA: expected --rank N or --max-error E to make it one; give one"
            )
        delta = update.delta(weight_of(path, update, weights))
        if not torch.isfinite(delta).all():
            raise AdapterFileError(f"the update of {path} is not finite; expected numbers only; take another file")
        layers[path] = nearest(delta, rank, max_error)
        missed = float((layers[path].delta() - delta).double().square().sum())
        size = float(delta.double().square().sum())
        gap, whole = gap + missed, whole + size
        worst = max(worst, (path, math.sqrt(missed / size) if size else 0.0), key=lambda pair: pair[1])
    return Plain(replace(adapter, layers=layers), math.sqrt(gap / whole) if whole else 0.0, worst)


def weight_of(path: str, update: Update, weights: Weights | None) -> Tensor | None:
    """The base's weight, for what depends on it; RequestError without one."""
    if not isinstance(update, Decomposed):
        return None
    if weights is None:
        raise RequestError(f"{path} is {update.kind}, which depends on the base's weights: expected --base; name it")
    return weights(path)


def nearest(delta: Tensor, rank: int | None, max_error: float | None = None) -> Factors:
    """The factors nearest to an update (Eckart and Young 1936; sketched as Halko et al. 2011 where it is large).

    rank: their inner size, no more than the update's sides; or the least for which the relative error stays within
    max_error.
    """
    flat = delta.flatten(1).double()
    most = min(flat.shape)
    if rank is not None:
        return _cut(*_decomposed(flat, min(rank, most)), min(rank, most), delta.shape)
    total, wanted = float(flat.square().sum()), 16
    while True:
        up, sizes, down = _decomposed(flat, min(wanted, most))
        left = total - sizes.square().cumsum(0)
        enough = (left.clamp_min(0) <= (max_error or 0.0) ** 2 * total).nonzero()
        if len(enough) or wanted >= most:
            return _cut(up, sizes, down, int(enough[0]) + 1 if len(enough) else most, delta.shape)
        wanted *= 2


def _decomposed(flat: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """(up, singular values, down) of the first `rank` directions at least."""
    if min(flat.shape) <= EXACT_SIDE or rank + OVERSAMPLE >= min(flat.shape):
        up, sizes, down = torch.linalg.svd(flat, full_matrices=False)
        return up, sizes, down
    with torch.random.fork_rng(devices=[]):
        # Same file, same numbers.
        torch.manual_seed(0)
        up, sizes, down = torch.svd_lowrank(flat, rank + OVERSAMPLE, ROUNDS)
    return up, sizes, down.T


def _cut(up: Tensor, sizes: Tensor, down: Tensor, rank: int, shape: tuple[int, ...]) -> Factors:
    root = sizes[:rank].sqrt()
    return plain_factors((root[:, None] * down[:rank]).float(), (up[:, :rank] * root).float(), tuple(shape))


def weights_of(parts: Mapping[str, torch.nn.Module]) -> Weights:
    """The weights of a model's modules by path."""

    def weight(path: str) -> Tensor:
        part, _, rest = path.partition(".")
        return parts[part].get_submodule(rest).weight

    return weight
