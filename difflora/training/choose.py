"""A kept checkpoint becomes the style."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..adapters.edits import put_style
from ..adapters.files import read_header, writable_folder, write_atomic
from ..errors import AdapterFileError, OutputError, RequestError
from .control import alive
from .waiting import Waiting, read_toml, style_name


def checkpoint_file(folder: Path, step: int) -> Path:
    """Where a run keeps the style as learnt after `step`."""
    return folder / "checkpoints" / f"step-{step:06}.safetensors"


def kept_steps(folder: Path) -> list[int]:
    """The steps whose checkpoints a run keeps, in order."""
    found = (path.stem.removeprefix("step-") for path in (folder / "checkpoints").glob("step-*.safetensors"))
    return sorted(int(step) for step in found if step.isdecimal())


def use_checkpoint(folder: Path, step: int, loras: Path, name: str | None = None) -> Path:
    """The checkpoint of `step` becomes the run's style: in the library, and beside the run as its finished file.

    A file of that name in the library goes to its trash folder, unless it is the same. Raises RequestError for a step
    that was not kept, OutputError for a place that cannot be written.
    """
    name = name or folder.name
    file = checkpoint_file(folder, step)
    if not file.is_file():
        steps = ", ".join(map(str, kept_steps(folder))) or "none yet"
        raise RequestError(f"no checkpoint of step {step} in {folder.name}: expected one of {steps}")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise OutputError(f"{file} cannot be read ({error.strerror})") from error
    write_atomic(folder / f"{name}.safetensors", data)
    return put_style(loras / f"{name}.safetensors", data)


def choose_kept(folder: Path, step: int, loras: Path | None = None) -> Path:
    """`use_checkpoint` of a run that rests, under its style's own name, in its own library unless another is given.

    Raises RequestError, also for a run that is being trained or waits for it, and OutputError.
    """
    if alive(folder) or folder.name in Waiting(folder.parent).names():
        raise RequestError(f"{folder.name} is being trained: expected a run that rests; pause or stop it first")
    config = read_toml(folder / "config.toml")
    loras = loras or Path(str(config.get("out", "loras")))
    return use_checkpoint(folder, step, writable_folder(loras), style_name(config, folder))


def used_step(file: Path) -> int | None:
    """The step after which a style file was learnt; None where the file does not say."""
    with suppress(AdapterFileError, KeyError, ValueError):
        return int(read_header(file).metadata["ss_steps"])
    return None
