#!/usr/bin/env python3
"""Measure what merging into, extracting from and resizing for a model of full size cost.

    .venv/bin/python scripts/bench/merge.py [--family sd1] [--rank 32] [--precision fp16] [--place /tmp]

Makes a single-file checkpoint of random numbers with the names and sizes of the family, its picture decoder included,
and a style of random factors on attention, feed-forward and text encoder. Every row is the command itself as a process
of its own: seconds, and the most memory that it held. The row "by hand" is what a script does that loads the model,
adds the style, and saves it. All files are deleted at the end; the disk must hold three times the checkpoint.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL

from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.checkpoint import open_checkpoint
from difflora.adapters.files import load_adapter, save_adapter
from difflora.adapters.networks import modules
from difflora.adapters.original import LAYOUTS, Words, weight_places
from difflora.adapters.precision import DTYPES
from difflora.adapters.stream import FLOATS, bytes_of, write_stream

KINDS = {dtype: name for name, dtype in FLOATS.items()}
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
BY_HAND = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from difflora.adapters.files import load_adapter
from difflora.adapters.networks import modules
from difflora.adapters.original import weight_places
base, style, out, family = sys.argv[1:]
state, adapter = load_file(base), load_adapter(Path(style), modules(family))
places = weight_places(family, state)
for path, update in adapter.layers.items():
    weight = places[path].of(state[places[path].key])
    weight.copy_((weight.float() + 0.7 * update.delta()).to(weight.dtype))
save_file(state, out)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=LAYOUTS, default="sd1")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--precision", choices=DTYPES, default="fp16")
    parser.add_argument("--max-error", type=float, default=0.0, help="Extract by this error too; minutes.")
    parser.add_argument(
        "--place", type=Path, help="Where the files are made; the system's temporary folder unless given."
    )
    args = parser.parse_args()
    with TemporaryDirectory(dir=args.place) as name:
        measure(args, Path(name))


def measure(args: argparse.Namespace, place: Path) -> None:
    """Print the rows."""
    base, style, tuned, found = (place / f"{name}.safetensors" for name in ("base", "style", "tuned", "found"))
    write_base(base, args.family, DTYPES[args.precision])
    adapter = random_style(args.family, args.rank)
    save_adapter(style, adapter, {}, torch.float16)
    size = base.stat().st_size / 1e9
    print(f"{args.family} in {args.precision}, {size:.2f} GB; a style of rank {args.rank} on {len(adapter)} layers, "
          f"{style.stat().st_size / 1e6:.0f} MB; largest tensor {largest(base) / 1e6:.0f} MB\n")  # fmt: skip
    print("| what | seconds | MB a second | peak memory, MB |\n|---|---|---|---|")
    command = [sys.executable, "-m", "difflora.cli"]
    row("python and torch alone", [sys.executable, "-c", "import torch"], 0)
    row("merge", [*command, "merge", f"{style}:0.7", "--budget", "sum", "--base", base, "--out", tuned], size)
    row("by hand", [sys.executable, "-c", BY_HAND, base, style, place / "hand.safetensors", args.family], size)
    (place / "hand.safetensors").unlink()
    extract = [*command, "extract", "--base", base, "--tuned", tuned, "--force", "--precision", "fp32", "--out", found]
    row(f"extract --rank {args.rank}", [*extract, "--rank", str(args.rank)], 2 * size)
    gap = error(load_adapter(found, modules(args.family)), adapter)
    if args.max_error:
        row(f"extract --max-error {args.max_error:g}", [*extract, "--max-error", str(args.max_error)], 2 * size)
    row(f"resize --rank {args.rank // 2}", [*command, "resize", style, "--rank", str(args.rank // 2)], 0)
    print(f"\nThe style extracted again is {gap:.2%} from the one that was merged at 0.7.")


def row(name: str, command: list, size: float) -> None:
    """Run a command and print what it took; size: what it reads, in GB."""
    began, peak = time.monotonic(), 0
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    while child.poll() is None:
        # What wait4 tells of a child counts the memory of this process before it became the command.
        peak = max(peak, peak_of(child.pid))
        time.sleep(0.02)
    seconds = time.monotonic() - began
    if child.returncode:
        raise SystemExit(f"{name} ended with {child.returncode}")
    speed = f"{1000 * size / seconds:.0f}" if size else ""
    print(f"| {name} | {seconds:.1f} | {speed} | {peak / 1024:.0f} |", flush=True)


def peak_of(process: int) -> int:
    """The most memory that a running process has held so far, in kB."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def write_base(path: Path, family: str, dtype: torch.dtype) -> None:
    """A checkpoint of random numbers, a tensor at a time."""
    shapes = dict(rows_of(family))
    rng = torch.Generator().manual_seed(0)

    def content(name: str) -> Iterator[memoryview]:
        width = math.prod(shapes[name][1:]) or 1
        yield bytes_of((torch.randn(shapes[name], generator=rng) / width**0.5).to(dtype))

    write_stream(path, {name: (KINDS[dtype], shape) for name, shape in shapes.items()}, content, {})


def rows_of(family: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes: every weight, a bias beside it, embeddings, the picture encoder and decoder."""
    known = modules(family)
    for path, place in weight_places(family, {}).items():
        shape = known[path]
        if place.rows is None or place.rows[0] == 0:
            shape = (3 * shape[0], *shape[1:]) if place.rows else shape
            yield place.key, shape
            if place.key.endswith("weight"):
                yield place.key[: -len("weight")] + "bias", shape[:1]
    for number, words in enumerate(LAYOUTS[family]):
        part = "text_encoder" if number == 0 else f"text_encoder_{number + 1}"
        width = known[f"{part}.encoder.layers.0.mlp.fc1"][1]
        yield embedding(words), (49408, width)
    with torch.device("meta"):
        vae = AutoencoderKL(**VAE)
    for name, value in vae.state_dict().items():
        yield f"first_stage_model.{name}", tuple(value.shape)


def embedding(words: Words) -> str:
    """The name of the largest tensor of a text encoder."""
    inner = "token_embedding.weight"
    return words.prefix + (inner if words.open_clip else f"text_model.embeddings.{inner}")


def random_style(family: str, rank: int) -> Adapter:
    """Random factors for attention and feed-forward of all networks; the update is a twentieth of the weights."""
    rng = torch.Generator().manual_seed(1)
    layers = {}
    for path, (out, *rest) in modules(family).items():
        if ".attentions." in path or ".encoder.layers." in path:
            down = torch.randn(rank, *rest, generator=rng) / math.prod(rest) ** 0.5
            up = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=rng) * 0.1 / rank**0.5
            layers[path] = Factors(down, up, rank / 2)
    return Adapter(layers, Info("style", family))


def largest(path: Path) -> int:
    """Bytes of the largest tensor of a file."""
    return max(one.size for one in open_checkpoint(path).parts[0].table.rows.values())


def error(found: Adapter, style: Adapter) -> float:
    """The relative distance from the style at 0.7, over all layers."""
    missed = whole = 0.0
    for path, update in style.layers.items():
        wanted = 0.7 * update.delta().double()
        own = found.layers[path].delta().double() if path in found.layers else 0 * wanted
        missed, whole = missed + float((own - wanted).square().sum()), whole + float(wanted.square().sum())
    return math.sqrt(missed / whole)


if __name__ == "__main__":
    main()
