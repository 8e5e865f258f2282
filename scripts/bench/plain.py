"""difflora's trainer against the plain loop: what one writes with peft after diffusers' LoRA example.

    .venv/bin/python scripts/bench/plain.py train ink --pictures 3200 --rate 1e-4 --seed 0 --out ink.safetensors
    .venv/bin/python scripts/bench/plain.py speed ink --out speed.json
    .venv/bin/python scripts/bench/plain.py compare fluent3d ink cartoon --seeds 0 1 2 --budget pictures
    .venv/bin/python scripts/bench/plain.py compare fluent3d ink cartoon --seeds 0 1 2 --budget seconds \
        --seconds-of speed.json

The method is that of diffusers' examples/text_to_image/train_text_to_image_lora.py with its README's flags: adapters on
the UNet's attention only, rank 4, AdamW at a constant 1e-4, resized, cropped and randomly mirrored pictures, pictures
and captions encoded at every step, no caption ever dropped, the last step kept. `compare` trains it twice: so (1e-4:4),
and with the learning rate and rank that difflora chooses for this base (6e-4:16), as one who knows them would. Both
trainers see batches of 8 and are measured as `difflora score` measures.

`compare` keeps each result in WORK/results.jsonl and goes on where it was stopped; give another --work after the
trainer was changed. difflora makes all steps of its plan, although it may end earlier unless told otherwise, and takes
the checkpoint that it chooses. `speed` wants an otherwise idle machine: with its file, the plain loop gets as many
seconds as that took, and a comparison at equal time comes out the same on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import torch
from exam import DATA, STYLES, Results, base_row, make_exam, spread, train_difflora
from torch import Tensor
from torch.nn import functional as F

from difflora.adapters.adapter import Adapter, Factors
from difflora.adapters.files import load_adapter, load_tensors, write_atomic
from difflora.models.family import EMBEDDED, open_model
from difflora.training.cache import as_pixels
from difflora.training.data import StyleDataset, read_folder, square

BASE = EMBEDDED["tiny"]
BATCH = 8
LAYERS = ["to_k", "to_q", "to_v", "to_out.0"]
WARM, TIMED = 3, 20
KINDS = ("1e-4:4", "6e-4:16")


@dataclass(frozen=True, eq=False)
class Parts:
    """The base as diffusers opens it."""

    unet: torch.nn.Module
    vae: torch.nn.Module
    text: torch.nn.Module
    tokenizer: object
    scheduler: object

    @property
    def side(self) -> int:
        """Side of the pictures in pixels."""
        return self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)


def open_parts(rank: int) -> Parts:
    """Frozen networks in float32, fresh adapters in the UNet."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from diffusers.utils import logging
    from peft import LoraConfig
    from transformers import CLIPTextModel, CLIPTokenizer

    logging.set_verbosity_error()
    unet = UNet2DConditionModel.from_pretrained(BASE, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(BASE, subfolder="vae")
    text = CLIPTextModel.from_pretrained(BASE, subfolder="text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(BASE, subfolder="tokenizer")
    for network in (unet, vae, text):
        network.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LAYERS))
    return Parts(unet.train(), vae, text, tokenizer, DDPMScheduler.from_pretrained(BASE, subfolder="scheduler"))


def batches(data: StyleDataset, side: int) -> Iterator[tuple[Tensor, list[str]]]:
    """Pictures (B, 3, side, side), half of them mirrored, with captions; for ever, the last batch of an epoch short."""
    while True:
        for rows in torch.randperm(len(data)).split(BATCH):
            pictures, captions = zip(*(data[int(row)] for row in rows), strict=True)
            pixels = as_pixels([square(picture, side) for picture in pictures])
            mirrored = torch.rand(len(rows)) < 0.5
            yield torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(-1), pixels), list(captions)


def loss_of(parts: Parts, pixels: Tensor, captions: list[str]) -> Tensor:
    """The mean squared error of one batch at random times."""
    known = parts.scheduler.config
    ids = parts.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        latents = parts.vae.encode(pixels).latent_dist.sample() * parts.vae.config.scaling_factor
        features = parts.text(ids).last_hidden_state
    noise = torch.randn_like(latents)
    times = torch.randint(0, known.num_train_timesteps, (len(latents),))
    noisy = parts.scheduler.add_noise(latents, noise, times)
    velocity = known.prediction_type == "v_prediction"
    wanted = parts.scheduler.get_velocity(latents, noise, times) if velocity else noise
    return F.mse_loss(parts.unet(noisy, times, features).sample, wanted)


def steps(parts: Parts, data: StyleDataset, rate: float, pictures: int) -> Iterator[float]:
    """Train until `pictures` were seen; yields the loss of each step."""
    learnt = [p for p in parts.unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
    for pixels, captions in batches(data, parts.side):
        loss = loss_of(parts, pixels[:pictures], captions[:pictures])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()
        pictures -= len(pixels)
        if pictures <= 0:
            return


def train_plain(style: str, out: Path, *, pictures: int, rate: float, rank: int, seed: int) -> dict:
    """Learn and save as diffusers does; pictures seen and seconds."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    start = time.monotonic()
    torch.manual_seed(seed)
    parts = open_parts(rank)
    losses = list(steps(parts, read_folder(DATA / style), rate, pictures))
    learnt = convert_state_dict_to_diffusers(get_peft_model_state_dict(parts.unet))
    out.parent.mkdir(parents=True, exist_ok=True)
    StableDiffusionPipeline.save_lora_weights(out.parent, unet_lora_layers=learnt, weight_name=out.name)
    seconds = round(time.monotonic() - start, 1)
    return {"file": str(out), "pictures": pictures, "seconds": seconds, "steps": len(losses), "loss": losses[-1]}


def read_plain(path: Path) -> Adapter:
    """A file of `save_lora_weights`, whose alpha is its rank, as an adapter."""
    tensors, _ = load_tensors(path)
    layers = {}
    for name, down in tensors.items():
        for first, second in ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight")):
            if name.endswith(first):
                path = name.removesuffix(first)
                layers[path] = Factors(down.float(), tensors[path + second].float(), float(len(down)))
    if 2 * len(layers) != len(tensors):
        raise ValueError(f"{len(tensors)} tensors, {len(layers)} adapters understood: expected two tensors each")
    return Adapter(layers)


def speed(style: str, kinds: list[str], work: Path, count: int | None) -> dict:
    """Seconds of a whole difflora training and of its steps alone; seconds a picture of the plain loop."""
    shutil.rmtree(work / "speed", ignore_errors=True)
    whole = train_difflora(style, 0, work / "speed", count)
    kept = {name: whole[name] for name in ("pictures", "seconds", "step_seconds")}
    plain = {}
    for kind in kinds:
        rate, rank = parse(kind)
        torch.manual_seed(0)
        loop = steps(open_parts(rank), read_folder(DATA / style), rate, 10**9)
        for _ in range(WARM):
            next(loop)
        # A last batch of an epoch is short: 12 full ones and one of 4, twice over, are what is timed.
        start, seen = time.monotonic(), 0
        for place in range(WARM, WARM + TIMED):
            next(loop)
            seen += min(BATCH, 100 - place % 13 * BATCH)
        plain[kind] = round((time.monotonic() - start) / seen, 5)
    return {"style": style, "threads": torch.get_num_threads(), "difflora": kept, "plain": plain}


def parse(kind: str) -> tuple[float, int]:
    """ "1e-4:4" -> (learning rate, rank)."""
    rate, _, rank = kind.partition(":")
    return float(rate), int(rank)


def compare(args: argparse.Namespace) -> None:
    """Train, score, and print the table."""
    results, model = Results(args.work / "results.jsonl"), open_model("tiny", "cpu")
    timed = json.loads(args.seconds_of.read_text()) if args.seconds_of else None
    for style in args.styles:
        exam = make_exam(model, style)
        base_row(results, exam)
        for seed in args.seeds:
            key = {"style": style, "trainer": "difflora", "seed": seed, "asked": args.steps}

            def difflora(style: str = style, seed: int = seed, exam: object = exam) -> dict:
                made = train_difflora(style, seed, args.work, args.steps)
                return made | exam.mark(load_adapter(Path(made["file"]), model.shapes(), model.family))

            own = results.once(key, difflora)
            for kind in args.plain:
                pictures = own["pictures"] if args.budget == "pictures" else fitting(timed, kind)
                key = {"style": style, "trainer": f"plain {kind}", "seed": seed, "pictures": pictures}

                def plain(kind: str = kind, pictures: int = pictures, style=style, seed=seed, exam=exam) -> dict:
                    rate, rank = parse(kind)
                    out = args.work / "plain" / f"{style}-{seed}-{kind.replace(':', '-')}-{pictures}.safetensors"
                    made = train_plain(style, out, pictures=pictures, rate=rate, rank=rank, seed=seed)
                    return made | exam.mark(read_plain(out))

                results.once(key, plain)
    print(table(results.rows, args))


def fitting(timed: dict, kind: str) -> int:
    """How many pictures the plain loop sees while difflora trains, all that difflora does beside its steps included."""
    return round(timed["difflora"]["seconds"] / timed["plain"][kind])


def table(rows: list[dict], args: argparse.Namespace) -> str:
    """Markdown; means and standard deviations over the seeds."""
    timed = json.loads(args.seconds_of.read_text()) if args.seconds_of else None
    lines = [
        "| style | trainer | pictures seen | style distance of the base's | prompts followed "
        "| copied, held-out concepts | copied, learnt captions |",
        "|---|---|---|---|---|---|---|",
    ]
    for style in args.styles:
        base = next(row for row in rows if row["style"] == style and row["trainer"] == "base")
        plain = [f"plain {kind}" for kind in args.plain]
        known = {"style": style, "asked": args.steps}
        own = [r for r in rows if known.items() <= r.items() and r["seed"] in args.seeds]
        for trainer in ("base", "difflora", *plain):
            found = [base] if trainer == "base" else own
            if trainer in plain:
                kind = trainer.partition(" ")[2]
                seen = own[0]["pictures"]
                seen = fitting(timed, kind) if args.budget == "seconds" else seen
                found = [r for r in rows if r["style"] == style and r["trainer"] == trainer and r["pictures"] == seen]
                found = [r for r in found if r["seed"] in args.seeds]
            lines.append(line(style, trainer, found, base))
    return "\n".join(lines)


def line(style: str, trainer: str, found: list[dict], base: dict) -> str:
    """One row of the table."""
    seen = spread([row.get("pictures", 0) for row in found], ".0f")
    ratio = spread([row["distance"] / base["distance"] for row in found])
    shares = [spread([row[name] for row in found], ".0%") for name in ("followed", "copied", "copied_known")]
    return f"| {style} | {trainer} | {seen} | {ratio} | {' | '.join(shares)} |"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one, timing, both = (verbs.add_parser(name) for name in ("train", "speed", "compare"))
    for verb in (one, timing):
        verb.add_argument("style", choices=STYLES)
        verb.add_argument("--out", type=Path, required=True)
    one.add_argument("--pictures", type=int, default=3200)
    one.add_argument("--rate", type=float, default=1e-4)
    one.add_argument("--rank", type=int, default=4)
    one.add_argument("--seed", type=int, default=0)
    both.add_argument("styles", nargs="+", choices=STYLES)
    both.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    both.add_argument("--budget", choices=["pictures", "seconds"], default="pictures")
    both.add_argument("--seconds-of", type=Path)
    for verb in (timing, both):
        verb.add_argument("--plain", nargs="*", default=list(KINDS), metavar="RATE:RANK", help="none: difflora alone")
        verb.add_argument("--work", type=Path, default=Path(gettempdir()) / "difflora-plain")
        verb.add_argument(
            "--steps", type=int, help="Steps of difflora's training, to rehearse; its own plan's unless given."
        )
    args = parser.parse_args()
    if args.verb == "train":
        print(
            json.dumps(
                train_plain(
                    args.style, args.out, pictures=args.pictures, rate=args.rate, rank=args.rank, seed=args.seed
                )
            )
        )
    elif args.verb == "speed":
        found = json.dumps(speed(args.style, args.plain, args.work, args.steps), indent=1)
        write_atomic(args.out, found.encode())
        print(found)
    elif args.budget == "seconds" and args.seconds_of is None:
        parser.error("--budget seconds: expected --seconds-of FILE, which the verb speed writes")
    else:
        compare(args)


if __name__ == "__main__":
    main()
