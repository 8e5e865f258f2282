"""Where single-file checkpoints in the original layout (ldm, sgm) keep what diffusers spreads over a folder.

| family | UNet | text encoders |
|---|---|---|
| sd1 | model.diffusion_model. | cond_stage_model.transformer. (CLIP) |
| sd2 | the same | cond_stage_model.model. (OpenCLIP) |
| sdxl | the same | conditioner.embedders.0.transformer. (CLIP), conditioner.embedders.1.model. (OpenCLIP) |

CLIP has the names of transformers. OpenCLIP has its own: query, key and value of a layer are one fused weight, and the
projection of the whole text is stored turned. Source: diffusers' loaders/single_file_utils.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .blocks import sgm_paths
from .networks import modules

if TYPE_CHECKING:
    from torch import Tensor

UNET = "model.diffusion_model."
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a module's weight, or another tensor, lies in a file."""

    key: str
    rows: tuple[int, int] | None = None
    """The rows of a fused weight that are its own; all of them unless given."""
    turned: bool = False
    """Whether it is stored with its axes exchanged."""

    def of(self, whole: Tensor) -> Tensor:
        """A view of its part of what is stored, with the axes of the module."""
        own = whole if self.rows is None else whole[slice(*self.rows)]
        return own.T if self.turned else own


@dataclass(frozen=True)
class Words:
    """A text encoder of a checkpoint."""

    prefix: str
    open_clip: bool = False


LAYOUTS: dict[str, tuple[Words, ...]] = {
    "sd1": (Words("cond_stage_model.transformer."),),
    "sd2": (Words("cond_stage_model.model.", open_clip=True),),
    "sdxl": (Words("conditioner.embedders.0.transformer."), Words("conditioner.embedders.1.model.", open_clip=True)),
}
"""The text encoders of each family that has such checkpoints."""
OPEN_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
OPEN_PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
}
FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
# What stands beside a module of the UNet: the module's ending -> (a norm's ending, in the original layout).
BESIDE = {
    ".conv1": ((".norm1", "in_layers.2", "in_layers.0"),),
    ".conv2": ((".norm2", "out_layers.3", "out_layers.0"),),
    ".proj_in": ((".norm", "proj_in", "norm"),),
    ".attn1.to_q": tuple((f".norm{n}", "attn1.to_q", f"norm{n}") for n in (1, 2, 3)),
    "unet.conv_out": (("unet.conv_norm_out", "out.2", "out.0"),),
}


def weight_places(family: str, keys: Container[str]) -> dict[str, Place]:
    """Where the weight of each module of a family lies, by path; keys: of the file, which spells CLIP in two ways."""
    shapes = modules(family)
    unet = sgm_paths([path for path in shapes if path.startswith("unet.")])
    places = {path: Place(f"{UNET}{name}.weight") for path, name in unet.items()}
    for path, shape in shapes.items():
        part, _, inner = path.partition(".")
        if part != "unet":
            places[path] = _in_words(words_of(family, part), f"{inner}.weight", shape[0], keys)
    return places


def words_of(family: str, part: str) -> Words:
    """Where a text encoder lies; part: text_encoder or text_encoder_2."""
    return LAYOUTS[family][int(part.removeprefix("text_encoder").removeprefix("_") or 1) - 1]


def _in_words(words: Words, name: str, width: int, keys: Container[str]) -> Place:
    """The place of a text encoder's tensor; width: its outputs."""
    if not words.open_clip:
        # Some old merges were saved without the middle name.
        spelt = [f"{words.prefix}text_model.{name}", f"{words.prefix}{name}"]
        return Place(next((key for key in spelt if key in keys), spelt[0]))
    if name == "text_projection.weight":
        return Place(f"{words.prefix}text_projection", turned=True)
    inner, _, kind = name.rpartition(".")
    number, part = OPEN_LAYER.fullmatch(inner).groups()
    layer = f"{words.prefix}transformer.resblocks.{number}."
    if part in FUSED:
        first = FUSED.index(part) * width
        return Place(f"{layer}attn.in_proj_{kind}", rows=(first, first + width))
    return Place(f"{layer}{OPEN_PARTS[part]}.{kind}")


def other_places(family: str, keys: Container[str]) -> dict[str, Place]:
    """The same for biases, norms and embeddings, by the names that they have in a folder.

    Pictures' encoder and decoder have none here: their names in both layouts follow no rule that a LoRA needs.
    """
    shapes = modules(family)
    named = sgm_paths([path for path in shapes if path.startswith("unet.")])
    places = {}
    for path, name in named.items():
        places[f"{path}.bias"] = Place(f"{UNET}{name}.bias")
        for norm, original in _norms(path, name):
            places |= {f"{norm}.{kind}": Place(f"{UNET}{original}.{kind}") for kind in ("weight", "bias")}
    for path, shape in shapes.items():
        part, _, inner = path.partition(".")
        if part != "unet" and inner != "text_projection":
            words = words_of(family, part)
            places[f"{path}.bias"] = _in_words(words, f"{inner}.bias", shape[0], keys)
            for norm in ("layer_norm1", "layer_norm2") if inner.endswith("mlp.fc1") else ():
                name = inner.replace("mlp.fc1", norm)
                for kind in ("weight", "bias"):
                    places[f"{part}.{name}.{kind}"] = _in_words(words, f"{name}.{kind}", shape[0], keys)
    for number, words in enumerate(LAYOUTS[family], 1):
        part = "text_encoder" if number == 1 else f"text_encoder_{number}"
        places |= {f"{part}.{name}": place for name, place in _ends(words, keys)}
    return {name: place for name, place in places.items() if place.key in keys}


def _norms(path: str, name: str) -> Iterator[tuple[str, str]]:
    """(path, original name) of the norms that stand beside a module."""
    for ending, rows in BESIDE.items():
        if path.endswith(ending):
            for norm, old, new in rows:
                yield path.removesuffix(ending) + norm, name.removesuffix(old) + new


def _ends(words: Words, keys: Container[str]) -> Iterator[tuple[str, Place]]:
    """What a text encoder has before its first layer and behind its last."""
    token, position = "embeddings.token_embedding.weight", "embeddings.position_embedding.weight"
    norm = "final_layer_norm"
    if words.open_clip:
        yield token, Place(f"{words.prefix}token_embedding.weight")
        yield position, Place(f"{words.prefix}positional_embedding")
        yield from ((f"{norm}.{kind}", Place(f"{words.prefix}ln_final.{kind}")) for kind in ("weight", "bias"))
    else:
        for name in (token, position, f"{norm}.weight", f"{norm}.bias"):
            yield name, _in_words(words, name, 0, keys)


def misfits(places: Mapping[str, Place], shapes: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """The paths whose place is not there, or of another size; found: shapes by key."""
    return [path for path, place in places.items() if not fits(place, shapes[path], found.get(place.key, ()))]


def fits(place: Place, shape: Shape, stored: Shape) -> bool:
    """Whether a weight of that shape lies there."""
    if place.rows is not None:
        return stored == (len(FUSED) * shape[0], *shape[1:])
    return stored == (shape[::-1] if place.turned else shape)
