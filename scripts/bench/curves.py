"""How far a style is reached by pictures, rank and steps: what the plan's defaults are chosen from.

    .venv/bin/python scripts/bench/curves.py --seeds 0 1 2 3 4 --axes
    .venv/bin/python scripts/bench/curves.py

One thing is varied at a time, the rest is difflora's own plan without an early end: 10 to 100 of a sample style's
pictures (drawn by the seed), rank 4 to 32, steps 95 to 570. Each point is the style distance of held-out concepts, of
the base's own, and the share of prompts followed (the own caption likelier than four others): by pictures of the
checkpoint that the run chose, else of the last one. Each result is kept in WORK/curves.jsonl, and a stopped run goes
on. Prints markdown tables; --out draws them as curves.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import gettempdir

import torch
from exam import DATA, STYLES, Exam, Results, make_exam, spread

from difflora.adapters.files import load_adapter
from difflora.config import TrainConfig
from difflora.models.family import open_model
from difflora.training.choose import checkpoint_file, kept_steps, used_step
from difflora.training.data import read_folder
from difflora.training.train import prepare, train

USUAL = {"pictures": 100, "rank": 16, "steps": 285}
"""What difflora plans for a hundred pictures."""
AXES = {"pictures": (10, 25, 50, 100), "rank": (4, 8, 16, 32), "steps": (95, 190, 285, 570)}
INK = {"fluent3d": "#d9480f", "ink": "#212529", "cartoon": "#1c7ed6"}
WIDE, HIGH, EDGE = 300, 220, 42


def points(axes: Sequence[str]) -> list[dict]:
    """What is trained: each value of each axis, the others as usual; the usual one first, and once."""
    found = [USUAL]
    for axis in axes:
        found += [USUAL | {axis: value} for value in AXES[axis] if value != USUAL[axis]]
    return found


def some(style: str, count: int, seed: int, work: Path) -> Path:
    """A folder with `count` of the style's pictures, drawn by the seed."""
    items = read_folder(DATA / style).items
    if count >= len(items):
        return DATA / style
    folder = work / "pictures" / f"{style}-{count}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i in torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:count].tolist():
        for path in DATA.joinpath(style).glob(f"{Path(items[i].path).stem}.*"):
            shutil.copy(path, folder)
    return folder


def trained(style: str, seed: int, point: Mapping[str, int], work: Path) -> Path:
    """The run's folder, trained or gone on with; fewer pictures take the steps that difflora plans for them."""
    name = "-".join([style, *(f"{axis[0]}{value}" for axis, value in point.items()), str(seed)])
    config = TrainConfig(
        images=some(style, point["pictures"], seed, work), name=name, seed=seed, rank=point["rank"], early_stop=False,
        steps=None if point["pictures"] < USUAL["pictures"] else point["steps"],
        # Along the pictures the chosen checkpoint is told, which takes the time of looking at them.
        preview_every=None if point["rank"] == USUAL["rank"] and point["steps"] == USUAL["steps"] else 0,
        out=work / "loras", runs=work / "runs",
    )  # fmt: skip
    training = prepare(config)
    train(training)
    return training.run.folder


def measure(exam: Exam, base: Mapping, seed: int, point: Mapping[str, int], work: Path) -> dict:
    """What the chosen checkpoint and the last one reach: style distance of the base's, and prompts followed."""
    folder = trained(exam.style, seed, point, work)
    last = max(kept_steps(folder))
    steps = {"chosen": used_step(folder / f"{folder.name}.safetensors"), "last": last}
    found: dict = {}
    for step in set(steps.values()):
        adapter = load_adapter(checkpoint_file(folder, step), exam.model.shapes(), exam.model.family)
        marks = exam.quick(adapter)
        found[step] = {"step": step, "ratio": marks["distance"] / base["distance"], "followed": marks["followed"]}
    return {name: found[step] for name, step in steps.items()}


def table(rows: Sequence[dict], axis: str) -> dict[str, dict[int, list[dict]]]:
    """The points of one axis by style and value: the chosen checkpoint's by pictures, else the last one's."""
    found: dict[str, dict[int, list[dict]]] = {}
    for row in rows:
        if "last" in row and all(row[other] == value for other, value in USUAL.items() if other != axis):
            own = row["chosen" if axis == "pictures" else "last"]
            found.setdefault(row["style"], {}).setdefault(row[axis], []).append(own)
    return {style: dict(sorted(points.items())) for style, points in found.items()}


def report(rows: Sequence[dict]) -> str:
    """A markdown table for each axis: style distance of the base's, prompts followed, and of how many seeds."""
    lines = []
    for axis in AXES:
        found = table(rows, axis)
        values = sorted({value for own in found.values() for value in own})
        lines += ["", f"| {axis} | " + " | ".join(map(str, values)) + " |", "|" + "---|" * (1 + len(values))]
        for style, own in found.items():
            lines.append(f"| {style} | " + " | ".join(cell(own.get(value, [])) for value in values) + " |")
    return "\n".join(lines)


def cell(found: Sequence[dict]) -> str:
    """One point in a table."""
    if not found:
        return ""
    seeds = f" ({len(found)})" if len(found) > 1 else ""
    return f"{spread([row['ratio'] for row in found])}{seeds}, {mean(row['followed'] for row in found):.0%}"


def curves(rows: Sequence[dict]) -> str:
    """The three axes beside each other as SVG: style distance of the base's, mean over the seeds."""
    panels = [panel(table(rows, axis), axis, i * WIDE) for i, axis in enumerate(AXES)]
    legend = "".join(
        f'<text x="{EDGE + 110 * i}" y="{HIGH + 24}" fill="{colour}">{style}</text>'
        for i, (style, colour) in enumerate(INK.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * WIDE} {HIGH + 36}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>{"".join(panels)}{legend}</svg>\n'
    )


def panel(points: dict[str, dict[int, list[dict]]], axis: str, left: int) -> str:
    """One axis: the values evenly apart, 0 to 1 upwards."""
    values = sorted({value for own in points.values() for value in own})
    across = {value: left + EDGE + i * (WIDE - EDGE - 20) / max(1, len(values) - 1) for i, value in enumerate(values)}

    def up(ratio: float) -> float:
        return HIGH - EDGE - min(ratio, 1.0) * (HIGH - EDGE - 24)

    parts = [f'<text x="{left + EDGE}" y="14" fill="#333">style distance by {axis}</text>']
    for level in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{left + EDGE} {up(level):.1f}H{left + WIDE - 20}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{left + EDGE - 6}" y="{up(level) + 4:.1f}" text-anchor="end" fill="#666">{level}</text>'
        )
    parts += [f'<text x="{x:.1f}" y="{HIGH - EDGE + 18}" text-anchor="middle" fill="#666">{v}</text>'
              for v, x in across.items()]  # fmt: skip
    for style, own in points.items():
        places = [(across[v], up(mean(row["ratio"] for row in found))) for v, found in own.items()]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{INK[style]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{INK[style]}"/>' for x, y in places]
    return "".join(parts)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("styles", nargs="*", help=f"Of {', '.join(STYLES)}; all unless given.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "difflora-curves")
    parser.add_argument("--out", type=Path, help="SVG of the curves")
    parser.add_argument("--axes", choices=AXES, nargs="*", default=list(AXES), help="what is varied")
    parser.add_argument("--report", action="store_true", help="only print what is there")
    args = parser.parse_args()
    results = Results(args.work / "curves.jsonl")
    if not args.report:
        model = open_model("tiny", "cpu")
        exams = {style: make_exam(model, style) for style in args.styles or STYLES}
        for seed, point in product(args.seeds, points(args.axes)):
            for style, exam in exams.items():
                base = results.once({"style": style, "trainer": "base"}, lambda exam=exam: exam.quick(None))
                key = {"style": style, "seed": seed} | point
                results.once(key, partial(measure, exam, base, seed, point, args.work))
    print(report(results.rows))
    if args.out:
        args.out.write_text(curves(results.rows), encoding="utf-8")


if __name__ == "__main__":
    main()
