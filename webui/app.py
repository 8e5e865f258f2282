"""The pages and their one frame. Every event calls the same functions as the command line."""

from __future__ import annotations

import gradio as gr

from . import api
from .calls import base_functions
from .desk import Desk
from .library import library_page
from .show import widget
from .studio import studio_page
from .training import training_page
from .words import text

KEEP_UPLOADS = (600, 3600)
"""Seconds between clean-ups of uploaded copies, and how old a copy may become."""


def pages(desk: Desk) -> gr.Blocks:
    """The whole studio."""
    with gr.Blocks(title=text("title"), fill_width=True, analytics_enabled=False, delete_cache=KEEP_UPLOADS) as blocks:
        facts = {"user": bool(desk.config.auth), "mark": desk.base.mark, "quick": desk.base.quick}
        widget("frame", "frame", facts, file="bases frame", functions=base_functions(desk))
        with gr.Tabs(elem_id="pages"):
            with gr.Tab(text("page.studio"), id="studio", render_children=True):
                studio_page(desk)
            with gr.Tab(text("page.train"), id="train", render_children=True):
                training_page(desk)
            with gr.Tab(text("page.styles"), id="styles", render_children=True):
                library_page(desk)
        api.endpoints(desk)
    blocks.queue(default_concurrency_limit=None, max_size=256)
    return blocks
