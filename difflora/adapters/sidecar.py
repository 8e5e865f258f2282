"""What A1111 keeps beside a style: NAME.json with its words, NAME.preview.png with its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from PIL import Image

from .cards import preferred
from .disk import write_atomic
from .metadata import THUMBNAIL, TRIGGER, WEIGHT
from .thumbnail import thumbnail_in

VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}


def sidecars(style: Path) -> tuple[Path, Path]:
    """The files beside a style, a file or a folder, that hold its words and its picture."""
    name = style.stem if style.suffix == ".safetensors" else style.name
    return style.with_name(f"{name}.json"), style.with_name(f"{name}.preview.png")


def write_sidecar(style: Path, metadata: Mapping[str, str], family: str) -> None:
    """Write both files, the picture if the header has one; InvokeAI reads the first too. Raises OutputError."""
    words = {
        "description": metadata.get("modelspec.description", ""),
        "sd version": VERSIONS.get(family, "Unknown"),
        "activation text": metadata.get(TRIGGER, ""),
        # 0 is A1111's own word for no preferred weight.
        "preferred weight": preferred(metadata[WEIGHT]) if WEIGHT in metadata else 0,
        "negative text": "",
        "notes": metadata.get("modelspec.usage_hint", ""),
    }
    beside, preview = sidecars(style)
    write_atomic(beside, json.dumps(words, ensure_ascii=False, indent=4).encode())
    if picture := thumbnail_in(metadata.get(THUMBNAIL, "")):
        buffer = BytesIO()
        with Image.open(BytesIO(picture)) as image:
            image.save(buffer, format="PNG")
        write_atomic(preview, buffer.getvalue())
