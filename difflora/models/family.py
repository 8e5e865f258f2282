"""From a name to a base model: one table line a family."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from ..adapters.checkpoint import open_checkpoint
from ..config import BaseConfig, Precision
from ..errors import BaseModelError
from ..events import Report, ignore
from .bases import EMBEDDED, Located, locate
from .clip import CONFIGS
from .hub import download
from .opening import How, Source, best_device, how_to_open, load_networks, settle
from .single import load_single
from .skeleton import empty_networks

__all__ = [
    "EMBEDDED", "FAMILIES", "BaseModel", "base_sha256", "best_device", "blueprint", "on_disk", "open_model",
]  # fmt: skip

# diffusers pipeline class -> the room that knows it.
FAMILIES = {
    "StableDiffusionPipeline": "difflora.models.sd",
    "StableDiffusionXLPipeline": "difflora.models.sdxl",
}
CONFIG_FAMILIES = ("sd1", "sd2", "sdxl")


class BaseModel(Protocol):
    """What every family offers; conditioning is a dict of tensors with a leading batch axis."""

    name: str
    family: str
    vae_name: str | None
    clip_skip: int | None
    side: int
    unit: int
    factor: int
    parts: Mapping[str, nn.Module]
    vae: nn.Module
    device: torch.device
    dtype: torch.dtype
    recommended: object
    samplers: Sequence[str]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight shapes of every layer an adapter may touch, by module path."""

    def targets(self, layers: str, text_encoder: bool) -> list[str]:
        """Module paths that learn for a TrainConfig.targets value."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> latents (B, C, h, w)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W) in -1..1 on the CPU."""

    def tokenize(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts as token ids; accepted wherever conditioning is."""

    def token_weights(self, text: str, spans: Sequence[tuple[int, int, float]]) -> Tensor:
        """How much each token of a text counts, (tokens,)."""

    def windows(self, prompt: str) -> int:
        """How many windows of the text encoder a prompt fills."""

    def encode_tokens(self, cond: Mapping[str, Tensor], clip_skip: int | None = None) -> dict[str, Tensor]:
        """Token ids, weighted or not -> text features; what is none of both passes through."""

    def encode_prompts(self, texts: Sequence[str], clip_skip: int | None = None, least: int = 1) -> dict[str, Tensor]:
        """Prompts as text features, long or weighted ones too, padded to the longest and to `least` windows."""

    def place(self, original: tuple, corner: tuple, target: tuple) -> dict[str, Tensor]:
        """Conditioning of one row by a picture's (height, width), its crop's (top, left) and (height, width)."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture; RequestError for sizes that it cannot take."""

    def sampler(self, name: str | None) -> object:
        """A fresh scheduler by name; RequestError for one that it does not draw with."""

    def time_at(self, share: float) -> int:
        """The training time at a share, 0 to below 1, of the way to pure noise."""

    def predict(self, noisy: Tensor, times: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The network's answer to (B, C, h, w) at (B,) timesteps."""

    def times(self, count: int, rng: torch.Generator) -> Tensor:
        """(count,) timesteps to train at."""

    def checkpointing(self, on: bool) -> None:
        """Compute activations twice instead of keeping them."""

    def loss(self, latents: Tensor, cond: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """The training loss of each picture, (B,)."""

    def loss_at(self, latents: Tensor, cond: Mapping[str, Tensor], times: Tensor, noise: Tensor) -> Tensor:
        """The loss of each picture at given times and noise, (B,)."""

    def draw(self, texts: Sequence[str], negatives: Sequence[str], **how: object) -> Tensor:
        """One picture a prompt, (B, 3, H, W) in -1..1."""

    def sample(self, cond: Mapping[str, Tensor], **how: object) -> Tensor:
        """Finished latents of conditioning; negatives' rows first where guidance is above 1."""

    def check_size(self, width: int, height: int) -> None:
        """RequestError unless the model can draw this size."""


def open_model(
    base: str | BaseConfig,
    device: str | None = None,
    precision: Precision | None = None,
    *,
    clip_skip: int | None = None,
    report: Report = ignore,
) -> BaseModel:
    """The base model by name (see `bases.locate`), or as a config says; raises BaseModelError.

    precision: fp32, bf16 or fp16; what suits the device unless given. Nothing is looked up on a network unless `base`
    is a short name or a hub id whose files are not here; what will be downloaded is reported before it is.
    """
    config = base if isinstance(base, BaseConfig) else BaseConfig(base=base, precision=precision)
    located = locate(config.base, config.bases)
    if located.path is None:
        located = replace(located, path=download(located, report))
    return open_source(source_of(located), how_to_open(config, device, clip_skip, report))


def open_source(source: Source, how: How) -> BaseModel:
    """The base that lies there; raises BaseModelError."""
    room = room_of(source)
    loaded = load_single(source, how) if source.file else load_networks(source, how)
    return room.assemble(source, how, settle(loaded, source, how))


def blueprint(base: str | BaseConfig, device: str | None = None) -> BaseModel:
    """The base without its weights, from its configs; raises BaseModelError where those are not here.

    A short name that is not downloaded has the configs that travel with difflora.
    """
    config = base if isinstance(base, BaseConfig) else BaseConfig(base=base)
    located = locate(config.base, config.bases)
    if located.path is None and located.family not in CONFIG_FAMILIES:
        raise BaseModelError(
            f"base {located.name} is not here: expected its configs; open it once, which downloads it, then ask again"
        )
    return blueprint_of(source_of(located), how_to_open(config, device))


def blueprint_of(source: Source, how: How) -> BaseModel:
    """The same from the configs alone: no weight is read, and none is what it would be."""
    return room_of(source).assemble(source, how, empty_networks(source, how.dtype))


def source_of(located: Located) -> Source:
    """The folder of a base with its index; a single file takes the configs of its family that travel with difflora."""
    if located.path is not None and located.path.is_dir():
        return Source(located.name, located.path, read_index(located.name, located.path))
    family = located.family or open_checkpoint(located.path).family
    folder = CONFIGS / family
    return Source(located.name, folder, read_index(located.name, folder), located.path)


def room_of(source: Source) -> ModuleType:
    """The module that knows the family of a base."""
    kind = source.index.get("_class_name")
    if kind not in FAMILIES:
        raise BaseModelError(
            f"base {source.name} holds a {kind}: expected one of {', '.join(FAMILIES)}; choose another base"
        )
    return import_module(FAMILIES[kind])


def read_index(name: str, folder: Path) -> dict:
    """model_index.json of a folder; BaseModelError when it is not readable."""
    try:
        found = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"base {name}: model_index.json is not readable ({error}); expected a diffusers folder; get it again"
        ) from error
    if not isinstance(found, dict):
        raise BaseModelError(f"base {name}: model_index.json is no table; expected a diffusers folder; get it again")
    return found


def on_disk(base: str, bases: Path = Path("bases")) -> Path:
    """The folder or file of a base; BaseModelError for one that would have to be downloaded first."""
    located = locate(base, bases)
    if located.path is None:
        raise BaseModelError(
            f"base {base}: {located.repo} is not on this machine; expected it here; draw with it once to get it"
        )
    return located.path


def weights_in(folder: Path) -> list[Path]:
    """The files of a folder's image network."""
    return sorted(path for name in ("unet", "transformer") for path in (folder / name).glob("*.safetensors"))


def base_sha256(base: str, bases: Path = Path("bases")) -> str:
    """The SHA-256 of a base's UNet weights, of a single file all of it, in hex; nothing for one that is not here.

    Computed once for as long as they stay.
    """
    try:
        place = on_disk(base, bases)
        files = [place] if place.is_file() else weights_in(place)
        return _sha256(tuple(files), tuple(path.stat().st_mtime_ns for path in files)) if files else ""
    except (OSError, BaseModelError):
        return ""


@cache
def _sha256(files: tuple[Path, ...], at: tuple[int, ...]) -> str:
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while part := file.read(2**24):
                whole.update(part)
    return whole.hexdigest()
