"""Methods that treat every number of an update apart from the others; what they make is of no low rank.

The weights go in first, so that the numbers which are compared, elected and dropped are those that would be added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from .adapter import Factors
from .knobs import Knobs
from .updates import Whole


def ties(parts: Sequence[Factors], weights: Sequence[float], knobs: Knobs) -> Whole:
    """Each update trimmed to its largest numbers, a sign elected for each place, the agreeing ones averaged.

    After Yadav et al. 2023, arXiv 2306.01708, with two differences. Weights come before everything, so a negative one
    votes the other way; PEFT elects without them. The mean is scaled as in `elected`, so that n equal styles at 1/n are
    that style, as the paper has it with lambda 1; PEFT's mean of updates times 1/n is 1/n of it. Trimmed module by
    module, where the paper trims the whole network at once.
    """
    pieces = [trimmed(_weighted(part, weight), knobs.density) for part, weight in zip(parts, weights, strict=True)]
    return Whole(elected(pieces, weights), parts[0].shape)


def dare(parts: Sequence[Factors], weights: Sequence[float], knobs: Knobs) -> Whole:
    """Each number kept with the probability `density` and divided by it, then the weighted sum.

    Yu et al. 2023, arXiv 2311.03099. The expectation is the exact sum. That of dropping in both factors would be too,
    but with three times the variance at one half, and whole rows and columns going together. What is dropped depends
    on the seed, the module's path and the order of the styles.
    """
    words = hashlib.sha256(f"{knobs.seed} {knobs.path}".encode()).digest()
    rng = torch.Generator().manual_seed(int.from_bytes(words[:7], "big"))
    total = torch.zeros(parts[0].shape)
    for part, weight in zip(parts, weights, strict=True):
        kept = torch.rand(part.shape, generator=rng) < knobs.density
        total += _weighted(part, weight / knobs.density).mul_(kept)
    return Whole(total, parts[0].shape)


def magnitude(parts: Sequence[Factors], weights: Sequence[float], knobs: Knobs) -> Whole:
    """The weighted sum of each update's largest numbers; what goes is not made up for."""
    total = torch.zeros(parts[0].shape)
    for part, weight in zip(parts, weights, strict=True):
        total += trimmed(_weighted(part, weight), knobs.density)
    return Whole(total, parts[0].shape)


def trimmed(piece: Tensor, density: float) -> Tensor:
    """The same tensor, changed in place, with zeros for all but that share of its numbers; equal ones stay together."""
    sizes = piece.abs().flatten()
    dropped = len(sizes) - max(1, round(density * len(sizes)))
    return piece.mul_(piece.abs() >= sizes.kthvalue(dropped + 1).values) if dropped else piece


def elected(pieces: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The disjoint mean: at each place the sum of the pieces that have the sign of all of them together, scaled.

    pieces: updates times their weights. The scale is n / m, as many pieces as there are for each that agrees, both
    counted as sum(w)² / sum(w²), w without sign. For equal weights that is the paper's mean times the sum of the
    weights; a style whose weight goes to 0 goes without a jump, where a plain count would keep its share of the mean.
    Where all agree it is their sum.
    """
    sign = sum(pieces[1:], pieces[0]).sign()
    total, sizes, squares = (torch.zeros_like(pieces[0]) for _ in range(3))
    for piece, weight in zip(pieces, weights, strict=True):
        agrees = (piece * sign) > 0
        total += piece * agrees
        sizes += agrees * abs(weight)
        squares += agrees * weight**2
    counted = sum(map(abs, weights)) ** 2 / sum(weight**2 for weight in weights)
    # Where none agrees the total is 0 already.
    return total.mul_(squares).mul_(counted).div_(sizes.square_().clamp_min_(1e-30))


def _weighted(part: Factors, weight: float) -> Tensor:
    return part.delta().mul_(weight)
