"""What is shared by the pages: who asks, errors as one readable line, a widget's element."""

from __future__ import annotations

import functools
import html
import inspect
import time
from collections.abc import Callable

import gradio as gr

from difflora.errors import DiffloraError

from .desk import Desk
from .words import in_words

HEAD = '<script src="/studio/assets/base.js"></script>'


def who(desk: Desk, request: gr.Request) -> str:
    """The name of who signed in."""
    return desk.user(getattr(request, "request", None) or request)


def told(function: Callable, escaped: Callable[[str], str] = html.escape) -> Callable:
    """The same event function, a DiffloraError shown as its one line. Messages are HTML to Gradio: they are escaped."""

    @functools.wraps(function)
    def wrapped(*args: object, **kwargs: object) -> object:
        try:
            return function(*args, **kwargs)
        except DiffloraError as error:
            raise gr.Error(escaped(in_words(str(error))), duration=12, print_exception=False) from None

    wrapped.__signature__ = inspect.signature(function)
    return wrapped


def plainly(function: Callable) -> Callable:
    """The same for programs, which read the line as it is."""
    return told(function, str)


def said(outputs: int = 1, rest: Callable = gr.skip) -> Callable:
    """For an event whose first output is a widget: a DiffloraError goes there, and `rest()` to the other outputs."""

    def around(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args: object, **kwargs: object) -> object:
            try:
                return function(*args, **kwargs)
            except DiffloraError as error:
                # The time makes two equal errors two values.
                line = {"error": in_words(str(error)), "when": time.time()}
                return line if outputs == 1 else (line, *[rest()] * (outputs - 1))

        wrapped.__signature__ = inspect.signature(function)
        return wrapped

    return around


def answered(function: Callable) -> Callable:
    """The same function for a widget: {"error": one line} instead of a DiffloraError."""

    @functools.wraps(function)
    def wrapped(*args: object, **kwargs: object) -> object:
        try:
            return {"ok": function(*args, **kwargs)}
        except DiffloraError as error:
            return {"error": in_words(str(error))}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            return {"error": f"the page sent something unexpected ({type(error).__name__}): reload it"}
        except OSError as error:
            return {"error": f"the studio's folders cannot be used ({error.strerror}): mend that and try again"}

    wrapped.__signature__ = inspect.signature(function)
    return wrapped


def widget(name: str, elem_id: str, value: object = None, *, file: str | None = None, functions=None) -> gr.HTML:
    """An element that assets/FILE.js fills; `functions` are what it may call on the server.

    file: several with spaces between, in the order they are run.
    """
    head = HEAD + "".join(f'<script src="/studio/assets/{one}.js"></script>' for one in (file or name).split())
    tools = "element, props, trigger, watch, server: typeof server === 'undefined' ? null : server"
    return gr.HTML(
        value, html_template="", js_on_load=f"difflora.widgets[{name!r}]({{{tools}}})",
        apply_default_css=False, elem_id=elem_id, head=head, elem_classes="widget", server_functions=functions,
    )  # fmt: skip
