"""Updates that are not one product of two factors: LoHa, LoKr, whole differences, DoRA. `Factors` is the plain one.

All of them answer the same questions: the kind, the shape, the dense update on a given weight, the same update as plain
factors where that is smaller than the update itself, and their tensors by part. A weight w draws W + w · update for
every kind: for DoRA too, as ComfyUI and A1111 do it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapter import Factors, Update
from .names import ALPHA, COLUMNS, DIFF

Shape = tuple[int, ...]


def spread(product: Tensor, shape: Shape, scale: float = 1.0) -> Tensor:
    """A flat (out, rest) product, changed in place, as an update of that shape."""
    return product.mul_(scale).reshape(shape)


def small(rank: int, shape: Shape) -> bool:
    """Whether factors of that rank hold fewer numbers than the update."""
    rest = math.prod(shape[1:])
    return rank * (shape[0] + rest) < shape[0] * rest


@dataclass(frozen=True, eq=False)
class Hadamard:
    """LoHa: alpha / rank · (w1_a @ w1_b) * (w2_a @ w2_b) (Hyeon-Woo et al. 2022, arXiv 2108.06098).

    parts: by their names in files; with a kernel each half is hada_t contracted with both of its factors.
    """

    parts: Mapping[str, Tensor]
    alpha: float
    shape: Shape
    kind: str = "LoHa"

    @property
    def rank(self) -> int:
        """Of each half; the product's is up to its square."""
        return self.parts["hada_w1_b"].shape[0]

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """The dense update."""
        return spread(self._half(1).mul_(self._half(2)), self.shape, self.alpha / self.rank)

    def factors(self) -> Factors | None:
        """Every pair of inner channels is one of the product's."""
        (a1, b1), (a2, b2) = self._pair(1), self._pair(2)
        if "hada_t1" in self.parts or not small(b1.shape[0] * b2.shape[0], self.shape):
            return None
        up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
        down = (b1[:, None, :] * b2[None, :, :]).flatten(0, 1)
        return plain_factors(down, up * (self.alpha / self.rank), self.shape)

    def tensors(self) -> dict[str, Tensor]:
        """As stored."""
        return dict(self.parts) | {ALPHA: torch.tensor(self.alpha, dtype=torch.float32)}

    def _pair(self, number: int) -> tuple[Tensor, Tensor]:
        a, b = (self.parts[f"hada_w{number}_{side}"].float() for side in "ab")
        return a, b.flatten(1)

    def _half(self, number: int) -> Tensor:
        a, b = self._pair(number)
        return (
            a @ b if f"hada_t{number}" not in self.parts else tucker(self.parts[f"hada_t{number}"], a.T, b).flatten(1)
        )


@dataclass(frozen=True, eq=False)
class Kronecker:
    """LoKr: scale · kron(w1, w2), each whole or a product (Edalati et al. 2022, arXiv 2212.10650; Yeh et al. 2023).

    scale: alpha / rank where a side is a product; 1 where both are whole, whatever alpha says (LyCORIS lokr.py).
    """

    parts: Mapping[str, Tensor]
    scale: float
    shape: Shape
    kind: str = "LoKr"

    @property
    def rank(self) -> int:
        """Of the side that is a product; 0 when both are whole."""
        sides = [self.parts[name] for name in ("lokr_w2_b", "lokr_w1_b") if name in self.parts]
        return sides[0].shape[0] if sides else 0

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """The dense update."""
        return spread(torch.kron(self._side(1), self._side(2)), self.shape, self.scale)

    def factors(self) -> Factors | None:
        """kron(a b, c d) = kron(a, c) kron(b, d), a whole side being itself times one."""
        if "lokr_t2" in self.parts:
            return None
        (a, b), (c, d) = self._sides(1), self._sides(2)
        if not small(b.shape[0] * d.shape[0], self.shape):
            return None
        return plain_factors(torch.kron(b, d), torch.kron(a, c) * self.scale, self.shape)

    def tensors(self) -> dict[str, Tensor]:
        """As stored; where both sides are whole, readers know no scale, so it goes into the first."""
        if not self.rank:
            first = self.parts["lokr_w1"]
            scaled = first if self.scale == 1 else first.float() * self.scale
            return dict(self.parts) | {"lokr_w1": scaled, ALPHA: torch.tensor(1.0)}
        return dict(self.parts) | {ALPHA: torch.tensor(self.scale * self.rank, dtype=torch.float32)}

    def _sides(self, number: int) -> tuple[Tensor, Tensor]:
        name = f"lokr_w{number}"
        if f"{name}_a" in self.parts:
            return self.parts[f"{name}_a"].float(), self.parts[f"{name}_b"].float().flatten(1)
        whole = self.parts[name].float().flatten(1)
        if whole.shape[0] <= whole.shape[1]:
            return torch.eye(whole.shape[0]), whole
        return whole, torch.eye(whole.shape[1])

    def _side(self, number: int) -> Tensor:
        name = f"lokr_w{number}"
        if number == 2 and "lokr_t2" in self.parts:
            return tucker(self.parts["lokr_t2"], self.parts[f"{name}_a"].T, self.parts[f"{name}_b"]).flatten(1)
        if name in self.parts:
            return self.parts[name].float().flatten(1)
        left, right = self._sides(number)
        return left @ right


@dataclass(frozen=True, eq=False)
class Whole:
    """A full difference of a weight, as LyCORIS calls it "full" or "diff"."""

    difference: Tensor
    shape: Shape
    kind: str = "full"
    rank: int = 0

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """The difference itself."""
        return self.difference.float().reshape(self.shape)

    def factors(self) -> Factors | None:
        """None: it has no inner size."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """As stored."""
        return {DIFF: self.difference}


@dataclass(frozen=True, eq=False)
class Decomposed:
    """DoRA: the updated weight is normalised, then multiplied with a learnt magnitude (arXiv 2402.09353).

    magnitude: (1, in) with norms over outputs, as LyCORIS learns it, or (out, 1) with norms over inputs, as PEFT does;
    both with a 1 for each axis of a kernel. They are different methods: neither can be written as the other.
    """

    inner: Update
    magnitude: Tensor

    @property
    def kind(self) -> str:
        """DoRA and what it is added to."""
        return f"DoRA {self.inner.kind}"

    @property
    def rank(self) -> int:
        """Of the inner update."""
        return self.inner.rank

    @property
    def shape(self) -> Shape:
        """The shape of the weight."""
        return self.inner.shape

    @property
    def by_output(self) -> bool:
        """Whether there is a magnitude for each output, not for each input."""
        return self.magnitude.shape[1] == 1 and self.magnitude.shape[0] == self.shape[0]

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """What is added to that weight at strength 1; ValueError without one."""
        if weight is None:
            raise ValueError("DoRA depends on the weight that it is added to")
        old = weight.detach().to("cpu", torch.float32)
        new = old + self.inner.delta(old)
        axes = [axis for axis in range(new.dim()) if axis != (0 if self.by_output else 1)]
        norm = torch.linalg.vector_norm(new, dim=axes, keepdim=True).clamp_min(1e-12)
        return new * (self.magnitude.float() / norm) - old

    def factors(self) -> Factors | None:
        """None: it is no sum."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """The inner ones, and the magnitude in kohya's form."""
        return self.inner.tensors() | {COLUMNS: self.magnitude}


def tucker(middle: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """up (out, r), middle (r, r, kernel), down (r, in) -> (out, in, kernel)."""
    right = torch.einsum("ab...,bi->ai...", middle.float(), down.float().flatten(1))
    return torch.einsum("oa,ai...->oi...", up.float(), right)


def plain_factors(down: Tensor, up: Tensor, shape: Shape) -> Factors:
    """Factors of scale 1 from flat halves."""
    rank = down.shape[0]
    return Factors(down.reshape(rank, *shape[1:]), up.reshape(shape[0], rank, *[1] * (len(shape) - 2)), float(rank))
