"""Tensors by the names in files <-> updates by module path. Dict in, dict out: knows no file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from ..errors import AdapterFileError
from .adapter import Factors, Update
from .blocks import sgm_paths
from .fitting import module_name, sort_keys
from .forms import Form
from .header import shown
from .names import (
    ALPHA,
    COLUMNS,
    DIFF,
    DOWN,
    MID,
    ROWS,
    UP,
    Shapes,
    all_names,
    module_of,
)
from .networks import modules
from .settings import Settings, settings_rows
from .updates import Decomposed, Hadamard, Kronecker, Whole, tucker

NUMBERED = ("sdxl",)
"""Families with two text encoders, whose files use the original block names."""


def read_layers(
    tensors: Mapping[str, Tensor],
    shapes: Shapes,
    settings: Mapping[str, Settings] | None = None,
    part: str = "",
) -> dict[str, Update]:
    """Updates by real module path, shaped for the base, in the order of the base; raises AdapterFileError.

    settings: by network, "" for any; they scale what has PEFT's names and no alpha of its own. A missing alpha is the
    rank of that module everywhere else. 1x1 convolutions and linear layers may stand in for each other.
    """
    reading = sort_keys({key: tuple(value.shape) for key, value in tensors.items()}, shapes, part)
    layers = {}
    for path, keys in reading.found.modules.items():
        parts = {part: tensors[key] for part, key in keys.items()}
        alpha = alpha_of(path, keys, parts, reading.forms[path], settings or {})
        layers[path] = update_of(parts, reading.forms[path], shapes[path], alpha)
    return layers


def alpha_of(
    path: str, keys: Mapping[str, str], parts: Mapping[str, Tensor], form: Form, settings: Mapping[str, Settings]
) -> float:
    """A module's alpha, its scale times its rank; the scale itself where it has no rank."""
    unit = form.rank or 1
    if ALPHA in parts:
        # LyCORIS ignores the alpha of a LoKr without a rank, and so does whoever reads its files.
        return float(parts[ALPHA].item()) if form.rank else 1.0
    told = told_of(path, keys, settings)
    if told is None:
        return float(unit)
    if wrong := disagreement(path, keys, form, settings):
        # PEFT refuses such a file too: which of the two the scale was made for is for nobody to guess.
        raise AdapterFileError(f"{shown(path)} {wrong}; expected one; save it again")
    return told.scale(module_of(path), form.rank) * unit


def told_of(path: str, keys: Mapping[str, str], settings: Mapping[str, Settings]) -> Settings | None:
    """The settings that scale a module: those of its network, for names that are not kohya's or LyCORIS'."""
    told = settings.get(path.partition(".")[0]) or settings.get("")
    return None if module_name(keys).startswith(("lora_", "lycoris_")) else told


def disagreement(path: str, keys: Mapping[str, str], form: Form, settings: Mapping[str, Settings]) -> str:
    """How a module's rank differs from the one that its settings say, or nothing."""
    told = told_of(path, keys, settings)
    if told is None or ALPHA in keys or form.kind.endswith("LoKr") or not form.rank:
        return ""
    said = told.rank_of(module_of(path))
    return "" if said == form.rank else f"has rank {form.rank}, its settings say {said}"


def update_of(parts: Mapping[str, Tensor], form: Form, shape: tuple[int, ...], alpha: float) -> Update:
    """The update that a module's parts make for a weight of that shape."""
    inner = {name: part for name, part in parts.items() if name not in (ALPHA, COLUMNS, ROWS)}
    if DOWN in parts:
        update: Update = factors_of(inner, shape, alpha)
    elif DIFF in parts:
        update = Whole(parts[DIFF].reshape(shape), shape)
    elif form.kind.endswith("LoHa"):
        update = Hadamard(inner, alpha, shape)
    else:
        update = Kronecker(inner, alpha / (form.rank or 1), shape)
    magnitude = parts.get(COLUMNS, parts.get(ROWS))
    if magnitude is None:
        return update
    ones = (1,) * (len(shape) - 2)
    columns = COLUMNS in parts and magnitude.dim() > 1 and magnitude.shape[0] == 1 and magnitude.shape[1] == shape[1]
    return Decomposed(update, magnitude.reshape((1, shape[1], *ones) if columns else (shape[0], 1, *ones)))


def factors_of(parts: Mapping[str, Tensor], shape: tuple[int, ...], alpha: float) -> Factors:
    """Plain factors; a middle one goes into the lower."""
    down, up = parts[DOWN], parts[UP]
    if MID in parts:
        down = tucker(parts[MID], torch.eye(parts[MID].shape[0]), down)
    rank = down.shape[0]
    return Factors(down.reshape(rank, *shape[1:]), up.reshape(shape[0], rank, *[1] * (len(shape) - 2)), alpha)


def to_kohya(layers: Mapping[str, Update], family: str = "") -> dict[str, Tensor]:
    """`<name>.lora_down.weight`, `.lora_up.weight`, `.alpha` (float32, 0-dim); LyCORIS' parts for other kinds.

    SDXL has original block names and numbered text encoders (lora_te1_, lora_te2_), all others their own blocks and
    lora_te_ (sd-scripts networks/lora.py). Where alphas differ within a network and each is its module's rank, none is
    written: every program reads that as a scale of 1, while of different alphas diffusers takes the commonest for all
    attention layers. Raises AdapterFileError when two modules share a name.
    """
    tensors: dict[str, Tensor] = {}
    silent = mixed_alphas(layers) and all(isinstance(u, Factors) and u.alpha == u.rank for u in layers.values())
    for name, path in all_names(layers, block_names(layers, family)).items():
        for part, tensor in layers[path].tensors().items():
            if silent and part == ALPHA:
                continue
            ending = f"{part}.weight" if part in (DOWN, UP) else part
            tensors[f"{name}.{ending}"] = tensor.detach()
    return tensors


def mixed_alphas(layers: Mapping[str, Update]) -> bool:
    """Whether some network has plain factors of different alphas, and nothing but plain factors."""
    alphas: dict[str, set[float]] = {}
    for path, update in layers.items():
        if not isinstance(update, Factors):
            return False
        alphas.setdefault(path.partition(".")[0], set()).add(update.alpha)
    return any(len(values) > 1 for values in alphas.values())


def block_names(layers: Mapping[str, object], family: str) -> Mapping[str, str] | None:
    """Original block names by path for families whose files use them; none, and no numbers, for the others."""
    if family in NUMBERED:
        return original_blocks(family)
    return {} if any(path.startswith("text_encoder_2.") for path in layers) else None


@cache
def original_blocks(family: str) -> Mapping[str, str]:
    """The original block name of every module of a family's UNet."""
    return sgm_paths([path for path in modules(family) if path.startswith("unet.")])


def to_peft(layers: Mapping[str, Update]) -> dict[str, tuple[dict[str, Tensor], dict[str, object]]]:
    """(tensors by name within the network, settings) of each network, for factors whose alpha is their rank.

    Raises AdapterFileError for kinds that PEFT's LoRA does not know, or knows otherwise.
    """
    networks: dict[str, tuple[dict[str, Tensor], dict[str, int]]] = {}
    decomposed = {path for path, update in layers.items() if isinstance(update, Decomposed)}
    for path, update in layers.items():
        plain = update.inner if isinstance(update, Decomposed) else update
        if not isinstance(plain, Factors):
            raise AdapterFileError(
                f"{shown(path)} is {update.kind}, which diffusers and PEFT do not load as LoRA; expected plain LoRA; "
                "write it --to kohya, or make it plain with --rank"
            )
        network, _, rest = path.partition(".")
        tensors, ranks = networks.setdefault(network, ({}, {}))
        tensors |= {f"{rest}.lora_A.weight": plain.down.detach(), f"{rest}.lora_B.weight": plain.up.detach()}
        ranks[rest.removeprefix("text_model.")] = plain.rank
        if isinstance(update, Decomposed):
            tensors[f"{rest}.lora_magnitude_vector"] = rows_of(path, update)
    mixed = [path for path in layers if path not in decomposed] if decomposed else []
    if mixed:
        raise AdapterFileError(
            f"{shown(mixed[0])} has no magnitude, others have: PEFT has it for all; write it --to kohya"
        )
    return {name: (tensors, settings_rows(ranks, bool(decomposed))) for name, (tensors, ranks) in networks.items()}


def rows_of(path: str, update: Decomposed) -> Tensor:
    """The magnitude as PEFT keeps it; AdapterFileError when it is for inputs."""
    if not update.by_output:
        raise AdapterFileError(
            f"{shown(path)} is DoRA with a magnitude for each input, PEFT's has one for each output: another "
            "method; write it --to kohya, or make it plain with --rank"
        )
    flat = update.magnitude.detach().flatten()
    return flat if len(update.shape) == 2 else flat.reshape(1, -1, *[1] * (len(update.shape) - 2))
