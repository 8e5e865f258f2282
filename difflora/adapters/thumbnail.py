"""Small pictures inside files of strangers: drawn anew or left out, so that their bytes never reach a browser."""

from __future__ import annotations

import base64
import warnings
from io import BytesIO

from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 2**20
MAX_SIDE = 1024
SIDE = 256


def clean_thumbnail(data: bytes) -> bytes:
    """The picture as a fresh WebP of at most 256 px a side; nothing for anything odd.

    Odd is whatever is not a PNG, JPEG or WebP of at most 1 MB and 1024 px a side, or cannot be decoded.
    """
    if not 0 < len(data) <= MAX_BYTES:
        return b""
    try:
        # Pillow warns of large pictures, which are refused here anyway, and of odd ones.
        with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(data), formats=FORMATS) as picture:
            if max(picture.size) > MAX_SIDE:
                return b""
            copy = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
        copy.info.clear()
        copy.thumbnail((SIDE, SIDE))
        buffer = BytesIO()
        copy.save(buffer, format="WEBP", quality=85)
    except Exception:  # Decoders fail in many ways on what strangers wrote, and a picture is all that is lost.
        return b""
    return buffer.getvalue()


def thumbnail_in(url: str) -> bytes:
    """The clean picture of a data URL; nothing for anything odd."""
    kind, comma, text = url[: MAX_BYTES * 3 // 2].partition(",")
    if not comma or not kind.startswith("data:image/") or not kind.endswith(";base64"):
        return b""
    try:
        return clean_thumbnail(base64.b64decode(text, validate=True))
    except ValueError:
        return b""
