"""What does a change of weights cost, what does it leave behind, and what do many blends in one batch save?

    .venv/bin/python scripts/bench/gates.py
    .venv/bin/python scripts/bench/gates.py batch --steps 20 --threads 2

`changes`: a UNet of Stable Diffusion 1.5's size with random weights and two adapters of rank 16 on its attention and
feed-forward layers (4 GB of memory), against diffusers with the same adapters in peft. `residue`: how far the embedded
base and its UNet's output are from what they were after many changes. `batch`: eight blends of two
styles, one seed, by the embedded base. Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging
from peft import LoraConfig
from torch import Tensor, nn
from transformers.utils import logging as text_logging

from difflora.adapters.adapter import Adapter, Factors
from difflora.adapters.files import load_adapter
from difflora.drawing.generate import generate, mark_folded
from difflora.drawing.recipe import Recipe, Style
from difflora.models.attach import attached
from difflora.models.family import EMBEDDED, open_model
from difflora.strength import Strength

LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
NAMES = ("ink", "fluent3d")
RANK, ALPHA = 16, 8.0
PROMPT, SEED = "a red apple", 3


def row(*cells: object) -> None:
    """One line of a table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def head(*cells: str) -> None:
    """The first two lines of a table."""
    row(*cells)
    print("|" + "---|" * len(cells))


def seconds(work: Callable[[int], object], count: int) -> float:
    """The median time of that many calls, after one that is not counted."""
    work(0)
    times = []
    for i in range(count):
        start = time.perf_counter()
        work(i)
        times.append(time.perf_counter() - start)
    return median(times)


def in_words(duration: float) -> str:
    """Milliseconds with three digits."""
    return f"{duration * 1000:.3g} ms"


# --- changes of weight


def sd15() -> UNet2DConditionModel:
    """The UNet of Stable Diffusion 1.5 from its published config, with random weights, float32."""
    torch.manual_seed(0)
    levels = (320, 640, 1280, 1280)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=levels, cross_attention_dim=768, attention_head_dim=8
    )
    return unet.eval().requires_grad_(False)


def random_adapters(unet: nn.Module) -> list[Adapter]:
    """Two adapters of rank 16 on attention and feed-forward layers."""
    rng = torch.Generator().manual_seed(1)
    modules = {p: m for p, m in unet.named_modules() if p.endswith(LAYERS) and isinstance(m, nn.Linear)}

    def factors(module: nn.Linear) -> Factors:
        down = torch.randn(RANK, module.in_features, generator=rng) * module.in_features**-0.5
        return Factors(down, torch.randn(module.out_features, RANK, generator=rng) * 0.05, ALPHA)

    return [Adapter({f"unet.{path}": factors(module) for path, module in modules.items()}) for _ in NAMES]


def give_to_peft(unet: nn.Module, adapters: Sequence[Adapter]) -> None:
    """The same adapters as layers of peft."""
    for name, adapter in zip(NAMES, adapters, strict=True):
        paths = [path.partition(".")[2] for path in adapter.layers]
        [rank], [alpha] = {f.rank for f in adapter.layers.values()}, {f.alpha for f in adapter.layers.values()}
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths), adapter_name=name)
        for path, factors in adapter.layers.items():
            layer = unet.get_submodule(path.partition(".")[2])
            layer.lora_A[name].weight.data = factors.down.to(layer.weight)
            layer.lora_B[name].weight.data = factors.up.to(layer.weight)
    unet.requires_grad_(False)


def digest(unet: nn.Module) -> str:
    """A hash of every weight of the base, without those of adapters."""
    whole = hashlib.blake2b()
    for name, weight in unet.named_parameters():
        if "lora_" not in name:
            whole.update(weight.detach().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()


def output(unet: UNet2DConditionModel, side: int, rows: int = 1) -> Tensor:
    """What a UNet says to fixed noise."""
    rng = torch.Generator().manual_seed(5)
    noisy = torch.randn(rows, 4, side, side, generator=rng).to(unet.dtype)
    words = torch.randn(rows, 8, unet.config.cross_attention_dim, generator=rng).to(unet.dtype)
    with torch.inference_mode():
        return unet(noisy, torch.full((rows,), 500), words).sample.float()


def pair(i: int) -> list[float]:
    """A blend that is another one at each change."""
    return [0.2 + i % 13 / 20, 0.9 - i % 7 / 10]


def by_block(i: int) -> list[Strength]:
    """The same with other weights in some blocks; one of forty."""
    a, b = pair(i % 40)
    return [Strength(a, None, (("mid", b), ("up", 0.4))), Strength(b, None, (("down", a), ("up2", -0.2)))]


def by_part(i: int) -> list[dict]:
    """What diffusers takes for weights by part of the network."""
    a, b = pair(i)
    return [{"down": a, "mid": b, "up": 0.4}, {"down": b, "mid": a, "up": -0.2}]


def changes(args: argparse.Namespace) -> None:
    """Time of one change of two weights, ours and diffusers'."""
    unet, names = sd15(), list(NAMES)
    adapters = random_adapters(unet)
    before = digest(unet)
    layers = len(adapters[0].layers)
    print(f"\nStable Diffusion 1.5's UNet, float32, two adapters of rank {RANK} on {layers} layers each; medians.\n")
    head("change of two weights", "time")
    with attached({"unet": unet}, adapters) as stack:
        row("difflora, two numbers", in_words(seconds(lambda i: stack.weights(pair(i)), 500)))
        row("difflora, by block", in_words(seconds(lambda i: stack.weights(by_block(i)), 500)))
        fresh = seconds(lambda i: stack.weights([Strength(i / 1000, None, s.blocks) for s in by_block(i)]), 100)
        row("difflora, by block, never seen before", in_words(fresh))
        eight = seconds(lambda i: stack.weights([by_block(i + j) for j in range(8)]), 500)
        row("difflora, by block, eight pictures of a batch", in_words(eight))
        row("difflora, folded into the weights", in_words(seconds(lambda i: stack.fold(pair(i)), 3)))
        stack.unfold()
        kept = digest(unet) == before
        stack.weights(pair(5))
        ours = output(unet, 8)
    give_to_peft(unet, adapters)
    row("diffusers set_adapters, two numbers", in_words(seconds(lambda i: unet.set_adapters(names, pair(i)), 20)))
    row("diffusers set_adapters, by part", in_words(seconds(lambda i: unet.set_adapters(names, by_part(i)), 20)))
    unet.set_adapters(names, pair(5))
    theirs = output(unet, 8)
    unet.fuse_lora(adapter_names=names)
    row("diffusers unfuse, set_adapters, fuse", in_words(seconds(lambda i: refused(unet, pair(i)), 3)))
    gap = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"\nOutputs at the same weights differ by {gap:.1e} of the largest number. After difflora's changes the")
    print(f"weights of the base are {'the same, bit for bit' if kept else 'CHANGED'}.")


def refused(unet: UNet2DConditionModel, weights: list[float]) -> None:
    """Take fused adapters out, and fuse them with other weights."""
    unet.unfuse_lora()
    unet.set_adapters(list(NAMES), weights)
    unet.fuse_lora(adapter_names=list(NAMES))


# --- what stays behind


def residue(args: argparse.Namespace) -> None:
    """The largest difference of any weight and of the output after many changes that end where they began."""
    print(
        f"\nThe embedded base's UNet, {' and '.join(NAMES)}, {args.changes} changes of both weights: largest difference"
    )
    print("of any weight of the base, and of any number of the output at the weights of the beginning.\n")
    head("precision", "how", "base", "output", "of", "seconds")
    for dtype in (torch.float32, torch.bfloat16):
        for how in ("difflora", "difflora, folded", "diffusers set_adapters", "diffusers fuse, unfuse"):
            model = open_model("tiny", "cpu")
            unet = model.parts["unet"].to(dtype)
            own = [
                Adapter({p: u for p, u in load(args, name, model).layers.items() if p.startswith("unet.")})
                for name in NAMES
            ]
            start = time.perf_counter()
            weights, outputs = after(unet, own, how, args.changes)
            size = float(outputs[0].abs().max())
            name = str(dtype).removeprefix("torch.")
            gap = float((outputs[0] - outputs[1]).abs().max())
            row(name, how, f"{weights:.1e}", f"{gap:.1e}", f"{size:.1f}", f"{time.perf_counter() - start:.0f}")


def after(unet: UNet2DConditionModel, own: list[Adapter], how: str, count: int) -> tuple[float, list[Tensor]]:
    """How far the base's weights are from what they were, and the outputs before and after, at the same weights."""
    clean = {name.replace(".base_layer", ""): w.clone() for name, w in unet.named_parameters()}
    outputs = []
    if how.startswith("difflora"):
        with attached({"unet": unet}, own) as stack:
            for i in (0, *range(1, count), 0):
                stack.fold(pair(i)) if "folded" in how else stack.weights(pair(i))
                outputs += [output(unet, 16)] if i == 0 else []
    else:
        give_to_peft(unet, own)
        unet.set_adapters(list(NAMES), pair(0))
        fused = "unfuse" in how
        if fused:
            unet.fuse_lora(adapter_names=list(NAMES))
        for i in (0, *range(1, count), 0):
            refused(unet, pair(i)) if fused else unet.set_adapters(list(NAMES), pair(i))
            outputs += [output(unet, 16)] if i == 0 else []
        if fused:
            unet.unfuse_lora()
    now = {n.replace(".base_layer", ""): w for n, w in unet.named_parameters() if "lora_" not in n}
    assert now.keys() == clean.keys()
    return max(float((now[name].float() - clean[name].float()).abs().max()) for name in clean), outputs


def load(args: argparse.Namespace, name: str, model) -> Adapter:
    """One of the demo's styles."""
    return load_adapter(args.loras / f"{name}.safetensors", model.shapes(), model.family)


# --- many blends


def batch(args: argparse.Namespace) -> None:
    """Eight blends at once, one after the other, and by diffusers."""
    model = open_model("tiny", "cpu")
    adapters = {name: load(args, name, model) for name in NAMES}
    plain = Recipe(prompt=PROMPT, seed=SEED, steps=args.steps, width=model.side, height=model.side)
    blends = [[j / 7, 1 - j / 7] for j in range(8)]
    asked = [replace(plain, styles=tuple(map(Style, NAMES, weights))) for weights in blends]
    pipe = StableDiffusionPipeline.from_pretrained(EMBEDDED["tiny"], safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    for name in NAMES:
        pipe.load_lora_weights(args.loras, weight_name=f"{name}.safetensors", adapter_name=name)

    def theirs() -> None:
        for weights in blends:
            pipe.set_adapters(list(NAMES), weights)
            rng = torch.Generator().manual_seed(SEED)
            pipe(PROMPT, num_inference_steps=args.steps, guidance_scale=plain.guidance, generator=rng)

    ways = {
        "difflora, one batch of eight": lambda: list(generate(model, asked, adapters, batch=8)),
        "difflora, eight runs": lambda: list(generate(model, asked, adapters, batch=1)),
        "difflora, eight runs, folded": lambda: [list(generate(model, mark_folded([r]), adapters)) for r in asked],
        "diffusers set_adapters, eight runs": theirs,
    }
    # In turns, so that what else the machine does falls on all of them alike.
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, draw in ways.items():
            times[way].append(seconds(lambda i, draw=draw: draw(), 1) if not times[way] else timed(draw))
    print(f"\nThe embedded base, {model.side} px, {args.steps} steps, eight blends of two styles; float32, medians of")
    print(f"{args.rounds} turns, {torch.get_num_threads()} threads.\n")
    head("how", "seconds", "times the batch")
    best = median(times["difflora, one batch of eight"])
    for way, taken in times.items():
        row(way, f"{median(taken):.2f}", f"{median(taken) / best:.2f}")


def timed(draw: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    draw()
    return time.perf_counter() - start


if __name__ == "__main__":
    parts = {"changes": changes, "residue": residue, "batch": batch}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="|".join(parts), help="all of them unless given")
    parser.add_argument("--loras", type=Path, default=Path("demo/loras"))
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", 2)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    text_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", "Already found a `peft_config`")
    for name in args.what or parts:
        parts[name](args)
