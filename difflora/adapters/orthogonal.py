"""Styles kept out of each other's way: what a later one shares with the earlier ones is taken from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ..strength import Strength, weight_at
from .adapter import Adapter, Factors
from .blend import plain_layers
from .compress import spectrum
from .knobs import Knobs
from .sums import summed

FAINT = 1e-5
"""Directions below this, of a style's largest, are not what it does: they hold 1e-10 of its energy."""


def orthogonal(parts: Sequence[Factors], weights: Sequence[float], knobs: Knobs) -> Factors:
    """The weighted sum of the updates after `turned`; at amount 0 the sum itself."""
    return summed(turned(parts, knobs.amount), weights)


def turned(parts: Sequence[Factors], amount: float) -> list[Factors]:
    """Each update of one module without what it shares with the ones before it: B - amount · Q Q^T B.

    Q is an orthonormal basis of the outputs that the earlier updates reach, so at amount 1 the inner product of any two
    is 0; the rank stays. A soft projection after NP-LoRA (2025, arXiv 2511.11051), on outputs. Where the earlier ones
    reach every output, as they do in a layer of few, nothing is left of the later ones at amount 1. What is taken does
    not depend on weights: only a style at 0, which is not there, takes nothing.
    """
    if not amount:
        return list(parts)
    found, reached = list(parts[:1]), []
    for before, part in pairwise(parts):
        reached.append(_outputs(before))
        basis, up = _basis(torch.cat(reached, dim=1)), part.up.double()
        shared = basis @ (basis.T @ up.flatten(1))
        found.append(replace(part, up=(up - amount * shared.view_as(up)).float()))
    return found


def orthogonalised(
    adapters: Sequence[Adapter], amount: float, weights: Sequence[float | Strength] | None = None
) -> list[Adapter]:
    """Each adapter without what it shares with the ones before it, 0 to 1 of it; the first stays as it is.

    They stay apart, so that their weights can still be changed: only which of them are 0 matters, where `weights` are
    given, because such a style takes nothing from others. Their blend is then that of the method. Raises
    AdapterFileError for an update that is no plain LoRA.
    """
    plain = [plain_layers(adapter) for adapter in adapters]
    heard = [1.0] * len(adapters) if weights is None else weights
    for path in dict.fromkeys(path for layers in plain for path in layers):
        there = zip(plain, heard, strict=True)
        touching = [layers for layers, weight in there if path in layers and weight_at(weight, path)]
        for layers, factors in zip(touching, turned([layers[path] for layers in touching], amount), strict=True):
            layers[path] = factors
    return [replace(adapter, layers=layers) for adapter, layers in zip(adapters, plain, strict=True)]


def _outputs(part: Factors) -> Tensor:
    """(out, n): an orthonormal basis of what an update reaches; without columns for one that is zero."""
    found = spectrum(part)
    strong = found.values > FAINT * found.values[0]
    return found.source().halves()[1].flatten(1).double() @ found.left[:, strong]


def _basis(columns: Tensor) -> Tensor:
    """(out, n): an orthonormal basis of the same space, also where columns of several styles coincide."""
    left, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    return left[:, sizes > FAINT]
