"""The bytes of a safetensors file, put together from its header and its numbers. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


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
