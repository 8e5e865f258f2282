"""A folder of pictures in, an adapter out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .. import emphasis
from ..adapters.edits import replace_style
from ..adapters.files import writable_folder
from ..config import TrainConfig, as_row, check_name
from ..errors import OutputError
from ..events import Event, Failed, Note, Paused, Progress, Report, Saved, Started, ignore
from ..models.attach import learning
from ..models.bases import locate
from ..models.family import BaseModel, open_model
from ..turns import Turns
from . import doctor, judge
from .board import Board
from .cache import encode
from .checkpoints import Checkpoints
from .choose import use_checkpoint
from .control import added, holding
from .data import StyleDataset, fingerprint, one_line, read_folder
from .encoded import Encoded
from .kept import record
from .lessons import write_lessons
from .loop import Loop, Stop
from .plan import Plan, base_of, make_plan
from .probe import measured
from .runs import Run, open_run

PREVIEWS = 3


@dataclass(frozen=True, eq=False)
class Training:
    """Everything that was decided before the first step."""

    config: TrainConfig
    name: str
    model: BaseModel
    data: StyleDataset
    """What is learnt from."""
    unseen: StyleDataset
    """What is kept back; may be empty."""
    plan: Plan
    run: Run
    fingerprint: str

    @property
    def file(self) -> Path:
        """Where the finished style goes."""
        return self.config.out / f"{self.name}.safetensors"

    @property
    def prompts(self) -> list[str]:
        """What the previews show, without the trigger."""
        return list(self.config.preview_prompts or self.judged()[:PREVIEWS])

    def judged(self) -> list[str]:
        """What checkpoints are judged by, without the trigger: captions learnt from, then others."""
        kept_back = [self.plain(item.caption) for item in self.unseen.items][: judge.PROMPTS - PREVIEWS]
        count = judge.PROMPTS - len(kept_back)
        learnt = [self.plain(item.caption) for item in self.data.items]
        return [learnt[i * len(learnt) // count] for i in range(min(count, len(learnt)))] + kept_back

    def plain(self, caption: str) -> str:
        """A caption without the trigger in front and without weights."""
        words = caption.removeprefix(self.plan.trigger).removeprefix(", ") if self.plan.trigger else caption
        return emphasis.parse(words).text


@dataclass(frozen=True)
class Result:
    """Where a training ended: the finished file, or None when it was paused at `step`; base: what draws with it."""

    file: Path | None
    step: int
    sheet: Path
    base: str


def prepare(config: TrainConfig, report: Report = ignore, model: BaseModel | None = None) -> Training:
    """Read the folder, open the base, make the plan and the run folder; raises DiffloraError before any work."""
    name = check_name(config.name or config.images.resolve().name)
    data, model, plan = survey_and_plan(config, report, model)
    mark = fingerprint(data)
    writable_folder(config.out)
    run = open_run(config.runs, name, as_row(config), plan.row(), mark, report)
    learnt, unseen = split(data, plan.holdout, config.seed)
    return Training(config, name, model, learnt, unseen, plan, run, mark)


def survey_and_plan(
    config: TrainConfig, report: Report = ignore, model: BaseModel | None = None
) -> tuple[StyleDataset, BaseModel, Plan]:
    """What a training would do, its minutes and memory measured; nothing is written."""
    if model is None:
        # A base that is not there is said before the pictures are looked at.
        locate(config.base, config.bases)
    data = read_folder(config.images, config.trigger, report)
    doctor.brief(data, report)
    if config.tensorboard:
        Board.check()
    model = model or open_base(config, report)
    plan = make_plan(config, model, data)
    report(Progress("measuring steps", 0, 1))
    plan = measured(plan, config, model)
    report(Progress("measuring steps", 1, 1))
    return data, model, plan


def open_base(config: TrainConfig, report: Report) -> BaseModel:
    """The base as a training asks for it."""
    return open_model(base_of(config), clip_skip=config.clip_skip, report=report)


def split(data: StyleDataset, holdout: int, seed: int) -> tuple[StyleDataset, StyleDataset]:
    """(what is learnt from, what is kept back), drawn by the seed, each in its order."""
    chosen = set(torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:holdout].tolist())
    parts = [tuple(item for i, item in enumerate(data.items) if (i in chosen) is back) for back in (False, True)]
    return replace(data, items=parts[0]), replace(data, items=parts[1])


def train(training: Training, report: Report = ignore, stop: Stop = lambda: False) -> Result:
    """Learn until the plan's last step or until `stop()`; the same call goes on where the last one was stopped.

    Interrupted and resumed, every number of the adapter is the same bit for bit as without interruption (on the same
    machine with as many threads; on a GPU, whose sums have no fixed order, as near as a second run is); what
    `control.ask` asks for in between changes none either. Takes turns with who draws on the same device. RequestError
    when another process trains this run.
    """
    run, turns = training.run, Turns(training.config.runs / ".turns")
    board = Board(run.folder / "tensorboard") if training.config.tensorboard else None

    def tell(event: Event) -> None:
        run.log(event)
        if board is not None:
            board.take(event)
        report(event)

    with holding(run.folder):
        run.mend_log()
        tell(Started(training.name))
        try:
            with turns():
                return learn(training, tell, report, stop, turns.pass_on)
        except Exception as error:
            with suppress(OutputError):
                run.log(Failed(one_line(str(error)) or type(error).__name__))
            raise
        finally:
            if board is not None:
                board.close()


def learn(training: Training, tell: Report, report: Report, stop: Stop, pass_on: Callable[[], None]) -> Result:
    """All that is done in turns, from the first picture encoded to the finished file."""
    config, plan, model = training.config, training.plan, training.model

    def encoded(event: Event) -> None:
        (tell if isinstance(event, Note) else report)(event)
        pass_on()

    data, unseen = encoded_sets(training, encoded)
    paths = model.targets(config.targets, config.text_encoder)
    with learning(model.parts, paths, plan.rank, plan.alpha, config.seed) as layers:
        loop = Loop(training, layers, data, tell)
        first = loop.resume()
        loop.add(first, added(training.run.folder))
        marks = Checkpoints(training, loop, data, unseen, tell)
        over = training.run.ended(first)
        if 0 < first < loop.total and not over:
            tell(Note(f"going on after step {first}"))
        marks.make_up(first)
        over = over or enough(training, loop, marks, first)
        last, ended = (first, True) if over else run_steps(training, loop, marks, first, stop, pass_on)
        if not ended:
            tell(Paused(last))
            return Result(None, last, training.run.sheet, config.base)
        training.run.end(last)
        if last not in marks.scores:
            marks.take(last)
        write_lessons(training, loop, data)
    return Result(finish(training, marks, tell), last, training.run.sheet, config.base)


def encoded_sets(training: Training, report: Report) -> tuple[Encoded, Encoded | None]:
    """What is learnt from and what is kept back, in the model's own terms."""
    how = {"config": training.config, "folder": training.config.runs / ".cache", "report": report}
    px, alone = training.plan.resolution, not len(training.unseen)
    data = encode(training.model, training.data, px, mirrored=alone, **how)
    return data, None if alone else encode(training.model, training.unseen, px, **how)


def run_steps(
    training: Training, loop: Loop, marks: Checkpoints, first: int, stop: Stop, pass_on: Callable[[], None]
) -> tuple[int, bool]:
    """Make steps and checkpoints: (the last step, whether the training is at its end)."""
    last, tell = first, loop.tell
    for last, asks in loop.steps(first, stop):
        if "stop" in asks:
            tell(Note(f"ended after step {last} of {loop.total}, as asked"))
            return last, True
        if marks.due(last) and not loop.leaving:
            marks.take(last)
            if enough(training, loop, marks, last):
                return last, True
        elif "preview" in asks and "save" not in asks:
            marks.look(last)
        if "save" in asks:
            tell(Saved(save_so_far(training, loop, marks, last)))
        pass_on()
    return last, last == loop.total


def enough(training: Training, loop: Loop, marks: Checkpoints, step: int) -> bool:
    """Whether the checkpoints up to `step` end the training; says so."""
    # Steps that were added are wanted whatever the scores say.
    wanted = not training.config.early_stop or training.run.segments() or step >= loop.total
    if wanted or not judge.plateau(marks.scores):
        return False
    loop.tell(Note(f"ended after step {step} of {loop.total}: three checkpoints in a row were no better"))
    return True


def save_so_far(training: Training, loop: Loop, marks: Checkpoints, step: int) -> Path:
    """The style as learnt so far, into the library under a name of its own."""
    name = f"{training.name}-step-{step:06}"
    adapter = loop.adapter()
    adapter = replace(adapter, info=replace(adapter.info, name=name))
    metadata = record(training, adapter, marks.look(step), step, marks.scores.get(step))
    return replace_style(training.file.with_name(f"{name}.safetensors"), adapter, metadata)


def finish(training: Training, marks: Checkpoints, tell: Report) -> Path:
    """The best checkpoint becomes the style, in the library and beside its run."""
    step, why = marks.best()
    if step != max(marks.scores):
        tell(Note(f"the style is checkpoint {step}, not the last one: {why}"))
    file = use_checkpoint(training.run.folder, step, training.config.out, training.name)
    tell(Saved(file))
    return file
