"""A config dataclass <-> its controls: labels from the fields' names, help from the fields' own words."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import gradio as gr

from difflora.errors import RequestError

from .words import text

# Bounds and steps that make a number a slider; other numbers are boxes.
SLIDERS = {"steps": (1, 100, 1), "guidance": (1, 15, 0.5), "caption_dropout": (0, 1, 0.05)}


@cache
def help_of(config: type) -> dict[str, str]:
    """The sentence under each field of a config, with those of the configs it is made from."""
    found: dict[str, str] = {}
    for kind in reversed(config.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
        for field, words in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(words, ast.Expr):
                found[field.target.id] = inspect.cleandoc(words.value.value)
    return found


def label_of(config: type, name: str) -> str:
    """A field's name in words, or its text in the words file."""
    plain = name.replace("_", " ")
    return text(f"field.{config.__name__}.{name}", plain[0].upper() + plain[1:])


def kind_of(config: type, name: str) -> tuple[object, bool]:
    """A field's type without None, and whether it may be left open."""
    hint = get_type_hints(config)[name]
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return kinds[0], len(kinds) < len(get_args(hint))
    return hint, False


def control(config: type, name: str, **extra: object) -> gr.components.Component:
    """The control of one field."""
    kind, is_open = kind_of(config, name)
    default = next(f.default for f in fields(config) if f.name == name)
    default = extra.pop("value", None if default is MISSING else default)
    shown = {
        "label": label_of(config, name), "info": text(f"help.{config.__name__}.{name}", help_of(config)[name]),
        "elem_id": f"{config.__name__.lower()}-{name.replace('_', '-')}", "interactive": True,
    } | extra  # fmt: skip
    if "choices" in shown:
        return gr.Dropdown(value="" if default is None else default, **shown)
    if get_origin(kind) is Literal:
        return gr.Radio(list(get_args(kind)), value=default, **shown)
    if kind is bool:
        return gr.Checkbox(value=default, **shown)
    if name in SLIDERS and default is not None:
        low, high, step = SLIDERS[name]
        return gr.Slider(low, high, value=default, step=step, **shown)
    if kind in (int, float) and not is_open:
        return gr.Number(value=default, precision=0 if kind is int else None, **shown)
    if is_open and kind in (int, float):
        # A number box would send 0 for what was left open.
        shown["placeholder"] = text("form.open")
    lines = {"lines": 3} if get_origin(kind) is tuple else {}
    return gr.Textbox(value="\n".join(default) if isinstance(default, tuple) else default, **lines, **shown)


@dataclass(frozen=True)
class Form:
    """The controls of a config, by field; fields without one belong to the studio or to another part of the page."""

    config: type
    controls: Mapping[str, gr.components.Component]

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The controls in order, for an event's inputs."""
        return list(self.controls.values())

    def read(self, values: Sequence[object], **others: object) -> object:
        """Values of the controls in order -> the config; raises RequestError as the config does."""
        row = {name: self.value(name, value) for name, value in zip(self.controls, values, strict=True)}
        return self.config(**{name: value for name, value in row.items() if value is not None} | others)

    def value(self, name: str, value: object) -> object:
        """One control's value as the field takes it; None leaves the field's default."""
        kind, _ = kind_of(self.config, name)
        if value is None or value == "":
            return None
        if get_origin(kind) is tuple:
            rows = value if isinstance(value, list | tuple) else str(value).splitlines()
            return tuple(line.strip() for line in map(str, rows) if line.strip())
        offered = (True, False) if kind is bool else get_args(kind)
        if offered:
            return value if value in offered else self.refuse(name, value, " or ".join(map(str, offered)))
        if kind not in (int, float):
            return kind(value) if kind in (str, Path) else value  # type: ignore[operator]
        expected = "a whole number" if kind is int else "a number"
        try:
            number = float(value)  # type: ignore[arg-type]
            return kind(number) if kind is float or number.is_integer() else self.refuse(name, value, expected)
        except (TypeError, ValueError, OverflowError):
            return self.refuse(name, value, expected)

    def refuse(self, name: str, value: object, expected: str) -> None:
        """Raise RequestError for the value of one control."""
        raise RequestError(f"{label_of(self.config, name)} {str(value)[:40]!r}: expected {expected}")
