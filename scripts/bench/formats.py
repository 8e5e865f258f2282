#!/usr/bin/env python3
"""Measure what full-size files cost, and what a way through every pair of formats loses.

    .venv/bin/python scripts/bench/formats.py [--rank 32] [--families sd1 sdxl]

Random factors of the modules that a kohya LoRA of the family has, alpha half the rank: seconds to write, to inspect the
header and the whole, to convert; peak memory; the largest relative error of any module's update after A, B, C for every
choice of formats, in float32 and float16.
"""

import argparse
import itertools
import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory

import torch

from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.files import load_adapter, save_adapter
from difflora.adapters.networks import modules

DIALECTS = ("kohya", "diffusers", "peft")
EVERY = 12
"""One module in so many goes through all pairs of formats."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--families", nargs="+", default=["sd1", "sd2", "sdxl"])
    args = parser.parse_args()
    print("| family | modules | MB | write s | header s | inspect s | to diffusers s | peak GB |")
    print("|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as place:
        for family in args.families:
            print(row(family, args.rank, Path(place)), flush=True)
        print("\n| precision | alpha / rank | largest error of a module |\n|---|---|---|")
        for dtype, alpha in itertools.product((torch.float32, torch.float16), (args.rank / 2, 5.0)):
            worst = max(trip(family, args.rank, alpha, dtype, Path(place)) for family in args.families)
            print(f"| {str(dtype).removeprefix('torch.')} | {alpha / args.rank:g} | {worst:.1e} |", flush=True)


def adapter(family: str, rank: int, alpha: float, every: int = 1) -> Adapter:
    """Random factors for attention, feed-forward and projections of the UNet and all of the text encoders."""
    rng = torch.Generator().manual_seed(0)
    shapes = {p: s for p, s in modules(family).items() if ".attentions." in p or ".encoder.layers." in p}
    layers = {}
    for path, (out, *rest) in list(shapes.items())[::every]:
        up = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=rng)
        layers[path] = Factors(torch.randn(rank, *rest, generator=rng) * 0.02, up * 0.02, alpha)
    return Adapter(layers, Info("bench", family))


def row(family: str, rank: int, place: Path) -> str:
    """Seconds and sizes of one family's file."""
    made = adapter(family, rank, rank / 2)
    path = place / f"{family}.safetensors"
    write = timed(lambda: save_adapter(path, made, {}))
    header = timed(lambda: command("inspect", path, "--header"))
    whole = timed(lambda: command("inspect", path))
    convert = timed(lambda: command("convert", path, "--to", "diffusers"))
    peak = getrusage(RUSAGE_CHILDREN).ru_maxrss / 1e6
    figures = f"{write:.1f} | {header:.2f} | {whole:.1f} | {convert:.1f} | {peak:.1f}"
    return f"| {family} | {len(made)} | {path.stat().st_size / 1e6:.0f} | {figures} |"


def timed(work) -> float:
    """Seconds that it takes."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def command(*words: object) -> None:
    """One command in a process of its own, as a person waits for it."""
    subprocess.run([sys.executable, "-m", "difflora.cli", *map(str, words)], check=True, capture_output=True)


def trip(family: str, rank: int, alpha: float, dtype: torch.dtype, place: Path) -> float:
    """The largest relative error of any module after a way through three formats, over all ways."""
    source = adapter(family, rank, alpha, EVERY)
    worst = 0.0
    for number, way in enumerate(itertools.product(DIALECTS, repeat=3)):
        now = source
        for step, dialect in enumerate(way):
            name = f"{family}-{alpha}-{str(dtype)}-{number}-{step}"
            target = place / (name if dialect == "peft" else f"{name}.safetensors")
            now = load_adapter(save_adapter(target, now, {}, dtype, dialect), modules(family), family)
        for path, update in source.layers.items():
            wanted = update.delta().double()
            worst = max(worst, float((now.layers[path].delta().double() - wanted).norm() / wanted.norm()))
    return worst


if __name__ == "__main__":
    main()
