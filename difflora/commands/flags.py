"""A dataclass is a command: its fields are the flags. The only door to tyro."""

from __future__ import annotations

from dataclasses import field, make_dataclass
from typing import Annotated, get_args, get_origin, get_type_hints

from tyro import cli
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg, subcommand

__all__ = ["Json", "Positional", "Switch", "UseAppendAction", "arg", "cli", "plain_flags", "subcommand"]

# What is asked for once, and has no --no-… beside it.
Switch = FlagCreatePairsOff[bool]
Json = Annotated[Switch, arg(help="Print JSON lines for a script instead of text for a person.")]


def plain_flags(config: type) -> type:
    """The same dataclass, its help saying `--rank INT` and not `{None}|INT` where None means that difflora decides."""
    open_fields = []
    for name, hint in get_type_hints(config, include_extras=True).items():
        inner, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        kinds = [kind for kind in get_args(inner) if kind is not type(None)]
        if type(None) in get_args(inner) and not any(getattr(mark, "metavar", None) for mark in marks):
            choices = "|".join(map(str, get_args(kinds[0])))
            shown = arg(metavar=choices or kinds[0].__name__.upper(), help_behavior_hint="")
            open_fields.append((name, Annotated[hint, shown], field(default=None)))
    plain = make_dataclass(config.__name__, open_fields, bases=(config,), frozen=True, kw_only=True)
    plain.__doc__ = config.__doc__
    return plain
