"""Two models of one family, layer by layer: what differs, how many directions it has, the nearest of a rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import demand
from ..errors import BaseModelError
from ..events import Report
from .adapter import Factors
from .checkpoint import Checkpoint, open_checkpoint
from .compress import Spectra, Spectrum
from .forms import arrow, core
from .header import shown, shown_path
from .outside import same_numbers
from .stream import Meter
from .updates import Shape, plain_factors


@dataclass(frozen=True)
class Pair:
    """Two models of one family."""

    base: Checkpoint
    tuned: Checkpoint
    shapes: Mapping[str, Shape]
    """Of the layers that both have."""

    @classmethod
    def opened(cls, base: Path, tuned: Path) -> Pair:
        """Open both; RequestError when they are not of one family."""
        one, other = open_checkpoint(base), open_checkpoint(tuned)
        where = f"{shown_path(one.path)} is {one.family}, {shown_path(other.path)} {other.family}"
        demand(one.family == other.family, where, "two models of one family; take the base that it was tuned from")
        shapes = {}
        for path, shape in one.shapes.items():
            own = other.path_of(path)
            if own is None:
                continue
            if core(shape) != core(other.shapes[own]):
                raise BaseModelError(
                    f"{shown(path)} is {arrow(shape)} in {shown_path(one.path)}, {arrow(other.shapes[own])} in "
                    f"{shown_path(other.path)}: expected two models of one shape; take the base that it was tuned from"
                )
            shapes[path] = shape
        return cls(one, other, shapes)

    @property
    def family(self) -> str:
        """Of both."""
        return self.base.family

    @property
    def size(self) -> int:
        """Bytes of all layers of one, in half precision."""
        return sum(self.bytes_of(path) for path in self.shapes)

    def bytes_of(self, path: str) -> int:
        """Bytes of one layer in half precision."""
        return 2 * math.prod(self.shapes[path])

    def delta(self, path: str) -> Tensor:
        """tuned - base in float32, zero where one is the other in less precision; RequestError if not finite."""
        old, new = self.base.weight(path), self.tuned.weight(self.tuned.path_of(path) or path)
        new = new.reshape(old.shape)
        if same_numbers(old, new):
            return torch.zeros(old.shape)
        delta = new.float().sub_(old.float())
        demand(bool(torch.isfinite(delta).all()), f"the difference of {shown(path)} is not finite", "numbers only")
        return delta

    def ranks_within(self, max_error: float, report: Report) -> dict[str, int]:
        """The rank of each layer, 0 for none, with which all of them together stay within a relative error.

        Only their singular values are kept. Where nothing differs nothing is found.
        """
        meter, modules = Meter("looking at layers", self.size, report), {}
        for path in self.shapes:
            if values := spectrum(self.delta(path)):
                modules[path] = values
            meter.add(self.bytes_of(path))
        return dict(Spectra(modules).foretold(max_error=max_error).ranks) if modules else {}


def squares(dense: Tensor) -> float:
    """The sum of squares in double precision, a piece at a time: a copy of a large layer would be twice its size."""
    return sum(float(piece.double().square().sum()) for piece in dense.flatten().split(2**20))


def smaller_side(shape: Sequence[int]) -> int:
    """The largest rank that a layer can have."""
    return min(shape[0], math.prod(shape[1:]))


def gram(delta: Tensor) -> tuple[Tensor, Tensor]:
    """(D D^T in double precision over its shorter side, D with that side first)."""
    flat = delta.flatten(1)
    short = (flat if flat.shape[0] <= flat.shape[1] else flat.T).double()
    return short @ short.T, short


def spectrum(delta: Tensor) -> Spectrum | None:
    """The singular values of a difference, without directions; None where it is zero.

    They are roots of the eigenvalues of D D^T, exact to 1e-8 of the largest in double precision.
    """
    if not delta.any():
        return None
    values = torch.linalg.eigvalsh(gram(delta)[0]).flip(0).clamp_min(0).sqrt()
    none = torch.empty(0, dtype=torch.float64)
    # It tells ranks only: what would be cut is read from the disk again.
    return Spectrum(lambda: plain_factors(none, none, ()), none, values, none, tuple(delta.shape))


def cut_exactly(delta: Tensor, rank: int) -> Factors:
    """The nearest factors of a rank (Eckart and Young 1936), both of equal norm."""
    squares, short = gram(delta)
    _, vectors = torch.linalg.eigh(squares)
    side = vectors.flip(1)[:, :rank]
    other = side.T @ short
    root = other.norm(dim=1).clamp_min(1e-300).sqrt()
    one, two = (side * root).float(), (other / root[:, None]).float()
    down, up = (two, one) if delta.shape[0] <= delta.flatten(1).shape[1] else (one.T, two.T)
    return plain_factors(down.contiguous(), up.contiguous(), tuple(delta.shape))
