"""What somebody gave as a base that is none, and what to do with it instead. Reads names and headers only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..adapters.checkpoint import SAFE_WAY
from ..adapters.header import PICKLES, shown, shown_path
from ..adapters.library import SUFFIX
from ..adapters.names import KEY, OLD
from ..adapters.original import UNET
from ..adapters.places import is_adapter
from ..adapters.table import read_table
from ..errors import AdapterFileError
from .whole import INDEX

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
EXPECTED = f"expected a diffusers folder with {INDEX}, or a .safetensors file of Stable Diffusion 1.x, 2.x or XL"
TEXTS = ("cond_stage_model.", "conditioner.")
ENCODER = ("first_stage_model.", "encoder.conv_in.", "decoder.conv_in.", "encoder.down", "decoder.up")
CONTROL = ("control_model.", "controlnet_", "input_hint_block.", "zero_convs.")
WORDS = ("emb_params", "string_to_param", "clip_l", "clip_g")
OTHERS = {
    "double_blocks.": "a FLUX model",
    "model.diffusion_model.double_blocks.": "a FLUX model",
    "model.diffusion_model.joint_blocks.": "a Stable Diffusion 3 model",
    "joint_blocks.": "a Stable Diffusion 3 model",
}
SHOWN = 3


def is_style(keys: Iterable[str]) -> bool:
    """Whether names of tensors are those of an adapter."""
    return any(KEY.fullmatch(key) or OLD.search(key) for key in keys)


def begins(keys: Iterable[str], starts: Sequence[str]) -> bool:
    """Whether any name begins with one of these."""
    return any(key.startswith(tuple(starts)) for key in keys)


def file_trouble(path: Path, keys: Sequence[str]) -> str:
    """Why a .safetensors file with these tensors is no base, and what it is for; nothing where it may be one."""
    place = shown_path(path)
    if is_style(keys):
        return f"it is a style (LoRA), not a base; {EXPECTED}; draw with it by --lora {place}"
    for start, what in OTHERS.items():
        if begins(keys, [start]):
            return f"it is {what}; {EXPECTED}; choose another base"
    if begins(keys, CONTROL):
        return f"it is a ControlNet, not a base; {EXPECTED}; choose another file"
    if begins(keys, [UNET]):
        if not begins(keys, TEXTS):
            return f"it holds an image network only, without text encoders; {EXPECTED}; get the whole checkpoint"
        return ""
    if begins(keys, ENCODER):
        return f"it is an autoencoder, not a base; {EXPECTED}; use it beside a base, with --vae {place}"
    if len(keys) <= len(WORDS) and begins(keys, WORDS):
        return f"it is a textual inversion (a word), not a base; {EXPECTED}; choose another file"
    if begins(keys, ["down_blocks.", "text_model.", "encoder.layers."]):
        return f"it is one part of a diffusers folder; {EXPECTED}; give the folder that holds {INDEX}"
    return ""


def folder_trouble(folder: Path) -> str:
    """Why a folder without model_index.json is no base: what is in it, and what to do."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry.name for entry in entries if entry.is_file()]
    inner = [entry.name for entry in entries if (entry / INDEX).is_file()]
    models = [name for name in files if name.endswith(SUFFIX)]
    pickles = [name for name in files if Path(name).suffix.lower() in PICKLES]
    pictures = [name for name in files if name.lower().endswith(PICTURES)]
    place = shown_path(folder)
    if not entries:
        return f"the folder is empty; {EXPECTED}; check the path"
    if is_adapter(folder):
        return f"it holds a style (LoRA), not a base; {EXPECTED}; draw with it by --lora {place}"
    if inner:
        first = shown(inner[0])
        return f"no {INDEX} in it, but in {listed(inner)}; {EXPECTED}; give --base {place}/{first}"
    if (folder / "snapshots").is_dir() and folder.name.startswith("models--"):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        return f"it is a download cache; {EXPECTED}; give the hub id, --base {shown(repo)}"
    if models:
        return _models(folder, models)
    if (folder / "unet").is_dir():
        return f"it has unet but no {INDEX}; {EXPECTED}; get the whole folder again"
    if pickles:
        return f"it holds {listed(pickles)}, which can run code when opened; expected .safetensors; {SAFE_WAY}"
    if pictures:
        return f"it holds {len(pictures)} picture{'s' * (len(pictures) != 1)}; {EXPECTED}; pictures go to --images"
    return f"no {INDEX} in it, but {listed([entry.name for entry in entries])}; {EXPECTED}; check the path"


def _models(folder: Path, names: Sequence[str]) -> str:
    """Of a folder with .safetensors files: the one that is a base, else what they are."""
    tables = {name: keys for name in names if (keys := _keys(folder / name))}
    bases = [name for name, keys in tables.items() if begins(keys, [UNET]) and begins(keys, TEXTS)]
    styles = [name for name, keys in tables.items() if is_style(keys)]
    if bases:
        # The original checkpoint often lies there twice, with and without what only training needs.
        best = min(bases, key=lambda name: (folder / name).stat().st_size)
        return f"no {INDEX} in it, but {listed(bases)}; give the file, --base {shown_path(folder / best)}"
    if styles:
        return f"it holds styles ({listed(styles)}), not a base; {EXPECTED}; draw with one by --lora NAME:WEIGHT"
    return f"no {INDEX} in it, but {listed(names)}; {EXPECTED}; check the path"


def _keys(path: Path) -> list[str]:
    try:
        return list(read_table(path).rows)
    except AdapterFileError:
        return []


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(shown(name, 60) for name in names[:SHOWN]) + more
