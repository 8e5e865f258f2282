"""A style as learnt after a step, written with its record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

from ..adapters.adapter import Adapter
from ..adapters.files import style_metadata
from ..config import TrainConfig, as_row
from ..events import Scored
from ..models.family import base_sha256
from ..version import __version__

if TYPE_CHECKING:
    from .train import Training

BASE = "difflora.base_sha256"


def record(
    training: Training, adapter: Adapter, previews: Sequence[Image.Image], step: int, scores: Scored | None = None
) -> dict[str, str]:
    """The metadata of the style as learnt after `step`."""
    config, plan = training.config, training.plan
    metadata = style_metadata(
        info=adapter.info,
        config=shared_row(config) | {"version": __version__},
        captions=[caption for item in training.data.items for caption in item.captions],
        folder=config.images.resolve().name,
        fingerprint=training.fingerprint,
        resolution=plan.resolution,
        pictures=plan.pictures,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        thumbnail=webp(previews[0]) if previews else None,
    )
    metadata |= {"ss_steps": str(step), "difflora.plan": json.dumps(plan.decided())}
    if digest := base_sha256(config.base):
        metadata[BASE] = digest
    if segments := training.run.segments():
        metadata["difflora.segments"] = json.dumps(segments)
    if scores is not None:
        metadata["difflora.scores"] = json.dumps(asdict(scores))
    return metadata


def shared_row(config: TrainConfig) -> dict:
    """The config as it goes into a file that people share: without where things lie on this machine."""
    row = {k: v for k, v in as_row(config).items() if k not in {"out", "runs"}}
    return row | {"images": config.images.resolve().name}


def webp(picture: Image.Image, side: int = 256) -> bytes:
    """A small picture for cards."""
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = BytesIO()
    small.save(buffer, format="WEBP", quality=88)
    return buffer.getvalue()
