"""Every word of the pages stands in one file, and nothing else does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import webui

ROOT = Path(webui.__file__).parent
WORDS = json.loads((ROOT / "assets" / "en.json").read_text(encoding="utf-8"))
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("assets/*.js")}
PYTHON = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("*.py")}
ALL = "\n".join([*SCRIPTS.values(), *PYTHON.values()])
# t(`runs.${what}`) asks for any key of that beginning.
FAMILIES = tuple(re.findall(r"t\(`([a-z.]+\.)\$\{", ALL))


def test_every_word_that_a_page_asks_for_is_there():
    asked = set(re.findall(r"""\b(?:t|text)\(["']([a-z.]+)["']""", ALL)) | set(re.findall(r'"([a-z]+\.[a-z.]+)"', ALL))
    keys = {key for key in asked if not key.endswith((".js", ".json", ".css", ".png", ".html"))}
    assert {"draw", "cards.title", "stage.before"} <= keys
    known = {key.partition(".")[0] for key in WORDS}
    assert sorted(key for key in keys if key.partition(".")[0] in known and key not in WORDS and "." in key) == []


def test_every_word_is_asked_for():
    unused = [key for key in WORDS if not re.search(f"[\"']{key}[\"']", ALL) and not key.startswith(FAMILIES)]
    assert unused == []


def test_widgets_never_make_markup_from_text():
    for name, script in SCRIPTS.items():
        code = re.sub(r"//.*", "", script)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", code), name


def test_pages_name_no_other_host():
    for name, script in (SCRIPTS | PYTHON | {"studio.css": (ROOT / "assets/studio.css").read_text()}).items():
        hosts = set(re.findall(r"https?://([\w.-]+)", script)) - {"www.w3.org", "127.0.0.1"}
        assert hosts == set(), name
