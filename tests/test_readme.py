"""What the README tells a newcomer to type is what the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from difflora import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [line for line in LINES if line.startswith("difflora ")]


def test_there_are_commands():
    assert len(COMMANDS) >= 6
    assert {"scripts/demo", "scripts/test"} <= set(LINES)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line):
    assert cli.parse(shlex.split(line)[1:]) is not None


def test_every_link_and_picture_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_every_file_of_the_tree_is_there():
    tree = re.search(r"```text\n(.*?)```", TEXT, flags=re.DOTALL)[1]
    folder = ""
    for line in tree.splitlines():
        name = line.strip().split("  ")[0]
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
        path = ROOT / name if not line.startswith(" ") else ROOT / folder / name
        assert path.exists(), line
