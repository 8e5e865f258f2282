"""Encodings kept on disk by the content of what they were made from: a changed picture is another one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapters.files import load_tensors, save_tensors, writable_folder
from ..errors import AdapterFileError, OutputError
from ..models.family import BaseModel

# Another number for every change of what is encoded how.
FORM = "2"
MOST_BYTES = 4 * 2**30


class Store:
    """Latents and text features of one base; damaged ones count as missing."""

    def __init__(self, folder: Path, model: BaseModel) -> None:
        self.folder, self.model = folder, model
        # A place that cannot be written keeps nothing, and stops nobody.
        with suppress(OutputError):
            writable_folder(folder)
        self.marks: dict[tuple[str, torch.dtype], str] = {}

    def key_of_picture(self, content: bytes, size: tuple[int, int], mirrored: bool) -> str:
        """The name of a picture's latents: the file's bytes, (width, height) in pixels, and whether it is mirrored."""
        return _key(content, self._mark("vae", self.model.vae), f"{size} {mirrored}")

    def key_of_words(self, cond: Mapping[str, Tensor]) -> str:
        """The name of the features of token ids and weights."""
        encoders = [(name, part) for name, part in self.model.parts.items() if name.startswith("text_encoder")]
        marks = " ".join(self._mark(name, part) for name, part in encoders)
        skip = f" {self.model.clip_skip}" if self.model.clip_skip else ""
        return _key(checksum(cond).encode(), marks, f"words{skip}")

    def get(self, key: str) -> dict[str, Tensor] | None:
        """What was kept under a name, or None."""
        path = self.folder / f"{key}.safetensors"
        try:
            tensors, known = load_tensors(path)
        except AdapterFileError:
            return None
        if known.get("key") != key or known.get("sha256") != checksum(tensors):
            return None
        with suppress(OSError):
            os.utime(path)
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep it; a disk that is full only means that it is made again next time."""
        with suppress(OutputError):
            about = {"key": key, "sha256": checksum(tensors)}
            save_tensors(self.folder / f"{key}.safetensors", tensors, about)

    def tidy(self) -> None:
        """Throw away what was used longest ago beyond 4 GB."""
        files = []
        for file in self.folder.glob("*.safetensors"):
            # Another training may tidy the same folder meanwhile.
            with suppress(OSError):
                files.append((file.stat().st_mtime, file.stat().st_size, file))
        over = sum(size for _, size, _ in files) - MOST_BYTES
        for _, size, file in sorted(files):
            if over <= 0:
                break
            with suppress(OSError):
                file.unlink()
            over -= size

    def _mark(self, name: str, part: nn.Module) -> str:
        """What tells this network from any other: its settings, its numbers, and where it computes."""
        own = next(part.parameters())
        if (name, own.dtype) not in self.marks:
            whole = hashlib.sha256(f"{settings(part)} {own.dtype} {own.device.type}".encode())
            for key, value in sorted(part.state_dict().items()):
                whole.update(key.encode() + as_bytes(value))
            self.marks[name, own.dtype] = whole.hexdigest()
        return self.marks[name, own.dtype]


def settings(part: nn.Module) -> list[tuple[str, str]]:
    """What a network's config says, but for where it came from."""
    config = getattr(part, "config", None) or {}
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return sorted((key, repr(value)) for key, value in values.items() if not key.startswith("_"))


def _key(content: bytes, mark: str, how: str) -> str:
    """Forty hex digits that no other content, network or way shares."""
    parts = (hashlib.sha256(content).hexdigest(), mark, how, FORM)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def as_bytes(tensor: Tensor) -> bytes:
    """A tensor's numbers."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of names, shapes and numbers."""
    whole = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode() + as_bytes(value))
    return whole.hexdigest()
