"""Prompts of any length with weighted words: `(words:1.3)` moves their features away from the empty prompt's.

Everything goes through compel but its syntax: "+", "and" and ".blend" are words like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from types import ModuleType

import torch
from torch import Tensor

from ..emphasis import Emphasised, parse


@dataclass(frozen=True)
class Token:
    """A token of a prompt and how much it counts."""

    id: int
    weight: float = 1.0
    span: int = -1
    """Which weighted part of the prompt it begins in, -1 for none."""


def without_marks(text: str) -> str:
    """A prompt's words alone."""
    return parse(text).text


def windows(tokenizer: Callable, text: str) -> int:
    """How many windows of the text encoder a prompt fills; 1 when it is empty."""
    return len(_windows(tokenizer, text))


def is_plain(tokenizer: Callable, text: str) -> bool:
    """Whether a prompt can be encoded as it stands: it has no marks and fits into one window."""
    return without_marks(text) == text and windows(tokenizer, text) == 1


def token_weights(tokenizer: Callable, text: str, spans: Sequence[tuple[int, int, float]]) -> Tensor:
    """(tokens,) how much each token of a window counts: the weight of the (start, end, weight) it is in, else 1."""
    told = tokenizer(text, padding="max_length", truncation=True, return_offsets_mapping=True)
    weights = torch.ones(len(told["offset_mapping"]))
    for place, (start, end) in enumerate(told["offset_mapping"]):
        for first, last, weight in spans:
            if end > start and first <= start < last:
                weights[place] = weight
    return weights


def weighted_features(
    tokenizer: Callable,
    encode: Callable[[Tensor, Tensor | None], Tensor],
    text: str,
    *,
    device: torch.device | str = "cpu",
    least: int = 1,
) -> Tensor:
    """Text features of a prompt, (1, windows · T, D), filled up with the empty prompt's to `least` windows.

    encode: (1, T) ids and which of them count, or None, -> (1, T, D) in any precision. A weight above 1 or below takes
    the features of its words so many times as far from the empty prompt's; one below 1 hides them from other words too.
    """
    weigher = _weighing().Weigher(tokenizer, encode, torch.device(device))
    rows = [_weighed(weigher, tokens) for tokens in _windows(tokenizer, text)]
    return torch.cat([*rows, *(weigher.empty() for _ in range(least - len(rows)))], 1)


def _weighed(weigher: object, tokens: Sequence[Token]) -> Tensor:
    """One window: windows know nothing of each other, so a weight in one leaves the others alone."""
    runs = [list(run) for _, run in groupby(tokens, lambda token: (token.weight, token.span))] or [[]]
    return weigher.window([[t.id for t in run] for run in runs], [run[0].weight if run else 1.0 for run in runs])


def _windows(tokenizer: Callable, text: str) -> list[list[Token]]:
    """The tokens of each window, without its start and end."""
    rest = _tokens(tokenizer, parse(text))
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    if len(rest) <= room:
        return [rest]
    weigher, found = _weighing().Weigher(tokenizer, None, torch.device("cpu")), []
    while rest:
        end = weigher.first_cut([token.id for token in rest[: room + 1]], room)
        found.append(rest[:end])
        rest = rest[end:]
    return found


def _tokens(tokenizer: Callable, words: Emphasised) -> list[Token]:
    """The tokens of the text without its marks: weights change no word."""
    # verbose: more tokens than a window holds are no reason for a warning here.
    told = tokenizer(words.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    letters: list[tuple[float, int]] = [(1.0, -1)] * len(words.text)
    for place, (start, end, weight) in enumerate(words.spans):
        letters[start:end] = [(weight, place)] * (end - start)
    return [
        Token(id, *_counted(letters[start:end]))
        for id, (start, end) in zip(told.input_ids, told.offset_mapping, strict=True)
    ]


def _counted(letters: Sequence[tuple[float, int]]) -> tuple[float, int]:
    """A token's weight and part: a token that is only partly in `(words:1.3)` counts the mean of its letters."""
    if len(set(letters)) < 2:
        return letters[0] if letters else (1.0, -1)
    return sum(weight for weight, _ in letters) / len(letters), letters[0][1]


@cache
def _weighing() -> ModuleType:
    """The room with compel in it, entered when the first prompt is read."""
    # It opens rooms of diffusers that say which image library they would rather have; no picture is read here.
    log = logging.getLogger("transformers")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        from . import weighing
    finally:
        log.setLevel(before)
    return weighing
