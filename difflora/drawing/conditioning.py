"""What the network is told of a batch of recipes: their texts, each read under its own picture's blend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..emphasis import parse
from ..models.attach import Stack
from ..models.family import BaseModel
from .mixing import strengths
from .recipe import Recipe

SetWeights = Callable[[Stack | None, Sequence[Recipe]], None]


def conditioning(
    model: BaseModel, stack: Stack | None, group: Sequence[Recipe], set_weights: SetWeights
) -> dict[str, Tensor]:
    """The texts of recipes drawn together: negatives' rows, then prompts' rows; prompts alone without guidance.

    Plain texts are encoded in one batch. Long or weighted ones take more looks at parts of them, which do not come out
    as a row a picture: they are encoded by themselves, only their own blend acting, and `set_weights` then gives every
    picture its own back. What a recipe gets does not depend on the texts of the others, so that it can be drawn again.
    """
    whole = group[0].windows == 1
    own = [row for row, recipe in enumerate(group) if not (whole and all(map(is_unmarked, texts(recipe))))]
    found: dict[str, Tensor] = {}
    if len(own) < len(group):
        # The others hold their places: matrix products round differently at other sizes.
        rows = [["" for _ in texts(recipe)] if row in own else texts(recipe) for row, recipe in enumerate(group)]
        found = model.encode_prompts(
            [text for column in zip(*rows, strict=True) for text in column], group[0].clip_skip
        )
    alone = {row: encoded_alone(model, stack, group[row]) for row in own}
    if own and is_gated(stack, group):
        set_weights(stack, group)
    return joined(found, alone, len(group)) if own else found


def is_gated(stack: Stack | None, group: Sequence[Recipe]) -> bool:
    """Whether pictures have blends of their own, not one that is in the weights."""
    return stack is not None and not group[0].folded


def texts(recipe: Recipe) -> list[str]:
    """What is read for a recipe: the negative only where guidance uses it."""
    return [recipe.negative, recipe.prompt] if recipe.guidance > 1 else [recipe.prompt]


def is_unmarked(text: str) -> bool:
    """Whether all of a text is words."""
    return parse(text).text == text


def encoded_alone(model: BaseModel, stack: Stack | None, recipe: Recipe) -> dict[str, Tensor]:
    """The conditioning of one recipe, a row each of its texts, under its own blend."""
    if is_gated(stack, [recipe]):
        stack.weights([strengths(recipe)])
    return model.encode_prompts(texts(recipe), recipe.clip_skip, least=recipe.windows)


def joined(found: dict[str, Tensor], alone: dict[int, dict[str, Tensor]], count: int) -> dict[str, Tensor]:
    """The rows of `count` recipes: those encoded alone in their places among those encoded together."""
    if not found:
        owns = alone.values()
        return {key: torch.stack([own[key] for own in owns], 1).flatten(0, 1) for key in next(iter(owns))}
    whole = {key: rows.clone() for key, rows in found.items()}
    for row, own in alone.items():
        for key, rows in own.items():
            whole[key][row::count] = rows
    return whole
