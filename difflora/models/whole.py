"""Whether a folder is a whole base as diffusers keeps it. Reads names and headers only, needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..adapters.header import PICKLES, shown
from ..adapters.table import read_table
from ..errors import AdapterFileError

INDEX = "model_index.json"
PIPELINES = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}
"""The pipelines of diffusers that are bases here, and what their families' names begin with."""
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "transformer", "vae")
TOKENIZERS = ("tokenizer", "tokenizer_2")
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
WEIGHTS = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:\.(?P<variant>\w+))?(?:-(?P<shard>\d+)-of-(?P<of>\d+))?"
    r"(?:\.(?P<late>\w+))?\.safetensors"
)
"""How files of weights are called; the variant stands before or after the number of a shard."""
FAMILIES = {("sd", 192): "tiny", ("sd", 768): "sd1", ("sd", 1024): "sd2", ("sdxl", 2048): "sdxl"}
"""By pipeline and width of the text features."""
MOST_JSON = 2**24


def read_table_of(path: Path) -> dict:
    """A JSON object from a file; nothing where there is none, ValueError where it is no JSON object."""
    try:
        if path.stat().st_size > MOST_JSON:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, RecursionError) as error:
        raise ValueError(getattr(error, "strerror", None) or "nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def named(index: Mapping[str, object], names: Sequence[str]) -> list[str]:
    """Those of the parts that a pipeline's index says it has."""
    return [name for name in names if isinstance(row := index.get(name), list) and row and row[0]]


def chosen(names: Sequence[str], variant: str | None) -> list[str]:
    """The files of a part that make up its weights, all shards of them; nothing where some are missing.

    names: the part's files, without folders. variant: such as fp16; None for those without one.
    """
    rows = {name: found for name in sorted(names) if (found := WEIGHTS.fullmatch(name))}
    own = {name: row for name, row in rows.items() if (row["variant"] or row["late"]) == variant}
    for name, row in own.items():
        if row["shard"] is None:
            return [name]
    shards = [name for name, row in own.items()]
    return shards if shards and len(shards) == max(int(row["of"]) for row in own.values()) else []


def missing(folder: Path) -> str:
    """What keeps a diffusers folder from being whole, in a few words; nothing where it is whole."""
    try:
        index = read_table_of(folder / INDEX)
        if not index:
            return f"{INDEX} is missing" if not (folder / INDEX).is_file() else f"{INDEX} names nothing"
        if not isinstance(index.get("_class_name"), str):
            return f"{INDEX} names no pipeline"
        kind = index["_class_name"]
        networks = named(index, NETWORKS)
        wanted = ("unet", "vae", "text_encoder") + ("text_encoder_2",) * (PIPELINES.get(kind) == "sdxl")
        if kind in PIPELINES and (left := [name for name in wanted if name not in networks]):
            return f"{INDEX} names no {left[0]}"
        checks = [*map(_network, [folder / name for name in networks])]
        checks += map(_tokenizer, [folder / name for name in named(index, TOKENIZERS)])
        scheduler = folder / "scheduler"
        if named(index, ["scheduler"]) and not (scheduler / "scheduler_config.json").is_file():
            checks.append("scheduler/scheduler_config.json is missing")
        return next((said for said in checks if said), "")
    except ValueError as error:
        return f"{INDEX} is not readable ({shown(error)})"


def weights_of(folder: Path) -> list[str]:
    """The names of the files that are opened for a network; nothing where they are not all there."""
    names = [file.name for file in _files(folder) if file.suffix == ".safetensors"]
    # As the networks are opened: a variant only where there is nothing else.
    only = bool(names) and all(".fp16" in name for name in names)
    return chosen(names, "fp16" if only else None)


def _network(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder.name} is missing"
    if not (folder / "config.json").is_file():
        return f"{folder.name}/config.json is missing"
    names = weights_of(folder)
    if not names:
        return _no_weights(folder)
    for name in names:
        try:
            read_table(folder / name)
        except AdapterFileError as error:
            return f"{folder.name}/{str(error).removeprefix(f'{folder}/')}"
    return ""


def _no_weights(folder: Path) -> str:
    names = [file.name for file in _files(folder)]
    pickles = [name for name in names if Path(name).suffix.lower() in PICKLES]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        return f"{folder.name} has its weights only as {shown(pickles[0])}, which can run code when it is opened"
    there = [name for name in names if name.endswith(".safetensors")]
    return f"{folder.name} lacks " + ("some of its weights" if there else "its weights (.safetensors)")


def _tokenizer(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder.name} is missing"
    there = {file.name for file in _files(folder)}
    whole = any(there.issuperset(names) for names in VOCABULARIES)
    return "" if whole else f"{folder.name} has no vocabulary (tokenizer.json, or vocab.json and merges.txt)"


def _files(folder: Path) -> list[Path]:
    """What is in a folder, but for links that lead nowhere."""
    try:
        return sorted(file for file in folder.iterdir() if file.is_file())
    except OSError:
        return []


def family_of(folder: Path) -> str:
    """The family of a diffusers folder by its configs, "" where they do not say."""
    try:
        kind = read_table_of(folder / INDEX).get("_class_name")
        width = read_table_of(folder / "unet" / "config.json").get("cross_attention_dim")
    except ValueError:
        return ""
    start = PIPELINES.get(kind) if isinstance(kind, str) else None
    if start is None or not isinstance(width, int):
        return ""
    return FAMILIES.get((start, width), f"{start}-{width}")


def side_of(folder: Path) -> int:
    """The side in pixels of the pictures that a folder's UNet was trained on; 0 where its configs do not say."""
    try:
        latent = read_table_of(folder / "unet" / "config.json").get("sample_size")
        blocks = read_table_of(folder / "vae" / "config.json").get("block_out_channels")
    except ValueError:
        return 0
    known = isinstance(latent, int) and isinstance(blocks, list) and blocks
    return latent * 2 ** (len(blocks) - 1) if known else 0


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder and its folders, links followed."""
    files = [path] if path.is_file() else [file for file in path.glob("*") if file.is_file()]
    files += [file for part in path.glob("*/") for file in part.glob("*") if file.is_file()] if path.is_dir() else []
    return sum(file.stat().st_size for file in files)
