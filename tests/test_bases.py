"""A base is found by what a person calls it, and what is none is told in one line that says what it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bases import as_single_file, base_folder  # noqa: F401
from huggingface_hub import constants
from safetensors.torch import save_file

from difflora import cli
from difflora.adapters.networks import modules
from difflora.adapters.original import UNET, weight_places
from difflora.errors import BaseModelError
from difflora.models import bases, whole
from difflora.models.bases import EMBEDDED, SHORT, here, locate, not_here
from difflora.models.family import CONFIG_FAMILIES, FAMILIES
from difflora.models.opening import variant
from difflora.models.whole import chosen, missing, weights_of

HEAD = 8


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, nothing downloaded, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def folder(base_folder: Callable[[str], Path], place: Path) -> Path:  # noqa: F811
    """A base of one's own, to break."""
    return Path(shutil.copytree(base_folder("sd1"), place / "mine"))


def refused(base: object) -> str:
    """The one line that a base is refused with, here and by a command."""
    with pytest.raises(BaseModelError) as caught:
        locate(str(base))
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"base {base}") and "expected" in line
    return line


def hollow(path: Path, family: str) -> Path:
    """A single-file checkpoint of full size: a true header, and numbers that take no room on the disk."""
    shapes, rows, end = modules(family), {}, 0
    for name, where in weight_places(family, ()).items():
        shape = shapes[name]
        shape = (3 * shape[0], *shape[1:]) if where.rows else shape[::-1] if where.turned else shape
        if where.key not in rows:
            size = 2 * torch.Size(shape).numel()
            rows[where.key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
            end += size
    text = json.dumps(rows).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(HEAD, "little") + text)
        file.truncate(HEAD + len(text) + end)
    return path


def stored(path: Path, *keys: str) -> Path:
    """A file of small tensors by these names."""
    path.parent.mkdir(exist_ok=True, parents=True)
    save_file({key: torch.zeros(2, 2) for key in keys}, path)
    return path


# Found


def test_names_are_looked_up_in_order(folder, place):
    assert locate("tiny").path == EMBEDDED["tiny"] and locate("tiny").family == "tiny"
    assert locate("sdxl").kind == "hub" and locate("sdxl").repo == SHORT["sdxl"].repo
    # A folder of that name does not hide what the name means everywhere.
    folder.rename(place / "sdxl")
    assert locate("sdxl").kind == "hub" and locate("./sdxl").path == Path("sdxl")
    shutil.copytree(place / "sdxl", place / "bases" / "mine")
    assert locate("mine").path == Path("bases/mine")
    shutil.copytree(place / "sdxl", place / "mine")
    assert locate("mine").path == Path("mine")
    assert locate("owner/mine") == bases.Located("owner/mine", "hub", None, "owner/mine", "", "fp16")


def test_a_file_is_found_by_its_name_with_and_without_its_ending(place):
    (place / "bases" / "old").mkdir(parents=True)
    file = hollow(place / "bases" / "old" / "paint.safetensors", "sd1")
    for name in ("old/paint", "old/paint.safetensors", "bases/old/paint.safetensors", str(file)):
        found = locate(name)
        assert (found.kind, found.family, found.path.resolve()) == ("file", "sd1", file)
    shutil.move(file, place / "bases")
    assert locate("paint").path == locate("paint.safetensors").path == Path("bases/paint.safetensors")


@pytest.mark.parametrize("family", CONFIG_FAMILIES)
def test_the_family_of_a_file_of_full_size_is_told_by_its_header(place, family):
    file = hollow(place / "big.safetensors", family)
    assert file.stat().st_size > 1.8e9
    assert locate(str(file)).family == family
    assert [(base.name, base.family, base.size, base.problem) for base in here(place)[1:]] == [
        ("big", family, file.stat().st_size, "")
    ]


@pytest.mark.parametrize(
    ("kind", "family"), [("sd1", "sd-32"), ("sd2", "sd-48"), ("sdxl", "sdxl-80"), ("ztsnr", "sd-32")]
)
def test_the_family_of_a_folder_is_that_of_the_open_model(opened_family, kind, family):
    assert opened_family(kind) == family


@pytest.fixture
def opened_family(base_folder: Callable[[str], Path]) -> Callable[[str], str]:  # noqa: F811
    """The family of a small base, told by its configs and by opening it."""
    from difflora.models.family import open_model

    def family(kind: str) -> str:
        told = locate(str(base_folder(kind))).family
        assert told == open_model(str(base_folder(kind)), "cpu").family
        return told

    return family


def test_short_names_are_those_of_families_whose_settings_are_here():
    assert {short.family for short in SHORT.values()} == set(CONFIG_FAMILIES)
    assert set(whole.PIPELINES) <= set(FAMILIES)
    assert not_here() == list(SHORT.values())


def test_looking_imports_no_torch(folder):
    code = "import sys; from difflora.models.bases import here, locate; locate(sys.argv[1]); here(); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Refused


@pytest.mark.parametrize("name", ["sdx1", "sd-15", "tinny"])
def test_a_misspelt_name_is_set_right(name):
    near = {"sdx1": "sdxl", "sd-15": "sd15", "tinny": "tiny"}[name]
    assert re.search(rf"did you mean .*{near}", refused(name))


def test_names_in_the_folder_of_bases_are_suggested_too(place):
    hollow_file = place / "bases" / "dreamshaper.safetensors"
    hollow_file.parent.mkdir()
    hollow(hollow_file, "sd1")
    assert "did you mean dreamshaper?" in refused("dreamshapr")


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "nowhere/model.safetensors", "model.ckpt"])
def test_a_path_where_nothing_is_is_no_hub_id(name):
    assert "no such folder or file" in refused(name)


def test_nothing_in_the_folder_of_bases_is_no_hub_id(place):
    (place / "bases").mkdir()
    assert "no such folder or file" in refused("bases/nowhere")


@pytest.mark.parametrize("name", ["", " ", "a\0b", "x" * 5000, "~nobody-of-this-name/x", "ü/ü", "a b/c"])
def test_odd_names_are_refused(name):
    with pytest.raises(BaseModelError) as caught:
        locate(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1500


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".PTH"])
def test_a_pickle_is_not_opened_but_told_how_to_convert(place, suffix):
    (place / f"model{suffix}").write_bytes(b"\x80\x04")
    assert "can run code" in refused(f"model{suffix}") and "weights_only=True" in refused(f"model{suffix}")


KEYS = {
    "style": (["lora_unet_down_blocks_0.lora_down.weight", "lora_unet_down_blocks_0.lora_up.weight"], "--lora"),
    "peft": (["base_model.model.unet.to_q.lora_A.weight"], "--lora"),
    "lycoris": (["lora_unet_mid_block.hada_w1_a"], "--lora"),
    "vae": (["encoder.conv_in.weight", "decoder.conv_in.weight"], "--vae"),
    "ldm-vae": (["first_stage_model.encoder.conv_in.weight"], "--vae"),
    "control": (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
    "controlnet": (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x"], "a ControlNet"),
    "unet": ([f"{UNET}input_blocks.0.0.weight"], "without text encoders"),
    "part": (["down_blocks.0.resnets.0.conv1.weight"], "one part of a diffusers folder"),
    "word": (["emb_params"], "textual inversion"),
    "flux": (["double_blocks.0.img_attn.qkv.weight"], "a FLUX model"),
    "sd3": (["model.diffusion_model.joint_blocks.0.x_block.weight"], "a Stable Diffusion 3 model"),
    "other": ([f"{UNET}a.weight", "cond_stage_model.b"], "fit no family"),
    "strange": (["a"], "fit no family"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_what_is_no_base_is_told_by_what_it_is(place, kind):
    keys, words = KEYS[kind]
    stored(place / f"{kind}.safetensors", *keys)
    assert words in refused(f"{kind}.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "git lfs pull"),
        (b"<!doctype html><title>404</title>", "web page"),
        (b"PK\x03\x04 an archive of some kind", "renamed archive"),
        ((400).to_bytes(8, "little") + b'{"a": ', "ends inside its header"),
        ((2).to_bytes(8, "little") + b"[]", "no valid JSON"),
        ((7).to_bytes(8, "little") + b"[1,2,3]", "no valid JSON"),
    ],
)
def test_a_file_that_is_not_whole_says_so(place, content, words):
    (place / "model.safetensors").write_bytes(content)
    assert words in refused_reading("model.safetensors")


def refused_reading(base: str) -> str:
    """The same, where what was expected may be in other words."""
    with pytest.raises(BaseModelError) as caught:
        locate(base)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_that_was_cut_short_says_how_much_is_there(place):
    file = hollow(place / "model.safetensors", "sd1")
    size = file.stat().st_size
    os.truncate(file, size - 10**6)
    assert re.search(r"[\d,]+ of [\d,]+ bytes of numbers are there", refused_reading("model.safetensors"))
    # What is mended is looked at again.
    os.truncate(file, size)
    assert locate("model.safetensors").family == "sd1"


def test_a_link_that_leads_nowhere_says_so(place):
    (place / "model.safetensors").symlink_to(place / "gone.safetensors")
    assert "a link that leads nowhere" in refused("model.safetensors")


def without(name: str) -> Callable[[Path], None]:
    """Takes one file or folder away."""

    def take(folder: Path) -> None:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return take


def written(name: str, content: bytes) -> Callable[[Path], None]:
    """Puts other content into a file."""
    return lambda folder: (folder / name).write_bytes(content)


def pickled(folder: Path) -> None:
    """Weights as they were uploaded years ago."""
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")


def half_sharded(folder: Path) -> None:
    """The first of two files."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))


def inpainting(folder: Path) -> None:
    """A UNet that also takes a picture and a mask."""
    file = folder / "unet" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"in_channels": 9}))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (without("text_encoder"), "text_encoder is missing"),
        (without("unet/diffusion_pytorch_model.safetensors"), "unet lacks its weights"),
        (without("vae/config.json"), "vae/config.json is missing"),
        (without("scheduler/scheduler_config.json"), "scheduler/scheduler_config.json is missing"),
        (without("tokenizer/tokenizer.json"), "tokenizer has no vocabulary"),
        (written("unet/diffusion_pytorch_model.safetensors", b""), "the file is empty"),
        (written("text_encoder/model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (written("model_index.json", b"{"), "model_index.json is not readable"),
        (written("model_index.json", b"[]"), "model_index.json is not readable"),
        (written("model_index.json", b"{}"), "model_index.json names nothing"),
        (written("model_index.json", b'{"unet": ["diffusers", "U"]}'), "names no pipeline"),
        (written("model_index.json", b'{"_class_name": "StableDiffusionPipeline"}'), "names no unet"),
        (pickled, "vae has its weights only as diffusion_pytorch_model.bin"),
        (half_sharded, "unet lacks some of its weights"),
        (inpainting, "an inpainting model"),
    ],
)
def test_a_folder_that_is_not_whole_names_the_part(folder, harm, words):
    harm(folder)
    assert words in refused("mine")
    found = next(base for base in here(folder.parent) if base.path == folder)
    assert words in found.problem


def filled(folder: Path, *names: str) -> Path:
    """A folder with these files in it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_folder_without_an_index_says_what_is_in_it(place, folder):
    (place / "empty").mkdir()
    assert "is empty" in refused("empty")
    filled(place / "art", "a.png", "b.JPG", "a.txt")
    assert "2 pictures" in refused("art") and "--images" in refused("art")
    stored(place / "styles" / "ink.safetensors", "lora_unet_x.lora_down.weight")
    assert "styles (ink.safetensors)" in refused("styles") and "--lora" in refused("styles")
    stored(place / "peft" / "pytorch_lora_weights.safetensors", "unet.x.lora_A.weight")
    assert "a style (LoRA)" in refused("peft")
    stored(place / "ldm" / "v1-5-pruned.safetensors", f"{UNET}x", "cond_stage_model.x", "model_ema.x")
    stored(place / "ldm" / "v1-5-pruned-emaonly.safetensors", f"{UNET}x", "cond_stage_model.x")
    assert "give the file, --base ldm/v1-5-pruned-emaonly.safetensors" in refused_reading("ldm")
    filled(place / "pickles", "model.ckpt")
    assert "weights_only=True" in refused("pickles")
    filled(place / "notes", "a.txt", "b.txt", "c.txt", "d.txt")
    assert "a.txt, b.txt, c.txt and 1 more" in refused("notes")
    assert "give --base ./mine" in refused("./")
    (folder / "model_index.json").unlink()
    assert "unet but no model_index.json" in refused("mine")
    filled(place / "models--owner--name" / "snapshots" / "0", "x")
    assert "--base owner/name" in refused("models--owner--name")


# Listed


def test_everything_in_the_folder_is_listed_and_broken_ones_with_their_reason(place, folder):
    shelf = place / "bases"
    shutil.copytree(folder, shelf / "whole")
    shutil.copytree(folder, shelf / "broken")
    shutil.rmtree(shelf / "broken" / "text_encoder")
    hollow(shelf / "file.safetensors", "sd2")
    (shelf / "old").mkdir()
    hollow(shelf / "old" / "inner.safetensors", "sd1")
    stored(shelf / "ink.safetensors", "lora_unet_x.lora_down.weight")
    filled(shelf, "old.ckpt", "notes.txt", ".hidden.safetensors")
    shutil.copytree(folder, shelf / "sdxl")
    filled(shelf / "flux")
    shutil.copytree(folder, shelf / "flux")
    index = json.loads((shelf / "flux" / "model_index.json").read_text())
    (shelf / "flux" / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    found = {base.name: base for base in here(shelf)}
    assert set(found) == {
        "tiny", "whole", "broken", "file", "old/inner", "ink", "old.ckpt", "flux", str(shelf / "sdxl"),
    }  # fmt: skip
    assert {name for name, base in found.items() if base.problem} == {"broken", "ink", "old.ckpt", "flux"}
    assert found["whole"].side == 32 and found["tiny"].side == 64 and found["old/inner"].side == 512
    assert found["whole"].size == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    for name, base in found.items():
        if not base.problem:
            assert locate(name, shelf).path == base.path


def test_a_folder_of_bases_that_is_not_there_is_no_error(place):
    assert [base.name for base in here(place / "nowhere")] == ["tiny"]
    (place / "file").write_text("x")
    assert [base.name for base in here(place / "file")] == ["tiny"]


# Weights


@pytest.mark.parametrize(
    ("names", "asked", "wanted"),
    [
        (["model.safetensors", "model.fp16.safetensors"], "fp16", ["model.fp16.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], None, ["model.safetensors"]),
        (["model.safetensors"], "fp16", []),
        (["diffusion_pytorch_model.non_ema.safetensors"], None, []),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None,
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["model-00002-of-00002.safetensors"], None, []),
        (
            ["diffusion_pytorch_model-00001-of-00001.fp16.safetensors"], "fp16",
            ["diffusion_pytorch_model-00001-of-00001.fp16.safetensors"],
        ),
        (
            ["diffusion_pytorch_model.fp16-00001-of-00001.safetensors"], "fp16",
            ["diffusion_pytorch_model.fp16-00001-of-00001.safetensors"],
        ),
        (["other.safetensors", "model.bin"], None, []),
    ],
)  # fmt: skip
def test_the_weights_of_a_variant_are_all_of_its_shards_or_nothing(names, asked, wanted):
    assert chosen(names, asked) == wanted


def test_the_weights_that_are_looked_at_are_those_that_are_opened(folder):
    unet = folder / "unet"
    plain, half = (unet / f"diffusion_pytorch_model{kind}.safetensors" for kind in ("", ".fp16"))
    shutil.copy(plain, half)
    assert variant(unet) is None and weights_of(unet) == [plain.name]
    plain.unlink()
    assert variant(unet) == "fp16" and weights_of(unet) == [half.name]
    assert missing(folder) == ""


# The command


def test_the_command_lists_bases_and_what_may_be_downloaded(place, folder, capsys):
    shutil.copytree(folder, place / "bases" / "mine")
    shutil.copytree(folder, place / "bases" / "broken")
    shutil.rmtree(place / "bases" / "broken" / "vae")
    cli.main(["bases"])
    shown = capsys.readouterr().out
    for words in ("tiny", "mine", "vae is missing", "sdxl", "6.94 GB", "--base bases/mine"):
        assert words in shown
    cli.main(["bases", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows if row["event"] == "base"] == ["tiny", "broken", "bases/mine"]
    assert {row["name"]: row["size"] for row in rows if row["event"] == "offer"}["sd15"] == 2 * 1_066_235_307


def test_a_wrong_base_is_one_line_of_the_command(place, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", "a cat", "--base", "sdx1"])
    assert ended.value.code == 2
    assert "did you mean sdxl" in capsys.readouterr().err


def test_a_small_single_file_says_that_it_fits_no_family(base_folder, place):  # noqa: F811
    as_single_file(base_folder("sd1"), place / "small.safetensors", "sd1")
    assert "fit no family" in refused("small.safetensors")
