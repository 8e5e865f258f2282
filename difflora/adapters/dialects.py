"""Key names in files <-> module paths. Dict in, dict out: knows no file.

Kohya names (sd-scripts networks/lora.py) are a prefix and the module path with every dot turned into an underscore:
`lora_unet_down_blocks_0_…_to_q`, `lora_te_text_model_encoder_layers_0_…`. They cannot be turned back by themselves, so
they are looked up among the names that the base's own modules would have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import AdapterFileError
from .adapter import Factors
from .header import shown

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of the weight of each module of a base, by real path."""

KOHYA_VERSIONS = {"tiny": "difflora_tiny", "sd1": "sd_v1", "sd2": "sd_v2"}
ARCHITECTURES = {"tiny": "difflora-tiny/lora", "sd1": "stable-diffusion-v1/lora", "sd2": "stable-diffusion-v2/lora"}

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
FOREIGN = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "Tucker factors (lora_mid)",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_A": "PEFT names (lora_A, lora_B)",
    "lora_B": "PEFT names (lora_A, lora_B)",
    "lora.": "old diffusers names",
    "lora_linear_layer": "old diffusers names",
    "on_input": "IA3",
    "diff": "a full difference",
    "bias": "a learnt bias",
    "scale": "a separate scale",
}


def kohya_name(path: str) -> str:
    """The kohya name of a module; raises AdapterFileError for a path outside unet and text_encoder.

    The text encoder's names always hold `text_model`, whether the installed transformers has it in its paths or not.
    """
    root, _, rest = path.partition(".")
    if root == "unet" and rest:
        return "lora_unet_" + rest.replace(".", "_")
    if root == "text_encoder" and rest:
        return "lora_te_text_model_" + rest.removeprefix("text_model.").replace(".", "_")
    raise AdapterFileError(f"{shown(path)} has no kohya name; expected a module of unet or text_encoder")


def plain_name(name: str) -> str:
    """The kohya name as we write it: some files call the one text encoder the first."""
    return "lora_te_" + name.removeprefix("lora_te1_") if name.startswith("lora_te1_") else name


def to_kohya(layers: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Three tensors per module: `<name>.lora_down.weight`, `<name>.lora_up.weight`, `<name>.alpha` (float32, 0-dim).

    Raises AdapterFileError when two modules share a kohya name.
    """
    tensors: dict[str, Tensor] = {}
    for name, path in _table(layers).items():
        factors = layers[path]
        tensors[f"{name}.{DOWN}"] = factors.down.detach()
        tensors[f"{name}.{UP}"] = factors.up.detach()
        tensors[f"{name}.{ALPHA}"] = torch.tensor(factors.alpha, dtype=torch.float32)
    return tensors


def from_kohya(tensors: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Factors]:
    """Factors by real module path, shaped for the base, in the order of the base.

    A missing alpha is the rank of that module. 1x1 convolutions and linear layers may stand in for each other. Raises
    AdapterFileError as `check_kohya` does.
    """
    check_kohya({key: tuple(value.shape) for key, value in tensors.items()}, shapes)
    modules, _, _ = _sort_keys(tensors, shapes)
    layers = {}
    for path in (path for path in shapes if path in modules):
        keys, shape = modules[path], shapes[path]
        down, up = tensors[keys[DOWN]], tensors[keys[UP]]
        rank = down.shape[0]
        alpha = float(tensors[keys[ALPHA]].item()) if ALPHA in keys else float(rank)
        spread = (1,) * (len(shape) - 2)
        layers[path] = Factors(down.reshape(rank, *shape[1:]), up.reshape(shape[0], rank, *spread), alpha)
    return layers


def check_kohya(found: Shapes, shapes: Shapes) -> None:
    """Raise AdapterFileError unless every tensor, given by key and shape, has its place in the base.

    The sentence lists keys that are not understood, names that the base lacks, incomplete modules, and modules of
    another size: three of them, and how many more there are.
    """
    modules, foreign, unknown = _sort_keys(found, shapes)
    broken = [text for path, keys in modules.items() if (text := _incomplete(keys, found))]
    whole = [path for path, keys in modules.items() if not _incomplete(keys, found)]
    misfits = [text for path in whole if (text := _misfit(modules[path], found, shapes[path]))]
    _refuse(
        (foreign, "only plain LoRA in kohya names is supported; convert the file first"),
        (unknown, "use the base it was made for"),
        (broken, "the file is damaged; get it again"),
        (misfits, "made for another family; use the base it was made for"),
        ([] if found else ["no tensors in the file; expected a LoRA"], "choose another file"),
    )


def _table(paths: Iterable[str]) -> dict[str, str]:
    """Module paths by their kohya name."""
    table: dict[str, str] = {}
    for path in paths:
        other = table.setdefault(kohya_name(path), path)
        if other != path:
            raise AdapterFileError(f"{shown(path)} and {shown(other)} have one kohya name; expected different ones")
    return table


def _sort_keys(found: Iterable[str], shapes: Shapes) -> tuple[dict[str, dict[str, str]], list[str], list[str]]:
    """({path: {part: key}}, keys not understood, names not in the base)."""
    table = _table(shapes)
    modules: dict[str, dict[str, str]] = {}
    foreign, unknown = [], {}
    for key in found:
        name, _, part = key.partition(".")
        path = table.get(plain_name(name))
        if part not in (DOWN, UP, ALPHA):
            foreign.append(f"{shown(key)} is {_kind(part)}")
        elif path is None:
            unknown[name] = f"{shown(name)} is not in the base"
        elif modules.setdefault(path, {}).setdefault(part, key) != key:
            foreign.append(f"{shown(key)} repeats {shown(modules[path][part])}")
    return modules, foreign, list(unknown.values())


def _kind(part: str) -> str:
    return next((f"{kind}, not supported" for mark, kind in FOREIGN.items() if mark in part), "no LoRA key")


def _incomplete(keys: Mapping[str, str], found: Shapes) -> str:
    """What is wrong with a module by itself, or nothing."""
    name = shown(next(iter(keys.values())).partition(".")[0])
    missing = [part for part in (DOWN, UP) if part not in keys]
    if missing:
        return f"{name} lacks {' and '.join(missing)}"
    down, up = found[keys[DOWN]], found[keys[UP]]
    if len(down) < 2 or len(up) < 2 or 0 in down or 0 in up:
        return f"{name} has factors of shape {down} and {up}"
    if down[0] != up[1]:
        return f"{name} has rank {down[0]} in lora_down, {up[1]} in lora_up"
    if ALPHA in keys and math.prod(found[keys[ALPHA]]) != 1:
        return f"{name} has an alpha of shape {found[keys[ALPHA]]}"
    return ""


def _misfit(keys: Mapping[str, str], found: Shapes, shape: tuple[int, ...]) -> str:
    """How a module differs from the base's, or nothing."""
    down, up = found[keys[DOWN]], found[keys[UP]]
    made = (up[0], *down[1:])
    if _core(made) == _core(shape) and len(_core(up)) == 2:
        return ""
    return f"{shown(keys[DOWN].partition('.')[0])} is {_arrow(made)} in the file, {_arrow(shape)} in the base"


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the kernel of a 1x1 convolution."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _arrow(shape: tuple[int, ...]) -> str:
    kernel = "x".join(str(n) for n in _core(shape)[2:])
    return f"({shape[1] if len(shape) > 1 else 1}→{shape[0]}{f', {kernel}' if kernel else ''})"


def _refuse(*troubles: tuple[Sequence[str], str]) -> None:
    """Raise AdapterFileError if any list holds something, with the advice of the first that does."""
    listed = [text for texts, _ in troubles for text in texts]
    if listed:
        more = f"; … and {len(listed) - 3} more" if len(listed) > 3 else ""
        advice = next(advice for texts, advice in troubles if texts)
        raise AdapterFileError(f"{'; '.join(listed[:3])}{more}: {advice}")
