"""Is the chosen checkpoint better than the last one on concepts that were never learnt, and would stopping early pay?

    .venv/bin/python scripts/bench/checkpoints.py --seeds 0 1 2 3 4

Every style is learnt by difflora's own plan with each seed. The checkpoint that the run chose, the last one, and the
one that --early-stop would have chosen are measured on held-out concepts: the style distance of `difflora score`,
prompts followed (the base finds a picture's own caption likelier than four others), and the loss of the held-out
pictures at fixed noise and times. Each result is kept in WORK/checkpoints.jsonl, and a stopped run goes on; a run that
is finished in WORK/runs is not trained again, so give another --work after the trainer was changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from tempfile import gettempdir

from exam import STYLES, Exam, Results, make_exam, train_difflora

from difflora.adapters.files import load_adapter
from difflora.events import Scored
from difflora.models.family import open_model
from difflora.training.judge import choose, plateau

FIGURES = {"style": "style ratio", "followed": "prompts followed", "loss": "held-out loss"}


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
    """Read events.jsonl: the last "best", and every "scored", of which a later one of the same step counts."""
    scores: dict[int, Scored] = {}
    chosen, names = None, [field.name for field in fields(Scored)]
    for text in (run / "events.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except ValueError:
            continue  # Half a line that a killed run left.
        if row["event"] == "scored" and row["step"]:
            scores[row["step"]] = Scored(**{name: row[name] for name in names})
        elif row["event"] == "best":
            chosen = row["step"]
    if chosen not in scores:
        raise ValueError(f"{run}: no scored checkpoint was chosen (chosen {chosen}, scored {sorted(scores)})")
    seen: dict[int, Scored] = {}
    for step in sorted(scores):
        seen[step] = scores[step]
        if plateau(seen):
            break
    totals = {step: scores[step].total for step in sorted(scores)}
    return Picked(chosen, max(scores), max(seen), choose(seen)[0], totals)


def measured(exam: Exam, base: dict, run: Path, steps: Sequence[int]) -> dict[str, dict]:
    """Each checkpoint once, by step."""
    found = {}
    for step in sorted(set(steps)):
        file = run / "checkpoints" / f"step-{step:06}.safetensors"
        adapter = load_adapter(file, exam.model.shapes(), exam.model.family)
        marks = exam.quick(adapter)
        found[str(step)] = marks | {"style": marks["distance"] / base["distance"], "loss": exam.loss(adapter)}
    return found


def one(exam: Exam, base: dict, run: Path) -> dict:
    """Everything that the tables need of one run."""
    pick = picked(run)
    marks = measured(exam, base, run, (pick.chosen, pick.last, pick.early))
    row = {"run": str(run), "steps": {"chosen": pick.chosen, "last": pick.last, "end": pick.end, "early": pick.early}}
    named = {name: marks[str(row["steps"][name])] for name in ("chosen", "last", "early")}
    return row | {"totals": pick.totals} | named


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
    cost = [row["totals"][str(row["steps"]["early"])] - row["totals"][str(row["steps"]["chosen"])] for row in rows]
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

            def make(style: str = style, seed: int = seed, exam: Exam = exam, base: dict = base) -> dict:
                run = args.work / "runs" / f"{style}-{seed}"
                if not (run / f"{run.name}.safetensors").exists():
                    train_difflora(style, seed, args.work, args.steps)
                return one(exam, base, run)

            # Through JSON, so that a row is the same new and read back.
            key = {"style": style, "trainer": "difflora", "seed": seed, "asked": args.steps}
            rows.append(json.loads(json.dumps(results.once(key, make))))
    print(report(rows))


if __name__ == "__main__":
    main()
