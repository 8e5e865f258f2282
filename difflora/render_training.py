"""A training on the terminal: its plan, its live view, the scores of its checkpoints in words."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from . import events
from .training.log import Log

BLOCKS, CURVE = "▁▂▃▄▅▆▇█", 40
LINES, LINE_SECONDS = 10, 60.0


class Bars(Progress):
    """A bar for each kind of work, and under the bars of a training its figures."""

    def __init__(self, console: Console) -> None:
        # Where no one sees a bar move, lines are printed instead.
        self.moving = console.is_terminal and not console.is_dumb_terminal
        self.course = Log(Path("events.jsonl"))
        self.said, self.whole = (0, time.monotonic()), set()
        super().__init__(
            TextColumn("{task.description:<17}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            console=console,
            disable=not self.moving,
        )

    def get_renderables(self):
        """The bars and, from the first step on, the figures."""
        yield self.make_tasks_table(self.tasks)
        if self.course.losses:
            yield figures(self.course)

    def move(self, what: str, done: int, total: int, said: str = "") -> None:
        """Show how far one kind of work is."""
        task = next((task.id for task in self.tasks if task.description == what), None)
        task = self.add_task(what, total=total, figures="") if task is None else task
        self.update(task, completed=done, total=total, figures=said)
        if not self.moving and what != "training" and done == total and (what, total) not in self.whole:
            self.whole.add((what, total))
            self.console.print(f"{what}: {done} of {total}")

    def take(self, event: events.Step | events.Scored | events.Best) -> str:
        """Show an event of a training; what should stay on the screen of it, if anything."""
        before = self.course.best
        self.course.take(event.row())
        match event:
            case events.Step(step, steps, loss, speed, eta):
                said = f"{speed:.1f} pictures/s {clock(eta)} left"
                self.move("training", step, steps, said)
                return "" if self.moving else self.line(step, steps, f"loss {loss:.3f} {said}")
            case events.Scored(step):
                return f"step {step}: {score_words(event.row())}"
            case events.Best(step, why) if step != before:
                return f"★ step {step}: {why}"
        return ""

    def line(self, step: int, steps: int, said: str) -> str:
        """A line at each tenth of the run and at least one a minute."""
        tenth, now = step * LINES // max(1, steps), time.monotonic()
        if tenth == self.said[0] and now - self.said[1] < LINE_SECONDS:
            return ""
        self.said = tenth, now
        return f"step {step} of {steps}: {said}"


def figures(log: Log) -> Table:
    """The loss with its curve, and what the device does."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(style="dim", width=17)
    table.add_column()
    for name, value in figure_rows(log.loss, log.losses, log.steps, log.rate, log.memory, log.device).items():
        table.add_row(name, value)
    if log.best is not None:
        table.add_row("best so far", Text(f"★ step {log.best}: {log.why}", style="yellow"))
    return table


def figure_rows(
    loss: float | None,
    losses: Sequence[tuple[int, float]],
    steps: int,
    rate: float,
    memory: float,
    busy: float | None,
) -> dict[str, Text]:
    """Loss, learning rate, memory and how busy the device is, as far as they are known."""
    rows: dict[str, Text] = {}
    if loss is not None:
        rows["loss"] = Text.assemble(f"{loss:.3f}  ", (sparkline(losses, steps), "cyan"))
    if rate:
        rows["learning rate"] = Text(f"{rate:.3g}")
    if memory:
        device = "" if busy is None else f", device {busy:.0%} busy"
        rows["memory"] = Text(f"{memory:.1f} GB{device}")
    return rows


def sparkline(points: Sequence[tuple[int, float]], steps: int, width: int = CURVE) -> str:
    """Means of (step, loss) over equal parts of the run as blocks; what is still to come is left out."""
    parts: dict[int, list[float]] = {}
    for step, loss in points:
        parts.setdefault(min(width - 1, (step - 1) * width // max(1, steps)), []).append(loss)
    means = [sum(found) / len(found) for _, found in sorted(parts.items())]
    if not means:
        return ""
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((mean - low) / (high - low or 1) * (len(BLOCKS) - 1))] for mean in means)


def score_words(scores: Mapping) -> str:
    """A checkpoint's scores as a person would say them."""
    said = [f"style {scores['style']:.2f} of the way left"] if "style" in scores else []
    if "followed" in scores:
        said.append(f"{scores['followed']:.0%} of prompts followed")
    if scores.get("copied", 0) > 0:
        said.append(f"{scores['copied']:.0%} near copies")
    if scores.get("harm", 0) >= 0.005:
        said.append(f"plain prompts {scores['harm']:.0%} worse")
    if "loss" in scores:
        said.append(f"unseen loss {scores['loss']:.3f}")
    return ", ".join(said) or "not measured"


def draw_command(file: Path, base: str) -> str:
    """What draws with a style, its base named where it is not the embedded one."""
    name = file.stem if file.parent == Path("loras") else str(file)
    return f'difflora generate "{{a prompt}}" --lora {shlex.quote(name)}' + (
        "" if base == "tiny" else f" --base {shlex.quote(base)}"
    )


def plan_rows(plan: Mapping, name: str = "", measured: bool = True) -> dict[str, str]:
    """A plan's values for a person; those of a run of an earlier version may lack some.

    measured: whether minutes and memory were, or are foretold.
    """
    if not plan:
        return {}

    def of(what: str, form: str = "{}") -> str:
        value = plan.get(what)
        return form.format(value) if value not in (None, "", 0) else ""

    micro = plan.get("micro_batch") or plan.get("batch")
    rows = {
        "style": name,
        "base": f"{of('base')} on {of('device')}" + of("precision", ", {}"),
        "pictures": f"{of('pictures')} at {of('resolution')} px"
        + of("holdout", ", {} more kept back")
        + of("captions", ", captions: {}"),
        "sizes": of("buckets") if "," in of("buckets") else "",
        "trigger": of("trigger") or "none",
        "adapter": f"rank {of('rank')}, alpha {of('alpha', '{:g}')}, in {of('layers')} layers",
        "training": f"{of('steps')} steps of {of('batch')} pictures at learning rate {of('learning_rate', '{:g}')}"
        + (f", {micro} pictures at once" if micro != plan.get("batch") else "")
        + (", activations computed twice" if plan.get("gradient_checkpointing") else ""),
        "takes": cost(plan.get("minutes"), plan.get("memory"), measured),
        "why": "; ".join(plan.get("reasons") or ()),
    }
    return {name: text for name, text in rows.items() if text}


def cost(minutes: float | None, memory: float | None, measured: bool = True) -> str:
    """What a training needs, as measured before it or foretold; nothing where it was not."""
    if minutes is None:
        return ""
    said = "less than a minute" if minutes < 1 else f"about {spell(minutes)}"
    how = "measured by real steps" if measured else "foretold from the configs; real steps measure it at the start"
    return said + (f", {memory:.1f} GB" if memory else "") + f", {how}"


def spell(minutes: float) -> str:
    """A time in the unit that a person would choose."""
    if minutes < 90:
        count = round(minutes)
        return f"{count} minute{'s' * (count != 1)}"
    return f"{minutes / 60:.1f} hours"


def clock(seconds: float) -> str:
    """1:05, or 2:01:05."""
    whole = int(seconds)
    hours = f"{whole // 3600}:{whole // 60 % 60:02}" if whole >= 3600 else f"{whole // 60}"
    return f"{hours}:{whole % 60:02}"


def rows_table(rows: Mapping[str, RenderableType]) -> Table:
    """Names in bold and what they mean."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), value)
    return table
