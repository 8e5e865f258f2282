"""The mix of a page: its styles, and how they act together. Knows no page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from typing import get_args

from difflora.config import Budget, DrawConfig
from difflora.drawing.mixing import with_gains
from difflora.drawing.recipe import Recipe, Style
from difflora.errors import RequestError
from difflora.strength import NUMBERED, PRESETS, pattern

from .desk import Desk, Mix, mix_row
from .form import Form, help_of

WAYS = ("budget", "orthogonal", "switch")
"""The fields of DrawConfig that say how styles act together; they stand at the mixer."""
MOST_BLOCKS = 16


def mix_facts(desk: Desk) -> dict:
    """What the mixer has to know before anything is in it: defaults, choices, words, the parts of the base."""
    defaults = {field.name: field.default for field in fields(DrawConfig) if field.name in WAYS}
    words = {name: help_of(DrawConfig)[name] for name in WAYS}
    presets = {name: list(blocks) for name, blocks in PRESETS.items()}
    return {
        "defaults": defaults, "help": words, "budgets": list(get_args(Budget)), "presets": presets,
        "blocks": parts(desk.shapes),
    }  # fmt: skip


def base_facts(desk: Desk) -> dict:
    """What pages have to know of the open base; raises RequestError while there is none."""
    opened = desk.base
    return {
        "mark": opened.mark, "family": opened.model.family, "quick": opened.quick, "blocks": parts(opened.shapes),
    }  # fmt: skip


def parts(paths: Iterable[str]) -> list[str]:
    """The places of a base that may have a weight of their own, in the order a picture passes them."""
    paths = list(paths)
    numbered = {name: [f"{name}{number}" for number in range(1, MOST_BLOCKS)] for name in NUMBERED}
    names = [*numbered["text"], *numbered["down"], "mid", *numbered["up"]]
    found = [name for name in names if any(pattern(name).match(path) for path in paths)]
    # One text encoder is all of the words, which have a slider already.
    return [name for name in found if name != "text1" or "text2" in found]


def mix_of(value: object) -> Mix:
    """The styles of a mixer's value; raises RequestError for none."""
    if not isinstance(value, Mapping | None):
        raise RequestError("the mix is not readable: expected styles with weights; reload the page")
    rows = (value or {}).get("styles") or []
    if not isinstance(rows, list):
        raise RequestError("the mix is not readable: expected styles with weights; reload the page")
    return rows


def way_of(value: object) -> dict[str, object]:
    """How the styles of a mixer's value act together, as fields of DrawConfig; raises RequestError."""
    given = value if isinstance(value, Mapping) else {}
    found = {name: Form(DrawConfig, {}).value(name, given.get(name)) for name in WAYS}
    return {name: value for name, value in found.items() if value is not None}


def mix_value(recipe: Recipe, here: Iterable[str]) -> dict[str, object]:
    """A recipe's blend as a mixer's value, without styles that are not here."""
    known = set(here)
    styles = [mix_row(style) for style in recipe.styles if style.name in known]
    return {"styles": styles} | {name: getattr(recipe, name) for name in WAYS}


def settled(desk: Desk, styles: Iterable[Style], way: Mapping[str, object]) -> list[Style]:
    """The styles with what the budget makes of their weights; raises DiffloraError."""
    styles = list(styles)
    config = replace(DrawConfig(), **way)
    recipe = Recipe(
        prompt="", width=0, height=0, styles=tuple(styles), budget=config.budget, orthogonal=config.orthogonal
    )
    adapters = {style.name: desk.batcher.shelf.get(style) for style in styles}
    # What is measured with the open model itself waits until nothing is drawn with it.
    if config.budget == "matched":
        with desk.batcher.turn():
            return list(with_gains(recipe, adapters, desk.batcher.balance))
    with desk.weighing:
        return list(with_gains(recipe, adapters, desk.balance))


def acts(desk: Desk, value: object) -> dict[str, object]:
    """The weights at which the styles of a mixer's value act, in their order; raises DiffloraError."""
    way = way_of(value)
    found = settled(desk, desk.styles(mix_of(value)), way)
    return {"acts": [{"name": style.name, "weight": style.strength.image} for style in found]}


def recipe_facts(recipe: Recipe, here: Iterable[str]) -> dict[str, object]:
    """A recipe's fields for a page: each style as a mixer has it, the weight it acted at, and whether it is here."""
    known = set(here)
    styles = [mix_row(s) | {"acts": s.strength.image, "here": s.name in known} for s in recipe.styles]
    return asdict(recipe) | {"styles": styles}
