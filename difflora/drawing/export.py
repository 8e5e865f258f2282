"""A blend as one file: what it will be, writing it, and the proof that it draws the same picture."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..adapters.adapter import Adapter, Info
from ..adapters.compress import true_error
from ..adapters.disk import take_name
from ..adapters.files import content_sha256, load_adapter, read_header, save_adapter, writable_folder
from ..adapters.forms import forms_by_name
from ..adapters.metadata import THUMBNAIL, TRIGGER, WEIGHT, data_url, now, ranks_in_words
from ..adapters.names import candidates
from ..adapters.precision import DTYPES
from ..adapters.thumbnail import clean_thumbnail
from ..config import BlendConfig
from ..errors import OutputError, RequestError
from ..events import Report, ignore
from ..models.family import BaseModel
from ..version import __version__
from .balance import Balance
from .blending import blended
from .generate import generate
from .recipe import Recipe, Style
from .styles import load_styles

BLEND, HOW = "difflora.blend", "difflora.blend_settings"
EXACT = BlendConfig(budget="sum")
# Bytes of a header beside its names: three rows a layer with dtype, shape and place, and the blend's own words.
ROW_WORDS, METADATA_WORDS, STYLE_WORDS = 62, 1180, 140
ENDINGS, PREFIX = ("lora_down.weight", "lora_up.weight", "alpha"), len("lora_unet_") - len("unet:")
HALF, ALPHA = 2, 4


@dataclass(frozen=True)
class Exported:
    """A blend that was written."""

    path: Path
    styles: tuple[Style, ...]
    """What it was made of, with what the budget made of their weights."""
    rank: str
    """ "12", or "4 to 20" when layers differ."""
    layers: int
    size: int
    """Bytes."""
    distance: float
    """Of what the method makes from the plain sum: relative, in the Frobenius norm over all layers; 0 for sum."""
    error: float
    """What cutting it to smaller ranks costs, in the same measure; 0 where nothing was cut."""
    measured: float
    """From the plain sum to the file as it was read back, with what the method, cutting and storing cost."""

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return asdict(self) | {"path": str(self.path), "styles": [source_row(style) for style in self.styles]}


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
    asked: BlendConfig = EXACT,
    *,
    base: str | None = None,
    thumbnail: bytes = b"",
    report: Report = ignore,
) -> Exported:
    """Write a blend of styles as one style of preferred weight 1, with its recipe in the header, and read it back.

    asked: the exact sum unless given. base: how the model was named when it was opened; thumbnail: a picture for its
    card, left out if it is none. Raises OutputError for a name that is taken unless `asked` forces it, RequestError for
    what no file can hold, and what `load_styles` raises.
    """
    check_out(out)
    if not asked.force and out.exists():
        raise taken(out)
    styles, made, summed = blended(styles, load_styles(styles, model), Balance(model), asked, report)
    info = Info(out.stem, model.family, base or model.name, made.adapter.info.trigger)
    adapter = replace(made.adapter, info=info)
    writable_folder(out.parent)
    write_blend(out, adapter, blend_metadata(styles, asked, adapter, clean_thumbnail(thumbnail)), asked)
    back = load_adapter(out, model.shapes(), model.family)
    ranks = ranks_in_words({update.rank for update in adapter.layers.values()})
    gap = true_error(back, summed)
    return Exported(out, tuple(styles), ranks, len(adapter), out.stat().st_size, made.distance, made.error, gap)


def write_blend(out: Path, adapter: Adapter, metadata: Mapping[str, str], asked: BlendConfig) -> None:
    """Write the file under its name, which nobody may have taken meanwhile."""
    dtype = DTYPES[asked.precision]
    if asked.force:
        save_adapter(out, adapter, metadata, dtype)
        return
    temp = out.with_name(f".{secrets.token_hex(8)}{out.suffix}")
    try:
        if not take_name(save_adapter(temp, adapter, metadata, dtype), out):
            raise taken(out)
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)


def blend_metadata(
    styles: Sequence[Style], asked: BlendConfig, summed: Adapter, thumbnail: bytes = b""
) -> dict[str, str]:
    """The header of a blend: what it was made from and how, in our words and in those of other tools."""
    name = summed.info.name
    sources = [source_row(style) for style in styles]
    how = {field.name: getattr(asked, field.name) for field in fields(BlendConfig) if field.name != "force"}
    rows = {
        "ss_output_name": name, "modelspec.title": name, "modelspec.date": now(),
        "modelspec.usage_hint": blend_hint(summed.info.trigger),
        "modelspec.merged_from": ", ".join(s.name for s in styles), "difflora.version": __version__,
        "difflora.family": summed.info.family, "difflora.base": summed.info.base, WEIGHT: "1",
        BLEND: json.dumps(sources), HOW: json.dumps(how),
    }  # fmt: skip
    rows |= {TRIGGER: summed.info.trigger} if summed.info.trigger else {}
    return rows | ({THUMBNAIL: data_url(thumbnail)} if thumbnail else {})


def source_row(style: Style) -> dict[str, object]:
    """A source of a blend: its weight as it was asked for, and what the budget made of it."""
    row = asdict(style)
    kept = ("name", "weight", "sha256", "text", "blocks", "gain")
    return {key: row[key] for key in kept if row[key] not in (None, ())}


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
    return first, second, apart(first, second)


def apart(a: Image.Image, b: Image.Image) -> int:
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
    return OutputError(f"{out} is there already; expected a free name; choose another, or --force")
