"""The house stays as it was drawn: doors are one-way, each dependency has one, rooms are small."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import difflora

ROOT = Path(difflora.__file__).parent
FLOORS = {
    "adapters": 1,
    "models": 2,
    "drawing": 3,
    "training": 4,
    "commands": 5,
    "cli": 5,
    "render": 5,
    "render_adapter": 5,
    "render_bases": 5,
    "render_conflict": 5,
    "render_merge": 5,
    "render_needs": 5,
    "render_training": 5,
    "render_runs": 5,
}
DOORS = {
    "peft": {"models/attach.py"},
    "safetensors": {"adapters/files.py"},
    "accelerate": {"training/loop.py"},
    "tyro": {"commands/flags.py"},
    "rich": {
        "render.py",
        "render_adapter.py",
        "render_bases.py",
        "render_conflict.py",
        "render_runs.py",
        "render_training.py",
    },
    "huggingface_hub": {"models/hub.py"},
    "packaging": {"packages.py"},
    "compel": {"models/weighing.py"},
    "diffusers": {"models/opening.py", "models/samplers.py"},
    "transformers": {"models/captioner.py", "models/opening.py"},
    "imagehash": {"training/twins.py"},
    "scipy": {"training/marks.py"},
    "fcntl": {"locks.py"},
}
FILES = sorted(ROOT.rglob("*.py"))
PAGES = sorted((ROOT.parent / "webui").glob("*.py"))
WEB = {"gradio", "fastapi", "starlette", "uvicorn", "python_multipart", "safehttpx"}


def floor(path: Path) -> int:
    """How high a room lies; the ground floor is config, events, errors."""
    return FLOORS.get(path.relative_to(ROOT).parts[0].removesuffix(".py"), 0)


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is ours) of every import, wherever it stands in the file."""
    found = []
    package = ("difflora", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, alias.name.startswith("difflora")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            found.append((".".join([*base, node.module] if node.module else base), True))
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", (node.module or "").startswith("difflora")))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path):
    for module, ours in imports(path):
        room = module.split(".")[1] if ours and "." in module else ""
        assert not ours or FLOORS.get(room, 0) <= floor(path), f"{path.name} looks up to {module}"


@pytest.mark.parametrize("package", DOORS)
def test_each_dependency_has_one_door(package):
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        for module, ours in imports(path)
        if not ours and module.split(".")[0] == package
    }
    assert users == DOORS[package]


def test_the_studio_stands_on_the_library_and_only_its_command_opens_it():
    for path in FILES:
        modules = {module.split(".")[0] for module, ours in imports(path) if not ours}
        assert not modules & WEB, path
        assert "webui" not in modules or path.name == "ui.py", path


def test_rooms_are_small():
    for path in [*FILES, *PAGES]:
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 50, f"{path.name}: {node.name}"


def test_nothing_prints_but_the_command_line():
    for path in [*FILES, *PAGES]:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        printing = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not printing or path.name in {"cli.py", "render.py", "server.py"} or path.parent.name == "commands", path


def test_every_public_name_is_there():
    assert all(getattr(difflora, name) is not None for name in difflora.__all__)


def test_help_answers_in_under_0_4_seconds_without_torch():
    times = []
    for _ in range(5):
        # Its own seconds, not those that it waited for other tests.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "difflora.cli", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.4
    code = "import sys, difflora, difflora.cli; print('torch' in sys.modules, 'rich' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.split() == ["False", "False"]
