"""Pictures and captions encoded once; captions can still be dropped while training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..events import Progress, Report, ignore
from ..models.family import BaseModel
from .data import StyleDataset, square

CHUNK = 16


@dataclass(frozen=True, eq=False)
class Encoded:
    """A whole style in the model's own terms, on its device."""

    latents: Tensor
    """(N, C, h, w) float32."""
    cond: dict[str, Tensor]
    """Conditioning of each caption, leading axis N."""
    empty: dict[str, Tensor]
    """Conditioning of the empty caption, leading axis 1."""

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, rows: Sequence[int], dropped: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents and conditioning of `rows`, with the empty caption where `dropped` (len(rows),) is true."""
        where = dropped.to(self.latents.device)
        index = torch.as_tensor(rows, device=self.latents.device)
        cond = {}
        for key, values in self.cond.items():
            mask = where.view(-1, *[1] * (values.dim() - 1))
            cond[key] = torch.where(mask, self.empty[key], values[index])
        return self.latents[index], cond


def as_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size -> (B, 3, H, W) float32 in -1..1."""
    stacked = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2) / 127.5 - 1


def encode(model: BaseModel, data: StyleDataset, px: int, *, train_text: bool, report: Report = ignore) -> Encoded:
    """Encode every picture at px x px and every caption; captions stay token ids when the text encoder learns."""
    latents, captions = [], []
    for start in range(0, len(data), CHUNK):
        part = [data[i] for i in range(start, min(start + CHUNK, len(data)))]
        latents.append(model.encode_images(as_pixels([square(picture, px) for picture, _ in part])))
        captions += [caption for _, caption in part]
        report(Progress("encoding pictures", len(captions), len(data)))
    words = model.tokenize if train_text else model.encode_prompts
    with torch.no_grad():
        return Encoded(torch.cat(latents).clone(), words(captions), words([""]))
