"""difflora runs."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..errors import RequestError
from .flags import Json, Positional, Switch, arg, plain_flags

if TYPE_CHECKING:
    from ..events import Event
    from ..training.watch import RunView, Watch

ACTIONS = ("pause", "resume", "preview", "save", "stop", "add_steps", "use", "delete")
NEAREST = 5
INSTEAD = {
    "running": "look on with --watch, or pause it first",
    "starting": "look on with --watch, or pause it first",
    "queued": "its turn comes in the studio's queue",
    "finished": "give --add-steps N first",
}


@plain_flags
@dataclass(frozen=True, kw_only=True)
class Runs:
    """List the trainings, show one, or speak to it: at most one of pause, resume, preview, save, stop and the like."""

    name: Annotated[
        Positional[str | None], arg(metavar="[NAME]", help="The run; all unless given.", help_behavior_hint="")
    ] = None
    pause: Annotated[Switch, arg(help="Save the state and end, to go on later.")] = False
    resume: Annotated[Switch, arg(help="Go on here, as its train command does; Ctrl+C pauses it.")] = False
    preview: Annotated[Switch, arg(help="Draw previews after the step under way.")] = False
    save: Annotated[Switch, arg(help="Write the style learnt so far into the library, under its step.")] = False
    stop: Annotated[Switch, arg(help="End after the step under way, with the best checkpoint as the style.")] = False
    add_steps: Annotated[int | None, arg(metavar="N", help="Learn N steps longer.", help_behavior_hint="")] = None
    use: Annotated[
        int | None, arg(metavar="STEP", help="Make the checkpoint of STEP the style.", help_behavior_hint="")
    ] = None
    delete: Annotated[Switch, arg(help="Throw the run away, into .trash of the runs folder; its style stays.")] = False
    watch: Annotated[Switch, arg(help="Show it anew as it changes, until Ctrl+C.")] = False
    runs: Annotated[Path, arg(help="Folder for run folders.")] = Path("runs")
    loras: Annotated[
        Path | None,
        arg(metavar="FOLDER", help="Folder for the style of --use; the run's own unless given.", help_behavior_hint=""),
    ] = None
    json: Json = False

    def run(self) -> None:
        """Call the library and render."""
        from .. import render
        from ..training.watch import Watch

        action, watch, screen = self.action(), Watch(self.runs), render.screen(self.json)
        if action == "resume":
            self.go_on(self.one(watch))
        elif action:
            screen.report(self.act(action, self.one(watch)))
        elif self.watch:
            screen.look_on(lambda: watch.list() if self.name is None else [self.one(watch)], self.name, self.runs)
        elif self.name is not None:
            screen.run(self.one(watch), self.runs)
        else:
            screen.runs(watch.list(), self.runs)

    def action(self) -> str:
        """The one that was asked for, if any; raises RequestError for two, or for one without a run."""
        given = {what: getattr(self, what) for what in ACTIONS}
        # --add-steps 0 was asked for too: it is refused where steps are added.
        asked = [what for what, value in given.items() if value is not None and value is not False]
        flags = [f"--{what.replace('_', '-')}" for what in asked]
        if len(flags) + self.watch > 1:
            both = " and ".join([*flags, *["--watch"] * self.watch])
            raise RequestError(f"{both}: expected one of them; give one, then the other")
        if asked and self.name is None:
            raise RequestError(f"{flags[0]} without a run: expected difflora runs NAME {flags[0]}; give its name")
        return asked[0] if asked else ""

    def one(self, watch: Watch) -> RunView:
        """The run of that name; raises RequestError, with the nearest names, when there is none."""
        try:
            return watch.view(self.name)
        except RequestError:
            names = [view.name for view in watch.list()]
            near = get_close_matches(self.name, names, n=NEAREST, cutoff=0.4) or names[:NEAREST]
            expected = f"one of {', '.join(near)}" if near else "none yet; difflora train begins one"
            raise RequestError(f"no run {self.name[:80]!r} in {self.runs}: expected {expected}") from None

    def act(self, action: str, view: RunView) -> Event:
        """Do one thing to a run; what to tell of it."""
        from ..events import Note, Saved
        from ..render_runs import command_of
        from ..training.choose import choose_kept
        from ..training.control import add_steps, ask
        from ..training.queue import throw_away

        match action:
            case "add_steps":
                add_steps(view.folder, self.add_steps)
                rests = view.state not in ("running", "starting", "queued")
                then = f"; go on with {command_of(view.name, self.runs)} --resume" if rests else ", as soon as it can"
                return Note(f"{view.name} learns {self.add_steps} steps longer{then}")
            case "use":
                return Saved(choose_kept(view.folder, self.use, self.loras))
            case "delete":
                place = throw_away(self.runs, view.name)
                return Note(f"{view.name} lies in {place} now" if place else f"{view.name} is forgotten")
        ask(view.folder, action)
        return Note(f"{view.name} was asked to {action}: it does so after the step under way")

    def go_on(self, view: RunView) -> None:
        """Train on in this process, as `train --config` of the run's own file; raises RequestError if it cannot."""
        from ..config_file import read_config
        from ..training.waiting import demand_newest
        from .train import Train

        if view.state not in ("paused", "failed"):
            raise RequestError(f"{view.name} is {view.state}: expected a paused or failed run; {INSTEAD[view.state]}")
        demand_newest(view.folder)
        file = view.folder / "config.toml"
        Train(**read_config(file) | {"runs": self.runs.absolute()}, config=file, json=self.json).run()
