"""difflora ui."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from ..config_ui import UiConfig
from ..errors import RequestError
from .flags import UseAppendAction, arg, plain_flags


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Ui(UiConfig):
    """Open the studio in a browser: mix, draw, train and export; Ctrl+C ends it."""

    images: UseAppendAction[tuple[Path, ...]] = ()
    auth: UseAppendAction[tuple[str, ...]] = ()
    hash: Annotated[
        str | None,
        arg(
            metavar="USER", help="Ask for a password, print what --auth takes for USER, and end.", help_behavior_hint=""
        ),
    ] = None

    def run(self) -> None:
        """Call the library and render."""
        from importlib.util import find_spec

        if find_spec("gradio") is None:
            raise RequestError("the studio needs gradio, which is not installed: pip install 'difflora[ui]'")
        # The one look up: the studio stands on top of the library, and only its self opens it.
        from webui import server

        if self.hash is not None:
            server.print_account(self.hash)
        else:
            server.serve(UiConfig(**{f.name: getattr(self, f.name) for f in fields(UiConfig)}))
