"""A merged checkpoint is its base plus the styles' updates, weight for weight, and nothing else of it changes."""

from __future__ import annotations

import builtins
import errno
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import random_adapter
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from PIL import Image, ImageChops
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_convert import strange
from test_networks import networks as real_networks
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from difflora import cli
from difflora.adapters import networks, original, stream, target
from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.blend import blend
from difflora.adapters.checkpoint import open_checkpoint
from difflora.adapters.convert import MADE
from difflora.adapters.files import content_sha256, save_adapter
from difflora.adapters.merge import merge
from difflora.adapters.networks import Network, Text
from difflora.drawing.merge import merge_files
from difflora.errors import AdapterFileError, BaseModelError, DiffloraError, OutputError, RequestError
from difflora.events import Progress
from difflora.models.attach import attached
from difflora.strength import Strength, parse_strength

WEIGHTS = (parse_strength("0.7/0.3@up=-0.4,mid=0"), 1.3, -0.6)
TOY = Network((32, 64), 1, (1, 1), 32, (Text(32, 2, 64),))
TOY_XL = Network((32, 64), 1, (0, 2), 64, (Text(32, 2, 64), Text(32, 2, 64, 32)), 2, True, addition_dim=112)


# --- bases


@pytest.fixture
def toys(monkeypatch) -> None:
    """Two more families, small, in the layouts of SD 1.x and SDXL."""
    monkeypatch.setitem(networks.CONFIGS, "toy", TOY)
    monkeypatch.setitem(networks.CONFIGS, "toyxl", TOY_XL)
    monkeypatch.setitem(original.LAYOUTS, "toy", original.LAYOUTS["sd1"])
    monkeypatch.setitem(original.LAYOUTS, "toyxl", original.LAYOUTS["sdxl"])


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory) -> Path:
    """A random model of SDXL's shape, two text encoders, as a folder."""
    folder = tmp_path_factory.mktemp("base") / "toyxl"
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64, attention_head_dim=2,
        norm_num_groups=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=112,
    )  # fmt: skip
    unet.save_pretrained(folder / "unet")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = CLIPTextConfig(vocab_size=64, max_position_embeddings=8, projection_dim=32, **sizes)
    CLIPTextModel(words).save_pretrained(folder / "text_encoder")
    CLIPTextModelWithProjection(words).save_pretrained(folder / "text_encoder_2")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    return folder


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder by the names of a LoRA's modules."""
    found = {}
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        for file in (folder / part).glob("*.safetensors"):
            found |= {f"{part}.{key.removeprefix('text_model.')}": value for key, value in load_file(file).items()}
    return found


def original_of(folder: Path, family: str, file: Path, metadata: dict[str, str] | None = None) -> Path:
    """A folder as one file with original names; something of a picture decoder and integers beside the networks."""
    state = state_of(folder)
    shapes = networks.modules(family)
    places = {f"{path}.weight": place for path, place in original.weight_places(family, {}).items()}
    places |= original.other_places(family, AnyKey())
    made: dict[str, torch.Tensor] = {}
    for name, place in places.items():
        # Layers without a bias have no such row.
        value = state.get(name)
        if value is not None and place.rows:
            rows = (3 * shapes[name.rpartition(".")[0]][0], *value.shape[1:])
            made.setdefault(place.key, torch.zeros(rows))[slice(*place.rows)] = value
        elif value is not None:
            made[place.key] = value.T.contiguous() if place.turned else value.contiguous()
    made |= {"first_stage_model.decoder.conv_in.weight": torch.randn(4, 4, 3, 3), "model_ema.decay": torch.tensor(0.5)}
    made |= {"cond_stage_model.attn_mask": torch.full((2, 2), -torch.inf)}
    made |= {"cond_stage_model.position_ids": torch.arange(8)[None], "alphas_cumprod": torch.rand(11)}
    save_file(made, file, {"modelspec.title": "old", "modelspec.hash_sha256": "0x00"} | (metadata or {}))
    return file


class AnyKey:
    """All keys are there."""

    def __contains__(self, key: str) -> bool:
        return "transformer.encoder" not in key


def diffusers_reads(file: Path, folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an original file as diffusers converts them, by the same names as `state_of`."""
    state = load_file(file)
    config = json.loads((folder / "unet/config.json").read_text())
    found = single_file_utils.convert_ldm_unet_checkpoint(dict(state), config)
    named = {f"unet.{key}": value for key, value in found.items()}
    parts = {"text_encoder": single_file_utils.convert_ldm_clip_checkpoint(dict(state))}
    if (folder / "text_encoder_2").is_dir():
        shape = SimpleNamespace(config=SimpleNamespace(hidden_size=32))
        parts["text_encoder_2"] = single_file_utils.convert_open_clip_checkpoint(
            shape, dict(state), prefix="conditioner.embedders.1.model."
        )
    for part, words in parts.items():
        named |= {f"{part}.{key.removeprefix('text_model.')}": value for key, value in words.items()}
    return named


def adapters_for(shapes, family: str, seed: int = 0) -> list[Adapter]:
    """Three random adapters of other ranks, alpha unlike the rank, on other layers, one of them on every layer."""
    paths = list(shapes)
    some = SimpleNamespace(shapes=lambda: shapes, family=family, name=family)
    return [
        random_adapter(some, 4, 2.0, seed + 1, paths=paths),
        random_adapter(some, 2, 5.0, seed + 2, paths=paths[::3]),
        random_adapter(some, 3, 1.0, seed + 3, paths=paths[1::4]),
    ]


def is_sum(before: dict, after: dict, adapters: list[Adapter], weights, atol: float = 2e-6) -> bool:
    """Whether every weight is the old one plus the weighted updates, computed here, and all others are untouched."""
    assert before.keys() == after.keys()
    for name, value in before.items():
        path, wanted = name.removesuffix(".weight"), value.double()
        for adapter, weight in zip(adapters, weights, strict=True):
            update = adapter.layers.get(path) or adapter.layers.get(path.replace("encoder.", "encoder.text_model.", 1))
            if name.endswith(".weight") and update is not None:
                own = weight.at(path) if isinstance(weight, Strength) else weight
                up, down = update.up.double().flatten(1), update.down.double().flatten(1)
                wanted = wanted + own * (update.alpha / update.rank * (up @ down)).reshape(value.shape)
        if not torch.allclose(after[name].double(), wanted, rtol=0, atol=atol):
            return False
        if torch.equal(wanted, value.double()) and not torch.equal(after[name], value):
            return False
    return True


# --- the sum


def test_a_merged_folder_is_the_base_plus_every_weighted_update(toy_folder, tmp_path):
    opened = open_checkpoint(toy_folder)
    adapters = adapters_for(opened.shapes, opened.family)
    made = merge(toy_folder, adapters, WEIGHTS, tmp_path / "out", recipe={})
    before, after = state_of(toy_folder), state_of(made.path)
    assert is_sum(before, after, adapters, WEIGHTS)
    # The first of them leaves the middle alone.
    assert made.modules == sum(not torch.equal(before[name], after[name]) for name in before) < len(opened.shapes)
    assert made.family == "sd-32" and made.rounding < 1e-6


def test_all_else_of_a_folder_is_the_same_to_the_byte(toy_folder, tmp_path):
    opened = open_checkpoint(toy_folder)
    made = merge(toy_folder, adapters_for(opened.shapes, "")[:1], [1.0], tmp_path / "out", recipe={})

    def files(folder: Path) -> dict[str, str]:
        found = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}

    before, after = files(toy_folder), files(made.path)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}


def test_plain_diffusers_draws_a_merged_folder_as_the_live_stack(toy_folder, tmp_path, model):
    opened = open_checkpoint(toy_folder)
    plain, others = adapters_for(opened.shapes, opened.family), strange(model)
    made = merge(toy_folder, [*plain, others], [*WEIGHTS, -0.8], tmp_path / "out", recipe={})

    def drawn(folder: Path, stack: list[Adapter], weights: list[float]):
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        with attached({"unet": pipe.unet, "text_encoder": pipe.text_encoder}, stack) as live:
            live.weights(weights)
            return pipe(
                "a cat", num_inference_steps=3, height=32, width=32, generator=torch.Generator().manual_seed(1)
            ).images[0]

    live = drawn(toy_folder, [spelt(blend(plain, WEIGHTS), model), others], [1.0, -0.8])
    merged, bare = drawn(made.path, [], []), drawn(toy_folder, [], [])
    assert apart(live, merged) <= 1 and apart(bare, merged) > 10


def spelt(adapter: Adapter, model) -> Adapter:
    """The adapter with the names that the installed transformers has."""
    names = {path.replace(".text_model.", "."): path for path in model.shapes()}
    return replace(adapter, layers={names[path]: update for path, update in adapter.layers.items()})


def apart(a, b) -> int:
    """The largest difference of two pictures."""
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


@pytest.mark.parametrize("family", ["toy", "toyxl"])
def test_diffusers_reads_a_merged_single_file_as_the_merged_folder(toys, family, toy_folder, xl_folder, tmp_path):
    folder = {"toy": toy_folder, "toyxl": xl_folder}[family]
    base = original_of(folder, family, tmp_path / "base.safetensors")
    opened = open_checkpoint(base)
    assert opened.family == family and opened.shapes == dict(networks.modules(family))
    adapters = adapters_for(opened.shapes, family)
    made = merge(base, adapters, WEIGHTS, tmp_path / "out.safetensors", recipe={})
    # The names of the base file are those that diffusers looks for, in every place.
    own = {name: value for name, value in state_of(folder).items() if not name.startswith("vae.")}
    before, after = diffusers_reads(base, folder), diffusers_reads(made.path, folder)
    assert before.keys() == own.keys() and all(torch.equal(before[name], own[name]) for name in own)
    assert is_sum(before, after, adapters, WEIGHTS)
    old, new = load_file(base), load_file(made.path)
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    moved = {name.removesuffix(".weight") for name in own if not torch.equal(before[name], after[name])}
    assert changed == {place.key for path, place in original.weight_places(family, old).items() if path in moved}
    assert len(moved) == made.modules > 100


def test_dora_loha_lokr_and_whole_differences_are_added_on_the_bases_own_weight(toy_folder, model, tmp_path):
    adapter, other = strange(model), random_adapter(model, 3, 2.0, 9)
    made = merge(toy_folder, [other, adapter], [1.0, -0.7], tmp_path / "out", recipe={})
    before, after = state_of(toy_folder), state_of(made.path)
    for path, update in adapter.layers.items():
        own = before[f"{path}.weight"]
        wanted = own - 0.7 * update.delta(own) + (other.layers[path].delta() if path in other.layers else 0)
        assert torch.allclose(after[f"{path}.weight"], wanted, atol=1e-6), update.kind


def test_the_same_style_twice_is_added_twice(toy_folder, tmp_path, model):
    adapter = replace(random_adapter(model, 3, 2.0, 1), info=Info("ink", "sd-32"))
    path = save_adapter(tmp_path / "ink.safetensors", adapter, {}, torch.float32)
    twice = merge_files(["ink:0.5", f"{path}:0.2"], str(toy_folder), tmp_path / "twice", folder=tmp_path)
    once = merge_files(["ink:0.7"], str(toy_folder), tmp_path / "once", folder=tmp_path)
    first, second = state_of(twice.path), state_of(once.path)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_rounded_once_to_the_precision_that_each_tensor_has(toys, toy_folder, tmp_path, dtype):
    base = original_of(toy_folder, "toy", tmp_path / "full.safetensors")
    half = {k: v.to(dtype) if v.is_floating_point() and "ema" not in k else v for k, v in load_file(base).items()}
    save_file(half, tmp_path / "base.safetensors")
    opened = open_checkpoint(tmp_path / "base.safetensors")
    adapters = adapters_for(opened.shapes, "toy")
    made = merge(opened, adapters, WEIGHTS, tmp_path / "out.safetensors", recipe={})
    out, missed, moved = load_file(made.path), 0.0, 0.0
    assert {key: value.dtype for key, value in out.items()} == {key: value.dtype for key, value in half.items()}
    for path, place in original.weight_places("toy", half).items():
        total = half[place.key].float()
        for adapter, weight in zip(adapters, WEIGHTS, strict=True):
            if path in adapter.layers:
                total = (
                    total + (weight.at(path) if isinstance(weight, Strength) else weight) * adapter.layers[path].delta()
                )
        missed += float((out[place.key].double() - total.double()).square().sum())
        moved += float((total.double() - half[place.key].double()).square().sum())
        # Sums in another order differ in the last bit of float32 and may then round to the other neighbour.
        assert torch.allclose(out[place.key].float(), total, rtol=torch.finfo(dtype).eps, atol=1e-7)
    assert made.rounding == pytest.approx(math.sqrt(missed / moved), rel=1e-3)
    assert made.rounding < 0.05


def test_what_is_infinite_in_a_base_such_as_a_mask_stays_so(toys, toy_folder, tmp_path):
    file = original_of(toy_folder, "toy", tmp_path / "base.safetensors")
    adapters = adapters_for(open_checkpoint(file).shapes, "")
    made = merge(file, adapters, WEIGHTS, tmp_path / "out.safetensors", recipe={}, precision="fp16")
    state = load_file(made.path)
    assert torch.equal(state["cond_stage_model.attn_mask"], torch.full((2, 2), -torch.inf, dtype=torch.float16))
    assert state["cond_stage_model.position_ids"].dtype == torch.int64


def test_another_precision_is_that_of_all_numbers_and_the_settings_say_so(toy_folder, tmp_path):
    opened = open_checkpoint(toy_folder)
    adapters = adapters_for(opened.shapes, "")
    made = merge(toy_folder, adapters, WEIGHTS, tmp_path / "out", recipe={}, precision="bf16")
    assert {value.dtype for value in state_of(made.path).values() if value.is_floating_point()} == {torch.bfloat16}
    assert made.precision == "BF16"
    assert json.loads((made.path / "text_encoder/config.json").read_text())["dtype"] == "bfloat16"
    exact = state_of(merge(toy_folder, adapters, WEIGHTS, tmp_path / "exact", recipe={}).path)
    assert all(torch.equal(value, exact[name].bfloat16()) for name, value in state_of(made.path).items())
    StableDiffusionPipeline.from_pretrained(made.path, safety_checker=None, requires_safety_checker=False)


# --- folders as they are found


def test_shards_variants_and_links_of_a_download_are_all_merged(toy_folder, tmp_path):
    folder = tmp_path / "base"
    (folder / "unet").mkdir(parents=True)
    state = load_file(toy_folder / "unet/diffusion_pytorch_model.safetensors")
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, tmp_path / shard)
        (folder / "unet" / shard).symlink_to(tmp_path / shard)
    save_file({k: v.half() for k, v in state.items()}, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"old weights")
    (folder / "v1-5.ckpt").write_bytes(b"old weights")
    (folder / "model_index.json").write_text("{}")
    (folder / ".cache").mkdir()
    opened = open_checkpoint(folder)
    adapters = adapters_for(opened.shapes, "")[:1]
    made = merge(folder, adapters, [0.9], tmp_path / "out", recipe={})
    assert sorted(made.left) == ["unet/diffusion_pytorch_model.bin", "v1-5.ckpt"]
    assert {p.name for p in (made.path / "unet").iterdir()} == {
        p.name for p in (folder / "unet").iterdir() if p.suffix != ".bin"
    }
    assert not any(path.is_symlink() for path in made.path.rglob("*"))
    shards = {k: v for f in (made.path / "unet").glob("*-of-*") for k, v in load_file(f).items()}
    half = load_file(made.path / "unet/diffusion_pytorch_model.fp16.safetensors")
    old, new = ({f"unet.{k}": v for k, v in one.items()} for one in (state, shards))
    assert is_sum(old, new, adapters, [0.9])
    assert all(torch.allclose(half[k].float(), shards[k], atol=3e-3) for k in half)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_published_families_are_known_by_their_single_files(family, tmp_path):
    rows, end = {}, 0
    places = original.weight_places(family, {})
    for path, place in places.items():
        shape = networks.modules(family)[path]
        shape = (3 * shape[0], *shape[1:]) if place.rows else shape
        if place.key not in rows:
            size = 2 * math.prod(shape)
            rows[place.key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
    text = json.dumps(rows).encode()
    file = tmp_path / "base.safetensors"
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        # The numbers are a hole: none of them is read.
        out.truncate(8 + len(text) + end)
    opened = open_checkpoint(file)
    assert opened.family == family and opened.shapes == dict(networks.modules(family))
    others = original.other_places(family, AnyKey())
    keys = [place.key for name, place in (places | others).items() if name.startswith("unet.")]
    config, none = dict(real_networks(family)["unet"].config), torch.empty(1, device="meta")
    found = single_file_utils.convert_ldm_unet_checkpoint(dict.fromkeys(keys, none), config)
    named = {f"{path}.weight" for path in places} | set(others)
    assert {f"unet.{key}" for key in found} == {name for name in named if name.startswith("unet.")}
    assert set(real_networks(family)["unet"].state_dict()) <= set(found)


# --- recipes


def test_the_header_says_what_it_was_made_of(toys, toy_folder, tmp_path, model):
    base = original_of(toy_folder, "toy", tmp_path / "base.safetensors", {"sshs_model_hash": "old", "note": "kept"})
    toy = SimpleNamespace(shapes=lambda: networks.modules("toy"), family="toy", name="toy")
    paths = ["unet.conv_in", "text_encoder.encoder.layers.1.mlp.fc1"]
    adapter = random_adapter(toy, 2, 1.0, 1, paths=paths)
    path = save_adapter(tmp_path / "ink.safetensors", adapter, {})
    made = merge_files(["ink:0.5/0.2@up=1"], str(base), tmp_path / "out.safetensors", folder=tmp_path, budget="sum")
    data = made.path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    said = json.loads(data[8 : 8 + length])["__metadata__"]
    recipe = json.loads(said[MADE])
    assert recipe["verb"] == "merge" and recipe["base_sha256"] == content_sha256(base)
    assert recipe["sources"] == [{"name": "ink", "weight": "0.5/0.2@up=1", "sha256": content_sha256(path)}]
    assert said["note"] == "kept" and "sshs_model_hash" not in said
    assert (said["modelspec.title"], said["modelspec.merged_from"]) == ("out", "ink")
    assert said["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data[8 + length :]).hexdigest()
    assert made.modules == 2


def test_the_embedded_base_is_known_by_its_name_and_progress_is_told(tmp_path, capsys, tiny_styles):
    out = tmp_path / "out"
    cli.main(
        [
            "merge",
            "ink:0.7",
            "cartoon:0.4",
            "--base",
            "tiny",
            "--out",
            str(out),
            "--loras",
            str(tiny_styles),
            "--json",
            "--budget",
            "sum",
        ]
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["event"] for row in rows} == {"progress", "merged"} and rows[-1]["file"] == str(out)
    assert rows[-2]["done"] == rows[-2]["total"] and rows[-2]["eta"] == 0
    cli.main(["generate", "a cat", "--base", str(out), "--steps", "1", "--out", str(tmp_path / "pictures")])
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


@pytest.mark.parametrize("budget", ["normalised", "matched", "sum"])
def test_a_merged_base_draws_what_the_same_styles_and_budget_drew(budget, toy_folder, tmp_path, model):
    for adapter, name in zip(adapters_for(open_checkpoint(toy_folder).shapes, "sd-32"), "abc", strict=True):
        save_adapter(tmp_path / f"{name}.safetensors", replace(adapter, info=Info(name, "sd-32")), {}, torch.float32)
    styles, asked = ["a:0.7@up=-0.4", "b:1.3", "c:-0.6"], ["--budget", budget, "--loras", str(tmp_path)]
    out = tmp_path / "out"
    cli.main(["merge", *styles, "--base", str(toy_folder), "--out", str(out), *asked])
    recipe = json.loads(safe_open(out / "unet/diffusion_pytorch_model.safetensors", "pt").metadata()[MADE])
    assert ("gain" in recipe["sources"][0]) is (budget != "sum")
    draw = ["generate", "a cat", "--size", "32", "--steps", "3", "--seed", "1", "--out"]
    live = [part for style in styles for part in ("--lora", style)]
    cli.main([*draw, str(tmp_path / "live"), "--base", str(toy_folder), *live, *asked])
    cli.main([*draw, str(tmp_path / "merged"), "--base", str(out)])
    first, second = (Image.open(next((tmp_path / name).glob("*.png"))) for name in ("live", "merged"))
    with first, second:
        assert apart(first.convert("RGB"), second.convert("RGB")) <= 1


# --- nothing by halves


class Full:
    """A file on a disk with room for some bytes."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def write(self, data) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_disk_that_fills_up_half_way_leaves_nothing(kind, toys, toy_folder, tmp_path, monkeypatch):
    base = toy_folder if kind == "folder" else original_of(toy_folder, "toy", tmp_path / "base.safetensors")
    shapes = open_checkpoint(base).shapes
    (tmp_path / "there").mkdir()
    out = tmp_path / "there" / ("out" if kind == "folder" else "out.safetensors")

    def opened(path, mode="r", *more):
        file = builtins.open(path, mode, *more)  # noqa: SIM115
        return Full(file, 400_000) if "x" in mode else file

    monkeypatch.setattr(stream, "open", opened, raising=False)
    with pytest.raises(OutputError, match="the disk is full; free some space"):
        merge(base, adapters_for(shapes, "")[:1], [1.0], out, recipe={})
    assert list((tmp_path / "there").iterdir()) == []


def test_a_disk_without_room_is_told_before_any_work(toy_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(target.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    shapes = open_checkpoint(toy_folder).shapes
    with pytest.raises(OutputError, match=r"takes 0\.01 GB, 0\.00 GB are free"):
        merge(toy_folder, adapters_for(shapes, "")[:1], [1.0], tmp_path / "out", recipe={})


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_is_kept_unless_told(kind, toys, toy_folder, tmp_path):
    base = toy_folder if kind == "folder" else original_of(toy_folder, "toy", tmp_path / "base.safetensors")
    shapes = open_checkpoint(base).shapes
    out = tmp_path / ("out" if kind == "folder" else "out.safetensors")
    adapters = adapters_for(shapes, "")[:1]
    merge(base, adapters, [1.0], out, recipe={})
    before = content_sha256(out)
    with pytest.raises(OutputError, match="is there already.*--force"):
        merge(base, adapters, [0.5], out, recipe={})
    assert content_sha256(out) == before
    merge(base, adapters, [0.5], out, recipe={}, overwrite=True)
    assert content_sha256(out) != before
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "out.safetensors", "base.safetensors"}


def test_a_folder_of_other_things_is_never_replaced(toy_folder, tmp_path):
    out = tmp_path / "pictures"
    out.mkdir()
    (out / "holiday.png").write_bytes(b"x")
    adapters = adapters_for(open_checkpoint(toy_folder).shapes, "")[:1]
    with pytest.raises(OutputError, match="holds other files"):
        merge(toy_folder, adapters, [1.0], out, recipe={}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"] and (out / "holiday.png").exists()


def test_an_interrupted_merge_leaves_nothing(toy_folder, tmp_path):
    def stop(event):
        if isinstance(event, Progress) and event.done:
            raise KeyboardInterrupt

    adapters = adapters_for(open_checkpoint(toy_folder).shapes, "")[:1]
    with pytest.raises(KeyboardInterrupt):
        merge(toy_folder, adapters, [1.0], tmp_path / "out", recipe={}, report=stop)
    assert list(tmp_path.iterdir()) == []


# --- what cannot be merged, in one line each


def merged(base, tmp_path: Path, adapters, weights, out: str = "out"):
    """Merge into a folder of its own."""
    return merge(base, adapters, weights, tmp_path / out, recipe={})


def test_a_module_that_the_base_lacks_is_named_and_never_passed_over(toy_folder, tmp_path):
    adapter = Adapter({"unet.nowhere.to_q": Factors(torch.ones(1, 4), torch.ones(4, 1), 1.0)}, Info("ink"))
    with pytest.raises(AdapterFileError, match=r"ink: unet\.nowhere\.to_q is not in .*use the base it was made for"):
        merged(toy_folder, tmp_path, [adapter], [1.0])
    wide = Adapter({"unet.conv_in": Factors(torch.ones(1, 4, 3, 3), torch.ones(64, 1, 1, 1), 1.0)}, Info("ink"))
    with pytest.raises(AdapterFileError, match="made for another family"):
        merged(toy_folder, tmp_path, [wide], [1.0])


@pytest.mark.parametrize(
    ("weight", "error"),
    [
        (11.0, "from -10 to 10"),
        (math.nan, "from -10 to 10"),
        (parse_strength("1@steps=0-0.5"), "for all steps"),
        (0.0, "nothing to merge"),
    ],
)
def test_weights_out_of_range_or_over_time_get_one_line(weight, error, toy_folder, tmp_path):
    adapter = adapters_for(open_checkpoint(toy_folder).shapes, "")[0]
    with pytest.raises(RequestError, match=error):
        merged(toy_folder, tmp_path, [adapter], [weight])


def test_bases_that_cannot_be_merged_into_get_one_line(toys, toy_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled/unet").mkdir(parents=True)
    (tmp_path / "pickled/unet/diffusion_pytorch_model.bin").write_bytes(b"x")
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)}, tmp_path / "flux.safetensors")
    cut = original_of(toy_folder, "toy", tmp_path / "cut.safetensors")
    cut.write_bytes(cut.read_bytes()[:-100])
    for name, error in {
        "v1-5.ckpt": r"a \.ckpt file can run code.*weights_only=True",
        "empty": "no unet there; expected a diffusers folder",
        "pickled": "diffusion_pytorch_model.bin can run code when it is opened; expected unet/",
        "flux.safetensors": r"fit no family that is known here \(sd1, sd2, sdxl",
        "cut.safetensors": "bytes of numbers are there",
        "nothing": "no such folder or file",
        "nothing.safetensors": "no such folder or file",
    }.items():
        with pytest.raises(BaseModelError, match=error) as said:
            open_checkpoint(tmp_path / name)
        assert "\n" not in str(said.value) and name in str(said.value)


def test_the_form_of_the_output_is_the_bases(toys, toy_folder, tmp_path):
    file = original_of(toy_folder, "toy", tmp_path / "base.safetensors")
    adapters = adapters_for(open_checkpoint(file).shapes, "")[:1]
    with pytest.raises(RequestError, match="a folder gives a folder"):
        merged(toy_folder, tmp_path, adapters, [1.0], "out.safetensors")
    with pytest.raises(RequestError, match="a single file gives a single file"):
        merged(file, tmp_path, adapters, [1.0])
    with pytest.raises(RequestError, match="one inside the other"):
        merge(toy_folder, adapters, [1.0], toy_folder / "inner", recipe={})
    with pytest.raises(OutputError, match="no such folder; create it first"):
        merged(toy_folder, tmp_path, adapters, [1.0], "nowhere/out")


def test_numbers_that_a_precision_cannot_hold_are_refused(toy_folder, tmp_path):
    adapters = adapters_for(open_checkpoint(toy_folder).shapes, "")[:1]
    path = next(iter(adapters[0].layers))
    huge = replace(adapters[0].layers[path], alpha=1e8)
    with pytest.raises(OutputError, match="does not fit into F16; expected smaller weights; choose --precision bf16"):
        merge(toy_folder, [Adapter({path: huge})], [1.0], tmp_path / "out", recipe={}, precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_the_base_that_cannot_be_added_to_are_refused(toys, toy_folder, tmp_path):
    file = original_of(toy_folder, "toy", tmp_path / "base.safetensors")
    adapters, state = adapters_for(open_checkpoint(file).shapes, "")[:1], load_file(file)
    key = "model.diffusion_model.input_blocks.0.0.weight"
    for value, kind, error in (
        (state[key].to(torch.float8_e4m3fn), AdapterFileError, "is stored as F8_E4M3; expected F32, F16 or BF16"),
        (state[key] * math.nan, BaseModelError, "holds values that are not finite"),
    ):
        save_file(state | {key: value}, file)
        with pytest.raises(kind, match=error):
            merged(file, tmp_path, adapters, [1.0], "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["base.safetensors"]


def test_the_command_says_one_line_for_each_of_these(tmp_path, capsys, tiny_styles):
    for flags, error in (
        (["nobody", "--out", str(tmp_path / "out")], "no style 'nobody'"),
        (["ink:11", "--out", str(tmp_path / "out")], "from -10 to 10"),
        (["ink", "--out", str(tmp_path / "x.safetensors")], "a folder gives a folder"),
        (["ink", "--out", str(tmp_path / "out"), "--base", "x.ckpt"], "can run code"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["merge", *flags, "--loras", str(tiny_styles)])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and error in said and said.count("\n") == 1


def test_a_style_of_another_family_is_refused(toys, toy_folder, tmp_path, model, tiny_styles):
    base = original_of(toy_folder, "toy", tmp_path / "base.safetensors")
    with pytest.raises(DiffloraError, match="made for a base of family 'tiny'"):
        merge_files(["ink"], str(base), tmp_path / "out.safetensors", folder=tiny_styles)
