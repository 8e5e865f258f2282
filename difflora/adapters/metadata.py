"""What a style's file says about itself, in the words that other tools read.

`ss_…` keys as sd-scripts writes them, `modelspec.…` keys of ModelSpec 1.0.1, and our own `difflora.…` keys.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from ..version import __version__
from .adapter import Info
from .dialects import ARCHITECTURES, KOHYA_VERSIONS

MAX_TAGS = 1000
MAX_TAG = 200
TRIGGER, THUMBNAIL, WEIGHT = "modelspec.trigger_phrase", "modelspec.thumbnail", "difflora.weight"


def style_metadata(
    *,
    info: Info,
    rank: int,
    alpha: float,
    config: Mapping[str, object],
    captions: Sequence[str],
    folder: str,
    fingerprint: str,
    resolution: int,
    pictures: int,
    steps: int,
    learning_rate: float,
    thumbnail: bytes | None,
) -> dict[str, str]:
    """The header metadata of a trained style, all of it text.

    config: JSON-ready values, kept whole; folder: name of the picture folder; fingerprint: of the pictures and their
    captions; resolution: side in pixels; thumbnail: a WebP file. A family without a name here keeps its own.
    """
    kohya = {
        "ss_output_name": info.name,
        "ss_base_model_version": KOHYA_VERSIONS.get(info.family, info.family),
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(alpha)),
        "ss_network_args": "{}",
        "ss_learning_rate": str(learning_rate),
        "ss_max_train_steps": str(steps),
        "ss_steps": str(steps),
        "ss_num_train_images": str(pictures),
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_seed": str(config.get("seed", 0)),
        "ss_tag_frequency": _json({folder: tag_frequency(captions, info.trigger)}),
    }
    ours = {
        "difflora.version": __version__,
        "difflora.family": info.family,
        "difflora.base": info.base,
        "difflora.config": _json(config),
        "difflora.data": fingerprint,
        "difflora.pictures": str(pictures),
    }
    return kohya | _modelspec(info, resolution, thumbnail) | ours


def tag_frequency(captions: Sequence[str], trigger: str = "") -> dict[str, int]:
    """How often each part between commas occurs in the captions, the most frequent 1000; the trigger counts for all."""
    tags = Counter(tag.strip()[:MAX_TAG] for caption in captions for tag in caption.split(","))
    del tags[""]
    if not trigger:
        return dict(tags.most_common(MAX_TAGS))
    del tags[trigger]
    return {trigger: len(captions)} | dict(tags.most_common(MAX_TAGS - 1))


def _modelspec(info: Info, resolution: int, thumbnail: bytes | None) -> dict[str, str]:
    rows = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": ARCHITECTURES.get(info.family, f"{info.family}/lora"),
        "modelspec.implementation": "diffusers",
        "modelspec.title": info.name,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return rows | trigger_rows(info.trigger) | ({THUMBNAIL: data_url(thumbnail)} if thumbnail else {})


def trigger_rows(trigger: str) -> dict[str, str]:
    """The rows that hang on the trigger; without one, only the hint."""
    hint = f"Begin the prompt with: {trigger}. " if trigger else ""
    rows = {"modelspec.usage_hint": f"{hint}Weight 1 is the style as it was learnt; less is milder."}
    return rows | ({TRIGGER: trigger} if trigger else {})


def data_url(thumbnail: bytes) -> str:
    """A WebP picture as the text that ModelSpec keeps."""
    return "data:image/webp;base64," + base64.b64encode(thumbnail).decode()


def ranks_in_words(ranks: Collection[int]) -> str:
    """ "16", or "4 to 20" when layers differ; nothing for none."""
    low, high = min(ranks, default=0), max(ranks, default=0)
    return f"{low} to {high}" if low < high else str(high or "")


def _json(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
