"""Every word of the pages, from one file, so that a translation is one more file."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("assets") / "en.json"


@cache
def words() -> dict[str, str]:
    """All texts by key."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def text(key: str, default: str | None = None) -> str:
    """The text of a key; without one in the file, `default`; KeyError when there is neither."""
    return words()[key] if default is None else words().get(key, default)


def in_words(line: str) -> str:
    """A line of the library with the names of fields where it names flags: there are none on a page."""
    return re.sub(r"--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", " "), line)
