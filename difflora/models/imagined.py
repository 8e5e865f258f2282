"""Bases of which only shapes and types are there: the same code runs on them, without their memory and their time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ..config import BaseConfig
from .family import BaseModel, blueprint
from .opening import how_to_open

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True, eq=False)
class Imagined:
    """A base without its weights, and where and how it would compute."""

    model: BaseModel
    """Its device is the CPU wherever it would compute: shapes are the same, and no device is needed."""
    device: torch.device
    precision: str
    offload: bool | None = None


@contextmanager
def imagined(config: BaseConfig) -> Iterator[Imagined]:
    """The base of a config inside a FakeTensorMode; every tensor made in the block is as unreal as its weights.

    Raises BaseModelError where its configs are not here, or for a precision that the device has not.
    """
    how = how_to_open(config)
    precision = NAMES[how.dtype]
    with FakeTensorMode(allow_non_fake_inputs=True), castable():
        model = blueprint(replace(config, precision=precision), device="cpu")
        if how.dtype == torch.float16 and model.vae.config.get("force_upcast", False):
            # As when it is opened: this autoencoder overflows in float16.
            model.vae.float()
        if config.tiling:
            model.vae.enable_tiling()
        yield Imagined(model, how.device, precision, config.offload)


@contextmanager
def castable() -> Iterator[None]:
    """Modules of fake weights can be cast inside the block; real ones are cast as ever."""
    own = nn.Module._apply

    def apply(self: nn.Module, fn, recurse: bool = True) -> nn.Module:
        if not any(isinstance(parameter, FakeTensor) for parameter in self.parameters()):
            return own(self, fn, recurse)
        # torch swaps the tensors themselves, which it cannot where a fake one is still remembered.
        for module in self.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(fn(parameter.detach()), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = fn(buffer)
        return self

    nn.Module._apply = apply
    try:
        yield
    finally:
        nn.Module._apply = own
