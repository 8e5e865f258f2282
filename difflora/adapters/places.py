"""Where the parts of an adapter lie: one file, or a folder as PEFT and diffusers write it. Reads headers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import AdapterFileError
from .header import PICKLES, Header, read_header, shown, shown_path, unreadable
from .settings import Settings, parse_settings, read_settings

NETWORKS = ("unet", "transformer", "text_encoder", "text_encoder_2")
MODEL, CONFIG, BUNDLE = "adapter_model.safetensors", "adapter_config.json", "pytorch_lora_weights.safetensors"
MAX_CONFIG = 2**22


@dataclass(frozen=True)
class Source:
    """One safetensors file of an adapter, its header read and checked."""

    file: Path
    header: Header
    settings: Mapping[str, Settings]
    """By network, "" for any."""
    part: str = ""
    """The network that its names are in, where the folder says so."""


def sources(path: Path) -> list[Source]:
    """The files of an adapter: itself, or those of a folder; raises AdapterFileError.

    A folder holds adapter_model.safetensors with adapter_config.json, one such folder a network (unet or
    transformer, text_encoder, text_encoder_2), or pytorch_lora_weights.safetensors.
    """
    path = Path(path)
    try:
        return _sources(path)
    except OSError as error:
        raise unreadable(path, error) from None


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter as PEFT or diffusers writes it."""
    places = (folder / BUNDLE, folder / MODEL, *(folder / network / MODEL for network in NETWORKS))
    return any(place.is_file() for place in places)


def _sources(path: Path) -> list[Source]:
    if not path.is_dir():
        return [_file(path)]
    if (path / BUNDLE).exists():
        return [_file(path / BUNDLE)]
    if (path / MODEL).exists():
        return [_file(path / MODEL)]
    found = [_file(path / network / MODEL, network) for network in NETWORKS if (path / network / MODEL).exists()]
    if not found:
        pickles = [file.name for file in sorted(path.iterdir()) if file.suffix.lower() in PICKLES]
        why = f"{shown(pickles[0])} can run code when it is opened" if pickles else "no adapter in it"
        raise AdapterFileError(
            f"{shown_path(path)}: {why}; expected {MODEL} with {CONFIG}, or {BUNDLE}; save it again as safetensors"
        )
    return found


def _file(file: Path, part: str = "") -> Source:
    header = read_header(file)
    try:
        settings = dict(read_settings(header.metadata))
    except AdapterFileError as error:
        raise AdapterFileError(f"{shown_path(file)}: {error}") from None
    config = file.with_name(CONFIG)
    if file.name == MODEL and (config.exists() or config.is_symlink()):
        settings = {"": _config(config)}
    return Source(file, header, settings, part)


def _config(file: Path) -> Settings:
    try:
        if not file.is_file():
            raise AdapterFileError("not a regular file; expected the settings of an adapter; save it again")
        if file.stat().st_size > MAX_CONFIG:
            raise AdapterFileError(f"{file.stat().st_size:,} bytes; expected at most 4 MB of settings; save it again")
        return parse_settings(file.read_text(encoding="utf-8"))
    except AdapterFileError as error:
        raise AdapterFileError(f"{shown_path(file)}: {error}") from None
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from None
