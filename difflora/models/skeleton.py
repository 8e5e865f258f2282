"""A base's networks from their configs alone, for what can be known before a weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from .opening import Source, kind_of, load_scheduler, one_line

FILLERS = (
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "uniform_",
    "normal_",
    "trunc_normal_",
)


def empty_networks(source: Source, dtype: torch.dtype) -> dict[str, object]:
    """Every network by its name, its weights not set, and the scheduler: under a FakeTensorMode they take no memory."""
    found = {}
    with one_line(source.name), unfilled(), precision(dtype):
        for name in source.networks:
            library, kind = source.index[name]
            config = json.loads((source.folder / name / "config.json").read_text())
            if library == "diffusers":
                network = kind_of(library, kind).from_config(config)
            else:
                network = kind_of(library, kind)(kind_of(library, "CLIPTextConfig")(**config))
            found[name] = network.eval().requires_grad_(False)
    with unset_fake_temporarily():
        found["scheduler"] = load_scheduler(source)
    return found


@contextmanager
def unfilled() -> Iterator[None]:
    """Layers are made without filling their weights, which for a full-size network takes half a minute."""
    unfilled_too = kind_of("transformers.initialization", "no_init_weights")
    own = {name: getattr(nn.init, name) for name in FILLERS}
    try:
        with unfilled_too():
            for name in FILLERS:
                setattr(nn.init, name, lambda tensor, *args, **options: tensor)
            yield
    finally:
        for name, function in own.items():
            setattr(nn.init, name, function)


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """New layers have that precision: casting them afterwards is not possible for tensors that are not real."""
    own = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(own)
