"""What inspect says of a file is true: its family, its numbers, what is wrong with it, what programs make of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import random_model
from diffusers import StableDiffusionPipeline

from difflora import cli
from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.families import Match, match
from difflora.adapters.files import load_adapter, read_header, save_adapter
from difflora.adapters.inspection import Inspection, inspect_header
from difflora.adapters.measure import inspect_numbers
from difflora.adapters.networks import modules
from difflora.adapters.places import sources
from difflora.errors import AdapterFileError

NAMES = {
    "sd1": "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_",
    "sd2": "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_",
    "sdxl": "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_",
}
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
WIDTH = {"sd1": 768, "sd2": 1024, "sdxl": 768}


def pair(name: str, out: int, wide: int, rank: int = 4, alpha: float | None = 2.0) -> dict[str, torch.Tensor]:
    """A kohya module written out."""
    rng = torch.Generator().manual_seed(len(name))
    made = {
        f"{name}.lora_down.weight": torch.randn(rank, wide, generator=rng),
        f"{name}.lora_up.weight": torch.randn(out, rank, generator=rng),
    }
    return made | ({} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)})


def kohya(family: str = "sd1") -> dict[str, torch.Tensor]:
    """A small file of a family as sd-scripts writes it: attention, cross-attention, text encoder."""
    cross = NAMES[family].replace("attn1", "attn2")
    width = {"sd1": 768, "sd2": 1024, "sdxl": 2048}[family]
    tensors = pair(f"{NAMES[family]}q", 640, 640) | pair(f"{cross}k", 640, width)
    text = TEXT.replace("lora_te_", "lora_te1_") if family == "sdxl" else TEXT
    return tensors | pair(text, WIDTH[family], WIDTH[family])


def written(folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """The file of them."""
    path = folder / "style.safetensors"
    safetensors.torch.save_file(tensors, path, metadata or {"modelspec.architecture": "stable-diffusion-v1/lora"})
    return path


def inspected(path: Path, base: Match | None = None) -> Inspection:
    """Header and numbers."""
    return inspect_numbers(inspect_header(path, base), base or match(sources(path)))


def verdict(found: Inspection, program: str) -> tuple[str, str]:
    """(loads, strength) of one program."""
    return next((v.loads, v.strength) for v in found.programs if v.program == program)


def told(found: Inspection) -> str:
    """All problems in one text."""
    return " | ".join(trouble.text for trouble in found.troubles)


@pytest.mark.parametrize("family", NAMES)
def test_the_family_is_told_by_shapes_whatever_the_words_say(family, tmp_path):
    path = written(tmp_path, kohya(family), {"ss_base_model_version": "something else", "difflora.family": "tiny"})
    found = inspect_header(path)
    assert (found.family, found.networks()) == (family, {"UNet": 2, "text encoder": 1})
    assert "ss_base_model_version 'something else'" in told(found)


def test_a_sound_kohya_file_loads_everywhere_at_its_own_strength(tmp_path):
    found = inspected(written(tmp_path, kohya()))
    assert found.loads and found.troubles == () and found.dialects == ("kohya",)
    assert {v.program: (v.loads, v.strength) for v in found.programs} == dict.fromkeys(
        ("A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers"), ("yes", "1")
    )


def test_norms_and_alphas_are_those_of_the_update(tmp_path):
    tensors = kohya()
    found = inspected(written(tmp_path, tensors))
    for module in found.modules:
        assert (module.rank, module.alpha) == (4, 2.0)
    name = f"{NAMES['sd1']}q"
    wanted = (tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]).norm() * 0.5
    own = next(m.norm for m in found.modules if m.path.endswith("attn1.to_q"))
    assert own == pytest.approx(float(wanted), rel=1e-5)
    assert sum(n**2 for n in found.norms.values()) == pytest.approx(sum(m.norm**2 for m in found.modules), rel=1e-6)


SPOILT = {
    "not a number": (
        lambda t: t | {f"{TEXT}.lora_up.weight": t[f"{TEXT}.lora_up.weight"] * float("nan")},
        "not finite",
    ),
    "half a pair": (lambda t: {k: v for k, v in t.items() if k != f"{TEXT}.lora_up.weight"}, "lacks lora_up"),
    "no such module": (lambda t: t | pair("lora_unet_nowhere", 4, 4), "lora_unet_nowhere is not in the base"),
    "another size": (lambda t: t | pair(f"{NAMES['sd1']}k", 640, 600), "is (600→640) in the file, (640→640)"),
    "a learnt bias": (lambda t: t | {f"{TEXT}.diff_b": torch.ones(768)}, "a learnt bias"),
    "a textual inversion": (lambda t: t | {"bundle_emb.x.clip_l": torch.ones(1, 768)}, "a textual inversion"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_is_refused_is_said_and_a_repaired_copy_is_without_it(kind, tmp_path, capsys):
    spoil, words = SPOILT[kind]
    path = written(tmp_path, spoil(kohya()))
    found = inspected(path)
    assert words in told(found) and not found.loads
    with pytest.raises(AdapterFileError):
        load_adapter(path, modules("sd1"))
    cli.main(["inspect", str(path), "--repair"])
    assert "left out" in capsys.readouterr().out
    copy = tmp_path / "style-repaired.safetensors"
    assert inspected(copy).troubles == ()
    kept = load_adapter(copy, modules("sd1")).layers
    clean = load_adapter(written(tmp_path, kohya()), modules("sd1")).layers
    assert kept and all(torch.equal(update.delta(), clean[path].delta()) for path, update in kept.items())


def test_exit_code_1_says_that_a_style_is_not_drawn_as_it_is(tmp_path, capsys):
    path = written(tmp_path, SPOILT["half a pair"][0](kohya()))
    with pytest.raises(SystemExit) as caught:
        cli.main(["inspect", str(path), "--json"])
    row = json.loads(capsys.readouterr().out)
    assert caught.value.code == 1 and row["loads"] is False and row["problems"][0]["mends"] is True


def test_words_and_hashes_that_are_wrong_are_mended(tmp_path):
    wrong = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "sshs_model_hash": "ab" * 32,
        "modelspec.trigger_phrase": "inky",
    }
    path = written(tmp_path, kohya() | {f"{TEXT}.alpha": torch.tensor(2)}, wrong)
    found = inspected(path)
    assert all(word in told(found) for word in ("ss_base_model_version", "sshs_model_hash", "stored as integers"))
    cli.main(["inspect", str(path), "--repair"])
    copy = tmp_path / "style-repaired.safetensors"
    assert inspected(copy).troubles == ()
    known = read_header(copy).metadata
    assert (known["ss_base_model_version"], known["modelspec.trigger_phrase"]) == ("sd_v1", "inky")


def test_zero_modules_and_denormals_are_told(tmp_path):
    tensors = kohya()
    tensors[f"{TEXT}.lora_up.weight"] *= 0
    faint = f"{NAMES['sd1']}q.lora_up.weight"
    tensors[faint] = (tensors[faint] * 1e-6).half()
    said = told(inspected(written(tmp_path, tensors)))
    assert "1 module of zeros" in said and "denormals" in said


def test_names_that_some_programs_leave_out_are_told(tmp_path):
    renamed = {key.replace("lora_te_", "lora_te1_"): value for key, value in kohya().items()}
    found = inspected(written(tmp_path, renamed))
    assert verdict(found, "InvokeAI")[0] == "partly" and verdict(found, "A1111")[0] == "yes"
    bare = {key.replace("lora_te_text_model_", "lora_te1_"): value for key, value in kohya().items()}
    found = inspected(written(tmp_path, bare))
    assert {verdict(found, p)[0] for p in ("A1111", "Forge", "ComfyUI", "InvokeAI")} == {"partly"}
    assert "lack text_model" in told(found)


def test_peft_names_are_drawn_by_pages_at_scale_one_if_at_all(tmp_path):
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(4, 640), f"{name}.lora_B.weight": torch.ones(640, 4)}
    path = written(tmp_path, tensors, {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 2})})
    found = inspected(path)
    assert found.dialects == ("diffusers",) and found.modules[0].alpha == 2
    assert verdict(found, "diffusers") == ("yes", "1")
    assert verdict(found, "ComfyUI") == ("partly", "2 in 1 module")
    assert verdict(found, "A1111")[0] == verdict(found, "InvokeAI")[0] == "no"


def test_kinds_that_diffusers_does_not_load_are_told(tmp_path):
    name = f"{NAMES['sd1']}q"
    rng = torch.Generator().manual_seed(0)
    halves = {f"{name}.hada_w{i}_a": torch.randn(640, 4, generator=rng) for i in (1, 2)}
    halves |= {f"{name}.hada_w{i}_b": torch.randn(4, 640, generator=rng) for i in (1, 2)}
    found = inspected(written(tmp_path, halves | {f"{name}.alpha": torch.tensor(2.0)}))
    assert (
        found.kinds() == {"LoHa": 1} and verdict(found, "diffusers")[0] == "no" and verdict(found, "Forge")[0] == "yes"
    )
    by_output = pair(name, 640, 640) | {f"{name}.dora_scale": torch.ones(640, 1)}
    found = inspected(written(tmp_path, by_output))
    assert {v.program: v.loads for v in found.programs} == dict.fromkeys(
        ("A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers"), "partly"
    )


def test_the_strengths_told_of_diffusers_are_those_it_sets(tmp_path):
    """With ranks and alphas mixed at random, against the scale of every layer that diffusers made."""
    model = random_model()
    rng, layers = torch.Generator().manual_seed(3), {}
    for path, (out, *rest) in model.shapes().items():
        rank = int(torch.randint(2, 5, (), generator=rng))
        alpha = float(torch.randint(1, 4, (), generator=rng))
        layers[path] = Factors(
            torch.randn(rank, *rest, generator=rng), torch.randn(out, rank, *[1] * (len(rest) - 1)), alpha
        )
    shapes = model.shapes()
    path = tmp_path / "mixed.safetensors"
    tensors = {}
    for key, factors in layers.items():
        network, _, rest = key.partition(".")
        name = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[network] + rest.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": factors.down, f"{name}.lora_up.weight": factors.up}
        tensors[f"{name}.alpha"] = torch.tensor(factors.alpha)
    safetensors.torch.save_file(tensors, path)
    pipe = StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.parts["text_encoder"], tokenizer=model.tokenizer, unet=model.parts["unet"],
        scheduler=model.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with pytest.warns(RuntimeWarning, match="did not match any targeted module"):
        pipe.load_lora_weights(str(path), use_safetensors=True)
    real = {
        f"{network}.{name}": module.scaling[next(iter(module.scaling))] / layers[f"{network}.{name}"].scale
        for network, root in (("unet", pipe.unet), ("text_encoder", pipe.text_encoder))
        for name, module in root.named_modules()
        if hasattr(module, "scaling") and f"{network}.{name}" in layers
    }
    wrong = {key: ratio for key, ratio in real.items() if abs(ratio - 1) > 1e-6}
    found = inspected(path, Match("toy", shapes))
    low, high = min(wrong.values()), max(wrong.values())
    assert len(real) == len(layers) and len(wrong) > 20
    assert verdict(found, "diffusers") == ("partly", f"{low:.3g} to {high:.3g} in {len(wrong)} modules")


def test_a_file_that_save_adapter_writes_of_such_an_adapter_is_drawn_right_by_all(tmp_path):
    shapes = modules("sd1")
    some = [path for path in shapes if "down_blocks.1.attentions.0" in path]
    rng, layers = torch.Generator().manual_seed(0), {}
    for i, path in enumerate(some):
        out, *rest = shapes[path]
        up = torch.randn(out, 2 + i % 3, *[1] * (len(rest) - 1), generator=rng)
        layers[path] = Factors(torch.randn(2 + i % 3, *rest, generator=rng), up, 1.5 + i % 2)
    path = save_adapter(tmp_path / "x.safetensors", Adapter(layers, Info("x", "sd1")), {}, torch.float32)
    found = inspected(path)
    assert {v.program: v.strength for v in found.programs} == dict.fromkeys(
        ("A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers"), "1"
    )
    assert not any(key.endswith(".alpha") for key in read_header(path).tensors)


def test_the_header_alone_needs_no_torch(tmp_path):
    path = written(tmp_path, kohya())
    code = (
        "import sys; from pathlib import Path; from difflora.adapters.inspection import inspect_header; "
        f"inspect_header(Path({str(path)!r})); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


def test_a_file_of_no_known_family_is_told_apart_from_a_broken_one(tmp_path, model):
    path = save_adapter(tmp_path / "toy.safetensors", Adapter({"unet.conv_in": toy(model)}, Info("toy", "toy")), {})
    assert "give --base" in told(inspect_header(path))
    assert inspect_header(path, Match("toy", model.shapes())).loads


def toy(model) -> Factors:
    """Factors for the toy's first convolution."""
    out, *rest = model.shapes()["unet.conv_in"]
    return Factors(torch.ones(2, *rest), torch.ones(out, 2, 1, 1), 1.0)


def test_json_of_a_file_with_a_norm_that_is_no_number_is_strict(tmp_path, capsys):
    tensors = kohya()
    tensors[f"{TEXT}.lora_up.weight"] = torch.full_like(tensors[f"{TEXT}.lora_up.weight"], 3e38)
    cli.main(["inspect", str(written(tmp_path, tensors)), "--json"])

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(capsys.readouterr().out, parse_constant=refuse)["family"] == "sd1"


def test_every_version_of_sdxl_that_a1111_knows_is_sound(tmp_path):
    path = written(tmp_path, kohya("sdxl"), {"ss_base_model_version": "sdxl_base_v0-9"})
    assert "ss_base_model_version" not in told(inspect_header(path))
