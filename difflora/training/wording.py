"""The ways in which a picture's captions are shown: each caption, tags shuffled or left out, words weighted."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import TrainConfig
from ..models.family import BaseModel
from .data import Item
from .emphasis import parse

VARIANTS = 16


def variants(item: Item, config: TrainConfig) -> tuple[str, ...]:
    """The wordings of one picture: its captions, or 16 shuffles of them, a function of the seed and the captions."""
    if not (config.shuffle_tags or config.tag_dropout):
        return item.captions
    rng = random.Random(f"{config.seed} {item.captions}")
    return tuple(reworded(item.captions[i % len(item.captions)], config, rng) for i in range(VARIANTS))


def reworded(caption: str, config: TrainConfig, rng: random.Random) -> str:
    """The tags between commas in a new order, some left out; the trigger and the first `keep_tags` stay in front."""
    trigger = " ".join((config.trigger or "").split())
    front = [trigger] if trigger and caption.startswith(trigger) else []
    rest = caption.removeprefix(trigger).removeprefix(",") if front else caption
    tags = [tag.strip() for tag in rest.split(",") if tag.strip()]
    kept, loose = tags[: config.keep_tags], tags[config.keep_tags :]
    shown = [tag for tag in loose if rng.random() >= config.tag_dropout]
    if config.shuffle_tags:
        rng.shuffle(shown)
    # A caption of nothing would be a dropped one, which has a share of its own.
    return ", ".join([*front, *kept, *shown] or tags[:1])


def words(model: BaseModel, captions: Sequence[str], *, learning: bool) -> dict[str, Tensor]:
    """Captions as token ids (where the text encoder learns) or as text features; `(words:1.3)` weighs its tokens."""
    parsed = [parse(caption) for caption in captions]
    cond = model.tokenize([one.text for one in parsed])
    if any(one.spans for one in parsed):
        rows = [model.token_weights(one.text, one.spans) for one in parsed]
        cond["token_weights"] = torch.stack(rows).to(model.device)
    if learning:
        return cond
    with torch.no_grad():
        return model.encode_tokens(cond)
