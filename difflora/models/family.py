"""From a name to a base model: one table line a family."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import BaseModelError

EMBEDDED = {"tiny": Path(__file__).with_name("tiny")}
# diffusers pipeline class -> the room that knows it.
FAMILIES = {"StableDiffusionPipeline": "sd"}


class BaseModel(Protocol):
    """What every family offers; conditioning is a dict of tensors with a leading batch axis."""

    name: str
    family: str
    side: int
    unit: int
    factor: int
    parts: Mapping[str, nn.Module]
    vae: nn.Module
    scheduler: object
    device: torch.device
    alphas: Tensor
    recommended: object

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

    def encode_tokens(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Token ids, weighted or not -> text features."""

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts as text features."""

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

    def draw(self, prompts: Sequence[str], negatives: Sequence[str], **how: object) -> Tensor:
        """One picture a prompt, (B, 3, H, W) in -1..1."""

    def check_size(self, width: int, height: int) -> None:
        """RequestError unless the model can draw this size."""


def open_model(base: str, device: str | None = None, precision: str | None = None) -> BaseModel:
    """The base model by short name, diffusers folder or hub id; raises BaseModelError.

    precision: fp32, bf16 or fp16; what suits the device unless given.

    Nothing is looked up on a network unless `base` is neither a short name nor a folder and has the form of a hub id.
    """
    folder = EMBEDDED.get(base, Path(base))
    index = read_index(base, folder)
    kind = index.get("_class_name")
    if kind not in FAMILIES:
        raise BaseModelError(f"base {base} holds a {kind}: expected one of {', '.join(FAMILIES)}")
    room = import_module(f".{FAMILIES[kind]}", __package__)
    return room.open_folder(base, folder, device or best_device(), precision)


def read_index(base: str, folder: Path) -> dict:
    """model_index.json of a folder, or of a hub repository that is downloaded for it."""
    index = folder / "model_index.json"
    if folder.is_dir() and index.is_file():
        try:
            return json.loads(index.read_text())
        except (OSError, ValueError) as error:
            raise BaseModelError(f"base {base}: model_index.json is not readable ({error})") from error
    if folder.exists():
        raise BaseModelError(f"base {base}: no model_index.json there; expected a diffusers folder")
    if base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise BaseModelError(
            f"base {base}: no such folder; expected tiny, a diffusers folder, or a hub id like owner/name"
        )
    return download_index(base)


def download_index(base: str) -> dict:
    """model_index.json of a hub repository."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.load_config(base)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BaseModelError(f"base {base}: not a folder here and not reachable on the hub ({reason})") from error


def base_sha256(base: str) -> str:
    """The SHA-256 of a base's UNet weights, in hex; nothing for a hub id. Computed once for as long as they stay."""
    folder = EMBEDDED.get(base, Path(base)) / "unet"
    try:
        files = sorted(folder.glob("*.safetensors"))
        return _sha256(tuple(files), tuple(path.stat().st_mtime_ns for path in files)) if files else ""
    except OSError:
        return ""


@cache
def _sha256(files: tuple[Path, ...], at: tuple[int, ...]) -> str:
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while part := file.read(2**24):
                whole.update(part)
    return whole.hexdigest()


def best_device() -> str:
    """cuda, mps or cpu, the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
