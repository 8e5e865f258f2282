"""What acts while a recipe is drawn: the budget's gains, styles kept out of each other's way, turns over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..adapters.adapter import Adapter
from ..adapters.orthogonal import orthogonalised
from ..strength import Strength
from .balance import Balance
from .recipe import Recipe, Style


def settled(recipes: Sequence[Recipe], adapters: Mapping[str, Adapter], balance: Balance) -> list[Recipe]:
    """The recipes with what the budget makes of their weights, where that is not known yet."""
    known: dict[tuple, tuple[Style, ...]] = {}
    for recipe in recipes:
        key = recipe.styles, recipe.budget, recipe.orthogonal
        if key not in known:
            known[key] = with_gains(recipe, adapters, balance)
    return [replace(r, styles=known[r.styles, r.budget, r.orthogonal]) for r in recipes]


def with_gains(recipe: Recipe, adapters: Mapping[str, Adapter], balance: Balance) -> tuple[Style, ...]:
    """The styles of a recipe with their gains; those that stand there already are kept."""
    styles = recipe.styles
    if recipe.budget == "sum" or all(style.gain is not None for style in styles):
        return styles
    own = acting(styles, adapters, recipe.orthogonal)
    gains = balance.gains(own, [style.asked for style in styles], recipe.budget)
    return tuple(replace(style, gain=gain) for style, gain in zip(styles, gains, strict=True))


def acting(styles: Sequence[Style], adapters: Mapping[str, Adapter], orthogonal: float) -> list[Adapter]:
    """The adapters of styles in their order, each out of the way of those before it as far as is asked, 0 to 1."""
    own = [adapters[style.name] for style in styles]
    return orthogonalised(own, orthogonal) if orthogonal and len(own) > 1 else own


def is_timed(recipe: Recipe) -> bool:
    """Whether what acts changes from step to step."""
    windows = any((style.start, style.end) != (0.0, 1.0) for style in recipe.styles)
    return windows or (recipe.switch > 0 and len(recipe.styles) > 1)


def strengths(recipe: Recipe) -> list[Strength]:
    """What acts while the prompt is read, before the first step: all styles, their mean over the steps if in turns."""
    turns = len(recipe.styles) if recipe.switch else 1
    return [style.strength.scaled(1 / turns) for style in recipe.styles]


def strengths_at(recipe: Recipe, step: int) -> list[Strength]:
    """What acts in the image network at a step, counted from 0: those whose time it is, and whose turn."""
    share, count = step / recipe.steps, len(recipe.styles)
    turn = step // recipe.switch % count if recipe.switch else None
    return [
        style.strength if style.asked.during(share) and turn in (None, i) else Strength(0.0)
        for i, style in enumerate(recipe.styles)
    ]
