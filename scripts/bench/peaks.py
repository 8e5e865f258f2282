#!/usr/bin/env python3
"""Memory and time that full-size bases really take, beside what --plan foretells: scripts/bench/peaks.py

Networks of the published configs with random weights (scripts/bench/opening.py makes them: 12 GB of disk), each case in
a process of its own: opened from disk, one picture encoded, two training steps (rank 16, attention and feed-forward
layers, captions encoded before), or one step of drawing with guidance, and decoding. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from opening import random_base

from difflora.config import BaseConfig

CASES = (
    "sd1 fp32 512 train", "sd1 fp32 512 train-twice", "sd1 fp32 512 draw", "sd1 bf16 512 train", "sd2 fp32 768 draw",
    "sdxl bf16 512 train-twice", "sdxl bf16 512 draw", "sdxl bf16 1024 draw",
)  # fmt: skip
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".cache/opening"), help="folder of the random bases")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="FAMILY PRECISION SIDE WORK, quoted")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(real(args.one.split(), args.work)))
        return
    print("| base | work | peak | foretold | open | seconds | foretold |\n|---|---|---|---|---|---|---|", flush=True)
    for case in args.cases:
        family, precision, side, work = case.split()
        random_base(family, args.work)
        command = [sys.executable, __file__, "--work", str(args.work), "--one", case]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {family} {precision} | {work} {side} px | failed: {done.stderr.splitlines()[-1]} |", flush=True)
            continue
        found, need = json.loads(done.stdout.splitlines()[-1]), foretold(case.split(), args.work)
        print(
            f"| {family} {precision} | {work} {side} px | {found['peak'] / 1e9:.2f} GB | {need.total / 1e9:.2f} GB | "
            f"{found['open']:.0f} s | {found['seconds']:.1f} s | {need.seconds:.1f} s |", flush=True,
        )  # fmt: skip


def real(case: list[str], work: Path) -> dict[str, float]:
    """Peak of the process in bytes, and seconds, of one case."""
    from difflora.models.family import open_model

    family, precision, side, what = case
    start = time.perf_counter()
    model = open_model(BaseConfig(base=str(work / family), precision=precision), "cpu")
    opened = time.perf_counter() - start
    # Opening reads files through the page cache, which counts as the process's own for a while.
    forget_peak()
    seconds = learn(model, int(side), what == "train-twice") if what.startswith("train") else draw(model, int(side))
    return {"peak": peak(), "open": opened, "seconds": seconds}


def learn(model, side: int, twice: bool) -> float:
    """Seconds of the second of two training steps of one picture."""
    from difflora.models.attach import learning

    latents = model.encode_images(torch.rand(1, 3, side, side) * 2 - 1).clone()
    with torch.no_grad():
        cond = model.encode_tokens(model.tokenize(["a cat"]))
    model.checkpointing(twice)
    rng = torch.Generator().manual_seed(0)
    with learning(model.parts, model.targets("attention+mlp", False), RANK, RANK, 0) as layers:
        factors = layers.parameters()
        kept = [[factor.detach().clone() for factor in factors] for _ in range(2)]
        optimizer = torch.optim.AdamW(factors, lr=1e-4)
        for _ in range(2):
            start = time.perf_counter()
            model.loss(latents, cond, rng).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds = time.perf_counter() - start
        del kept
    return seconds


def draw(model, side: int) -> float:
    """Seconds of one step with guidance and of decoding."""
    start = time.perf_counter()
    model.draw(["a cat"], [""], seeds=[0], steps=1, guidance=7.5, size=(side, side), sampler="ddim")
    return time.perf_counter() - start


def foretold(case: list[str], work: Path):
    """What the plan says of the same case."""
    from difflora.models.imagined import imagined
    from difflora.models.needs import drawing_need, training_need
    from difflora.models.pace import speed

    family, precision, side, what = case
    pace = speed("cpu", precision)
    with imagined(BaseConfig(base=str(work / family), precision=precision)) as base:
        if what == "draw":
            return drawing_need(base, width=int(side), height=int(side), steps=1, sampler="ddim", pace=pace)
        twice = what == "train-twice"
        return training_need(base, rank=RANK, resolution=int(side), checkpointing=twice, pace=pace)


def peak() -> int:
    """The most memory of this process since the peak was forgotten, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Count the peak anew from here."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
