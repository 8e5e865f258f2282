"""Style files that come in or go out: one that was dropped, what can be saved of it, a copy in another format."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from difflora.adapters.convert import Converted, convert, repair
from difflora.adapters.edits import install
from difflora.adapters.files import load_adapter
from difflora.adapters.inspection import inspect_header
from difflora.adapters.lowrank import weights_of
from difflora.adapters.measure import inspect_numbers
from difflora.adapters.precision import DTYPES
from difflora.errors import AdapterFileError, DiffloraError, RequestError
from difflora.turns import Turns

from .desk import Desk
from .doctor import verdict
from .styles import lost_rows

FORMATS = ("kohya", "diffusers", "peft")
WITHIN = 0.01
"""The relative error within which what is no plain LoRA is made one."""
REPAIRED, CONVERTED = "repaired", "converted"


def take_in(desk: Desk, user: str, source: Path) -> dict:
    """Put a dropped file into the library: {"chosen": its name}, or {"offer": …} for one that can be repaired.

    Raises AdapterFileError with what is wrong with a file of which nothing can be used here.
    """
    try:
        path = install(source, desk.config.loras, desk.shapes, desk.model.family)
        return {"chosen": path.stem}
    except AdapterFileError:
        offer = offered(desk, user, source)
        if offer is None:
            raise
        return {"offer": offer}


def offered(desk: Desk, user: str, source: Path) -> dict | None:
    """A sound copy of a damaged file, made and kept but not installed, with the doctor's verdict; None for no copy."""
    doctor = desk.doctor
    try:
        base = doctor.base(source)
        if base is not doctor.opened:
            return None
        with doctor.reading, desk.pending.folder() as folder:
            found = inspect_numbers(inspect_header(source, base), base)
            made = repair(source, folder / source.name, base=base)
            load_adapter(made.path, desk.shapes, desk.model.family)
            key = desk.pending.keep(user, REPAIRED, made.path)
    except (DiffloraError, OSError):
        return None
    said = verdict(doctor, found, "")
    return {"key": key, "name": source.stem, "verdict": said, "kept": made.modules} | lost_rows(made.lost)


def add_kept(desk: Desk, user: str, key: str) -> str:
    """Install a copy that was kept, under a free name; raises DiffloraError."""
    path = install(desk.pending.file(user, key), desk.config.loras, desk.shapes, desk.model.family)
    desk.pending.forget(user, key)
    return path.stem


def convert_style(desk: Desk, user: str, name: str, to: str, precision: str, plain: bool) -> dict:
    """Make a copy of a style in another format, to be downloaded or added, and say what it costs.

    to: one of FORMATS; precision: fp32, bf16, fp16, or nothing for the file's own; plain: make LoRA of what is none.
    Raises DiffloraError.
    """
    if to not in FORMATS or precision not in ("", *DTYPES):
        raise RequestError(f"format {to[:20]!r}, precision {precision[:20]!r}: expected those that the page offers")
    path = desk.file(name)
    base = desk.doctor.base(path)
    here = base is desk.doctor.opened
    # What is plain LoRA already stays as it is, whatever was asked.
    plain = plain and not desk.doctor.header(path).plain
    # The base's own weights, which DoRA needs, are not those of the base while it draws.
    turn = Turns(desk.config.runs / ".turns")() if plain and here else nullcontext()
    with desk.doctor.reading, desk.pending.folder() as folder, turn:
        out = folder / f"{name}-{to}{'' if to == 'peft' else '.safetensors'}"
        weights = weights_of(desk.model.parts) if plain and here else None
        error = WITHIN if plain else None
        made = convert(path, to, out, dtype=DTYPES.get(precision), max_error=error, base=base, weights=weights)
        file = zipped(out) if to == "peft" else out
        key = desk.pending.keep(user, CONVERTED, file)
    return converted_row(made, key, file) | {"adds": here and to != "peft"}


def zipped(folder: Path) -> Path:
    """A folder as one .zip beside it; the folder goes."""
    file = Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))
    shutil.rmtree(folder)
    return file


def converted_row(made: Converted, key: str, file: Path) -> dict:
    """A copy for a page."""
    return {
        "key": key, "file": file.name, "size": file.stat().st_size, "layers": made.modules, "error": made.error,
        "approximation": made.approximation, "worst": made.worst[1],
    }  # fmt: skip
