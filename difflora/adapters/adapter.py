"""Factors own the scale; an Adapter is factors by module path, with what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


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

    def delta(self) -> Tensor:
        """The dense update in float32, with the shape of the weight it is added to."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (product * self.scale).view(self.shape)

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
    """Factors by real module path, such as "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"."""

    layers: Mapping[str, Factors]
    info: Info = Info()

    def __len__(self) -> int:
        return len(self.layers)

    def parameters(self) -> int:
        """Numbers stored in all factors together."""
        return sum(f.down.numel() + f.up.numel() for f in self.layers.values())
