"""Adapter files of every dialect from plain tensors and names written out, each update computed by hand in float64.

Nothing of difflora is used. A writer (`PLAIN`, `OTHERS`, `SDXL`) takes a folder, the shapes and weights of a network by
module path and a seed; it gives the path it wrote and the update of each module.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Tensors = Mapping[str, Tensor]
Made = tuple[Path, dict[str, Tensor]]
Parts = tuple[dict[str, Tensor], Tensor]  # tensors by what their key ends in, and the update in float64
Kind = Callable[[Shape, int, torch.Generator, Tensor], Parts]
Writer = Callable[[Path, Shapes, Tensors, int], Made]

# (rank, alpha), in turn: half of the scales are powers of two, half of the alphas larger than the rank.
RANKS = ((4, 2.0), (2, 5.0), (6, 1.5), (3, 7.0))
B, U = "transformer_blocks.0.", "transformer_blocks_0_"
KOHYA = {
    "unet.time_embedding.linear_1": "lora_unet_time_embedding_linear_1",
    "unet.down_blocks.0.attentions.0.proj_in": "lora_unet_down_blocks_0_attentions_0_proj_in",
    f"unet.down_blocks.0.attentions.0.{B}attn1.to_q": f"lora_unet_down_blocks_0_attentions_0_{U}attn1_to_q",
    f"unet.down_blocks.1.attentions.0.{B}attn2.to_k": f"lora_unet_down_blocks_1_attentions_0_{U}attn2_to_k",
    f"unet.up_blocks.1.attentions.1.{B}attn1.to_out.0": f"lora_unet_up_blocks_1_attentions_1_{U}attn1_to_out_0",
    f"unet.up_blocks.0.attentions.0.{B}ff.net.0.proj": f"lora_unet_up_blocks_0_attentions_0_{U}ff_net_0_proj",
    "unet.down_blocks.0.downsamplers.0.conv": "lora_unet_down_blocks_0_downsamplers_0_conv",
    "unet.up_blocks.0.resnets.0.conv1": "lora_unet_up_blocks_0_resnets_0_conv1",
    f"unet.mid_block.attentions.0.{B}ff.net.2": f"lora_unet_mid_block_attentions_0_{U}ff_net_2",
    "unet.conv_out": "lora_unet_conv_out",
    "text_encoder.encoder.layers.0.self_attn.q_proj": "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
    "text_encoder.encoder.layers.0.mlp.fc1": "lora_te_text_model_encoder_layers_0_mlp_fc1",
    "text_encoder.encoder.layers.1.self_attn.out_proj": "lora_te_text_model_encoder_layers_1_self_attn_out_proj",
}
# Stable Diffusion XL's original names, for three levels of two layers with no attention in the first.
SGM = {
    "unet.conv_in": "input_blocks.0.0",
    "unet.time_embedding.linear_2": "time_embed.2",
    "unet.add_embedding.linear_1": "label_emb.0.0",
    "unet.down_blocks.0.resnets.1.conv1": "input_blocks.2.0.in_layers.2",
    "unet.down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "unet.down_blocks.1.resnets.0.time_emb_proj": "input_blocks.4.0.emb_layers.1",
    "unet.down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
    "unet.down_blocks.1.attentions.0.proj_in": "input_blocks.4.1.proj_in",
    f"unet.down_blocks.1.attentions.0.{B}attn1.to_q": f"input_blocks.4.1.{B}attn1.to_q",
    f"unet.down_blocks.1.attentions.1.{B}attn2.to_k": f"input_blocks.5.1.{B}attn2.to_k",
    f"unet.down_blocks.2.attentions.1.{B}ff.net.0.proj": f"input_blocks.8.1.{B}ff.net.0.proj",
    "unet.mid_block.resnets.0.conv1": "middle_block.0.in_layers.2",
    f"unet.mid_block.attentions.0.{B}attn2.to_out.0": f"middle_block.1.{B}attn2.to_out.0",
    "unet.mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
    f"unet.up_blocks.0.attentions.0.{B}attn1.to_v": f"output_blocks.0.1.{B}attn1.to_v",
    "unet.up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
    f"unet.up_blocks.1.attentions.1.{B}ff.net.2": f"output_blocks.4.1.{B}ff.net.2",
    "unet.up_blocks.2.resnets.2.conv2": "output_blocks.8.0.out_layers.3",
    "unet.conv_out": "out.2",
}
TWO = "text_encoder_2.text_model.encoder.layers"
TEXTS = {
    "text_encoder.encoder.layers.0.self_attn.q_proj": "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    "text_encoder.encoder.layers.1.mlp.fc2": "lora_te1_text_model_encoder_layers_1_mlp_fc2",
    f"{TWO}.0.self_attn.v_proj": "lora_te2_text_model_encoder_layers_0_self_attn_v_proj",
    f"{TWO}.1.mlp.fc1": "lora_te2_text_model_encoder_layers_1_mlp_fc1",
}
UNET = {path: name for path, name in KOHYA.items() if path.startswith("unet.")}
XL = {path: "lora_unet_" + name.replace(".", "_") for path, name in SGM.items()} | TEXTS


def filed(path: str) -> str:
    """A path as files name it, of which transformers 5.6 took the text_model away."""
    return path.replace("text_encoder.encoder", "text_encoder.text_model.encoder")


def old(path: str, oldest: bool = False) -> str:
    """Before PEFT: wrapped layers held the factors, and at first the processors of attention."""
    if ".attn" in path and oldest:
        parent, _, leaf = path.removesuffix(".0").rpartition(".")
        return f"{parent}.processor.{leaf}_lora"
    return f"{filed(path)}.{'lora' if path.startswith('unet.') else 'lora_linear_layer'}"


def noise(rng: torch.Generator, *shape: int, size: float = 0.15) -> Tensor:
    return torch.randn(shape, generator=rng) * size


def product(up: Tensor, down: Tensor, shape: Shape) -> Tensor:
    """delta[o, i] = sum_r up[o, r] down[r, i], whatever kernel there is."""
    return (up.double().flatten(1) @ down.double().flatten(1)).reshape(shape)


def pair(shape: Shape, i: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Down and up, as stored."""
    rank = RANKS[i % 4][0]
    down, up = noise(rng, rank, *shape[1:]), noise(rng, shape[0], rank, *[1] * (len(shape) - 2))
    return down.to(dtype), up.to(dtype)


def lora(shape, i, rng, weight, dtype=torch.float32, alpha_as=torch.float32) -> Parts:
    """alpha_as: the dtype of alpha, or None to leave it out."""
    (rank, alpha), (down, up) = RANKS[i % 4], pair(shape, i, rng, dtype)
    tensors = {".lora_down.weight": down, ".lora_up.weight": up}
    if alpha_as is None:
        return tensors, product(up, down, shape)
    alpha = torch.tensor(alpha).to(alpha_as)
    return tensors | {".alpha": alpha}, product(up, down, shape) * alpha.item() / rank


def beside(shape, i, rng, weight, ends=(".lora_A.weight", ".lora_B.weight"), scale="alpha / rank") -> Parts:
    """Factors whose strength is not in the file's tensors."""
    (rank, alpha), (down, up) = RANKS[i % 4], pair(shape, i, rng)
    scales = {"alpha / rank": alpha / rank, "alpha / sqrt(rank)": alpha / math.sqrt(rank), "1": 1.0}
    return dict(zip(ends, (down, up), strict=True)), product(up, down, shape) * scales[scale]


def tucker(shape, i, rng, weight) -> Parts:
    """LoCon with a third factor where there is a kernel."""
    (rank, alpha), (down, up) = RANKS[i % 4], pair((*shape[:2], 1, 1), i, rng)
    if math.prod(shape[2:]) == 1:
        return lora(shape, i, rng, weight)
    mid = noise(rng, rank, rank, *shape[2:], size=0.5)
    tensors = {".lora_down.weight": down, ".lora_mid.weight": mid, ".lora_up.weight": up, ".alpha": torch.tensor(alpha)}
    flat = (up.double()[:, :, 0, 0], mid.double(), down.double()[:, :, 0, 0])
    return tensors, torch.einsum("oa,abxy,bi->oixy", *flat) * alpha / rank


def half(name: str, shape: Shape, rank: int, how: str, rng: torch.Generator) -> Parts:
    """One side of a LoHa or LoKr: whole, a product, or a tensor t contracted with both factors."""
    out, inner, *kernel = shape
    if how == "whole":
        whole = noise(rng, *shape, size=0.3)
        return {name: whole}, whole.double()
    if how == "product":
        a, b = noise(rng, out, rank, size=0.4), noise(rng, rank, inner * math.prod(kernel), size=0.4)
        return {f"{name}_a": a, f"{name}_b": b}, product(a, b, shape)
    t, a, b = (noise(rng, rank, *rest, size=0.4) for rest in ((rank, *kernel), (out,), (inner,)))
    dense = torch.einsum("ijkl,jr,ip->prkl", t.double(), b.double(), a.double())
    return {name.replace("_w", "_t"): t, f"{name}_a": a, f"{name}_b": b}, dense


def loha(shape, i, rng, weight) -> Parts:
    """Two sides multiplied; every second kernel through t1 and t2."""
    (rank, alpha), how = RANKS[i % 4], "t" if math.prod(shape[2:]) > 1 and i % 2 else "product"
    (first, one), (second, two) = (half(f".hada_w{n}", shape, rank, how, rng) for n in (1, 2))
    return {**first, **second, ".alpha": torch.tensor(alpha)}, one * two * alpha / rank


def lokr(shape, i, rng, weight) -> Parts:
    """A Kronecker product of w1 (4, 2) and w2, each whole or factored, in turn; whole ones have no scale."""
    (rank, alpha), last = RANKS[i % 4], "t" if math.prod(shape[2:]) > 1 else "product"
    hows = (("whole", "whole"), ("product", "whole"), ("product", "product"), ("whole", last))[i % 4]
    first, one = half(".lokr_w1", (4, 2), rank, hows[0], rng)
    second, two = half(".lokr_w2", (shape[0] // 4, shape[1] // 2, *shape[2:]), rank, hows[1], rng)
    delta = torch.einsum("ac,bd...->abcd...", one, two).reshape(shape) * (1 if i % 4 == 0 else alpha / rank)
    return {**first, **second, ".alpha": torch.tensor(alpha)}, delta


def full(shape, i, rng, weight) -> Parts:
    difference = noise(rng, *shape, size=0.05)
    return {".diff": difference}, difference.double()


def dora(shape, i, rng, weight, axis: int, inner: Kind = lora, ends: str = ".dora_scale") -> Parts:
    """magnitude * (W + V) / |W + V| - W; axis 0: a magnitude and a norm of each output, 1: of each input."""
    tensors, update = inner(shape, i, rng, weight)
    others = [n for n in range(weight.dim()) if n != axis]
    norm = weight.square().sum(others, keepdim=True).sqrt()
    magnitude, new = norm * (1 + noise(rng, *norm.shape, size=0.2)), weight.double() + update
    delta = magnitude.double() * new / new.square().sum(others, keepdim=True).sqrt() - weight.double()
    if ends == ".lora_magnitude_vector":
        magnitude = magnitude.flatten() if weight.dim() == 2 else magnitude.transpose(0, 1)  # PEFT's shapes
    return tensors | {ends: magnitude}, delta


def made(names: Mapping[str, str], shapes: Shapes, weights: Tensors, seed: int, kinds: tuple[Kind, ...]):
    """(tensors by key, updates by path); modules take the kinds in turn."""
    rng, tensors, deltas = torch.Generator().manual_seed(seed), {}, {}
    for i, (path, name) in enumerate(names.items()):
        parts, deltas[path] = kinds[i % len(kinds)](shapes[path], i, rng, weights[path])
        tensors |= {name + part: value for part, value in parts.items()}
    return tensors, deltas


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path, metadata)
    return path


def kohya(folder: Path, shapes: Shapes, weights: Tensors, seed: int, *, names=KOHYA, kinds=(lora,)) -> Made:
    tensors, deltas = made(names, shapes, weights, seed, kinds)
    return write(folder / "style.safetensors", tensors), deltas


def settings(paths: Iterable[str], network: str, short: bool = False, named=filed, **more: object) -> dict[str, object]:
    """LoraConfig.to_dict() of one network; short: patterns that are the last part of a path alone."""
    own = {named(path): RANKS[i % 4] for i, path in enumerate(paths) if path.startswith(f"{network}.")}
    own = {p.rpartition(".")[2] if short else p.removeprefix(f"{network}."): pair for p, pair in own.items()}
    ranks, alphas = ({path: pair[n] for path, pair in own.items() if pair[n] != RANKS[0][n]} for n in (0, 1))
    return {"r": 4, "lora_alpha": 2.0, "rank_pattern": ranks, "alpha_pattern": alphas, "target_modules": [*own], **more}


def diffusers(folder, shapes, weights, seed, *, paths=KOHYA, kinds=(beside,), told=True, named=filed, **more) -> Made:
    """What save_lora_weights writes; told: whether its header holds the strength, without which the scale is 1."""
    tensors, deltas = made({path: named(path) for path in paths}, shapes, weights, seed, kinds)
    networks = dict.fromkeys(path.partition(".")[0] for path in paths)
    rows = {f"{n}.{key}": value for n in networks for key, value in settings(paths, n, named=named, **more).items()}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(rows, indent=2, sort_keys=True)}
    return write(folder / "pytorch_lora_weights.safetensors", tensors, header if told else {"format": "pt"}), deltas


def peft_folder(folder, shapes, weights, seed, *, kinds=(beside,), **more: bool) -> Made:
    """adapter_config.json and adapter_model.safetensors of the UNet alone."""
    names = {path: f"base_model.model.{path.removeprefix('unet.')}" for path in UNET}
    tensors, deltas = made(names, shapes, weights, seed, kinds)
    write(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    config = settings(UNET, "unet", peft_type="LORA", bias="none", **more)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder, deltas


def tree(weights: Tensors) -> nn.Module:
    """A module that has layers of the UNet's weights at its paths, and nothing else."""
    root = nn.Module()
    for path, weight in weights.items():
        network, *parents, leaf = path.split(".")
        if network == "unet":
            place = root
            for name in parents:
                place.add_module(name, getattr(place, name, None) or nn.Module())
                place = getattr(place, name)
            out, inner, *kernel = weight.shape
            layer = nn.Conv2d(inner, out, tuple(kernel), bias=False) if kernel else nn.Linear(inner, out, bias=False)
            layer.weight.data = weight.clone()
            place.add_module(leaf, layer)
    return root


def real_peft(folder, shapes, weights, seed, *, kinds=(beside,), **more: bool) -> Made:
    """The same folder by the peft library itself."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    tensors, deltas = made({p: f"base_model.model.{p[5:]}" for p in UNET}, shapes, weights, seed, kinds)
    learner = get_peft_model(tree(weights), LoraConfig(**settings(UNET, "unet", **more)))
    assert not set_peft_model_state_dict(learner, tensors).unexpected_keys
    learner.save_pretrained(folder)
    return folder, deltas


ONE, ROOT = partial(beside, scale="1"), partial(beside, scale="alpha / sqrt(rank)")
OLD = (partial(beside, scale="1", ends=(".down.weight", ".up.weight")),)
BY_OUTPUT = partial(dora, axis=0, inner=beside, ends=".lora_magnitude_vector")
PLAIN: dict[str, Writer] = {
    "kohya": kohya,
    "kohya-te1": partial(kohya, names={p: n.replace("lora_te_", "lora_te1_") for p, n in KOHYA.items()}),
    "kohya-drifted": partial(kohya, names={p: n.replace("te_text_model_", "te1_") for p, n in KOHYA.items()}),
    "kohya-no-alpha": partial(kohya, kinds=(partial(lora, alpha_as=None),)),
    "kohya-int64-alpha": partial(kohya, kinds=(partial(lora, alpha_as=torch.int64),)),
    "kohya-fp16": partial(kohya, kinds=(partial(lora, dtype=torch.float16),)),
    "kohya-bf16": partial(kohya, kinds=(partial(lora, dtype=torch.bfloat16),)),
    "lycoris": partial(kohya, names={p: n.replace("lora_unet_", "lycoris_") for p, n in UNET.items()}),
    "tucker": partial(kohya, kinds=(tucker,)),
    "diffusers": diffusers,
    "diffusers-flat": partial(diffusers, named=str),
    "diffusers-short-patterns": partial(diffusers, short=True),
    "diffusers-untold": partial(diffusers, kinds=(ONE,), told=False),
    "diffusers-rslora": partial(diffusers, kinds=(ROOT,), use_rslora=True),
    "diffusers-old": partial(kohya, kinds=OLD, names={path: old(path) for path in KOHYA}),
    "diffusers-oldest": partial(kohya, kinds=OLD, names={path: old(path, oldest=True) for path in KOHYA}),
    "peft": peft_folder,
    "peft-rslora": partial(peft_folder, kinds=(ROOT,), use_rslora=True),
    "real-peft": real_peft,
    "real-peft-rslora": partial(real_peft, kinds=(ROOT,), use_rslora=True),
}
OTHERS: dict[str, Writer] = {
    "loha": partial(kohya, kinds=(loha,)),
    "lokr": partial(kohya, kinds=(lokr,)),
    "full": partial(kohya, kinds=(full,)),
    "lycoris-mixed": partial(kohya, names=PLAIN["lycoris"].keywords["names"], kinds=(loha, lora, lokr, tucker, full)),
    "dora-by-input": partial(kohya, kinds=(partial(dora, axis=1),)),
    "dora-by-output": partial(kohya, kinds=(partial(dora, axis=0),)),
    "dora-others": partial(kohya, kinds=(partial(dora, axis=1, inner=loha), partial(dora, axis=0, inner=lokr))),
    "diffusers-dora": partial(diffusers, kinds=(BY_OUTPUT,), use_dora=True),
    "real-peft-dora": partial(real_peft, kinds=(BY_OUTPUT,), use_dora=True),
    "real-peft-both": partial(real_peft, kinds=(partial(BY_OUTPUT, inner=ROOT),), use_dora=True, use_rslora=True),
}
SDXL: dict[str, Writer] = {
    "kohya": partial(kohya, names=XL),
    "kohya-diffusers-blocks": partial(kohya, names={p: "lora_" + p.replace(".", "_") for p in SGM} | TEXTS),
    "diffusers": partial(diffusers, paths=XL),
    "dotted": partial(kohya, names={p: f"diffusion_model.{name}" for p, name in SGM.items()}),
    "loha": partial(kohya, names=XL, kinds=(loha, lokr)),
}
