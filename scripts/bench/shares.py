#!/usr/bin/env python3
"""How much of a base learns, and how large the file is, by preset and rank: a markdown table.

    .venv/bin/python scripts/bench/shares.py [--families sd1 sd2 sdxl] [--ranks 4 8 16 32]

Counted from the tables of modules in difflora/adapters/networks.py; opens no network and needs no torch. Share: numbers
that learn, of all numbers of the UNet and the text encoders. File: float16 with kohya names, as training writes it.
"""

import argparse
import itertools
import json
import math
import re

from difflora.adapters.blocks import sgm_paths
from difflora.adapters.names import kohya_name
from difflora.adapters.networks import modules

PARAMETERS = {
    "sd1": {"unet": 859_520_964, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "text_encoder": 340_387_840},
    "sdxl": {"unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
}
"""All numbers of each network: with norms, biases and embeddings, which are no modules of the tables."""
IMAGE = {
    "attention": r"unet\..*\.attn[12]\.(to_[qkv]|to_out\.0)",
    "attention+mlp": r"unet\..*\.(attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2))",
}
TEXT = r"text_encoder.*\.self_attn\.[qkv]_proj|text_encoder.*\.self_attn\.out_proj"
WORDS = 1500
"""Bytes of metadata in a file that a training writes, without pictures of its own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(PARAMETERS), choices=list(PARAMETERS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 8, 16, 32])
    args = parser.parse_args()
    print("| family | layers | text encoders | modules | " + " | ".join(f"rank {rank}" for rank in args.ranks) + " |")
    print("|---|---|---|---|" + "---|" * len(args.ranks))
    for family, layers, text in itertools.product(args.families, IMAGE, (False, True)):
        paths = learning(family, layers, text)
        cells = [cell(family, paths, rank) for rank in args.ranks]
        print(f"| {family} | {layers} | {'learn' if text else 'as they are'} | {len(paths)} | {' | '.join(cells)} |")


def cell(family: str, paths: list[str], rank: int) -> str:
    """ "1.79 M, 0.18%, 3.7 MB"."""
    count = trainable(family, paths, rank)
    share = count / sum(PARAMETERS[family].values())
    return f"{count / 1e6:.2f} M, {share:.2%}, {size(family, paths, rank) / 1e6:.1f} MB"


def learning(family: str, layers: str, text: bool) -> list[str]:
    """What learns for a TrainConfig.targets value, as the models' `targets` says it."""
    wanted = re.compile(IMAGE[layers] + (f"|{TEXT}" if text else ""))
    return [path for path in modules(family) if wanted.fullmatch(path)]


def trainable(family: str, paths: list[str], rank: int) -> int:
    """The numbers of both factors of every module."""
    shapes = modules(family)
    return sum(rank * (shapes[path][0] + math.prod(shapes[path][1:])) for path in paths)


def size(family: str, paths: list[str], rank: int) -> int:
    """Bytes of a file in float16, each module with its alpha in float32."""
    rows, at, shapes = {}, 0, modules(family)
    names = sgm_paths([path for path in shapes if path.startswith("unet.")]) if family == "sdxl" else None
    for path in paths:
        out, inner = shapes[path]
        for part, shape in (("alpha", []), ("lora_down.weight", [rank, inner]), ("lora_up.weight", [out, rank])):
            end = at + (2 * math.prod(shape) if shape else 4)
            dtype = "F16" if shape else "F32"
            rows[f"{kohya_name(path, names)}.{part}"] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            at = end
    return 8 + len(json.dumps(rows, separators=(",", ":"))) + WORDS + at


if __name__ == "__main__":
    main()
