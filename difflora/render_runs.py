"""Runs on the terminal: all of them as a table, one in detail."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .render_training import clock, draw_command, figure_rows, plan_rows, rows_table, score_words, spell

if TYPE_CHECKING:
    from .training.watch import Checkpoint, RunView

    Read = Callable[[], list[RunView]]

COLOURS = {"running": "green", "starting": "green", "paused": "yellow", "failed": "red", "queued": "dim"}
REDRAW_SECONDS, LINE_SECONDS = 0.5, 2.0
# What is no terminal has no width to keep to.
WIDE = 200


def run_row(view: RunView, detail: bool = False) -> dict:
    """A run as JSON-ready values: one row of the table, or all that is known."""
    few = ("name", "state", "step", "steps", "loss", "speed", "eta", "best", "minutes", "error", "when", "folder")
    return {"event": "run"} | (asdict(view) if detail else {name: getattr(view, name) for name in few})


def show(console: Console, shown: RenderableType) -> None:
    """Print once."""
    console = console if console.is_terminal else Console(width=WIDE, highlight=False)
    console.print(shown, soft_wrap=False)


def look_on(console: Console, read: Read, name: str | None, runs: Path) -> None:
    """Show runs anew as they change, until Ctrl+C: on a terminal in place, elsewhere a line for each that changed."""
    if not console.is_terminal or console.is_dumb_terminal:
        return follow(read, lambda view: console.print(run_line(view), markup=False))
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as place:
        while True:
            views = read()
            place.update(
                run_detail(views[0], runs, plan=False) if name is not None else runs_table(views, runs), refresh=True
            )
            time.sleep(REDRAW_SECONDS)


def follow(read: Read, tell: Callable[[RunView], None]) -> None:
    """Tell of each run now and whenever it has changed, until Ctrl+C."""
    before: dict[str, str] = {}
    with suppress(KeyboardInterrupt):
        while True:
            lines = {view.name: (run_line(view), view) for view in read()}
            for name, (line, view) in lines.items():
                if before.get(name) != line:
                    tell(view)
            before = {name: line for name, (line, _) in lines.items()}
            time.sleep(LINE_SECONDS)


def runs_table(views: Sequence[RunView], runs: Path) -> RenderableType:
    """All runs, one a row."""
    if not views:
        return Text(f"no runs in {runs}; difflora train begins one")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for name in ("steps", "loss", "pictures/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("best", no_wrap=True)
    table.add_column("when", no_wrap=True)
    for view in views:
        table.add_row(
            Text(view.name),
            Text(view.state, style=COLOURS.get(view.state, "")),
            f"{view.step}/{view.steps}" if view.steps else "",
            "" if view.loss is None else f"{view.loss:.3f}",
            f"{view.speed:.1f}" if view.speed else "",
            "" if view.eta is None else clock(view.eta),
            Text("" if view.best is None else f"★ {view.best}", style="yellow"),
            ago(view.when),
        )
    return table


def run_line(view: RunView) -> str:
    """A run in one line, for a log."""
    said = [f"{view.name}: {view.state}"]
    if view.steps:
        said.append(f"step {view.step} of {view.steps}")
    if view.loss is not None:
        said.append(f"loss {view.loss:.3f}")
    if view.eta is not None:
        said += [f"{view.speed:.1f} pictures/s", f"{clock(view.eta)} left"]
    if view.best is not None:
        said.append(f"★ step {view.best}")
    return ", ".join(said + ([view.error] if view.error else []))


def run_detail(view: RunView, runs: Path, plan: bool = True) -> RenderableType:
    """One run: how it stands, its plan, its checkpoints, and what to do next; without the plan it fits a screen."""
    from .training.choose import used_step

    style = COLOURS.get(view.state, "bold")
    head = Text.assemble((view.name, "bold"), "  ", (view.state, style), progress(view))
    if view.error:
        head.append(f"\n{view.error}", style="red")
    device = (view.rate, view.memory, view.busy) if view.state == "running" else (0.0, 0.0, None)
    rows = figure_rows(view.loss, view.losses, view.steps, *device)
    if view.speed:
        rows["speed"] = Text(f"{view.speed:.1f} pictures/s")
    if view.minutes:
        rows["time spent"] = Text("less than a minute" if view.minutes < 1 else spell(view.minutes))
    if plan:
        rows |= {name: Text(said) for name, said in plan_rows(view.plan or {}).items()}
    if "images" in (view.config or {}):
        rows["folder"] = Text(str(view.config["images"]))
    if view.best is not None:
        rows["best so far" if view.state != "finished" else "best"] = Text(f"★ step {view.best}: {view.why}", "yellow")
    if view.previews:
        rows["previews"] = Text(str(view.folder / "previews.png"))
    if view.file:
        step = used_step(view.file)
        rows["style file"] = Text(f"{view.file}" + ("" if step is None else f", the checkpoint of step {step}"))
    if view.notes:
        rows["notes"] = Text("\n".join(view.notes))
    parts = [head, Text(), rows_table(rows)]
    if view.checkpoints:
        parts += [Text(), checkpoints_table(view.checkpoints, view.best)]
    parts += [
        Text(),
        rows_table({f"{name}:": Text(said) for name, said in next_steps(view, command_of(view.name, runs)).items()}),
    ]
    return Group(*parts)


def progress(view: RunView) -> str:
    """How far a run is."""
    if not view.steps:
        return ""
    said = f", step {view.step} of {view.steps} ({view.step / view.steps:.0%})"
    return said + ("" if view.eta is None else f", {clock(view.eta)} left")


def checkpoints_table(checkpoints: Sequence[Checkpoint], best: int | None) -> Table:
    """Each checkpoint's scores as figures, whether it is kept, and a star for the best."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("checkpoint", justify="right", no_wrap=True)
    table.add_column("scores")
    table.add_column("file", no_wrap=True)
    for mark in checkpoints:
        star, style = ("★ ", "yellow") if mark.step == best else ("", "")
        said = score_words(mark.scores) if mark.scores else "previews only"
        table.add_row(Text(f"{star}{mark.step}", style=style), Text(said, style=style), "kept" if mark.file else "")
    return table


def next_steps(view: RunView, command: str) -> dict[str, str]:
    """What a person may want to do with a run as it stands, and the command for it."""
    match view.state:
        case "queued":
            return {"next": "it waits for its turn in the studio's queue"}
        case "starting" | "running":
            return {"look on": f"{command} --watch", "pause": f"{command} --pause", "end here": f"{command} --stop"}
        case "paused":
            return {"go on": f"{command} --resume"}
        case "failed":
            return {"when that is mended": f"{command} --resume"}
    base = str((view.config or {}).get("base", "tiny"))
    steps = {"try it": draw_command(view.file, base)} if view.file else {}
    other = next((mark.step for mark in reversed(view.checkpoints) if mark.file and mark.step != view.best), None)
    if other is not None:
        steps["take another checkpoint"] = f"{command} --use {other}"
    more = max(1, round(view.steps / 4))
    return steps | {"learn longer": f"{command} --add-steps {more}, then {command} --resume"}


def ago(when: float, now: float | None = None) -> str:
    """A time in seconds since 1970 as a person says it; empty for none."""
    if not when:
        return ""
    since = (time.time() if now is None else now) - when
    if since < 60:
        return "just now"
    if since < 3600:
        return f"{since / 60:.0f} min ago"
    if since < 86400:
        return f"{since / 3600:.0f} h ago"
    return f"{datetime.fromtimestamp(when):%Y-%m-%d %H:%M}"


def command_of(name: str, runs: Path) -> str:
    """What names a run on the command line."""
    return f"difflora runs {shlex.quote(name)}" + ("" if runs == Path("runs") else f" --runs {shlex.quote(str(runs))}")
