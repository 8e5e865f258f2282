"""Key names in files -> modules of a base. Knows no tensors.

A key is a module's name and the part that it holds: `lora_unet_mid_block_attentions_0_proj_in.lora_down.weight`. Names
differ by program, but all of them are the module's own path, or its path in the original Stable Diffusion layout, with
dots or with underscores, behind a prefix that says which network it is in. Underscores cannot be turned back by
themselves, so names are looked up among those that the base's own modules would have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import AdapterFileError
from .blocks import sgm_paths
from .header import shown

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of the weight of each module of a base, by real path."""

DOWN, UP, MID, ALPHA = "lora_down", "lora_up", "lora_mid", "alpha"
COLUMNS, ROWS = "dora_scale", "lora_magnitude_vector"
DIFF = "diff"
PARTS = {
    re.compile(r"lora_(?:down|A)(?:\.\w+)?\.weight|lora(?:_linear_layer)?\.down\.weight"): DOWN,
    re.compile(r"lora_(?:up|B)(?:\.\w+)?\.weight|lora(?:_linear_layer)?\.up\.weight"): UP,
    re.compile(r"lora_mid\.weight"): MID,
    re.compile(r"lora_magnitude_vector(?:\.\w+)*"): ROWS,
    re.compile(r"alpha|dora_scale|diff|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)"): "",
}
"""What a key ends in -> the part; "" is the ending itself."""
KEY = re.compile(r"(.+?)\.((?:lora_|lora\.|hada_|lokr_|alpha$|dora_scale$|diff$).*)", re.DOTALL)
OLD = re.compile(r"\.(?:processor|(self_attn))\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight$")

WRAPPED = "base_model.model."
"""Before all of PEFT's names."""
# Whose names begin so, and in which network they then are.
PREFIXES = (
    ("lora_unet_", "kohya", "unet"),
    ("lora_te1_", "kohya", "text_encoder"),
    ("lora_te2_", "kohya", "text_encoder_2"),
    ("lora_te_", "kohya", "text_encoder"),
    ("lycoris_", "LyCORIS", "unet"),
    ("unet.", "diffusers", "unet"),
    ("transformer.", "diffusers", "transformer"),
    ("text_encoder.", "diffusers", "text_encoder"),
    ("text_encoder_2.", "diffusers", "text_encoder_2"),
    ("diffusion_model.", "ComfyUI", "unet"),
    ("text_encoders.clip_l.transformer.", "ComfyUI", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "ComfyUI", "text_encoder_2"),
)
FOREIGN = {
    "oft_": "OFT",
    "boft_": "BOFT",
    "on_input": "IA3",
    "ia3_": "IA3",
    "vera_": "VeRA",
    "lora_embedding": "a learnt embedding",
    "emb_params": "a textual inversion",
    "string_to_param": "a textual inversion",
    "diff_b": "a learnt bias",
    "bias": "a learnt bias",
    "w_norm": "a changed normalisation",
    "b_norm": "a changed normalisation",
    "set_weight": "a replaced weight",
    "reshape_weight": "a resized weight",
    "a1.weight": "GLoRA", "a2.weight": "GLoRA", "b1.weight": "GLoRA", "b2.weight": "GLoRA",
    "scale": "a separate scale",
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Where the keys of a file belong."""

    modules: dict[str, dict[str, str]]
    """The key of each part of each module, by path."""
    foreign: list[str] = field(default_factory=list)
    """What is no part of any adapter that can be read, a sentence each."""
    unknown: list[str] = field(default_factory=list)
    """Names that the base lacks, a sentence each."""
    dialects: tuple[str, ...] = ()
    """Whose names they are: kohya, kohya (original blocks), diffusers, old diffusers, PEFT, LyCORIS, ComfyUI."""


@dataclass(frozen=True)
class Name:
    """One key taken apart."""

    module: str
    part: str
    """Nothing for what is no part that can be read."""


def split_key(key: str) -> Name:
    """The module's name and the part; an empty part for a key of another kind."""
    if old := OLD.search(key):
        return Name(key[: old.end(2)] + "_lora", {"down": DOWN, "up": UP}[old[3]])
    found = KEY.fullmatch(key)
    if found is None:
        return Name(key.partition(".")[0] if key.startswith("lora_") else key, "")
    ending = found[2]
    part = next((part or ending for form, part in PARTS.items() if form.fullmatch(ending)), "")
    return Name(found[1], part)


def resolve(found: Shapes, base: Shapes, part: str = "") -> Found:
    """Where each key of a file belongs in a base.

    found: shapes of the tensors by key; part: the network that names without a prefix are in, such as "unet", where a
    folder says so.
    """
    table = lookup(base)
    modules: dict[str, dict[str, str]] = {}
    spelt: dict[str, str] = {}
    foreign, unknown, dialects = [], {}, {}
    for key in found:
        name = split_key(key)
        if not name.part:
            foreign.append(f"{shown(key)} is {kind_of_foreign(key)}")
            continue
        dialect, places = candidates(name.module, part)
        paths = [path for place in places if (path := table.get(place))]
        path = best(paths, name.part, found[key], base)
        if path is None:
            unknown[name.module] = f"{shown(name.module)} is not in the base"
        elif (other := spelt.setdefault(path, name.module)) != name.module:
            # Which of the two scales was meant is for nobody to guess.
            foreign.append(f"{shown(key)} repeats {shown(other)}")
        elif modules.setdefault(path, {}).setdefault(name.part, key) != key:
            foreign.append(f"{shown(key)} repeats {shown(modules[path][name.part])}")
        else:
            dialects[dialect_of(dialect, name.module)] = None
    # Text encoders are called the same beside either kind of block names.
    said = tuple(name for name in dialects if name) or (("kohya",) if dialects else ())
    return Found({p: modules[p] for p in base if p in modules}, foreign, list(unknown.values()), said)


def candidates(name: str, part: str = "") -> tuple[str, list[str]]:
    """(whose name it is, the underscored places that it may mean, the likeliest first)."""
    inner = name.removeprefix(WRAPPED)
    for prefix, dialect, network in PREFIXES:
        if inner.startswith(prefix):
            return dialect if inner == name else "PEFT", [place(network, inner.removeprefix(prefix))]
    networks = (part,) if part else ("unet", "text_encoder", "text_encoder_2")
    return "PEFT", [place(network, inner) for network in networks]


def place(network: str, name: str) -> str:
    """A module as all dialects agree on it: underscores, and no text_model; a transformer is called as a UNet is."""
    network = "unet" if network == "transformer" else network
    plain = re.sub(r"\.processor\.(to_[qkv]|to_out)_lora$", r".\1", name)
    plain = re.sub(r"\.self_attn\.to_(q|k|v|out)_lora$", r".self_attn.\1_proj", plain)
    plain = re.sub(r"\.to_out$", ".to_out.0", plain).replace(".", "_")
    return f"{network}:{plain.removeprefix('text_model_') if network.startswith('text') else plain}"


def dialect_of(dialect: str, name: str) -> str:
    """The dialect with what a reader should know of its block names."""
    if dialect == "kohya" and not name.startswith("lora_unet_"):
        return ""
    if dialect == "kohya" and re.match(r"lora_unet_(input_blocks|middle_block|output_blocks)_", name):
        return "kohya (original blocks)"
    return "old diffusers" if dialect == "diffusers" and name.endswith("_lora") else dialect


def best(paths: list[str], part: str, shape: tuple[int, ...], base: Shapes) -> str | None:
    """Of several modules of one name (the text encoders of SDXL without a prefix) the one of the right width."""
    if len(paths) < 2 or not shape:
        return paths[0] if paths else None
    side, axis = (shape[0], 0) if part in (UP, ROWS) else (shape[-1] if len(shape) < 3 else shape[1], 1)
    return next((path for path in paths if base[path][axis] == side), paths[0])


def lookup(base: Shapes) -> dict[str, str]:
    """Real paths by the place that dialects agree on, original block names beside the own ones.

    Raises AdapterFileError when two modules would share a name.
    """
    table: dict[str, str] = {}
    for path in base:
        network, _, rest = path.partition(".")
        other = table.setdefault(place(network, rest), path)
        if other != path:
            raise AdapterFileError(f"{shown(path)} and {shown(other)} have one kohya name; expected different ones")
    for path, original in sgm_paths([path for path in base if path.startswith("unet.")]).items():
        table.setdefault(place("unet", original), path)
    return table


def kohya_name(path: str, original: Mapping[str, str] | None = None) -> str:
    """The kohya name of a module; raises AdapterFileError for a path outside the image network and the text encoders.

    original: block names of the original layout by path, where the family's files use those; there the text encoders
    are numbered. Text encoders' names always hold `text_model`, whether the installed transformers has it or not.
    """
    network, _, rest = path.partition(".")
    if network in ("unet", "transformer") and rest:
        return "lora_unet_" + (original or {}).get(path, rest).replace(".", "_")
    number = {"text_encoder": "" if original is None else "1", "text_encoder_2": "2"}.get(network)
    if number is None or not rest:
        raise AdapterFileError(f"{shown(path)} has no kohya name; expected a module of unet or a text encoder")
    inner = rest.removeprefix("text_model.")
    model = "" if inner == "text_projection" else "text_model_"
    return f"lora_te{number}_{model}{inner.replace('.', '_')}"


def diffusers_name(path: str) -> str:
    """The diffusers name of a module: its path, with the text_model that files keep."""
    network, _, rest = path.partition(".")
    inner = rest.removeprefix("text_model.")
    model = "text_model." if network.startswith("text_encoder") and inner != "text_projection" else ""
    return f"{network}.{model}{inner}"


def module_of(path: str) -> str:
    """A module's path within its network as PEFT's settings name it."""
    return diffusers_name(path).partition(".")[2]


def kind_of_foreign(key: str) -> str:
    """What a key that cannot be read is, by its name."""
    if key.startswith("bundle_emb"):
        return "a textual inversion, not supported"
    ending = key.partition(".")[2] if key.startswith(("lora_", "lycoris_")) else ".".join(key.rsplit(".", 2)[-2:])
    return next((f"{kind}, not supported" for mark, kind in FOREIGN.items() if mark in ending), "no LoRA key")


def all_names(paths: Iterable[str], original: Mapping[str, str] | None = None) -> dict[str, str]:
    """Module paths by their kohya name; raises AdapterFileError when two share one."""
    table: dict[str, str] = {}
    for path in paths:
        other = table.setdefault(kohya_name(path, original), path)
        if other != path:
            raise AdapterFileError(f"{shown(path)} and {shown(other)} have one kohya name; expected different ones")
    return table
