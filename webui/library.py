"""The Styles page: the library, one style in detail, a file dropped in."""

from __future__ import annotations

import time
from pathlib import Path

import gradio as gr

from . import styles
from .desk import Desk
from .show import answered, said, widget
from .training import tell
from .words import text


def library_page(desk: Desk) -> None:
    """Lay the page out and connect it."""
    functions = [change_of(desk), rename_of(desk), throw_away_of(desk)]
    drop = gr.File(label=text("library.drop"), file_types=[".safetensors"], elem_id="drop-style", height=110)
    library = widget("library", "library", file="library", functions=functions)

    @said(outputs=2, rest=lambda: None)
    def on_drop(file: str | None) -> tuple[dict, None]:
        if not file:
            return gr.skip(), None
        try:
            name = styles.take_in(desk, Path(file))
        finally:
            Path(file).unlink(missing_ok=True)
        tell(text("library.added").format(name=name))
        return {"chosen": name, "when": time.time()}, None

    drop.upload(on_drop, drop, [library, drop], show_progress="minimal", api_visibility="private")


def change_of(desk: Desk):
    """change({name, trigger, weight})"""

    @answered
    def change(data: dict, request: gr.Request) -> bool:
        styles.change(desk, str(data["name"]), data["trigger"], data["weight"])
        return True

    return change


def rename_of(desk: Desk):
    """rename({name, new}) -> the new name"""

    @answered
    def rename(data: dict, request: gr.Request) -> str:
        return styles.call(desk, str(data["name"]), str(data["new"])).name.removesuffix(".safetensors")

    return rename


def throw_away_of(desk: Desk):
    """throw_away({name})"""

    @answered
    def throw_away(data: dict, request: gr.Request) -> bool:
        return bool(styles.throw_away(desk, str(data["name"])))

    return throw_away
