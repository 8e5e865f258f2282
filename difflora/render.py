"""Events and results as text for a person, or as JSON lines for a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from . import events
from .render_adapter import show_blended, show_converted, show_header, show_rest
from .render_needs import drawing_rows, need_rows
from .render_runs import follow, look_on, run_detail, run_row, runs_table, show
from .render_training import Bars, clock, draw_command, plan_rows

if TYPE_CHECKING:
    from .adapters.convert import Converted
    from .adapters.inspection import Inspection
    from .drawing.export import Exported
    from .drawing.recipe import Recipe
    from .drawing.strip import Cell
    from .models.needs import Need
    from .training.doctor import Checkup
    from .training.plan import Plan
    from .training.score import Scores
    from .training.train import Result
    from .training.watch import RunView


def screen(as_json: bool) -> Person | Script:
    """Who is listening."""
    return Script() if as_json else Person()


class Script:
    """One JSON object a line on stdout."""

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def line(self, row: Mapping) -> None:
        """Print one object."""
        text = json.dumps(events.finite(dict(row)), ensure_ascii=False, allow_nan=False, default=str)
        # Words of a file, and names of files, may hold half a character.
        print(text.encode(errors="replace").decode(), flush=True)

    def report(self, event: events.Event) -> None:
        """Print an event."""
        self.line(event.row())

    def plan(self, plan: Plan, name: str) -> None:
        """Print the plan."""
        self.line({"event": "plan"} | plan.row())

    def foretold(self, plan: Plan, name: str, need: Need) -> None:
        """Print the plan with what it needs."""
        self.line({"event": "plan"} | plan.row() | {"need": need.row()})

    def drawing_plan(self, pictures: int, need: Need, about: Mapping[str, str]) -> None:
        """Print what a drawing needs."""
        self.line({"event": "plan", "pictures": pictures, "need": need.row()} | dict(about))

    def trained(self, result: Result) -> None:
        """Print where the training ended."""
        self.line({"event": "result", "file": result.file, "step": result.step, "previews": result.sheet})

    def drawn(self, files: Sequence[tuple[Path, Recipe]]) -> None:
        """Print each picture with its recipe."""
        for path, recipe in files:
            self.line({"event": "picture", "file": path, "recipe": json.loads(recipe.text())})

    def sheet(self, cells: Sequence[tuple[Recipe, Cell]]) -> None:
        """Print each cell: what was drawn, and its place."""
        for recipe, cell in cells:
            weights = {style.name: style.weight for style in recipe.styles}
            gains = {style.name: style.gain for style in recipe.styles if style.gain is not None}
            said = {"prompt": recipe.prompt, "seed": recipe.seed, "weights": weights, "gains": gains}
            said |= {"x": cell.x, "y": cell.y}
            self.line({"event": "cell"} | said)

    def runs(self, views: Sequence[RunView], runs: Path) -> None:
        """Print a line for each run."""
        for view in views:
            self.line(run_row(view))

    def run(self, view: RunView, runs: Path) -> None:
        """Print all that is known of one run."""
        self.line(run_row(view, detail=True))

    def look_on(self, read: Callable[[], list[RunView]], name: str | None, runs: Path) -> None:
        """Print a line for each run that changed, until Ctrl+C."""
        follow(read, lambda view: self.line(run_row(view)))

    def scored(self, scores: Scores) -> None:
        """Print the scores."""
        self.line({"event": "scores"} | scores.row())

    def checked(self, checkup: Checkup) -> None:
        """Print a line for each picture, and one for the folder."""
        row = checkup.row()
        for verdict in row.pop("verdicts"):
            self.line({"event": "verdict"} | verdict)
        self.line({"event": "checkup"} | row)

    def inspected_header(self, found: Inspection) -> None:
        """Nothing yet: one object says all of it."""

    def inspected(self, found: Inspection, modules: bool) -> None:
        """Print all that is known of a style."""
        self.line({"event": "inspection"} | found.row())

    def converted(self, made: Converted) -> None:
        """Print what was written."""
        self.line({"event": "converted"} | made.row())

    def blended(self, made: Exported) -> None:
        """Print what was written."""
        self.line({"event": "blended"} | made.row())

    def table(self, values: Mapping) -> None:
        """Print what a file holds."""
        self.line(values)


class Person:
    """A live bar while work goes on, and short tables."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar = Bars(self.console)
        self.headed = False

    def __enter__(self) -> Person:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def report(self, event: events.Event) -> None:
        """Show an event."""
        match event:
            case events.Step() | events.Scored() | events.Best():
                if said := self.bar.take(event):
                    self.console.print(said, markup=False)
            case events.Progress(what, done, total, eta):
                self.bar.move(what, done, total, "" if eta is None else f"{clock(eta)} left")
            case events.Preview(step, path):
                self.console.print(f"previews after step {step}: {path}", markup=False)
            case events.Saved(path):
                self.console.print(f"saved {path}", markup=False)
            case events.Paused(step):
                self.console.print(f"paused after step {step}; the same command goes on")
            case events.Note(text):
                self.console.print(text, markup=False)

    def plan(self, plan: Plan, name: str) -> None:
        """Show what will be done and why."""
        self.table(plan_rows(plan.row(), name))

    def foretold(self, plan: Plan, name: str, need: Need) -> None:
        """Show the plan with what it needs."""
        self.table(plan_rows(plan.row(), name, measured=False) | need_rows(need))

    def drawing_plan(self, pictures: int, need: Need, about: Mapping[str, str]) -> None:
        """Show what a drawing needs."""
        self.table(drawing_rows(pictures, need, about))

    def trained(self, result: Result) -> None:
        """Say what to do next."""
        if result.file is not None:
            draw = draw_command(result.file, result.base)
            self.console.print(f"try it: {draw}   (previews: {result.sheet})", markup=False)

    def drawn(self, files: Sequence[tuple[Path, Recipe]]) -> None:
        """Say what to do next; each picture was named when it was saved."""
        if files:
            self.console.print(f"redraw one from the recipe inside it: difflora generate --like {files[-1][0]}")

    def sheet(self, cells: Sequence[tuple[Recipe, Cell]]) -> None:
        """Say what to do next; the sheet was named when it was saved."""
        recipe, _ = min(cells, key=lambda drawn: abs(drawn[1].x - 0.5))
        blend = " ".join(f"--lora {style.name}:{style.asked}" for style in recipe.styles)
        self.console.print(f'draw one alone: difflora generate "{recipe.prompt}" {blend} --seed {recipe.seed}')

    def runs(self, views: Sequence[RunView], runs: Path) -> None:
        """Show all runs."""
        show(self.console, runs_table(views, runs))

    def run(self, view: RunView, runs: Path) -> None:
        """Show one run in detail."""
        show(self.console, run_detail(view, runs))

    def look_on(self, read: Callable[[], list[RunView]], name: str | None, runs: Path) -> None:
        """Show runs as they change, until Ctrl+C."""
        look_on(self.console, read, name, runs)

    def scored(self, scores: Scores) -> None:
        """Show the scores with what they mean."""
        self.table(scores.words())

    def checked(self, checkup: Checkup) -> None:
        """Show what deserves a look, the worst first, and what is said of the folder."""
        from rich.text import Text

        table = Table(show_header=False, box=None, pad_edge=False)
        for verdict in checkup.worst_first():
            if verdict.kind != "keep":
                said = verdict.kind + (" (left out already)" if verdict.excluded else "")
                table.add_row(f"[bold]{said}[/bold]", Text(ascii(verdict.path)[1:-1]), Text(verdict.reason))
        self.console.print(table)
        for note in checkup.notes:
            self.console.print(Text(note))
        counts = ", ".join(f"{kind} {checkup.count(kind)}" for kind in ("keep", "look", "exclude"))
        self.console.print(Text(f"{checkup.folder}: {len(checkup.verdicts)} pictures: {counts}"))

    def inspected_header(self, found: Inspection) -> None:
        """Show what the header says, while the numbers are read."""
        show_header(self.console, found)
        self.headed = True

    def inspected(self, found: Inspection, modules: bool) -> None:
        """Show the rest, and the header unless it was shown."""
        if not self.headed:
            show_header(self.console, found)
        show_rest(self.console, found, modules)

    def converted(self, made: Converted) -> None:
        """Show what was written and what it cost."""
        show_converted(self.console, made)

    def blended(self, made: Exported) -> None:
        """Show what was written and what it cost."""
        show_blended(self.console, made)

    def table(self, values: Mapping) -> None:
        """Two columns."""
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in values.items():
            # Text from files is shown as it is, never as markup.
            table.add_row(f"[bold]{name}[/bold]", Table.grid() if value is None else _plain(value))
        self.console.print(table)


def _plain(value: object) -> object:
    from rich.text import Text

    if isinstance(value, Mapping):
        return Text("\n".join(f"{k}: {v}" for k, v in value.items()))
    if isinstance(value, list | tuple):
        return Text("\n".join(str(v) for v in value) or "none")
    return Text(str(value))
