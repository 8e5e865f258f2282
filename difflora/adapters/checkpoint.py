"""A whole base model on the disk, and where in it each module lies: a diffusers folder, or one original file.

Reads headers only; loads no network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import AdapterFileError, BaseModelError
from .forms import arrow
from .header import PICKLES, shown, shown_path
from .library import SUFFIX
from .names import Shapes, lookup, place
from .networks import CONFIGS, modules
from .original import LAYOUTS, Place, misfits, other_places, weight_places
from .places import NETWORKS
from .table import Table, read_table

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model_index.json"
CROSS = ".attn2.to_k"
OTHER_FORMS = (*PICKLES, ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb", ".xml")
"""How files end that hold the same weights for other programs."""
SAFE_WAY = (
    "convert it with torch.load(FILE, weights_only=True) and safetensors.torch.save_file, or get the .safetensors "
    "version of it"
)
MEASURED = ("unet", "text_encoder", "text_encoder_2", "vae")


@dataclass(frozen=True)
class Part:
    """One file with weights."""

    table: Table
    places: Mapping[str, Place] = field(default_factory=dict)
    """Where the weight of each module lies that it holds, by path."""
    others: Mapping[str, Place] = field(default_factory=dict)
    """The same of all other tensors, by the name that they have in a folder."""
    network: str = ""
    """unet, text_encoder or text_encoder_2 where the folder says so."""


@dataclass(frozen=True)
class Checkpoint:
    """A base model and its files."""

    path: Path
    family: str
    shapes: Shapes
    """Of the weight of each module that an adapter may change, by path."""
    parts: tuple[Part, ...]
    copied: tuple[Path, ...] = ()
    """The other files of a folder, from the folder on."""
    left: tuple[Path, ...] = ()
    """Files of a folder that hold the same weights in another form."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a diffusers folder."""
        return self.path.is_dir()

    @cached_property
    def _names(self) -> dict[str, str]:
        return lookup(self.shapes)

    def path_of(self, path: str) -> str | None:
        """The module that a path of an open model means; text encoders are spelt in two ways there."""
        network, _, inner = path.partition(".")
        return path if path in self.shapes else self._names.get(place(network, inner))

    def weight(self, path: str) -> Tensor:
        """The weight of a module as it is stored; of several copies the most exact one."""
        found = [(part.table, part.places[path]) for part in self.parts if path in part.places]
        return stored_at(*max(found, key=lambda one: one[0].rows[one[1].key].size))


def stored_at(table: Table, place: Place) -> Tensor:
    """What lies at a place; AdapterFileError where it cannot be read."""
    from .stream import tensor_of

    with table.path.open("rb") as file:
        return place.of(tensor_of(file, table, place.key))


def open_checkpoint(path: Path) -> Checkpoint:
    """A diffusers folder, or a .safetensors file of Stable Diffusion 1.x, 2.x or XL in the original layout.

    Raises BaseModelError, in one line, for what is neither: a pickle, a folder without a UNet, other layers.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path)
        if path.suffix.lower() in PICKLES:
            raise BaseModelError(
                f"base {shown_path(path)}: a {path.suffix.lower()} file can run code when it is opened; expected "
                f".safetensors; {SAFE_WAY}"
            )
        if path.suffix != SUFFIX or not path.exists():
            raise BaseModelError(
                f"base {shown_path(path)}: no such folder or file; expected tiny, a diffusers folder, or a "
                ".safetensors file in the original layout"
            )
        return _file(path)
    except AdapterFileError as error:
        raise BaseModelError(f"base {error}") from None
    except (OSError, ValueError) as error:
        why = shown(getattr(error, "strerror", None) or error)
        raise BaseModelError(
            f"base {shown_path(path)}: cannot be read ({why}); check the path and its rights"
        ) from None


def _file(path: Path) -> Checkpoint:
    """A single file, its family told by the layers of its UNet."""
    table = read_table(path)
    found = {key: row.shape for key, row in table.rows.items()}
    counts: dict[str, tuple[int, int]] = {}
    for family in LAYOUTS:
        shapes = modules(family)
        places = weight_places(family, found)
        wrong = set(misfits(places, shapes, found))
        # Inpainting models have a wider first layer than their family.
        net = [name for name in places if name.startswith("unet.") and name != "unet.conv_in"]
        counts[family] = len(net) - len(wrong & set(net)), len(net)
        if not wrong & set(net) and places["unet.conv_in"].key in found:
            own = {name: shape for name, shape in shapes.items() if name not in wrong}
            own["unet.conv_in"] = found[places["unet.conv_in"].key]
            own = {name: own[name] for name in shapes if name in own}
            there = {name: places[name] for name in own}
            return Checkpoint(path, family, own, (Part(table, there, _rest(family, table, there)),))
    best = max(counts, key=lambda family: counts[family])
    fit, of = counts[best]
    raise BaseModelError(
        f"base {shown_path(path)}: its layers fit no family that is known here ({', '.join(LAYOUTS)}); {fit} of {of} "
        f"layers of {best} are there; expected a checkpoint with original names, or a diffusers folder"
    )


def _rest(family: str, table: Table, places: Mapping[str, Place]) -> dict[str, Place]:
    """All that is no weight of a module, under the names of a folder where those are known."""
    known = other_places(family, table.rows)
    taken = {where.key for where in (*known.values(), *places.values())}
    return known | {key: Place(key) for key in table.rows if key not in taken}


def _folder(path: Path) -> Checkpoint:
    """A diffusers folder; of a network with several variants all are kept."""
    if not (path / "unet").is_dir():
        raise BaseModelError(f"base {shown_path(path)}: no unet there; expected a diffusers folder with unet/, vae/ …")
    files = [file.relative_to(path) for file in _files(path)]
    parts, copied, left = [], [], []
    for file in files:
        network, ending = file.parts[0] if len(file.parts) == 2 else "", file.suffix.lower()
        if network in NETWORKS and ending == SUFFIX:
            parts.append(_part(read_table(path / file), network))
        elif (network in NETWORKS or len(file.parts) == 1) and ending in (*OTHER_FORMS, SUFFIX):
            left.append(file)
        else:
            copied.append(file)
    for network in NETWORKS:
        if (path / network).is_dir() and network not in {part.network for part in parts}:
            raise _no_weights(path, network, left)
    shapes: dict[str, tuple[int, ...]] = {}
    for part in parts:
        for name, where in part.places.items():
            shape = part.table.rows[where.key].shape
            if shapes.setdefault(name, shape) != shape:
                raise BaseModelError(
                    f"base {shown_path(part.table.path)}: {shown(name)} is {arrow(shape)}, in another file of it "
                    f"{arrow(shapes[name])}; expected variants of one model; take one of them out"
                )
    return Checkpoint(path, _family(shapes), shapes, tuple(parts), tuple(copied), tuple(left))


def _no_weights(path: Path, network: str, left: list[Path]) -> BaseModelError:
    pickles = [file for file in left if file.parts[0] == network and file.suffix.lower() in PICKLES]
    why = f"{shown(pickles[0])} can run code when it is opened" if pickles else f"no weights in {network}"
    return BaseModelError(f"base {shown_path(path)}: {why}; expected {network}/*.safetensors; {SAFE_WAY}")


def _files(folder: Path) -> list[Path]:
    """Regular files of a folder in order, through links as download caches have them; none that is hidden."""
    found = []
    for here, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(Path(here).relative_to(folder).parts) > 4:
            raise BaseModelError(f"base {shown_path(Path(here))}: folders in folders; expected a diffusers folder")
        found += [Path(here) / name for name in sorted(names) if not name.startswith(".")]
    return [file for file in found if file.is_file()]


def _part(table: Table, network: str) -> Part:
    """A file of one network: 2 and 4 axes are a linear layer's and a convolution's, but for embeddings."""
    places, others = {}, {}
    for key, row in table.rows.items():
        name = f"{network}.{key.removeprefix('text_model.')}"
        if key.endswith(".weight") and len(row.shape) in (2, 4) and "embeddings." not in key:
            places[name.removesuffix(".weight")] = Place(key)
        else:
            others[name] = Place(key)
    return Part(table, places, others, network)


def _family(shapes: Shapes) -> str:
    """The family by the width of the text features, as opened models tell it."""
    width = next((shape[1] for name, shape in shapes.items() if name.endswith(CROSS)), 0)
    return {network.cross_attention_dim: name for name, network in CONFIGS.items()}.get(width, f"sd-{width}")


def vae_parts(checkpoint: Checkpoint) -> list[Part]:
    """The files of a folder's picture encoder and decoder; none for a single file, which holds it itself."""
    found = [file for file in checkpoint.copied if file.parts[0] == "vae" and file.suffix == SUFFIX]
    tables = [read_table(checkpoint.path / file) for file in found]
    return [Part(t, {}, {f"vae.{key}": Place(key) for key in t.rows}, "vae") for t in tables]
