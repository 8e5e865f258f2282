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

FORM = "1"
MOST_BYTES = 4 * 2**30


class Store:
    """Latents and text features of one base; damaged or missing ones are made again, the oldest go beyond 4 GB."""

    def __init__(self, folder: Path, model: BaseModel) -> None:
        self.folder = writable_folder(folder)
        self.model = model
        self.marks: dict[str, str] = {}
        self.tidy()

    def key_of(self, content: bytes, size: tuple[int, int], mirrored: bool) -> str:
        """The name of a picture's latents."""
        return self._key(content, self._mark("vae", self.model.vae), f"{size} {mirrored}")

    def key_of_text(self, text: str) -> str:
        """The name of a caption's features."""
        encoders = [part for name, part in self.model.parts.items() if name.startswith("text_encoder")]
        marks = [self._mark(f"text {i}", encoder) for i, encoder in enumerate(encoders)]
        return self._key(text.encode("utf-8", "replace"), " ".join(marks), "text")

    def get(self, key: str) -> dict[str, Tensor] | None:
        """What was kept under a name, or None."""
        path = self.folder / f"{key}.safetensors"
        try:
            tensors, known = load_tensors(path)
        except AdapterFileError:
            return None
        with suppress(OSError):
            os.utime(path)
        return tensors if known.get("key") == key else None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep it; a disk that is full only means that it is made again next time."""
        with suppress(OutputError):
            save_tensors(self.folder / f"{key}.safetensors", tensors, {"key": key})

    def tidy(self) -> None:
        """Throw away what was used longest ago beyond 4 GB."""
        with suppress(OSError):
            files = sorted((f.stat().st_mtime, f.stat().st_size, f) for f in self.folder.glob("*.safetensors"))
            over = sum(size for _, size, _ in files) - MOST_BYTES
            for _, size, file in files:
                if over <= 0:
                    break
                file.unlink(missing_ok=True)
                over -= size

    def _key(self, content: bytes, mark: str, how: str) -> str:
        parts = (hashlib.sha256(content).hexdigest(), mark, how, FORM)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]

    def _mark(self, name: str, part: nn.Module) -> str:
        """What tells this network from any other: its numbers."""
        if name not in self.marks:
            whole = hashlib.sha256(str(part.dtype).encode())
            for key, value in sorted(part.state_dict().items()):
                whole.update(key.encode())
                whole.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            self.marks[name] = whole.hexdigest()
        return self.marks[name]
