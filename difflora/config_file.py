"""A config file: TOML with the fields of TrainConfig as keys."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from .config import TrainConfig, demand
from .errors import RequestError


def read_config(path: Path) -> dict:
    """A config file's values as TrainConfig takes them; RequestError names an unknown key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"--config {path} is not readable: {error}") from error
    hints = get_type_hints(TrainConfig)
    unknown = sorted(set(values) - set(hints))
    if unknown or "images" not in values:
        what = f"the key {unknown[0]!r} is unknown" if unknown else "the key 'images' is missing"
        raise RequestError(f"--config {path}: {what}; expected keys among {', '.join(hints)}")
    return {name: typed(f"--config {path}: {name}", value, hints[name]) for name, value in values.items()}


def typed(name: str, value: object, hint: object) -> object:
    """A TOML value as a field of that type takes it; raises RequestError for one of another kind."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if type(None) in get_args(hint) else [hint]
    (kind,) = kinds
    if get_origin(kind) is Literal:
        demand(value in get_args(kind), f"{name} = {value!r}", f"one of {', '.join(get_args(kind))}")
        return value
    if get_origin(kind) is tuple:
        fits = isinstance(value, list) and all(isinstance(part, str) for part in value)
        demand(fits, f"{name} = {value!r}", 'a list of texts, as in ["a cat", "a dog"]')
        return tuple(value)  # type: ignore[arg-type]
    told = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path as text"}
    plain = {Path: str, float: int | float}.get(kind, kind)
    # To Python true is a 1.
    fits = isinstance(value, plain) and (kind is bool or not isinstance(value, bool))
    demand(fits, f"{name} = {value!r}", told[kind])
    return kind(value)
