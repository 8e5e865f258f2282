"""What widgets call on the server for work that takes a while: foretelling, merging, conflicts, opening a base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import get_args

import gradio as gr

from difflora.adapters.knobs import HELP
from difflora.config import BlendConfig, Method, Precision

from . import blends, clash, smaller
from .desk import Desk
from .form import help_of
from .show import answered, who

ELSEWHERE = "switch", "orthogonal"
"""Methods of the mixer's own: the one acts over the steps, which no file does, the other has a slider."""


def blend_words() -> dict:
    """What the export box has to know: methods, precisions, defaults and the fields' own words."""
    defaults = {field.name: field.default for field in fields(BlendConfig) if field.name in blends.ASKED}
    methods = [name for name in get_args(Method) if name not in ELSEWHERE]
    words = {name: help_of(BlendConfig)[name] for name in blends.ASKED}
    about = {name: HELP[name] for name in methods}
    return {
        "facts": {
            "defaults": defaults, "methods": methods, "about": about, "precisions": list(get_args(Precision)),
            "help": words,
        }
    }  # fmt: skip


def blend_functions(desk: Desk) -> list[Callable]:
    """foretell({mix, settings}), merge({name, mix, precision}), stop({id})"""

    @answered
    def foretell(data: dict, request: gr.Request) -> dict:
        return blends.foretell(desk, who(desk, request), data["mix"], data["settings"])

    @answered
    def merge(data: dict, request: gr.Request) -> str:
        name = str(data["name"]).strip()
        return blends.merge(desk, who(desk, request), name, data["mix"], str(data["precision"])).id

    return [foretell, merge, stop_of(desk)]


def mixer_functions(desk: Desk) -> list[Callable]:
    """clash({mix}), stop({id})"""

    @answered
    def clash_of(data: dict, request: gr.Request) -> str:
        return clash.look(desk, who(desk, request), data["mix"]).id

    clash_of.__name__ = "clash"
    return [clash_of, stop_of(desk)]


def base_functions(desk: Desk) -> list[Callable]:
    """open_base({name}), stop({id})"""

    @answered
    def open_base(data: dict, request: gr.Request) -> str:
        return desk.bases.open(who(desk, request), str(data["name"])).id

    return [open_base, stop_of(desk)]


def smaller_functions(desk: Desk) -> list[Callable]:
    """foresee({name, settings}), shrink({name, new, settings}), stop({id})"""

    @answered
    def foresee(data: dict, request: gr.Request) -> dict:
        return smaller.foresee(desk, who(desk, request), str(data["name"]), data["settings"])

    @answered
    def shrink(data: dict, request: gr.Request) -> str:
        new = str(data["new"]).strip()
        return smaller.shrink(desk, who(desk, request), str(data["name"]), new, data["settings"]).id

    return [foresee, shrink, stop_of(desk)]


def stop_of(desk: Desk) -> Callable:
    """stop({id}): one's own work only."""

    @answered
    def stop(data: dict, request: gr.Request) -> bool:
        desk.jobs.stop(who(desk, request), str(data["id"]))
        return True

    return stop
