"""The ways in which a picture's captions are shown: each caption, tags shuffled or left out, words weighted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..config import TrainConfig
from ..emphasis import LONGEST_WEIGHT, PIECES, WEIGHT, parse
from ..models.family import BaseModel
from .data import Item
from .reading import one_line

VARIANTS = 16


def variants(item: Item, config: TrainConfig) -> tuple[str, ...]:
    """The wordings of one picture: its captions, or 16 shuffles of them or one of each where there are more.

    A function of the seed and the captions.
    """
    if not (config.shuffle_tags or config.tag_dropout):
        return item.captions
    rng = random.Random(f"{config.seed} {item.captions}")
    return tuple(
        reworded(item.captions[i % len(item.captions)], config, rng) for i in range(max(VARIANTS, len(item.captions)))
    )


def reworded(caption: str, config: TrainConfig, rng: random.Random) -> str:
    """The tags between commas in a new order, some left out; the trigger and the first `keep_tags` stay in front."""
    trigger = one_line(config.trigger or "")
    front = [trigger] if trigger and (caption == trigger or caption.startswith(f"{trigger},")) else []
    tags = tags_of(caption.removeprefix(trigger) if front else caption)
    kept, loose = tags[: config.keep_tags], tags[config.keep_tags :]
    shown = [tag for tag in loose if rng.random() >= config.tag_dropout]
    if config.shuffle_tags:
        rng.shuffle(shown)
    # A caption of nothing would be a dropped one, which has a share of its own.
    return ", ".join([*front, *kept, *shown] or tags[:1])


def tags_of(caption: str) -> list[str]:
    """What stands between commas; those inside `(red, blue:1.3)` are part of a tag."""
    inside = {i for start, end in weighted_parts(caption) for i in range(start, end)}
    cuts = [i for i, c in enumerate(caption) if c == "," and i not in inside]
    parts = [caption[start + 1 : end].strip() for start, end in pairwise([-1, *cuts, len(caption)])]
    return [part for part in parts if part]


def weighted_parts(caption: str) -> list[tuple[int, int]]:
    """(start, end) of every `(words:1.3)`, the outermost of those inside each other."""
    opened, found = [], []
    for piece in PIECES.finditer(caption):
        if piece[0] == "(":
            opened.append(piece.start())
        elif piece[0] == ")" and opened:
            start, end = opened.pop(), piece.end()
            if WEIGHT.search(caption[max(start + 1, end - LONGEST_WEIGHT) : end - 1]):
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, end))
    return found


def tokens(model: BaseModel, captions: Sequence[str]) -> dict[str, Tensor]:
    """Captions as token ids; where there are `(words:1.3)` also with the weight of each token, (B, tokens)."""
    parsed = [parse(caption) for caption in captions]
    cond = model.tokenize([one.text for one in parsed])
    if any(one.spans for one in parsed):
        rows = [model.token_weights(one.text, one.spans) for one in parsed]
        cond["token_weights"] = torch.stack(rows).to(model.device)
    return cond


def features(model: BaseModel, captions: Sequence[str]) -> dict[str, Tensor]:
    """Captions as text features, their words weighted."""
    with torch.no_grad():
        return model.encode_tokens(tokens(model, captions))
