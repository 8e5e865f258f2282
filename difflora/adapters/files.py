"""Adapters as files: the only door to safetensors.

Everything about a file that can be known from its header is checked before its numbers are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import AdapterFileError, OutputError
from .adapter import Adapter, Info, Update
from .dialects import mixed_alphas, read_layers, to_kohya, to_peft
from .disk import content_sha256, sha256, writable_folder, write_atomic, write_folder
from .fitting import check_fit
from .forms import forms_by_name
from .header import Header, parse_header, read_header, shown, shown_path, unreadable
from .library import adapter_named, adapter_names, find_adapter, style_name
from .metadata import complete, style_metadata
from .names import Shapes, diffusers_name
from .packing import pack
from .places import CONFIG, MODEL, sources
from .precision import stored
from .settings import HEADER_KEY

__all__ = [
    "Header", "adapter_named", "adapter_names", "check_fit", "content_sha256", "find_adapter",
    "load_adapter", "load_tensors", "pack", "read_header", "save_adapter", "save_tensors", "sha256", "style_metadata",
    "writable_folder", "write_atomic",
]  # fmt: skip

Dialect = Literal["kohya", "diffusers", "peft"]


def load_adapter(path: Path, shapes: Shapes, family: str = "") -> Adapter:
    """Read an adapter, a file or a folder, for the base whose module shapes are given; its numbers keep their dtype.

    family: the base's, such as "tiny" or "sd1"; a file that says it is made for another is refused. Raises
    AdapterFileError, in one line with the path, for a file that is damaged, hostile, not finite, or does not fit.
    """
    path = Path(path)
    layers: dict[str, Update] = {}
    found = sources(path)
    for source in found:
        try:
            check_fit(source.header, shapes, family, source.part)
        except AdapterFileError as error:
            raise AdapterFileError(f"{shown_path(source.file)}: {error}") from None
        tensors = read_tensors(source.file)
        try:
            check_finite(tensors)
            layers |= read_layers(tensors, shapes, source.settings, source.part)
        except AdapterFileError as error:
            raise AdapterFileError(f"{shown_path(source.file)}: {error}") from None
    return Adapter({name: layers[name] for name in shapes if name in layers}, info_of(path, found[0].header, family))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The numbers of a file whose header was checked; raises AdapterFileError, with the path."""
    try:
        return safetensors.torch.load(file.read_bytes())
    except MemoryError:
        raise AdapterFileError(
            f"{shown_path(file)}: {file.stat().st_size:,} bytes; expected what the memory holds; take another file"
        ) from None
    except (OSError, SafetensorError) as error:
        raise unreadable(file, error) from None


def info_of(path: Path, header: Header, family: str = "") -> Info:
    """What a header says of the adapter at a path, as text that may be shown."""
    known = header.metadata
    return Info(
        name=shown(known.get("ss_output_name") or style_name(path)),
        family=shown(known.get("difflora.family") or family),
        base=shown(known.get("difflora.base", ""), 1000),
        trigger=shown(known.get("modelspec.trigger_phrase", "")),
        metadata=known,
    )


def save_adapter(
    path: Path,
    adapter: Adapter,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
    dialect: Dialect = "kohya",
) -> Path:
    """Write an adapter, whole or not at all, and return the path.

    What the numbers are goes into the header whatever the metadata says of them, and so do the hashes that other tools
    trust, computed from the numbers as stored. dtype: float16, bfloat16 or float32; below float32 a layer whose update
    would suffer is stored in float32 instead. dialect: kohya or diffusers, a file each, or peft, a folder; in the last
    two, and where alphas differ within a network, the scale goes into the factors and no alpha is written. Raises
    OutputError for a place that cannot be written, or an adapter that `load_adapter` would refuse.
    """
    path = Path(path)
    try:
        if not adapter.layers:
            raise AdapterFileError("the adapter has no layers; expected at least one; train or blend one first")
        fold = dialect != "kohya" or mixed_alphas(adapter.layers)
        layers = {name: stored(update, dtype, fold) for name, update in adapter.layers.items()}
        rows = complete(metadata, replace(adapter, layers=layers), style_name(path))
        if dialect == "peft":
            return write_folder(path, _folder(layers, rows))
        if path.suffix != ".safetensors":
            raise OutputError(f"{shown_path(path)}: expected a name ending in .safetensors; add it")
        if dialect == "diffusers":
            write_atomic(path, _checked(*_one_file(layers, rows)))
        else:
            write_atomic(path, _checked(to_kohya(layers, adapter.info.family), rows))
    except AdapterFileError as error:
        raise OutputError(f"{shown_path(path)} is not written: {error}") from None
    return path


def _one_file(layers: Mapping[str, Update], rows: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All networks in one file, as diffusers' save_lora_weights writes it."""
    tensors, settings = {}, {}
    for network, (parts, told) in to_peft(layers).items():
        for name, value in parts.items():
            module, dot, part = name.partition(".lora_")
            tensors[f"{diffusers_name(f'{network}.{module}')}{dot}{part}"] = value
        settings |= {f"{network}.{key}": value for key, value in told.items()}
    return tensors, rows | {"format": "pt", HEADER_KEY: json.dumps(settings)}


def _folder(layers: Mapping[str, Update], rows: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a folder as PEFT's save_pretrained writes it, one below for each network unless there is one."""
    files = {}
    networks = to_peft(layers)
    for network, (parts, told) in networks.items():
        place = f"{network}/" if len(networks) > 1 else ""
        tensors = {f"base_model.model.{name}": value for name, value in parts.items()}
        files[place + MODEL] = _checked(tensors, dict(rows) | {"format": "pt"})
        config = {"peft_type": "LORA", "base_model_name_or_path": None, "inference_mode": True, **told}
        files[place + CONFIG] = json.dumps(config, indent=2).encode()
    return files


def _checked(tensors: Mapping[str, Tensor], rows: Mapping[str, str]) -> bytes:
    """The bytes of a file that `load_adapter` reads; AdapterFileError for one that it would refuse."""
    check_finite(tensors)
    data = encode(tensors, rows)
    header = parse_header(data[: 8 + int.from_bytes(data[:8], "little")], len(data))
    for name, form in forms_by_name(header.shapes()).items():
        if form.trouble:
            raise AdapterFileError(f"{shown(name)} {form.trouble}; train or make it again")
    return data


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as they are, whole or not at all, such as the state a run goes on from; raises OutputError."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, safetensors.torch.save(plain, dict(metadata)))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of `save_tensors`; raises AdapterFileError for a file that is not whole."""
    header = read_header(path)
    return read_tensors(Path(path)), header.metadata


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise AdapterFileError(
                f"{shown(name)} holds values that are not finite; expected numbers only; train it again with a lower "
                "learning rate, or get it again"
            )


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of the file: same tensors and metadata, same bytes (safetensors itself shuffles the metadata)."""
    plain = safetensors.torch.save(dict(tensors))
    start = 8 + int.from_bytes(plain[:8], "little")
    return pack(json.loads(plain[8:start]), plain[start:], metadata)
