"""Speed and memory on full-size networks of random weights, against diffusers and peft on the same card.

    .venv/bin/python scripts/bench/card.py --seconds 120
    .venv/bin/python scripts/bench/card.py --tiny --device cpu

SD 1.5 at 512 px and SDXL at 1024 px in bf16; speed does not depend on the numbers. Training: the trainer's own step on
latents that are encoded already, adapters on the UNet's attention only and as the trainer does by default, against the
loop of diffusers' examples/text_to_image/train_text_to_image_lora.py (add_adapter, factors in float32, autocast,
AdamW). Drawing: 20 steps with guidance, decoding included. Prints each row as soon as it is measured; no case is begun
after --seconds. --tiny: the same on networks of a few numbers, to see that every path works.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from difflora.adapters.adapter import Adapter, Factors
from difflora.config import BaseConfig
from difflora.models.attach import attached, learning
from difflora.models.clip import CONFIGS
from difflora.models.family import BaseModel, open_model, read_index, room_of
from difflora.models.opening import How, Source
from difflora.models.skeleton import empty_networks
from difflora.training.encoded import Encoded, Framing
from difflora.training.loop import Loop
from difflora.training.probe import clock

RANK, LAYERS, DRAW_STEPS = 16, ["to_k", "to_q", "to_v", "to_out.0"], 20
NAMES = {"sd1": "SD 1.5", "sdxl": "SDXL"}
PROMPTS = [f"{thing} on a table" for thing in ("a cat", "a red apple", "a house", "a car")] * 2
TABLE = [(0.7 + i / 20, 0.4 - i / 10) for i in range(8)]
HALF = torch.bfloat16
Row = tuple[str, ...]


class Bench:
    """The clock, the card's peak and the model that is open."""

    def __init__(self, device: str, tiny: bool) -> None:
        self.device, self.tiny, self.started = torch.device(device), tiny, time.monotonic()
        self.cuda, self.family, self.model, self.side = self.device.type == "cuda", "", None, 0
        side = 8192 if self.cuda else 256
        a, b = (torch.randn(side, side, device=self.device, dtype=HALF) for _ in range(2))
        self.peak = 2 * side**3 / self.steady(lambda: a @ b, 0.1)

    def steady(self, work: Callable, least: float = 2.0) -> float:
        """Seconds of one call once it is warm, of as many as take `least` seconds."""
        once = [clock(work, self.device) for _ in range(3)][-1]
        return clock(work, self.device, 1 if self.tiny else max(2, round(least / once)))

    def fresh(self) -> None:
        """Only what is in use stays in memory; the most is counted from now on."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()

    def memory(self) -> str:
        """The most since then."""
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if self.cuda else "-"

    def open(self, family: str) -> None:
        """A base of the family's published sizes, its weights random; the one before it is let go of."""
        if family != self.family:
            self.family, self.model = "", None
            self.fresh()
            self.model = (small if self.tiny else full)(family, self.device)
            self.family, self.side = family, self.model.side


def full(family: str, device: torch.device) -> BaseModel:
    """The published sizes: memory first, then numbers, both on the device."""
    source = Source(family, CONFIGS / family, read_index(family, CONFIGS / family))
    networks = empty_networks(source, HALF)
    for network in (networks[name] for name in source.networks):
        kept = {key: value.clone() for key, value in network.named_buffers()}
        network.to_empty(device=device)
        for key, value in network.named_buffers():
            value.copy_(kept[key])
        for key, value in network.named_parameters():
            still = float("norm" in key and key.endswith("weight"))
            value.data.normal_(0, 0.5 * value[0].numel() ** -0.5) if value.dim() > 1 else value.data.fill_(still)
    return room_of(source).assemble(source, How(device, HALF, BaseConfig()), networks)


def small(family: str, device: torch.device) -> BaseModel:
    """A few numbers in the family's shape."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from bases import make_base

    return open_model(str(make_base(family, Path(mkdtemp()) / family)), str(device), "bf16")


def encoded(model: BaseModel, side: int, texts: bool) -> Encoded:
    """Pictures as the trainer keeps them; texts: token ids, as where the text encoders learn."""
    shape, count, cond = model.latent_shape(side, side), len(PROMPTS), model.tokenize(PROMPTS)
    with torch.no_grad():
        cond = cond if texts else model.encode_tokens(cond)
    latents = [torch.randn(1, *shape, device=model.device) for _ in PROMPTS]
    return Encoded(
        latents, [shape[1:]] * count, cond, [(i,) for i in range(count)], list(range(count)),
        {key: value[:1] for key, value in cond.items()}, [1] * count,
        [Framing((side, side), (0, 0), model.factor)] * count, model.place, model.device, False,
    )  # fmt: skip


@contextmanager
def own_step(bench: Bench, batch: int, twice: bool, whole: bool, mixed: bool) -> Iterator[Callable]:
    """The trainer's step; whole: on all layers that learn by default; mixed: in autocast, which it is not by itself."""
    model = bench.model
    paths = model.targets("attention+mlp" if whole else "attention", whole)
    how = {"micro_batch": batch, "gradient_checkpointing": twice, "ema": 0.9, "learning_rate": 1e-4}
    plan = SimpleNamespace(steps=1000, batch=batch, **how)
    config, run = SimpleNamespace(seed=0, caption_dropout=0.1), SimpleNamespace(segments=list)
    training = SimpleNamespace(plan=plan, model=model, config=config, run=run)
    with learning(model.parts, paths, RANK, float(RANK), 0) as layers:
        loop, number = Loop(training, layers, encoded(model, bench.side, whole), print), iter(range(10**6))

        def step() -> None:
            # Anew each time: what is cast is kept until its end.
            with torch.autocast(bench.device.type, HALF, enabled=mixed):
                loop.step(next(number))

        yield step


@contextmanager
def plain_step(bench: Bench, batch: int, twice: bool) -> Iterator[Callable]:
    """One step of diffusers' LoRA example, without encoding."""
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    model, unet = bench.model, bench.model.parts["unet"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=LAYERS))
    cast_training_params(unet, dtype=torch.float32)
    learnt = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-4, weight_decay=1e-2)
    (group,) = encoded(model, bench.side, False).plain(range(batch))
    cond = {key: value.to(HALF) for key, value in group.cond.items()}
    features, latents, alphas = cond.pop("encoder_hidden_states"), group.latents.to(HALF), model.alphas.clone()
    unet.train()
    model.checkpointing(twice)

    def step() -> None:
        noise, times = torch.randn_like(latents), torch.randint(0, len(alphas), (batch,), device=latents.device)
        signal = alphas[times].view(-1, 1, 1, 1).to(latents)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        with torch.autocast(bench.device.type, HALF):
            answer = unet(noisy, times, features, added_cond_kwargs=cond or None).sample
            loss = F.mse_loss(answer.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.detach().item()

    try:
        yield step
    finally:
        model.checkpointing(False)
        unet.unload_lora()
        unet.eval().requires_grad_(False)


def train_case(bench: Bench, batch: int, kind: str) -> Iterator[Row]:
    """One row: pictures a second, most memory, share of the card's peak; kind: ours, its variations, or plain."""
    twice, own = "checkpointing" in kind, {"whole": "default" in kind, "mixed": "autocast" in kind}
    with plain_step(bench, batch, twice) if "plain" in kind else own_step(bench, batch, twice, **own) as step:
        with FlopCounterMode(display=False) as counter:
            step()
        bench.fresh()
        seconds = bench.steady(step)
        share = counter.get_total_flops() / seconds / bench.peak
        yield f"training, {batch} at once, {kind}", f"{batch / seconds:.2f} pictures/s", bench.memory(), f"{share:.0%}"


def two_styles(model: BaseModel) -> list[Adapter]:
    """Random styles on the UNet's attention."""
    shapes, paths, found = model.shapes(), model.targets("attention", False), []
    for _ in range(2):
        halves = ((path, torch.randn(RANK, shapes[path][1]), torch.randn(shapes[path][0], RANK)) for path in paths)
        found.append(Adapter({path: Factors(0.02 * down, 0.02 * up, 8.0) for path, down, up in halves}))
    return found


def draw_case(bench: Bench) -> Iterator[Row]:
    """Ours: one blend folded and gated, eight blends in one batch, and what a change of weights takes."""
    model, size, steps = bench.model, (bench.side, bench.side), 2 if bench.tiny else DRAW_STEPS

    def draw(count: int, steps: int) -> None:
        model.draw(PROMPTS[:count], [""] * count, seeds=range(count), guidance=5.0, steps=steps, size=size)

    with torch.inference_mode(), attached(model.parts, two_styles(model)) as stack:
        for name, count, weights in (("folded", 4, 0), ("one blend", 4, TABLE[:1] * 4), ("8 blends", 8, TABLE)):
            stack.weights(weights) if weights else stack.fold(TABLE[0])
            draw(count, 2), bench.fresh()
            seconds = clock(lambda count=count: draw(count, steps), bench.device)
            stack.unfold()
            yield f"drawing, {count} at once, {name}", f"{count / seconds:.2f} pictures/s", bench.memory(), ""
        gates, fold = (lambda: stack.weights(TABLE)), (lambda: stack.fold(TABLE[1]))
        took = [1000 * bench.steady(work, 0.3) for work in (gates, fold)]
        yield "changing weights, gates of eight blends; folding", "{:.2f} ms; {:.1f} ms".format(*took), "", ""


def pipeline(bench: Bench) -> object:
    """diffusers' own, of the same networks."""
    import diffusers

    model = bench.model
    own = {**model.parts, "vae": model.vae, "tokenizer": model.tokenizer, "scheduler": model.scheduler}
    if bench.family == "sdxl":
        pipe = diffusers.StableDiffusionXLPipeline(**own, tokenizer_2=model.tokenizer_2, add_watermarker=False)
    else:
        none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = diffusers.StableDiffusionPipeline(**own, **none)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plain_draw_case(bench: Bench) -> Iterator[Row]:
    """diffusers: one blend in a batch, eight blends as eight runs after set_adapters each."""
    from peft import LoraConfig

    unet, pipe, names = bench.model.parts["unet"], pipeline(bench), ["a", "b"]
    for name in names:
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=8, init_lora_weights=False, target_modules=LAYERS), name)

    def draw(count: int, steps: int = 2 if bench.tiny else DRAW_STEPS) -> None:
        how = {"num_inference_steps": steps, "guidance_scale": 5.0, "height": bench.side, "width": bench.side}
        pipe(PROMPTS[:count], negative_prompt=[""] * count, output_type="pt", **how)

    def eight() -> None:
        for weights in TABLE:
            unet.set_adapters(names, list(weights))
            draw(1)

    try:
        unet.set_adapters(names, list(TABLE[0]))
        for said, count, work in (("4 at once, one blend", 4, lambda: draw(4)), ("8 blends in 8 runs", 8, eight)):
            draw(4 if count == 4 else 1, 2), bench.fresh()
            seconds = clock(work, bench.device)
            yield f"drawing, {said}, diffusers", f"{count / seconds:.2f} pictures/s", bench.memory(), ""
        took = 1000 * bench.steady(lambda: unet.set_adapters(names, list(TABLE[1])), 0.3)
        yield "changing weights, diffusers' set_adapters", f"{took:.2f} ms", "", ""
    finally:
        unet.unload_lora()
        unet.requires_grad_(False)


def cases() -> Iterator[tuple[str, Callable, tuple]]:
    """(family, case, its arguments), the most valuable first."""
    both, drawing = ("ours", "plain"), (draw_case, plain_draw_case)
    yield from (("sd1", train_case, (4, kind)) for kind in (*both, "ours in autocast", "ours by default"))
    yield from (("sd1", case, ()) for case in drawing)
    yield from (("sdxl", train_case, (batch, kind)) for batch in (1, 4) for kind in (*both, "ours in autocast"))
    yield from (("sdxl", case, ()) for case in drawing)
    kinds = (*both, "ours with checkpointing", "plain with checkpointing")
    yield from (("sdxl", train_case, (8, kind)) for kind in kinds)
    yield "sdxl", train_case, (4, "ours by default")
    yield from (("sd1", train_case, (batch, kind)) for batch in (1, 8) for kind in both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="no case is begun later")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="networks of a few numbers: does every path work?")
    args = parser.parse_args()
    torch.manual_seed(0)
    bench = Bench(args.device, args.tiny)
    name = torch.cuda.get_device_name() if bench.cuda else "CPU"
    print(f"{name}, torch {torch.__version__}; a product of bf16: {bench.peak / 1e12:.1f} TFLOP/s\n")
    print("| base | what | speed | most memory | share of that product |\n|---|---|---|---|---|", flush=True)
    for family, case, given in cases():
        if time.monotonic() - bench.started > args.seconds:
            print(f"\n{args.seconds:g} s are over", flush=True)
            break
        try:
            bench.open(family)
            for row in case(bench, *given):
                print(f"| {NAMES[family]}, {bench.side} px | {' | '.join(row)} |", flush=True)
        # One case that fails must not cost the others.
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            print(f"| {NAMES[family]} | {case.__name__} {given} | {said} | | |", flush=True)


if __name__ == "__main__":
    main()
