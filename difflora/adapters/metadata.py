"""What a style's file says about itself, in the words that other tools read.

`ss_…` keys as sd-scripts writes them, `modelspec.…` keys of ModelSpec 1.0.1, and our own `difflora.…` keys.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..version import __version__
from .forms import PLAIN
from .settings import HEADER_KEY

if TYPE_CHECKING:
    from .adapter import Adapter, Info


@dataclass(frozen=True)
class Spoken:
    """How other programs name a family."""

    version: str
    """The beginning of ss_base_model_version (sd-scripts), by which A1111 knows it."""
    architecture: str
    """The beginning of modelspec.architecture."""
    rests: tuple[str, str]
    """The rest of both where nothing says another."""
    side: int
    """Native, in pixels."""


SPOKEN = {
    "tiny": Spoken("difflora_tiny", "difflora-tiny", ("", ""), 64),
    "sd1": Spoken("sd_v1", "stable-diffusion-v1", ("", ""), 512),
    "sd2": Spoken("sd_v2", "stable-diffusion-v2", ("", "-768-v"), 768),
    "sdxl": Spoken("sdxl_", "stable-diffusion-xl-v1", ("base_v1-0", "-base"), 1024),
}
GENERATIVE_MODELS = "https://github.com/Stability-AI/generative-models"
MAX_TAGS = 1000
MAX_TAG = 200
TRIGGER, THUMBNAIL, WEIGHT = "modelspec.trigger_phrase", "modelspec.thumbnail", "difflora.weight"


def style_metadata(
    *,
    info: Info,
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
        "ss_learning_rate": str(learning_rate),
        "ss_max_train_steps": str(steps),
        "ss_steps": str(steps),
        "ss_num_train_images": str(pictures),
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_seed": str(config.get("seed", 0)),
        "ss_clip_skip": str(config.get("clip_skip")),
        "ss_tag_frequency": _json({folder: tag_frequency(captions, info.trigger)}),
    }
    ours = {
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


def complete(metadata: Mapping[str, str], adapter: Adapter, name: str) -> dict[str, str]:
    """The rows with all that other programs ask of a file: what follows from its numbers always, the rest if missing.

    name: of the style, for a file that says none. Readers tell families apart by ss_base_model_version and ss_v2
    (A1111) or modelspec.architecture (Forge); sizes of factors are read from ss_network_dim and ss_network_alpha.
    """
    info = adapter.info
    family = info.family or metadata.get("difflora.family", "")
    title = metadata.get("ss_output_name") or name
    missing = {
        "ss_output_name": title, "modelspec.title": title, "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": GENERATIVE_MODELS if family == "sdxl" else "diffusers",
        "difflora.version": __version__, "difflora.base": info.base,
    }  # fmt: skip
    facts = network_rows(adapter)
    if family:
        spoken = SPOKEN.get(family, Spoken(family, family, ("", ""), 0))
        facts |= {"ss_v2": str(family == "sd2"), "difflora.family": family}
        if not metadata.get("ss_base_model_version", "").startswith(spoken.version):
            facts["ss_base_model_version"] = spoken.version + spoken.rests[0]
        if not metadata.get("modelspec.architecture", "").startswith(spoken.architecture):
            facts["modelspec.architecture"] = f"{spoken.architecture}{spoken.rests[1]}/lora"
        missing |= {"modelspec.resolution": f"{spoken.side}x{spoken.side}"} if spoken.side else {}
    if TRIGGER in metadata or info.trigger:
        missing |= trigger_rows(metadata.get(TRIGGER, info.trigger))
    kept = {key: value for key, value in metadata.items() if key != HEADER_KEY}
    return {key: value for key, value in missing.items() if value} | kept | facts


def network_rows(adapter: Adapter) -> dict[str, str]:
    """What sd-scripts and LyCORIS say of a network's sizes and kinds."""
    updates = list(adapter.layers.values())
    inner = [getattr(update, "inner", update) for update in updates]
    plain = all(update.kind in PLAIN for update in updates)
    alphas = {f"{update.alpha:g}" for update in inner if hasattr(update, "alpha")}
    ranks = {update.rank for update in updates}
    args: dict[str, object] = {}
    if plain and any(update.kind == "LoCon" for update in updates):
        args = {"conv_dim": max(update.rank for update in updates if update.kind == "LoCon")}
    if not plain:
        args = {"algo": ", ".join(sorted({update.kind.lower().replace("locon", "lora") for update in inner}))}
        args |= {"dora_wd": True} if any(update.kind.startswith("DoRA") for update in updates) else {}
    return {
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(float(alphas.pop())) if len(alphas) == 1 else "Dynamic",
        "ss_network_args": json.dumps(args),
    }


def _modelspec(info: Info, resolution: int, thumbnail: bytes | None) -> dict[str, str]:
    rows = {
        "modelspec.title": info.name,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.date": now(),
    }
    return rows | trigger_rows(info.trigger) | ({THUMBNAIL: data_url(thumbnail)} if thumbnail else {})


def now() -> str:
    """The time for modelspec.date."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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
