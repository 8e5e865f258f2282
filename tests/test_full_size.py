"""The full-size bases as they are published: every layer named and counted, from their configs alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from bases import original
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.checkpoint import open_checkpoint
from difflora.adapters.files import save_adapter
from difflora.adapters.networks import modules
from difflora.adapters.original import weight_places
from difflora.config import BaseConfig
from difflora.models.clip import CONFIGS
from difflora.models.family import EMBEDDED, BaseModel, blueprint_of, open_model, read_index
from difflora.models.opening import Source, how_to_open

ROOT = Path(__file__).parents[1]
FULL = ("sd1", "sd2", "sdxl")
SHARES = ROOT / "scripts" / "bench" / "shares.py"


@cache
def full_size(family: str) -> BaseModel:
    """A whole base that takes no memory."""
    folder = EMBEDDED["tiny"] if family == "tiny" else CONFIGS / family
    source = Source(family, folder, read_index(family, folder))
    with FakeTensorMode():
        return blueprint_of(source, how_to_open(BaseConfig(precision="fp32"), "cpu"))


@cache
def shares() -> dict:
    """The names of scripts/bench/shares.py."""
    found = {"__name__": "shares"}
    exec(compile(SHARES.read_text(), str(SHARES), "exec"), found)
    return found


def plain(path: str) -> str:
    """A path as all versions of transformers have it."""
    return path.replace(".text_model.", ".", 1) if path.startswith("text_encoder") else path


@pytest.mark.parametrize("family", ("tiny", *FULL))
def test_a_familys_layers_are_those_of_its_table_name_by_name_in_their_order(family):
    model = full_size(family)
    assert model.family == family
    assert [(plain(path), shape) for path, shape in model.shapes().items()] == list(modules(family).items())


@pytest.mark.parametrize(
    ("family", "side", "unit", "factor"),
    [("tiny", 64, 16, 4), ("sd1", 512, 64, 8), ("sd2", 768, 64, 8), ("sdxl", 1024, 32, 8)],
)
def test_pictures_have_the_familys_own_side_and_unit(family, side, unit, factor):
    model = full_size(family)
    assert (model.side, model.unit, model.factor) == (side, unit, factor)
    assert model.latent_shape(side, side) == (4, side // factor, side // factor)


@pytest.mark.parametrize(
    ("family", "blocks", "texts"),
    [
        # Transformer blocks of the UNet; layers of each text encoder.
        ("tiny", 2 * 1 * 3 - 3 + 2 * 3 + 1, {"text_encoder": 4}),
        ("sd1", 2 * 3 + 1 + 3 * 3, {"text_encoder": 12}),
        ("sd2", 2 * 3 + 1 + 3 * 3, {"text_encoder": 23}),
        ("sdxl", 2 * (2 + 10) + 10 + 3 * (2 + 10), {"text_encoder": 12, "text_encoder_2": 32}),
    ],
)
def test_what_learns_is_every_attention_and_feed_forward_and_the_texts_projections(family, blocks, texts):
    """SD 1.5: 128 layers of attention or 160 with feed-forward, and 48 of text: 208 in all."""
    model = full_size(family)
    words = {part: 4 * layers for part, layers in texts.items()}
    for layers, each in (("attention", 8), ("attention+mlp", 10)):
        for text in (False, True):
            found = Counter(path.partition(".")[0] for path in model.targets(layers, text))
            assert found == {"unet": each * blocks} | (words if text else {})


def test_sd_15_learns_208_layers_with_its_default_settings():
    assert len(full_size("sd1").targets("attention+mlp", True)) == 208
    assert [len(full_size(family).targets("attention+mlp", True)) for family in FULL] == [208, 252, 876]


@pytest.mark.parametrize("family", FULL)
def test_every_number_of_the_networks_is_counted(family):
    model = full_size(family)
    counted = {part: sum(p.numel() for p in network.parameters()) for part, network in model.parts.items()}
    assert counted == shares()["PARAMETERS"][family]
    assert sum(p.numel() for p in model.vae.parameters()) == 83_653_863


@pytest.mark.parametrize("family", FULL)
def test_shares_are_counted_of_the_layers_that_learn(family):
    model = full_size(family)
    shapes = {plain(path): shape for path, shape in model.shapes().items()}
    for layers in ("attention", "attention+mlp"):
        for text in (False, True):
            paths = [plain(path) for path in model.targets(layers, text)]
            assert shares()["learning"](family, layers, text) == paths
            assert shares()["trainable"](family, paths, 4) == sum(4 * sum(shapes[path]) for path in paths)
    whole = sum(shares()["PARAMETERS"]["sd1"].values())
    usual = shares()["trainable"]("sd1", shares()["learning"]("sd1", "attention+mlp", True), 4)
    assert usual / whole == pytest.approx(0.0018, abs=1e-4)


@pytest.mark.parametrize(("family", "rank"), [("sd1", 4), ("sdxl", 4)])
def test_a_file_is_as_large_as_foretold(tmp_path, family, rank):
    rng, paths = torch.Generator().manual_seed(0), shares()["learning"](family, "attention+mlp", True)
    layers = {}
    for path in paths:
        out, inner = modules(family)[path]
        up, down = torch.randn(out, rank, generator=rng), torch.randn(rank, inner, generator=rng)
        layers[path] = Factors(down * 0.01, up * 0.01, 2.0)
    file = save_adapter(tmp_path / "style.safetensors", Adapter(layers, Info("style", family)), {})
    assert file.stat().st_size == pytest.approx(shares()["size"](family, paths, rank), rel=0.01)


def test_the_table_of_shares_is_printed_without_torch():
    code = f"import sys; sys.argv = ['shares.py', '--ranks', '4']; exec(open({str(SHARES)!r}).read())"
    code += "; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    *table, loaded = shown.stdout.splitlines()
    assert loaded == "False"
    assert len(table) == 2 + 3 * 2 * 2
    assert "| sd1 | attention+mlp | learn | 208 | 1.79 M, 0.18%" in shown.stdout


def tensors(family: str) -> dict[str, Tensor]:
    """Every tensor of a single file of a family, without numbers."""
    model = full_size(family)
    networks = {name: part.state_dict() for name, part in (*model.parts.items(), ("vae", model.vae))}
    with FakeTensorMode(allow_non_fake_inputs=True):
        return original(networks, family)


def hollow(path: Path, named: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """A file with those tensors in half precision, all zeros that take no room on the disk, but for one number each."""
    rows: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for key, value in named.items():
        rows[key] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [at, at := at + 2 * value.numel()]}
    header = json.dumps(rows).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + at)
        for key in named:
            if key.endswith((".weight", ".bias")):
                file.seek(8 + len(header) + rows[key]["data_offsets"][0])
                file.write(np.float16(0.5).tobytes())
    return path


@pytest.mark.parametrize("family", FULL)
def test_a_single_file_holds_every_layer_of_the_table(family):
    named = tensors(family)
    shapes = modules(family)
    for path, place in weight_places(family, named).items():
        assert place.key in named, path
        stored = tuple(named[place.key].shape)
        own = stored if place.rows is None else (place.rows[1] - place.rows[0], *stored[1:])
        assert (own[::-1] if place.turned else own) == shapes[path]


@pytest.mark.parametrize(
    "family",
    ["sd1", "sd2", pytest.param("sdxl", marks=pytest.mark.slow)],
)
def test_a_single_file_of_full_size_opens_with_the_configs_that_travel_with_difflora(family, tmp_path):
    said = {"modelspec.prediction_type": "v" if family == "sd2" else "epsilon"}
    file = hollow(tmp_path / f"{family}.safetensors", tensors(family), said)
    assert open_checkpoint(file).family == family
    model = open_model(BaseConfig(base=str(file), precision="fp16"), "cpu")
    assert (model.family, model.side) == (family, full_size(family).side)
    assert model.shapes() == full_size(family).shapes()
    assert {parameter.dtype for part in model.parts.values() for parameter in part.parameters()} == {torch.float16}
    # Fused weights of OpenCLIP are cut into three, of which the first alone begins with the file's number.
    firsts = {n: p.flatten()[0].item() for part in model.parts.values() for n, p in part.named_parameters()}
    rest = {name for name, value in firsts.items() if value != 0.5}
    assert all(
        ("_proj." in name and "self_attn" in name) or "position" in name or "projection" in name for name in rest
    )
    assert model.scheduler.config.prediction_type == {"sd2": "v_prediction"}.get(family, "epsilon")
