"""Factors own the scale; an Adapter is updates by module path, with what is known about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from .names import ALPHA, DOWN, UP


class Update(Protocol):
    """What every kind of update of one module offers."""

    @property
    def kind(self) -> str:
        """LoRA, LoCon, LoHa, LoKr or full, or one of them after DoRA."""

    @property
    def rank(self) -> int:
        """The inner size of its factors; 0 for none."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that is updated."""

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """The dense update in float32; DoRA needs the weight, ValueError without it."""

    def factors(self) -> Factors | None:
        """The same update as plain factors, where those are fewer numbers than the update has; else None."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by part, alpha among them."""


@dataclass(frozen=True, eq=False)
class Factors:
    """One module's update: (alpha / rank) · up @ down (Hu et al. 2021, arXiv 2106.09685).

    down: (rank, in) or (rank, in, k, k); up: (out, rank) or (out, rank, 1, 1). Nothing outside this class computes the
    scale.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """The inner size of the product."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that is updated."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def kind(self) -> str:
        """LoRA, or LoCon for a convolution with a kernel."""
        return "LoCon" if math.prod(self.shape[2:]) > 1 else "LoRA"

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """The dense update in float32, with the shape of the weight it is added to, whatever that weight is."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (product * self.scale).view(self.shape)

    def factors(self) -> Factors | None:
        """Itself."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by part; alpha as float32."""
        return {DOWN: self.down, UP: self.up, ALPHA: torch.tensor(self.alpha, dtype=torch.float32)}

    def halves(self) -> tuple[Tensor, Tensor]:
        """(down, scale · up) in float32: the pair whose product is the update."""
        return self.down.float(), self.up.float() * self.scale

    def balanced(self) -> Factors:
        """The same update with both factors of equal norm and alpha kept: what survives float16 best."""
        down, up = self.down.float(), self.up.float()
        ratio = (up.norm() / down.norm().clamp_min(1e-30)).sqrt()
        if not torch.isfinite(ratio) or ratio == 0:
            return replace(self, down=down, up=up)
        return replace(self, down=down * ratio, up=up / ratio)


@dataclass(frozen=True)
class Info:
    """What is known about an adapter beside its numbers."""

    name: str = ""
    family: str = ""
    """The base model's family, such as "tiny" or "sd1"."""
    base: str = ""
    """The base model as it was named when the adapter was made."""
    trigger: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Everything else the file's header holds, as read."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """Updates by real module path, such as "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"."""

    layers: Mapping[str, Update]
    info: Info = Info()

    def __len__(self) -> int:
        return len(self.layers)

    def nbytes(self) -> int:
        """Memory of all tensors together."""
        return sum(tensor.nbytes for update in self.layers.values() for tensor in update.tensors().values())

    def parameters(self) -> int:
        """Numbers stored in all updates together, without alphas."""
        return sum(
            tensor.numel()
            for update in self.layers.values()
            for part, tensor in update.tensors().items()
            if part != ALPHA
        )
