"""Adapters as files: the only door to safetensors.

Everything about a file that can be known from its header is checked before its numbers are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import AdapterFileError, OutputError
from .adapter import Adapter, Factors, Info
from .dialects import DOWN, Shapes, check_kohya, from_kohya, to_kohya
from .disk import content_sha256, sha256, writable_folder, write_atomic
from .header import Header, parse_header, read_header, shown, shown_path, unreadable
from .library import adapter_named, adapter_names, find_adapter
from .metadata import style_metadata

__all__ = [
    "Header", "adapter_named", "adapter_names", "check_fit", "content_sha256", "describe", "find_adapter",
    "load_adapter", "load_tensors", "pack", "read_header", "save_adapter", "save_tensors", "sha256", "style_metadata",
    "writable_folder", "write_atomic",
]  # fmt: skip

MAX_RANK = 4096


def load_adapter(path: Path, shapes: Shapes, family: str = "") -> Adapter:
    """Read an adapter for the base whose module shapes are given; its factors keep the dtype they are stored in.

    family: the base's, such as "tiny" or "sd1"; a file that says it is made for another is refused. Raises
    AdapterFileError, in one line with the path, for a file that is damaged, hostile, not finite, or does not fit.
    """
    path = Path(path)
    header = read_header(path)
    try:
        check_fit(header, shapes, family)
        tensors = safetensors.torch.load(path.read_bytes())
        _check_finite(tensors)
        layers = from_kohya(tensors, shapes)
    except AdapterFileError as error:
        raise AdapterFileError(f"{shown_path(path)}: {error}") from None
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from None
    known = header.metadata
    info = Info(
        name=shown(known.get("ss_output_name") or path.stem),
        family=shown(known.get("difflora.family") or family),
        base=shown(known.get("difflora.base", ""), 1000),
        trigger=shown(known.get("modelspec.trigger_phrase", "")),
        metadata=known,
    )
    return Adapter(layers, info)


def save_adapter(path: Path, adapter: Adapter, metadata: Mapping[str, str], dtype: torch.dtype = torch.float16) -> Path:
    """Write an adapter in kohya names, whole or not at all, and return the path.

    The family and base of `adapter.info` go into the header too, and so do the hashes that other tools trust, computed
    from the numbers as stored. dtype: float16, bfloat16 or float32. Below float32 the factors are balanced first, and a
    layer whose update would overflow or drown in denormals is stored in float32 instead; in float32 they are stored as
    they are, and alpha always as float32. Raises OutputError for a place that cannot be written, or an adapter that
    `load_adapter` would refuse.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise OutputError(f"{shown_path(path)}: expected a name ending in .safetensors; add it")
    known = {"difflora.family": adapter.info.family, "difflora.base": adapter.info.base}
    try:
        if not adapter.layers:
            raise AdapterFileError("the adapter has no layers; expected at least one; train or blend one first")
        _check_ranks({name: factors.rank for name, factors in adapter.layers.items()})
        tensors = to_kohya({name: _stored(factors, dtype) for name, factors in adapter.layers.items()})
        _check_finite(tensors)
        data = _encode(tensors, {key: value for key, value in known.items() if value} | dict(metadata))
        parse_header(data[: 8 + int.from_bytes(data[:8], "little")], len(data))
    except AdapterFileError as error:
        raise OutputError(f"{shown_path(path)} is not written: {error}") from None
    write_atomic(path, data)
    return path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as they are, whole or not at all, such as the state a run goes on from; raises OutputError."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, safetensors.torch.save(plain, dict(metadata)))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of `save_tensors`; raises AdapterFileError for a file that is not whole."""
    header = read_header(path)
    try:
        return safetensors.torch.load(Path(path).read_bytes()), header.metadata
    except (OSError, SafetensorError) as error:
        raise unreadable(Path(path), error) from None


def describe(path: Path) -> dict[str, object]:
    """What a style file says of itself, from its header alone; raises AdapterFileError."""
    header = read_header(path)
    known = header.metadata
    ranks = sorted({shape[0] for name, (_, shape) in header.tensors.items() if name.endswith(DOWN) and shape})
    parts = sorted({name.split("_")[1] for name in header.tensors if name.startswith("lora_")})
    values = {
        "name": known.get("ss_output_name") or Path(path).stem,
        "family": known.get("difflora.family") or known.get("ss_base_model_version") or "not said",
        "trigger": known.get("modelspec.trigger_phrase") or "none",
        "layers": sum(name.endswith(DOWN) for name in header.tensors),
        "parts": ", ".join(parts),
        "rank": ", ".join(map(str, ranks)),
        "alpha": known.get("ss_network_alpha", "in the file, per layer"),
        "made": known.get("modelspec.date", "not said"),
        "pictures": known.get("difflora.pictures", "not said"),
        "recipe": known.get("difflora.config") or known.get("difflora.blend") or "not said",
        "sha256": sha256(path),
    }
    return {name: shown(value, 2000) if isinstance(value, str) else value for name, value in values.items()}


def check_fit(header: Header, shapes: Shapes, family: str = "") -> None:
    """Raise AdapterFileError, naming no file, unless the file's tensors all have their place in the base."""
    made_for = header.metadata.get("difflora.family", "")
    if family and made_for and made_for != family:
        raise AdapterFileError(
            f"made for a base of family {shown(made_for)!r}; expected {family!r}; use the base it was made for"
        )
    _check_ranks({name: shape[0] for name, (_, shape) in header.tensors.items() if name.endswith(DOWN) and shape})
    check_kohya({name: shape for name, (_, shape) in header.tensors.items()}, shapes)


def _check_ranks(ranks: Mapping[str, int]) -> None:
    for name, rank in ranks.items():
        if rank > MAX_RANK:
            raise AdapterFileError(f"{shown(name)} has rank {rank:,}; expected at most {MAX_RANK:,}; lower its rank")


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise AdapterFileError(
                f"{shown(name)} holds values that are not finite; expected numbers only; train it again with a lower "
                "learning rate, or get it again"
            )


def _stored(factors: Factors, dtype: torch.dtype) -> Factors:
    """Factors in the dtype that keeps their update: the given one, or float32."""
    down, up = (t.detach().to("cpu", torch.float32, copy=True).contiguous() for t in (factors.down, factors.up))
    exact = replace(factors, down=down, up=up)
    if dtype == torch.float32:
        return exact
    even = exact.balanced()
    cast = replace(even, down=even.down.to(dtype), up=even.up.to(dtype))
    wanted = exact.delta()
    # Rounding moves an update by about eps / 2 of its size; overflow (inf, NaN), denormals and cancellation by more.
    kept = (cast.delta() - wanted).norm() <= 2 * torch.finfo(dtype).eps * wanted.norm()
    return cast if kept else exact


def _encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of the file: same tensors and metadata, same bytes (safetensors itself shuffles the metadata)."""
    plain = safetensors.torch.save(dict(tensors))
    start = 8 + int.from_bytes(plain[:8], "little")
    return pack(json.loads(plain[8:start]), plain[start:], metadata)


def pack(rows: Mapping[str, object], numbers: bytes | memoryview, metadata: Mapping[str, str]) -> bytes:
    """A whole file: header rows, metadata with the hashes that other tools trust, and the numbers byte for byte."""
    whole = hashlib.sha256(numbers).hexdigest()
    trained = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    legacy = (_header_bytes(rows, trained) + numbers[:0x110000])[0x100000:0x110000]
    hashes = {
        "sshs_model_hash": whole,
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{whole}",
    }
    return _header_bytes(rows, dict(metadata) | hashes) + numbers


def _header_bytes(rows: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded to 8 bytes; a file name's broken characters become question marks."""
    header = {"__metadata__": dict(sorted(metadata.items()))} | dict(rows)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
