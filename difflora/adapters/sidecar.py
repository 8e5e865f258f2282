"""What A1111 keeps beside a style: NAME.json with its words, NAME.preview.png with its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from .disk import write_atomic
from .metadata import THUMBNAIL, TRIGGER, WEIGHT
from .thumbnail import thumbnail_in

VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}


def write_sidecar(style: Path, metadata: Mapping[str, str], family: str) -> list[Path]:
    """Write both files, the picture if the header has one; InvokeAI reads the first too. Raises OutputError."""
    words = {
        "description": metadata.get("modelspec.description", ""),
        "sd version": VERSIONS.get(family, "Unknown"),
        "activation text": metadata.get(TRIGGER, ""),
        "preferred weight": weight(metadata.get(WEIGHT, "")),
        "negative text": "",
        "notes": metadata.get("modelspec.usage_hint", ""),
    }
    written = [style.with_suffix(".json")]
    write_atomic(written[0], json.dumps(words, ensure_ascii=False, indent=4).encode())
    if picture := thumbnail_in(metadata.get(THUMBNAIL, "")):
        buffer = BytesIO()
        with Image.open(BytesIO(picture)) as image:
            image.save(buffer, format="PNG")
        written.append(style.with_name(f"{style.stem}.preview.png"))
        write_atomic(written[1], buffer.getvalue())
    return written


def weight(text: str) -> float:
    """A preferred weight, 0 where there is none, as A1111 writes it."""
    with suppress(ValueError):
        return float(text)
    return 0
