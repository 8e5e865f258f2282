"""The nearest adapter of a smaller rank, with the error that it costs, known before anything is made.

An update up @ down has the singular values of a matrix as small as its rank. With up = Q1 R1 and down = R2^T Q2^T they
are those of R1 R2^T, and cutting them off gives the nearest update of that rank (Eckart and Young 1936). R1 and R2 come
from the eigenvectors of up^T up and down down^T in double precision, so that neither Q nor the update is ever formed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from ..config import demand
from ..errors import AdapterFileError, RequestError
from ..events import Report, ignore
from .adapter import Adapter, Factors, Info
from .blend import plain_layers
from .convert import difference
from .sums import told
from .updates import Shape, plain_factors

NOISE = 1e-8
"""Directions below this, of the largest that the halves could make, are rounding: float32 has 6e-8."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular value decomposition of one module's update, as small matrices to be multiplied with its halves."""

    source: Callable[[], Factors]
    """The update itself: kept, or made anew when it is asked for."""
    left: Tensor
    """(rank, n), float64: up @ left has orthonormal columns."""
    values: Tensor
    """(n), float64, falling; at least one, and 0 only where the whole update is."""
    right: Tensor
    """(n, rank), float64: right @ down has orthonormal rows."""
    shape: Shape

    @property
    def numbers(self) -> int:
        """How many numbers a file stores for each direction."""
        return self.shape[0] + math.prod(self.shape[1:])

    @cached_property
    def energies(self) -> list[float]:
        """The squares of the values; their sum is the squared Frobenius norm of the update."""
        return self.values.square().tolist()

    def cut(self, rank: int) -> Factors:
        """The nearest update of that rank, 1 and more, both factors of equal norm; itself where its own is no larger.

        Multiplied in double precision: where styles cancel, single precision would keep little of what is left.
        """
        factors = self.source()
        if rank >= factors.rank:
            return factors
        down, up = (half.flatten(1).double() for half in factors.halves())
        root = self.values[:rank].sqrt()
        first, second = (self.right[:rank] * root[:, None]) @ down, up @ (self.left[:, :rank] * root)
        return plain_factors(first.float(), second.float(), self.shape)


@dataclass(frozen=True)
class Foretold:
    """What cutting an adapter costs."""

    error: float
    """Relative, in the Frobenius norm over all modules."""
    ranks: Mapping[str, int]
    """By path; 0 for a module that disappears."""
    parameters: int
    """Numbers stored in all updates together."""
    worst: tuple[str, float]
    """The module with the largest error of its own, and that."""


@dataclass(frozen=True)
class Compressed(Foretold):
    """An adapter that was cut, and what that costs."""

    adapter: Adapter


@dataclass(frozen=True, eq=False)
class Spectra:
    """The spectra of an adapter's modules by path: every cut is known from them before it is made."""

    modules: Mapping[str, Spectrum]
    info: Info = Info()

    def curve(self) -> list[tuple[int, float, int]]:
        """(rank, error, numbers stored) for ranks 1, 2, 4 … up to the one at which nothing is lost."""
        most = max(len(one.values) for one in self.modules.values())
        ranks = [2**power for power in range(most.bit_length()) if 2**power < most]
        found = [(rank, self.foretold(rank=rank)) for rank in [*ranks, most]]
        return [(rank, one.error, one.parameters) for rank, one in found]

    def foretold(self, *, rank: int | None = None, max_error: float | None = None) -> Foretold:
        """What a cut costs, without making it; RequestError as for `compress`."""
        check_cut((one.shape for one in self.modules.values()), rank, max_error)
        ranks = self._within(max_error) if rank is None else self._capped(rank)
        lost = {path: sum(one.energies[ranks[path] :]) for path, one in self.modules.items()}
        whole = {path: sum(one.energies) for path, one in self.modules.items()}
        total = sum(whole.values())
        own = {path: math.sqrt(lost[path] / whole[path]) if whole[path] else 0.0 for path in lost}
        worst = max(own, key=own.__getitem__)
        numbers = sum(rank * self.modules[path].numbers for path, rank in ranks.items())
        error = math.sqrt(sum(lost.values()) / total) if total else 0.0
        return Foretold(error, ranks, numbers, (worst, own[worst]))

    def cut(self, *, rank: int | None = None, max_error: float | None = None, report: Report = ignore) -> Compressed:
        """The adapter cut; RequestError as for `compress`."""
        found = self.foretold(rank=rank, max_error=max_error)
        kept = [path for path, rank in found.ranks.items() if rank]
        layers = {path: self.modules[path].cut(found.ranks[path]) for path in told(kept, "cutting", report)}
        return Compressed(found.error, found.ranks, found.parameters, found.worst, Adapter(layers, self.info))

    def _capped(self, rank: int) -> dict[str, int]:
        return {path: min(rank, len(one.values)) for path, one in self.modules.items()}

    def _within(self, max_error: float) -> dict[str, int]:
        """Directions of least energy for each number stored go first, until no module can lose another one."""
        ranks = {path: len(one.values) for path, one in self.modules.items()}
        rows = [(e / one.numbers, path, e) for path, one in self.modules.items() for e in one.energies]
        # A hair less than all of it: sums in another order must not come out above.
        left = max_error**2 * sum(energy for _, _, energy in rows) * (1 - 1e-12)
        full: set[str] = set()
        for _, path, energy in sorted(rows):
            if path in full or energy > left:
                # Its next direction is larger still.
                full.add(path)
            else:
                ranks[path], left = ranks[path] - 1, left - energy
        if not any(ranks.values()):
            ranks[max(self.modules, key=lambda path: self.modules[path].energies[0])] = 1
        return ranks


def compress(
    adapter: Adapter, *, rank: int | None = None, max_error: float | None = None, report: Report = ignore
) -> Compressed:
    """The nearest adapter of smaller ranks, never forming a dense update.

    rank: of every module, 1 to the smaller side of the largest layer; a module of a smaller rank stays as it is.
    max_error: or the relative error of all modules together, 0 to 1; each module keeps as many directions as pay for
    their numbers in the file, and one that keeps none disappears. Raises RequestError for other values and unless
    exactly one is given, AdapterFileError for an update that is no plain LoRA or not finite.
    """
    return spectra(adapter, report).cut(rank=rank, max_error=max_error, report=report)


def spectra(adapter: Adapter, report: Report = ignore) -> Spectra:
    """The spectra of all modules; factors are not kept, but taken from the adapter once more when it is cut."""
    found = {}
    for path in told(list(adapter.layers), "looking at modules", report):
        source = partial(_plain, adapter, path)
        factors = source()
        if not all(torch.isfinite(half).all() for half in (factors.down, factors.up)):
            raise AdapterFileError(f"the update of {path} is not finite; expected numbers only; take another file")
        found[path] = spectrum(factors, source)
    if not found:
        raise RequestError("the adapter has no modules: expected one at least; take another file")
    return Spectra(found, adapter.info)


def check_cut(shapes: Iterable[Shape], rank: int | None, max_error: float | None) -> None:
    """RequestError unless it is a rank that one of the layers can have, or an error from 0 to 1."""
    demand((rank is None) is not (max_error is None), "a rank and a largest error, or neither", "one of the two")
    if rank is not None:
        most = max(min(out, math.prod(rest)) for out, *rest in shapes)
        demand(1 <= rank <= most, f"rank {rank}", f"1 to {most}, the smaller side of the largest layer")
    if max_error is not None:
        demand(0 <= max_error <= 1, f"max error {max_error:g}", "0 to 1, such as 0.01")


def true_error(found: Adapter, wanted: Adapter) -> float:
    """The relative error of all updates together, in the Frobenius norm; modules that `found` lacks count as zero."""
    lacking = {path: update for path, update in wanted.layers.items() if path not in found.layers}
    nothing = {path: _nothing(update.shape) for path, update in lacking.items()}
    return difference(replace(found, layers={**found.layers, **nothing}), wanted)


def spectrum(factors: Factors, source: Callable[[], Factors] | None = None) -> Spectrum:
    """The spectrum of an update; `source` makes the same one again, so that it need not be kept."""
    source = source or (lambda: factors)
    if factors.rank > min(factors.shape[0], math.prod(factors.shape[1:])):
        return spectrum(_folded(factors), lambda: _folded(source()))
    down, up = (half.flatten(1).double() for half in factors.halves())
    # Both halves of a channel get one norm: a style stored with a large up and a small down is not rounded away.
    balance = (down.norm(dim=1) / up.norm(dim=0).clamp_min(1e-300)).sqrt().clamp(1e-30, 1e30)
    first, left = _triangle(up.mul_(balance).T)
    second, right = _triangle(down.div_(balance[:, None]))
    a, values, b = torch.linalg.svd(first @ second.T, full_matrices=False)
    sound = int((values > NOISE * first.norm() * second.norm()).sum())
    kept = max(1, sound)
    left, right = left @ a[:, :kept] * balance[:, None], b[:kept] @ right.T / balance
    return Spectrum(source, left, values[:kept] if sound else values[:1] * 0, right, factors.shape)


def _triangle(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(R, M) of (rank, many) rows: rows = R^T Q, Q = M^T rows orthonormal; directions that are rounding left out."""
    squares, vectors = torch.linalg.eigh(rows @ rows.T)
    sound = squares > squares[-1] * len(squares) * torch.finfo(squares.dtype).eps
    sound[-1] = True
    roots, vectors = squares[sound].clamp_min(1e-300).sqrt(), vectors[:, sound]
    return roots[:, None] * vectors.T, vectors / roots


def _folded(factors: Factors) -> Factors:
    """The same update with the rank of its smaller side: more is never needed."""
    down, up = (half.flatten(1) for half in factors.halves())
    product, out = up @ down, up.shape[0]
    halves = (product, torch.eye(out)) if out <= product.shape[1] else (torch.eye(product.shape[1]), product)
    return plain_factors(*halves, factors.shape)


def _plain(adapter: Adapter, path: str) -> Factors:
    return plain_layers(replace(adapter, layers={path: adapter.layers[path]}))[path]


def _nothing(shape: Shape) -> Factors:
    return plain_factors(torch.zeros(1, math.prod(shape[1:])), torch.zeros(shape[0], 1), shape)
