"""The Styles page: the library, one style in detail, a file dropped in."""

from __future__ import annotations

import time
from pathlib import Path

import gradio as gr

from . import dropped, styles
from .calls import smaller_functions
from .desk import Desk
from .show import answered, said, who, widget
from .training import tell
from .words import text


def library_page(desk: Desk) -> None:
    """Lay the page out and connect it."""
    functions = [change_of(desk), rename_of(desk), throw_away_of(desk), mend_of(desk), convert_of(desk)]
    functions += [add_kept_of(desk), forget_of(desk), *smaller_functions(desk)]
    drop = gr.File(label=text("library.drop"), file_types=[".safetensors"], elem_id="drop-style", height=110)
    library = widget("library", "library", file="prospects doctor smaller library", functions=functions)

    @said(outputs=2, rest=lambda: None)
    def on_drop(file: str | None, request: gr.Request) -> tuple[dict, None]:
        if not file:
            return gr.skip(), None
        try:
            found = dropped.take_in(desk, who(desk, request), Path(file))
        finally:
            Path(file).unlink(missing_ok=True)
        if "chosen" in found:
            tell(text("library.added").format(name=found["chosen"]))
        return found | {"when": time.time()}, None

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


def mend_of(desk: Desk):
    """mend({name}) -> what the style is without now"""

    @answered
    def mend(data: dict, request: gr.Request) -> dict:
        return styles.mend(desk, str(data["name"]))

    return mend


def convert_of(desk: Desk):
    """convert({name, to, precision, plain}) -> a copy under a key, and what it costs"""

    @answered
    def convert(data: dict, request: gr.Request) -> dict:
        user = who(desk, request)
        wanted = (str(data[name]) for name in ("name", "to", "precision"))
        return dropped.convert_style(desk, user, *wanted, plain=data["plain"] is True)

    return convert


def add_kept_of(desk: Desk):
    """add_kept({key}) -> the name of the new style"""

    @answered
    def add_kept(data: dict, request: gr.Request) -> str:
        return dropped.add_kept(desk, who(desk, request), str(data["key"]))

    return add_kept


def forget_of(desk: Desk):
    """forget({key})"""

    @answered
    def forget(data: dict, request: gr.Request) -> bool:
        desk.pending.forget(who(desk, request), str(data["key"]))
        return True

    return forget
