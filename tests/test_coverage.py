"""Every module of the full-size networks that a file may name is found under that name, and written back under it."""

from __future__ import annotations

import pytest
import torch
from test_networks import inside, networks, path_of, weights
from torch import nn

from difflora.adapters.adapter import Factors
from difflora.adapters.blocks import sgm_paths
from difflora.adapters.dialects import block_names, to_kohya, to_peft
from difflora.adapters.fitting import sort_keys
from difflora.adapters.names import diffusers_name, resolve

COUNTS = {"sd1": (264, 354), "sd2": (330, 420), "sdxl": (986, 1059)}
"""Modules that a kohya LoRA names (attention and text encoders), and all that a LoCon or LyCORIS file may name."""


def real_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The weights of the real networks under the paths that the installed transformers has."""
    return {
        f"{part}.{name}": tuple(module.weight.shape)
        for part, network in networks(family).items()
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def kohya_names(family: str, blocks: str) -> dict[str, str]:
    """The names of sd-scripts written out, by path; blocks: "own" or "original" names of the UNet's."""
    originals = sgm_paths(weights(family)) if blocks == "original" else {}
    texts = {
        "text_encoder": "lora_te1_" if family == "sdxl" else "lora_te_",
        "text_encoder_2": "lora_te2_",
        "unet": "lora_unet_",
    }
    names = {}
    for path in weights(family):
        part, _, rest = path.partition(".")
        inner = originals.get(path, rest) if part == "unet" else f"text_model.{rest}"
        names[path] = texts[part] + inner.replace("text_model.text_projection", "text_projection").replace(".", "_")
    return names


def keys_of(family: str, names: dict[str, str], endings: tuple[str, str]) -> dict[str, tuple[int, ...]]:
    """The shapes of rank-4 factors by key."""
    keys = {}
    for path, (out, *rest) in weights(family).items():
        keys[f"{names[path]}.{endings[0]}"] = (4, *rest)
        keys[f"{names[path]}.{endings[1]}"] = (out, 4, *[1] * (len(rest) - 1))
    return keys


def adapter_of(family: str) -> dict[str, Factors]:
    """Rank-1 factors without numbers for every module."""
    with torch.device("meta"):
        return {
            path: Factors(torch.empty(1, *rest), torch.empty(out, 1, *[1] * (len(rest) - 1)), 1.0)
            for path, (out, *rest) in real_shapes(family).items()
        }


@pytest.mark.parametrize("blocks", ["own", "original"])
@pytest.mark.parametrize("family", COUNTS)
def test_every_kohya_name_is_found_at_its_module(family, blocks):
    base, names = real_shapes(family), kohya_names(family, blocks)
    keys = keys_of(family, names, ("lora_down.weight", "lora_up.weight"))
    reading = sort_keys(keys, base)
    assert len(reading.found.modules) == len(base) == COUNTS[family][1]
    for path in base:
        flat = path_of(*path.split(".", 1))
        assert reading.found.modules[path]["lora_down"] == f"{names[flat]}.lora_down.weight"


@pytest.mark.parametrize("family", COUNTS)
def test_every_module_is_written_under_the_name_of_sd_scripts(family):
    wanted = kohya_names(family, "original" if family == "sdxl" else "own")
    layers = adapter_of(family)
    with torch.device("meta"):
        keys = to_kohya(layers, family)
    assert {key.partition(".")[0] for key in keys} == set(wanted.values())
    assert len(keys) == 3 * COUNTS[family][1]


@pytest.mark.parametrize("family", COUNTS)
def test_the_modules_of_a_kohya_lora_are_among_them(family):
    parts = [("unet", ("Transformer2DModel",)), ("text_encoder", ("CLIPAttention", "CLIPMLP"))]
    parts += [("text_encoder_2", ("CLIPAttention", "CLIPMLP"))] if family == "sdxl" else []
    paths = [path for part, classes in parts for path in inside(family, part, *classes)]
    names = kohya_names(family, "original" if family == "sdxl" else "own")
    assert len(paths) == COUNTS[family][0]
    assert len({names[path] for path in paths}) == COUNTS[family][0]


@pytest.mark.parametrize("family", COUNTS)
def test_every_diffusers_and_peft_name_is_found_at_its_module(family):
    base = real_shapes(family)
    names = {path: diffusers_name(path) for path in weights(family)}
    found = resolve(keys_of(family, names, ("lora_A.weight", "lora_B.weight")), base)
    assert (len(found.modules), found.unknown, found.foreign) == (COUNTS[family][1], [], [])
    for network, (tensors, _) in to_peft(adapter_of(family)).items():
        keys = {f"base_model.model.{name}": tuple(value.shape) for name, value in tensors.items()}
        own = resolve(keys, base, network)
        assert (len(own.modules), own.unknown, own.foreign) == (len(tensors) // 2, [], [])


def test_text_encoders_without_a_prefix_are_told_apart_by_their_width():
    base = real_shapes("sdxl")
    width = {768: "text_encoder", 1280: "text_encoder_2"}
    for size, network in width.items():
        name = "base_model.model.text_model.encoder.layers.3.self_attn.q_proj"
        keys = {f"{name}.lora_A.weight": (4, size), f"{name}.lora_B.weight": (size, 4)}
        [path] = resolve(keys, base).modules
        assert path.startswith(f"{network}.")


def test_only_sdxl_numbers_its_text_encoders():
    assert block_names({"text_encoder.encoder.layers.0.mlp.fc1": None}, "sd1") is None
    assert block_names({"text_encoder.encoder.layers.0.mlp.fc1": None}, "sdxl")
