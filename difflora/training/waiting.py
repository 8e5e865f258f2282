"""The trainings still to come, as files in runs/.queue, so that they outlive the process that keeps them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import tomli_w

from ..adapters.files import write_atomic
from ..errors import RequestError
from ..locks import held


class Waiting:
    """NAME.toml is a training to come and order.json says which is next; NAME.failed is one that did not get far.

    `started` names the training at work and counts while `lock` is held, NAME.log is what its process said.
    """

    def __init__(self, runs: Path) -> None:
        self.folder = runs / ".queue"

    def names(self) -> list[str]:
        """All in order, the one at work first."""
        there = {path.name.removesuffix(".toml") for path in self.folder.glob("[!.]*.toml") if path.name.isprintable()}
        order = [name for name in _read_json(self.folder / "order.json", list) if isinstance(name, str)]
        order = [name for name in order if name in there]
        # A name that the order lacks was put there by a process that died before it wrote the order.
        return [*dict.fromkeys(order), *sorted(there - set(order))]

    def file(self, name: str) -> Path:
        """The config of one training."""
        return self.folder / f"{name}.toml"

    def row(self, name: str) -> dict:
        """Its values; none when there is no such training any more."""
        return read_toml(self.file(name))

    def put(self, name: str, row: Mapping, *, front: bool = False) -> None:
        """Add one at the end, or at the front."""
        others = self.names()
        write_atomic(self.file(name), tomli_w.dumps(dict(row)).encode())
        self.forget(name)
        self.order([name, *others] if front else [*others, name])

    def drop(self, name: str, error: str = "") -> None:
        """Take one out, keeping why it failed if it did."""
        try:
            if error:
                kept = json.dumps({"error": error, "config": self.row(name)}, default=str)
                write_atomic(self.folder / f"{name}.failed", kept.encode())
        finally:
            # Also on a full disk: it would be started over and over.
            self.file(name).unlink(missing_ok=True)
        self.order(self.names())

    def order(self, names: Sequence[str]) -> None:
        """Set the order."""
        write_atomic(self.folder / "order.json", json.dumps(list(names)).encode())

    def failures(self) -> list[str]:
        """Names of what failed and was not tried again."""
        return sorted(path.name.removesuffix(".failed") for path in self.folder.glob("*.failed"))

    def failure(self, name: str) -> tuple[float, str, dict]:
        """(time, error, config) of one that failed; (0, "", {}) for any other."""
        path = self.folder / f"{name}.failed"
        kept = _read_json(path, dict)
        with suppress(OSError):
            return path.stat().st_mtime, str(kept.get("error", "")), kept.get("config", {})
        return 0.0, "", {}

    def forget(self, name: str) -> None:
        """Remove what is kept of a failure."""
        (self.folder / f"{name}.failed").unlink(missing_ok=True)

    def at_work(self) -> tuple[str, float]:
        """The name of the training at work and the time of its start; ("", 0) for none."""
        path = self.folder / "started"
        if held(self.folder / "lock"):
            with suppress(OSError):
                return path.read_text(encoding="utf-8"), path.stat().st_mtime
        return "", 0.0

    def last_words(self, name: str, code: int) -> str:
        """Why its process ended, in one line: the last one it wrote that is no event."""
        lines = []
        with suppress(OSError):
            lines = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        words = [line.strip() for line in lines if line.strip() and not line.startswith("{")]
        if code == 2 and words:
            return words[-1].removeprefix("difflora: ")
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"the training's process was {how}" + (f": {words[-1]}" if words else "; resume it to go on")


def safe_name(name: str) -> str:
    """The name as it may stand for one entry of the runs folder; raises RequestError otherwise."""
    odd = not name or name.startswith(".") or not name.isprintable() or "/" in name or "\\" in name
    if odd or len(name.encode()) > 255:
        raise RequestError(f"run {name[:80]!r}: expected the name of a run in the list")
    return name


def style_name(config: Mapping, folder: Path) -> str:
    """The name of the style that a run learns, from the run's config."""
    return str(config.get("name") or Path(str(config.get("images", folder.name))).resolve().name)


def demand_newest(folder: Path) -> None:
    """Raise RequestError for a finished run that was put aside when its name was trained anew: it cannot go on."""
    own = style_name(read_toml(folder / "config.toml"), folder)
    if own != folder.name:
        raise RequestError(f"{folder.name} is an earlier run of {own}, put aside: expected {own}; name that")


def read_toml(path: Path) -> dict:
    """A config as plain values; empty when it is missing or damaged."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _read_json(path: Path, kind: type) -> list | dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return kind()
    return found if isinstance(found, kind) else kind()
