"""A run folder: config.toml, plan.json, events.jsonl, previews, the state to go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import tomli_w
import torch
from PIL import Image

from ..adapters.files import load_tensors, save_tensors, writable_folder, write_atomic
from ..drawing.sheet import grid
from ..errors import AdapterFileError, OutputError, RequestError
from ..events import Event
from ..models.family import EMBEDDED
from .control import alive, busy


@dataclass(frozen=True)
class Run:
    """One training's folder; `key` holds everything that decides its result."""

    folder: Path
    key: str

    @property
    def state(self) -> Path:
        """The file to go on from."""
        return self.folder / "state.safetensors"

    @property
    def sheet(self) -> Path:
        """All previews so far as one picture."""
        return self.folder / "previews.png"

    def mend_log(self) -> None:
        """End the line that a killed process left half written, so that the next event has one of its own."""
        try:
            with (self.folder / "events.jsonl").open("ab+") as log:
                log.seek(max(0, log.tell() - 1))
                if log.read(1) not in (b"", b"\n"):
                    log.write(b"\n")
        except OSError as error:
            raise OutputError(f"{self.folder}: the run's log cannot be written ({error.strerror})") from error

    def log(self, event: Event) -> None:
        """Append one event with its time."""
        row = {"time": round(time.time(), 3)} | event.row()
        try:
            with (self.folder / "events.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OutputError(f"{self.folder}: the run's log cannot be written ({error.strerror})") from error

    def save_state(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the state whole or not at all."""
        save_tensors(self.state, tensors, {"step": str(step), "key": self.key})

    def load_state(self) -> tuple[int, dict[str, torch.Tensor]] | None:
        """The step and tensors of the last save, or None; RequestError if they belong to other settings."""
        if not self.state.exists():
            return None
        try:
            tensors, metadata = load_tensors(self.state)
        except AdapterFileError as error:
            raise RequestError(f"{self.state} is damaged ({error}); remove {self.folder} to start again") from error
        if metadata.get("key") != self.key:
            raise RequestError(f"{self.state} belongs to other settings; give another --name, or remove {self.folder}")
        return int(metadata["step"]), tensors

    def add_previews(self, step: int, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Path:
        """Keep one step's previews and redraw the growing sheet: a row a step, a column a prompt."""
        for i, picture in enumerate(pictures):
            buffer = BytesIO()
            picture.save(buffer, format="PNG")
            write_atomic(self.folder / "previews" / f"{step:06}-{i}.png", buffer.getvalue())
        steps = sorted({int(path.name.split("-")[0]) for path in (self.folder / "previews").glob("*-0.png")})
        rows = []
        for kept in steps:
            row = []
            for path in sorted((self.folder / "previews").glob(f"{kept:06}-*.png")):
                with Image.open(path) as picture:
                    row.append(picture.convert("RGB"))
            rows.append(row)
        buffer = BytesIO()
        grid(rows, list(prompts), [f"step {kept}" for kept in steps]).save(buffer, format="PNG")
        write_atomic(self.sheet, buffer.getvalue())
        return self.sheet


def open_run(runs: Path, name: str, config: Mapping, plan: Mapping, fingerprint: str, finished: Path) -> Run:
    """The folder of this training: the one to go on with when everything that decides the result is the same.

    A finished run of the same name is kept under another one. RequestError when an unfinished run differs, or when a
    process holds the run.
    """
    key = json.dumps({"config": decisive(config), "plan": decisive(plan), "data": fingerprint}, sort_keys=True)
    folder = runs / name
    kept = folder / "key.json"
    if alive(folder):
        raise busy(folder)
    if kept.exists():
        if kept.read_text(encoding="utf-8") == key:
            return Run(folder, key)
        if not (folder / finished.name).exists():
            changed = differences(json.loads(kept.read_text(encoding="utf-8")), json.loads(key))
            raise RequestError(
                f"{folder} holds an unfinished run with other settings ({changed}): repeat its command to go on, "
                f"give another --name, or remove the folder"
            )
        put_aside(folder)
    writable_folder(folder / "previews")
    write_atomic(folder / "config.toml", tomli_w.dumps(placed(config)).encode())
    write_atomic(folder / "plan.json", json.dumps(dict(plan), indent=2).encode())
    write_atomic(kept, key.encode())
    return Run(folder, key)


def decisive(values: Mapping) -> dict:
    """The values that decide the result; where things lie does not."""
    apart = {"images", "out", "runs", "reasons", "captions"}
    return {k: v for k, v in placed(values).items() if k not in apart}


def placed(values: Mapping) -> dict:
    """The values with whole paths, so that they mean the same from any working directory."""
    row = dict(values)
    for name in ("images", "out", "runs", "base"):
        path = Path(row.get(name, ""))
        if name in row and (name != "base" or (row[name] not in EMBEDDED and path.is_dir())):
            row[name] = str(path.absolute())
    return row


def differences(old: dict, new: dict) -> str:
    """What changed between two keys, in words."""
    changed = []
    for part in ("config", "plan"):
        for name in sorted({*old[part], *new[part]}):
            before, after = old[part].get(name), new[part].get(name)
            if before != after:
                changed.append(f"{name} {before} there, {after} asked")
    if old["data"] != new["data"]:
        changed.append("other pictures or captions")
    return "; ".join(changed[:3]) or "other data"


def put_aside(folder: Path) -> None:
    """Rename a finished run to the next free number."""
    number = next(i for i in range(1, 10**6) if not folder.with_name(f"{folder.name}-{i}").exists())
    folder.rename(folder.with_name(f"{folder.name}-{number}"))
