"""One picture file -> an upright RGB picture in sRGB, or one line that says why not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from .reading import bad, one_line, open_file

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MIN_SIDE, MAX_SIDE, MAX_PIXELS = 16, 16_384, 100_000_000
# What decoders raise about bytes they cannot use; anything else is a bug and shows itself.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)


def square(picture: Image.Image, px: int) -> Image.Image:
    """The picture resized so that its shorter side is `px`, and its central (px, px) part."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # Resizing only the part that is kept: a 16 x 16,000 strip would otherwise grow to a billion pixels first.
    return picture.resize((px, px), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def open_picture(path: Path, name: str) -> Image.Image:
    """The file as an upright RGB picture in sRGB, alpha over white. Raises ImageFolderError, beginning with `name`."""
    with open_file(path, name) as file:
        try:
            picture = read_header(file, name)
            check_size(picture.size, name)
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                bad(name, f"an animation of {frames} frames", "a still picture; save one of them or remove it")
            picture.load()
            picture = ImageOps.exif_transpose(picture)
        except DECODER_ERRORS as error:
            reason = one_line(str(error))[:80] or type(error).__name__
            bad(name, f"damaged or incomplete data ({reason})", "a whole picture; copy or save it again, or remove it")
    return to_srgb(picture, name)


def read_header(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """The picture, not decoded yet: by what the file contains, whatever its name ends in."""
    start = file.read(12)
    file.seek(0)
    # Image.open would warn of large pictures or refuse them by a limit that belongs to the whole process, and would
    # try every format there is; here the limits are difflora's own.
    if start.startswith(b"\x89PNG"):
        return PngImageFile(file)
    if start.startswith(b"\xff\xd8"):
        return JpegImageFile(file)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return WebPImageFile(file)
    found = f"data that begin with {start[:8]!r}" if start else "an empty file"
    return bad(name, found, "PNG, JPEG or WebP; save it as one")


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise ImageFolderError unless (width, height) in pixels can be learnt from and decoded safely."""
    found = f"{size[0]:,} x {size[1]:,} pixels"
    if min(size) < MIN_SIDE:
        bad(name, found, f"sides of at least {MIN_SIDE}; remove it")
    if max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
        bad(name, found, f"sides up to {MAX_SIDE:,} and at most {MAX_PIXELS // 10**6} megapixels; make it smaller")


def to_srgb(picture: Image.Image, name: str) -> Image.Image:
    """The picture as RGB over white, its colours taken through the embedded profile when there is one."""
    embedded, alpha = picture.info.get("icc_profile"), None
    if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip instead of scaling
        tones, clear = picture.convert("I"), picture.info.get("transparency")
        picture = tones.point(lambda value: value / 257).convert("L")
        if isinstance(clear, int):
            alpha = Image.fromarray(np.where(np.asarray(tones) == clear, 0, 255).astype(np.uint8))
    elif picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        alpha, picture = rgba.getchannel("A"), rgba.convert("L" if picture.mode.startswith("L") else "RGB")
    if embedded:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
            mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(profile.profile.xcolor_space.strip())
            # A grey or CMYK profile on a picture of another kind says nothing about its colours.
            if mode in ("RGB", picture.mode):
                srgb = ImageCms.createProfile("sRGB")
                picture = ImageCms.profileToProfile(picture.convert(mode), profile, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            bad(name, f"a damaged colour profile ({one_line(str(error))[:80]})", "a readable one; save it as sRGB")
    page = Image.new("RGB", picture.size, "white")
    page.paste(picture.convert("RGB"), mask=alpha)
    return page
