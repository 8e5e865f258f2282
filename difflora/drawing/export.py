"""A blend as one file: what it will be, writing it, and the proof that it draws the same picture."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..adapters.adapter import Adapter, Info
from ..adapters.blend import blend
from ..adapters.disk import take_name
from ..adapters.files import content_sha256, load_adapter, read_header, save_adapter, writable_folder
from ..adapters.forms import forms_by_name
from ..adapters.metadata import THUMBNAIL, TRIGGER, WEIGHT, data_url, now, ranks_in_words
from ..adapters.names import candidates
from ..adapters.thumbnail import clean_thumbnail
from ..errors import OutputError, RequestError
from ..models.family import BaseModel
from ..version import __version__
from .generate import generate
from .recipe import Recipe, Style
from .styles import load_styles

# Bytes of a header beside its names: three rows a layer with dtype, shape and place, and the blend's own words.
ROW_WORDS, METADATA_WORDS, STYLE_WORDS = 62, 1180, 140
ENDINGS, PREFIX = ("lora_down.weight", "lora_up.weight", "alpha"), len("lora_unet_") - len("unet:")
HALF, ALPHA = 2, 4


@dataclass(frozen=True)
class BlendFacts:
    """What a blend will be as one file."""

    rank: str
    """ "12", or "4 to 20" when layers differ."""
    size: int
    """Bytes, foretold within a few parts in a hundred; a layer that half precision cannot hold takes more."""
    layers: int


def blend_facts(styles: Sequence[Style]) -> BlendFacts:
    """Rank, size and layers of the exact sum, from the styles' headers alone; raises AdapterFileError."""
    ranks: dict[str, int] = {}
    numbers = 0
    for style in styles:
        for name, form in forms_by_name(read_header(Path(style.path)).shapes()).items():
            if form.trouble:
                continue
            place = candidates(name)[1][0]
            ranks[place] = ranks.get(place, 0) + form.plain
            numbers += HALF * form.plain * (form.shape[0] + math.prod(form.shape[1:]))
    networks = {(place.partition(":")[0], rank) for place, rank in ranks.items()}
    # A file whose ranks differ within a network has no alphas.
    endings = ENDINGS if len(networks) == len(dict(networks)) else ENDINGS[:2]
    words = sum(len(place) + PREFIX + len(ending) + ROW_WORDS for place in ranks for ending in endings)
    words += METADATA_WORDS + STYLE_WORDS * len(styles) if styles else 0
    numbers += ALPHA * len(ranks) * (len(endings) - 2)
    return BlendFacts(ranks_in_words(ranks.values()), numbers + words, len(ranks))


def export(
    styles: Sequence[Style],
    out: Path,
    model: BaseModel,
    *,
    base: str | None = None,
    thumbnail: bytes = b"",
    overwrite: bool = False,
) -> Path:
    """Write the exact sum of styles as one style of preferred weight 1, with its recipe in the header.

    base: how the model was named when it was opened; thumbnail: a picture for its card, left out if it is none.
    Raises OutputError for a name that is taken unless told to overwrite, and what `load_styles` raises.
    """
    check_out(out)
    if not overwrite and out.exists():
        raise taken(out)
    adapters = load_styles(styles, model)
    writable_folder(out.parent)
    triggers = ", ".join(dict.fromkeys(a.info.trigger for a in adapters.values() if a.info.trigger))
    info = Info(out.stem, model.family, base or model.name, triggers)
    summed = blend([adapters[s.name] for s in styles], [s.weight for s in styles], info)
    metadata = blend_metadata(styles, summed, clean_thumbnail(thumbnail))
    if overwrite:
        return save_adapter(out, summed, metadata)
    temp = out.with_name(f".{secrets.token_hex(8)}{out.suffix}")
    try:
        if not take_name(save_adapter(temp, summed, metadata), out):
            raise taken(out)
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
    return out


def blend_metadata(styles: Sequence[Style], summed: Adapter, thumbnail: bytes) -> dict[str, str]:
    """The header of a blend: what it was made from, in our words and in those of other tools."""
    name = summed.info.name
    sources = [{"name": s.name, "weight": s.weight, "sha256": s.sha256} for s in styles]
    rows = {
        "ss_output_name": name, "modelspec.title": name, "modelspec.date": now(),
        "modelspec.usage_hint": blend_hint(summed.info.trigger),
        "modelspec.merged_from": ", ".join(s.name for s in styles), "difflora.version": __version__,
        "difflora.family": summed.info.family, "difflora.base": summed.info.base, WEIGHT: "1",
        "difflora.blend": json.dumps(sources),
    }  # fmt: skip
    rows |= {TRIGGER: summed.info.trigger} if summed.info.trigger else {}
    return rows | ({THUMBNAIL: data_url(thumbnail)} if thumbnail else {})


def blend_hint(trigger: str) -> str:
    """How a blend is used, in a sentence."""
    hint = f"Begin the prompt with: {trigger}. " if trigger else ""
    return f"{hint}Weight 1 is the blend as it was mixed; less is milder."


def same_picture(
    model: BaseModel, recipe: Recipe, adapters: Mapping[str, Adapter], file: Path
) -> tuple[Image.Image, Image.Image, int]:
    """The recipe drawn from its stack, and from the written file alone at weight 1, with their largest difference.

    Both are drawn alone, and folded if the recipe is; raises AdapterFileError for a file that does not fit.
    """
    stacked = replace(recipe, batch=1, row=0)
    alone = replace(stacked, styles=(Style(file.stem, 1.0, str(file), content_sha256(file)),))
    written = {file.stem: load_adapter(file, model.shapes(), model.family)}
    [(_, first)], [(_, second)] = generate(model, [stacked], adapters), generate(model, [alone], written)
    return first, second, difference(first, second)


def difference(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of any channel of any pixel, 0 to 255; raises RequestError for two sizes."""
    if a.size != b.size:
        raise RequestError(f"pictures of {a.width}x{a.height} and {b.width}x{b.height}: expected one size")
    levels = [np.asarray(picture.convert("RGB")).astype(int) for picture in (a, b)]
    return int(np.abs(levels[0] - levels[1]).max(initial=0))


def check_out(out: Path) -> None:
    """RequestError unless the name is one of a style's file."""
    if out.suffix != ".safetensors":
        raise RequestError(f"--out {out}: expected a name ending in .safetensors")


def taken(out: Path) -> OutputError:
    """That a file of this name is there already."""
    return OutputError(f"{out} is there already; expected a free name; choose another")
