"""How far blends are from the sum that was asked for, ours and PEFT's; and what compressing a full-size blend costs.

    .venv/bin/python scripts/bench/algebra.py             # both tables
    .venv/bin/python scripts/bench/algebra.py errors
    .venv/bin/python scripts/bench/algebra.py speed [--rank 32] [--family sdxl] [--threads 2]

`errors`: relative error, in the Frobenius norm over all layers, of the update that comes out against the weighted sum
in double precision: random factors in two linear layers and convolutions of 3x3 and 1x1, the same in PEFT's layers,
whose updates are read with get_delta_weight. Density one half where a method has one. Methods other than sum, cat and
svd are meant to differ from the sum. "rank 8" is half of what the sum has; the best that is possible comes from full
decompositions of the dense updates.

`speed`: two adapters with random factors on every linear layer and convolution of the family, all in memory, blended
and compressed to the rank of one of them, against torch.linalg.svd(full_matrices=False) of the dense updates in
float32. Each runs in a process of its own, whose peak memory is told. The dense one is timed once for every distinct
shape, the largest among them, and multiplied with how often the family has it; with one layer at a time its memory is
that of the largest layer, both adapters not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from difflora.adapters.adapter import Adapter, Factors
from difflora.adapters.compress import true_error
from difflora.adapters.knobs import HELP, Knobs
from difflora.adapters.methods import blend_by, switch_distance
from difflora.adapters.networks import FAMILIES, modules

DENSITY = 0.5
DENSE = ("ties", "dare", "magnitude")
PEFT_OWN = ("cat", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
PEFT_CUT = ("svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")
Updates = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """Two adapters and their weights."""

    name: str
    weights: tuple[float, float]
    ranks: tuple[int, int] = (8, 8)
    alphas: tuple[float, float] = (16.0, 4.0)
    stabilised: bool = False
    """rsLoRA: the scale is alpha over the root of the rank."""


CASES = (
    Case("0.7 / 0.3", (0.7, 0.3)),
    Case("0.5 / 0.5", (0.5, 0.5)),
    Case("1 / -1", (1.0, -1.0)),
    Case("ranks 8 and 4, 0.7 / 0.3", (0.7, 0.3), ranks=(8, 4)),
    Case("rsLoRA, 0.7 / 0.3", (0.7, 0.3), stabilised=True),
)


class Network(nn.Module):
    """A layer of each kind that a LoRA touches; nothing ever runs through it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.mlp = nn.Linear(64, 48), nn.Linear(48, 192)
        self.conv, self.point = nn.Conv2d(32, 48, 3), nn.Conv2d(64, 64, 1)


# --- errors


def adapters_of(case: Case) -> list[Adapter]:
    """Random factors of the case's ranks on every layer."""
    rng = torch.Generator().manual_seed(0)
    made = []
    for rank, alpha in zip(case.ranks, case.alphas, strict=True):
        layers = {}
        for name, layer in Network().named_children():
            out, *rest = layer.weight.shape
            up = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=rng)
            scaled = alpha * math.sqrt(rank) if case.stabilised else alpha
            layers[name] = Factors(torch.randn(rank, *rest, generator=rng), up, scaled)
        made.append(Adapter(layers))
    return made


def wanted(case: Case) -> Updates:
    """The weighted sum, in double precision."""
    pairs = list(zip(adapters_of(case), case.weights, strict=True))
    return {
        name: sum(
            weight * one.layers[name].scale * one.layers[name].up.double().flatten(1)
            @ one.layers[name].down.double().flatten(1) for one, weight in pairs
        ) for name in pairs[0][0].layers
    }  # fmt: skip


def error(found: Updates, target: Updates) -> float:
    """Relative, over all layers."""
    gap = sum(float((found[name].double().flatten(1) - update).square().sum()) for name, update in target.items())
    return math.sqrt(gap / sum(float(update.square().sum()) for update in target.values()))


def ours(case: Case, method: str, **asked: object) -> float:
    """The error of one of our methods."""
    made = blend_by(adapters_of(case), case.weights, method, Knobs(density=DENSITY), **asked).adapter
    return error({name: update.delta() for name, update in made.layers.items()}, wanted(case))


def best(case: Case, rank: int) -> float:
    """The least error that any update of that rank can have."""
    values = [torch.linalg.svdvals(update).square() for update in wanted(case).values()]
    return math.sqrt(sum(float(v[rank:].sum()) for v in values) / sum(float(v.sum()) for v in values))


def peft(case: Case, kind: str, rank: int | None = None) -> float:
    """The error of PEFT's add_weighted_adapter."""
    from peft import LoraConfig, get_peft_model

    model = None
    names = [name for name, _ in Network().named_children()]
    for number, (adapter, r, alpha) in enumerate(zip(adapters_of(case), case.ranks, case.alphas, strict=True)):
        config = LoraConfig(r=r, lora_alpha=alpha, target_modules=names, use_rslora=case.stabilised)
        if model is None:
            model = get_peft_model(Network(), config, f"a{number}")
        else:
            model.add_adapter(f"a{number}", config)
        for name, factors in adapter.layers.items():
            layer = getattr(model.base_model.model, name)
            layer.lora_A[f"a{number}"].weight.data = factors.down.clone()
            layer.lora_B[f"a{number}"].weight.data = factors.up.clone()
    torch.manual_seed(0)
    more = {} if rank is None else {"svd_rank": rank}
    if kind not in ("cat", "linear", "svd"):
        more["density"] = DENSITY
    model.add_weighted_adapter(["a0", "a1"], list(case.weights), "mix", combination_type=kind, **more)
    found = {name: getattr(model.base_model.model, name).get_delta_weight("mix").detach() for name in names}
    return error(found, wanted(case))


def errors() -> str:
    """The first table."""
    rows: list[tuple[str, Callable[[Case], float]]] = [("difflora sum", lambda case: ours(case, "sum"))]
    rows.append(("difflora sum, rank 8", lambda case: ours(case, "sum", rank=8)))
    rows.append(("best possible, rank 8", lambda case: best(case, 8)))
    for method in HELP:
        if method in DENSE:
            rows.append((f"difflora {method}, whole", lambda case, m=method: ours(case, m, whole=True)))
        if method not in ("sum", "switch"):
            rows.append((f"difflora {method}, rank of both", lambda case, m=method: ours(case, m)))
    rows.append(("difflora switch, over a cycle", lambda case: switch_distance(adapters_of(case), case.weights)))
    rows += [(f"PEFT {kind}", lambda case, k=kind: peft(case, k)) for kind in PEFT_OWN]
    rows += [(f"PEFT {kind}, rank of both", lambda case, k=kind: peft(case, k, sum(case.ranks))) for kind in PEFT_CUT]
    rows.append(("PEFT svd, rank 8", lambda case: peft(case, "svd", 8)))
    lines = [f"| method | {' | '.join(case.name for case in CASES)} |", "|---" * (len(CASES) + 1) + "|"]
    for name, measure in rows:
        lines.append(f"| {name} | {' | '.join(shown(measure, case) for case in CASES)} |")
    return "\n".join(lines)


def shown(measure: Callable[[Case], float], case: Case) -> str:
    """A figure, or a dash where the method refuses the case."""
    try:
        found = measure(case)
    except ValueError:
        return "-"
    return f"{found:.1e}" if found < 1e-3 else f"{found:.3f}"


# --- speed


def random_adapter(family: str, rank: int, seed: int) -> Adapter:
    """Random factors on every linear layer and convolution."""
    rng = torch.Generator().manual_seed(seed)
    layers = {}
    for path, (out, *rest) in modules(family).items():
        up = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=rng) * 0.02
        layers[path] = Factors(torch.randn(rank, *rest, generator=rng) * 0.02, up, rank / 2)
    return Adapter(layers)


def run_ours(family: str, rank: int) -> dict[str, float]:
    """Blend and compress; what was told against what is true, which is measured after the clock has stopped."""
    pair, weights = [random_adapter(family, rank, seed) for seed in (0, 1)], (0.7, 0.3)
    began = time.perf_counter()
    made = blend_by(pair, weights, rank=rank)
    seconds = time.perf_counter() - began
    peak = memory()
    gap = true_error(made.adapter, blend_by(pair, weights).adapter)
    return {"seconds": seconds, "peak": peak, "error": made.error, "true": gap, "modules": len(made.adapter)}


def run_dense(family: str, rank: int) -> dict[str, float]:
    """One layer of each shape, as many times as the family has it; the nearest factors are made, too."""
    shapes = Counter(modules(family).values())
    rng = torch.Generator().manual_seed(0)
    torch.linalg.svd(torch.randn(64, 64))
    total = largest = 0.0
    for shape, count in shapes.items():
        out, rest = shape[0], math.prod(shape[1:])
        up, down = torch.randn(out, 2 * rank, generator=rng), torch.randn(2 * rank, rest, generator=rng)
        began = time.perf_counter()
        left, values, right = torch.linalg.svd(up @ down, full_matrices=False)
        kept = (left[:, :rank] * values[:rank]).contiguous(), right[:rank].contiguous()
        seconds = time.perf_counter() - began
        total, largest = total + seconds * count, max(largest, seconds)
        del left, values, right, kept
    return {"seconds": total, "peak": memory(), "largest": largest, "shapes": len(shapes)}


def memory() -> float:
    """Peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def speed(family: str, rank: int, threads: int) -> str:
    """The second table."""
    found = {}
    for part in ("ours", "dense"):
        words = ["part", "--part", part, "--family", family, "--rank", str(rank), "--threads", str(threads)]
        run = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
        found[part] = json.loads(run.stdout.splitlines()[-1])
    one, dense = found["ours"], found["dense"]
    return "\n".join([
        f"{family}, {one['modules']} layers, two adapters of rank {rank} to one of rank {rank}, {threads} threads",
        "",
        "| | seconds | peak GB |",
        "|---|---|---|",
        f"| difflora, adapters and result included | {one['seconds']:.1f} | {one['peak']:.2f} |",
        f"| torch.linalg.svd, {dense['shapes']} shapes by count | {dense['seconds']:.0f} | {dense['peak']:.2f} |",
        f"| its largest layer alone | {dense['largest']:.1f} | |",
        f"| ratio | {dense['seconds'] / one['seconds']:.0f}x | |",
        "",
        f"Relative error told {one['error']:.8f}, true {one['true']:.8f}.",
    ])  # fmt: skip


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", "errors", "speed", "part"], default="all")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--family", choices=FAMILIES, default="sdxl")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", choices=["ours", "dense"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "part":
        print(json.dumps((run_ours if args.part == "ours" else run_dense)(args.family, args.rank)))
    if args.what in ("all", "errors"):
        print(errors(), flush=True)
    if args.what in ("all", "speed"):
        print(f"\n{speed(args.family, args.rank, args.threads)}")


if __name__ == "__main__":
    main()
