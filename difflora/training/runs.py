"""A run folder: config.toml, plan.json, events.jsonl, previews, the state to go on from."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import tomli_w
import torch
from PIL import Image

from ..adapters.files import load_tensors, save_tensors, writable_folder, write_atomic
from ..drawing.sheet import grid
from ..errors import AdapterFileError, OutputError, RequestError
from ..events import Event, Note, Report, ignore
from ..models.family import EMBEDDED
from .control import alive, busy, wanted


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

    def segments(self) -> list[tuple[int, int]]:
        """(step, new last step) each time that steps were added."""
        try:
            return [(int(at), int(total)) for at, total in json.loads((self.folder / "more.json").read_text())]
        except (OSError, ValueError, TypeError):
            return []

    def extend(self, at: int, total: int) -> None:
        """From step `at` on the run has `total` steps."""
        write_atomic(self.folder / "more.json", json.dumps([*self.segments(), (at, total)]).encode())

    def end(self, step: int) -> None:
        """The run ended after `step`, be it the last one planned or not."""
        write_atomic(self.folder / "ended.json", json.dumps(step).encode())

    def ended(self, step: int) -> bool:
        """Whether the run ended after `step` and no steps were added since."""
        return self._end() == step and all(start != step for start, _ in self.segments())

    def over(self) -> bool:
        """Whether the run has ended, and nobody asks it to go on."""
        end = self._end()
        return end is not None and self.ended(end) and not wanted(self.folder)

    def _end(self) -> int | None:
        with suppress(OSError, ValueError):
            return json.loads((self.folder / "ended.json").read_text())
        return None

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

    def save_state(
        self, step: int, tensors: Mapping[str, torch.Tensor], more: Mapping[str, str], which: str = "state"
    ) -> None:
        """Write the state whole or not at all, with a checksum; the one before is kept until the next.

        which: "state" to go on from, or "good", the one of the last checkpoint.
        """
        path = self.folder / f"{which}.safetensors"
        if path.exists():
            keep_old(path)
        save_tensors(path, tensors, {"step": str(step), "key": self.key, "sum": checksum(tensors)} | dict(more))

    def load_state(
        self, which: str = "state", report: Report = ignore
    ) -> tuple[int, dict[str, torch.Tensor], dict[str, str]] | None:
        """(step, tensors, words) of the newest save that is whole, or None without any.

        RequestError if it belongs to other settings, or if there are saves and all are damaged.
        """
        path, problem = self.folder / f"{which}.safetensors", None
        for file in (path, old_of(path)):
            if not file.exists():
                continue
            try:
                tensors, words = load_tensors(file)
                if words.get("sum") != checksum(tensors):
                    raise AdapterFileError(f"{file}: its numbers are not those that were written")
            except AdapterFileError as error:
                problem = error
                continue
            if words.get("key") != self.key:
                raise RequestError(f"{file} belongs to other settings; give another --name, or remove {self.folder}")
            if problem is not None:
                report(Note(f"{path.name} is damaged; going on from the save before it, of step {words['step']}"))
            return int(words["step"]), tensors, words
        if problem is not None:
            raise RequestError(f"{path} is damaged ({problem}); remove {self.folder} to start again")
        return None

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


def open_run(runs: Path, name: str, config: Mapping, plan: Mapping, fingerprint: str, report: Report = ignore) -> Run:
    """The folder of this training: the one to go on with when everything that decides the result is the same.

    A run that has ended is kept under another name, with a Note. RequestError when one that has not ended differs, or
    when a process holds the run.
    """
    key = json.dumps({"config": decisive(config), "plan": decisive(plan), "data": fingerprint}, sort_keys=True)
    folder = runs / name
    kept = folder / "key.json"
    if alive(folder):
        raise busy(folder)
    if kept.exists():
        if kept.read_text(encoding="utf-8") == key:
            # Where things lie decides nothing, but whoever goes on from the file must find them.
            write_atomic(folder / "config.toml", tomli_w.dumps(placed(config)).encode())
            return Run(folder, key)
        if not Run(folder, key).over():
            changed = differences(json.loads(kept.read_text(encoding="utf-8")), json.loads(key))
            raise RequestError(
                f"{folder} holds an unfinished run with other settings ({changed}): repeat its command to go on, "
                f"give another --name, or remove the folder"
            )
        report(Note(f"the earlier run {name} is kept as {put_aside(folder).name}"))
    writable_folder(folder / "previews")
    write_atomic(folder / "config.toml", tomli_w.dumps(placed(config)).encode())
    write_atomic(folder / "plan.json", json.dumps(dict(plan), indent=2).encode())
    write_atomic(kept, key.encode())
    return Run(folder, key)


def decisive(values: Mapping) -> dict:
    """The values that decide the result; where things lie does not."""
    apart = {
        "images", "out", "runs", "bases", "reasons", "captions", "buckets", "area", "tensorboard", "micro_batch",
        "gradient_checkpointing", "minutes", "memory",
    }  # fmt: skip
    return {k: v for k, v in placed(values).items() if k not in apart}


def placed(values: Mapping) -> dict:
    """The values with whole paths, so that they mean the same from any working directory."""
    row = dict(values)
    for name in ("images", "out", "runs", "bases", "base", "vae"):
        # A base and its VAE may be names of something else.
        named = name in ("base", "vae")
        if row.get(name) and (not named or (row[name] not in EMBEDDED and Path(row[name]).exists())):
            row[name] = str(Path(row[name]).absolute())
    return row


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """The sha256 of all numbers under their names."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        plain = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        whole.update(plain.view(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def old_of(path: Path) -> Path:
    """Where the state before the last one is kept."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def keep_old(path: Path) -> None:
    """Keep the state that is about to be replaced under a second name; at any moment one whole state is there."""
    temp = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            os.link(path, temp)
        except OSError:
            return  # A file system without links: the write itself is atomic, only a damaged disk loses more.
        os.replace(temp, old_of(path))
    except OSError as error:
        raise OutputError(f"{path} cannot be kept ({error.strerror}); free some space") from error


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


def put_aside(folder: Path) -> Path:
    """Rename a run that has ended to the next free number."""
    number = next(i for i in range(1, 10**6) if not folder.with_name(f"{folder.name}-{i}").exists())
    return folder.rename(folder.with_name(f"{folder.name}-{number}"))
