"""Is the chosen checkpoint better than the last one on concepts that were never learnt, and would stopping early pay?

    .venv/bin/python scripts/bench/checkpoints.py --seeds 0 1 2 3 4

Every style is learnt by difflora's own plan with each seed. The checkpoint that the run chose, the last one, and the
one that an early end would have chosen are measured on held-out concepts: the style distance of `difflora score`,
prompts followed (the base finds a picture's own caption likelier than four others), and the loss of the held-out
pictures at fixed noise and times. Each result is kept in WORK/checkpoints.jsonl, and a stopped run goes on; a run that
is finished in WORK/runs is not trained again, so give another --work after the trainer was changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from tempfile import gettempdir

from exam import STYLES, Exam, Results, make_exam, train_difflora

from difflora.adapters.files import load_adapter
from difflora.events import Scored
from difflora.models.family import open_model
from difflora.training.choose import checkpoint_file
from difflora.training.judge import choose, plateau

FIGURES = {"ratio": "style ratio", "followed": "prompts followed", "loss": "held-out loss"}


@dataclass(frozen=True)
class Picked:
    """Steps of one run: what was chosen, the last one, and what stopping early would have done."""

    chosen: int
    last: int
    end: int
    """Where it would have stopped; the last step if it would not have."""
    early: int
    """What would have been chosen of the checkpoints up to there."""
    totals: dict[int, float]


def picked(run: Path) -> Picked:
    """Choose from a run's scores.json, all of it and as far as stopping early would have gone."""
    rows = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    scores = {row["step"]: Scored(**row) for row in sorted(rows, key=lambda row: row["step"])}
    seen: dict[int, Scored] = {}
    for step, score in scores.items():
        seen[step] = score
        if plateau(seen):
            break
    totals = {step: score.total for step, score in scores.items()}
    return Picked(choose(scores)[0], max(scores), max(seen), choose(seen)[0], totals)


def one(results: Results, exam: Exam, base: dict, seed: int, run: Path) -> dict:
    """Everything that the tables need of one run, each checkpoint measured once."""
    pick, row = picked(run), {"style": exam.style, "seed": seed}

    def measure(step: int) -> dict:
        adapter = load_adapter(checkpoint_file(run, step), exam.model.shapes(), exam.model.family)
        marks = exam.quick(adapter)
        return marks | {"ratio": marks["distance"] / base["distance"], "loss": exam.loss(adapter)}

    steps = {"chosen": pick.chosen, "last": pick.last, "early": pick.early}
    found = {name: results.once(row | {"step": step}, lambda step=step: measure(step)) for name, step in steps.items()}
    return row | found | {"steps": steps | {"end": pick.end}, "totals": pick.totals}


def report(rows: Sequence[dict]) -> str:
    """Both tables, with the paired differences under each."""
    lines = [
        "| style | seed | chosen step | last step | " + " | ".join(f"{n}, chosen / last" for n in FIGURES.values())
    ]
    lines = [f"{lines[0]} |", "|" + "---|" * (4 + len(FIGURES))]
    for row in rows:
        pairs = [f"{shown(name, row['chosen'][name])} / {shown(name, row['last'][name])}" for name in FIGURES]
        steps = row["steps"]
        lines.append(f"| {row['style']} | {row['seed']} | {steps['chosen']} | {steps['last']} | {' | '.join(pairs)} |")
    lines += ["", "Chosen less last, mean ± standard error of the paired differences:", *differences(rows, "chosen")]
    saved = [1 - row["steps"]["end"] / row["steps"]["last"] for row in rows]
    stopped = sum(row["steps"]["end"] < row["steps"]["last"] for row in rows)
    cost = [row["totals"][row["steps"]["early"]] - row["totals"][row["steps"]["chosen"]] for row in rows]
    lines += [
        "",
        f"Early stopping would have ended {stopped} of {len(rows)} runs and saved {mean(saved):.0%} of the steps; "
        f"`total` would have been {mean(cost):+.3f} (at worst {max(cost):+.3f}). Early less chosen:",
        *differences(rows, "early", "chosen"),
    ]
    return "\n".join(lines)


def differences(rows: Sequence[dict], one: str, other: str = "last") -> list[str]:
    """A line a figure: mean of both, and of the difference with its standard error."""
    lines = []
    for name, words in FIGURES.items():
        pairs = [(row[one][name], row[other][name]) for row in rows]
        apart = [a - b for a, b in pairs]
        error = f"{stdev(apart) / len(apart) ** 0.5:.4f}" if len(apart) > 1 else "unknown of one run"
        means = [mean(values) for values in zip(*pairs, strict=True)]
        lines.append(f"* {words}: {means[0]:.4f} against {means[1]:.4f}, difference {mean(apart):+.4f} ± {error}")
    return lines


def shown(name: str, value: float) -> str:
    """A figure in a cell."""
    return f"{value:.0%}" if name == "followed" else f"{value:.3f}"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("styles", nargs="*", help=f"Of {', '.join(STYLES)}; all unless given.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "difflora-checkpoints")
    parser.add_argument("--steps", type=int, help="Steps of each training, to rehearse; its own plan's unless given.")
    args = parser.parse_args()
    results, model, rows = Results(args.work / "checkpoints.jsonl"), open_model("tiny", "cpu"), []
    for style in args.styles or STYLES:
        exam = make_exam(model, style)
        base = results.once({"style": style, "trainer": "base"}, lambda exam=exam: exam.quick(None))
        for seed in args.seeds:
            run = args.work / "runs" / f"{style}-{seed}"
            if not (run / f"{run.name}.safetensors").exists():
                train_difflora(style, seed, args.work, args.steps)
            rows.append(one(results, exam, base, seed, run))
    print(report(rows))


if __name__ == "__main__":
    main()
