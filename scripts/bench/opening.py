#!/usr/bin/env python3
"""Seconds from a name to an open base, from a cold and from a warm disk: scripts/bench/opening.py --work .cache/opening

Full-size networks of the published configs with random weights, as difflora keeps them in half precision; every
opening in a process of its own. Cold: the files' pages are dropped from memory first. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

FAMILIES = ("tiny", "sd1", "sd2", "sdxl")
ONE = """
import json, sys, time
started = time.perf_counter()
from difflora.models.family import open_model
imported = time.perf_counter()
model = open_model(sys.argv[1], precision=sys.argv[2] or None)
for part in (*model.parts.values(), model.vae):
    for tensor in part.parameters():
        tensor.sum()
print(json.dumps({"import": imported - started, "open": time.perf_counter() - imported}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".cache/opening"), help="folder for the bases: 12 GB")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    print("| base | files | precision | import | cold | warm | GB/s, warm |\n|---|---|---|---|---|---|---|")
    for family in args.families:
        folder = "tiny" if family == "tiny" else str(random_base(family, args.work))
        for precision in ("fp32",) if family == "tiny" else ("bf16", "fp32") if family != "sdxl" else ("bf16",):
            row(family, folder, precision, args.times)


def row(family: str, name: str, precision: str, times: int) -> None:
    """Open one base cold and warm and print what it took."""
    from difflora.models.family import on_disk

    files = [path for path in on_disk(name).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e9
    cold, warm = [], []
    for _ in range(times):
        for path in files:
            forget(path)
        cold.append(opened(name, precision))
        warm.append(opened(name, precision))
    middle = lambda rows, key: sorted(r[key] for r in rows)[len(rows) // 2]  # noqa: E731
    print(
        f"| {family} | {size:.2f} GB | {precision} | {middle(warm, 'import'):.1f} s | {middle(cold, 'open'):.1f} s | "
        f"{middle(warm, 'open'):.1f} s | {size / middle(warm, 'open'):.2f} |", flush=True,
    )  # fmt: skip


def opened(name: str, precision: str) -> dict[str, float]:
    """Seconds of importing and of opening, in a new process; every number is read once."""
    done = subprocess.run([sys.executable, "-c", ONE, name, precision], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def forget(path: Path) -> None:
    """Drop a file's pages from memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def random_base(family: str, work: Path) -> Path:
    """A folder of the family's published sizes with random weights in half precision; made once."""
    import torch

    from difflora.models.clip import CONFIGS, tokenizers
    from difflora.models.family import read_index
    from difflora.models.opening import Source
    from difflora.models.skeleton import empty_networks

    out = work / family
    if (out / "done").exists():
        return out
    source = Source(family, CONFIGS / family, read_index(family, CONFIGS / family))
    networks = empty_networks(source, torch.float16)
    torch.manual_seed(0)
    for name in [*source.networks, "scheduler"]:
        network = networks[name]
        if name != "scheduler":
            for tensor in network.parameters():
                tensor.data.normal_(0, 0.02)
        network.save_pretrained(out / name)
    for name, words in zip(("tokenizer", "tokenizer_2"), tokenizers(source), strict=False):
        words.save_pretrained(out / name)
    (out / "model_index.json").write_text(json.dumps(source.index))
    (out / "done").touch()
    return out


if __name__ == "__main__":
    main()
