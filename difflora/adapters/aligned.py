"""TIES in a basis that the styles share: in their own bases, numbers at one place have little to do with each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .adapter import Factors
from .dense import elected, trimmed
from .knobs import Knobs
from .updates import plain_factors

ROUNDING = 1e-7
"""Directions below this, of the largest, are rounding."""


def knots(parts: Sequence[Factors], weights: Sequence[float], knobs: Knobs) -> Factors:
    """The updates side by side are U S [V1 … Vn]; their S Vi are put together by TIES and multiplied with U.

    Stoica et al. 2024, arXiv 2410.19735, with the weights in the updates. The decomposition comes from QR of the
    factors, so that no update is formed, and the rank is at most that of all parts together. Trimmed module by module,
    where the paper trims the whole network at once.
    """
    halves = [[half.flatten(1).double() for half in part.halves()] for part in parts]
    outer, first = torch.linalg.qr(
        torch.cat([up * weight for (_, up), weight in zip(halves, weights, strict=True)], dim=1)
    )
    inner = [torch.linalg.qr(down.T) for down, _ in halves]
    # Side by side, the updates are `up` times a block diagonal of the downs.
    blocks = first.split([part.rank for part in parts], dim=1)
    core = torch.cat([block @ r.T for block, (_, r) in zip(blocks, inner, strict=True)], dim=1)
    left, sizes, right = torch.linalg.svd(core, full_matrices=False)
    kept = max(1, int((sizes > ROUNDING * sizes[0]).sum()))
    rows = (sizes[:kept, None] * right[:kept]).split([q.shape[1] for q, _ in inner], dim=1)
    pieces = [trimmed((row @ q.T).float(), knobs.density) for row, (q, _) in zip(rows, inner, strict=True)]
    return plain_factors(elected(pieces, weights), (outer @ left[:, :kept]).float(), parts[0].shape)
