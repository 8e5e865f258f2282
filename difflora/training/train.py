"""The loop: a folder of pictures in, an adapter out. The only door to accelerate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ..adapters.adapter import Adapter, Info
from ..adapters.edits import replace_style
from ..adapters.files import save_adapter, style_metadata, writable_folder
from ..config import TrainConfig, as_row, check_name
from ..drawing.generate import to_pictures
from ..errors import OutputError, RequestError
from ..events import Event, Failed, Note, Paused, Preview, Report, Saved, Started, Step, ignore
from ..models.attach import Learning, learning
from ..models.family import BaseModel, open_model
from ..turns import Turns
from ..version import __version__
from .cache import Encoded, encode
from .control import Ask, asked, holding
from .data import StyleDataset, fingerprint, one_line, read_folder
from .plan import Plan, make_plan, order, peak_memory, warm_cosine
from .runs import Run, open_run

SAVE_SECONDS = 30
PREVIEW_SEED, PREVIEW_STEPS = 1000, 15
Stop = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Training:
    """Everything that was decided before the first step."""

    config: TrainConfig
    name: str
    model: BaseModel
    data: StyleDataset
    plan: Plan
    run: Run
    fingerprint: str

    @property
    def file(self) -> Path:
        """Where the finished style goes."""
        return self.config.out / f"{self.name}.safetensors"

    @property
    def prompts(self) -> list[str]:
        """What the previews show."""
        if self.config.preview_prompts:
            return list(self.config.preview_prompts)
        captions = [item.caption for item in self.data.items]
        return [captions[i * len(captions) // 3] for i in range(min(3, len(captions)))]


@dataclass(frozen=True)
class Result:
    """Where a training ended: the finished file, or None when it was paused at `step`."""

    file: Path | None
    step: int
    sheet: Path


def prepare(config: TrainConfig, report: Report = ignore, model: BaseModel | None = None) -> Training:
    """Read the folder, open the base, make the plan and the run folder; raises DiffloraError before any work."""
    data = read_folder(config.images, config.trigger, report)
    name = check_name(config.name or config.images.resolve().name)
    model = model or open_model(config.base)
    plan = make_plan(config, model, data)
    mark = fingerprint(data)
    writable_folder(config.out)
    run = open_run(config.runs, name, as_row(config), plan.row(), mark, Path(f"{name}.safetensors"))
    return Training(config, name, model, data, plan, run, mark)


def train(training: Training, report: Report = ignore, stop: Stop = lambda: False) -> Result:
    """Learn until the plan's last step or until `stop()`; the same call goes on where the last one was stopped.

    Interrupted and resumed, every number of the adapter is the same bit for bit as without interruption (on the same
    machine with as many threads); what `control.ask` asks for in between changes none either. Takes turns with who
    draws on the same device. RequestError when another process trains this run.
    """
    run, turns = training.run, Turns(training.config.runs / ".turns")

    def tell(event: Event) -> None:
        run.log(event)
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


def learn(training: Training, tell: Report, report: Report, stop: Stop, pass_on: Callable[[], None]) -> Result:
    """All that is done in turns, from the first picture encoded to the finished file."""
    config, plan, model = training.config, training.plan, training.model

    def encoded(event: Event) -> None:
        report(event)
        pass_on()

    data = encode(model, training.data, plan.resolution, train_text=config.text_encoder, report=encoded)
    paths = model.targets(config.targets, config.text_encoder)
    with learning(model.parts, paths, plan.rank, plan.alpha, config.seed) as layers:
        loop = Loop(training, layers, data)
        first = loop.resume()
        if first == 0:
            tell(Note(loop.probe()))
            loop.preview(0, tell)
        elif first < plan.steps:
            tell(Note(f"going on after step {first}"))
        last, asks = first, set()
        for last, asks in loop.steps(first, stop, tell):
            due = plan.preview_every and last % plan.preview_every == 0
            if last < plan.steps and "stop" not in asks and (due or asks & {"preview", "save"}):
                pictures = loop.preview(last, tell)
                if "save" in asks:
                    tell(Saved(save(training, loop.adapter(), pictures, last, f"{training.name}-step-{last:06}")))
            pass_on()
        if last < plan.steps and "stop" not in asks:
            tell(Paused(last))
            return Result(None, last, training.run.sheet)
        if last < plan.steps:
            tell(Note(f"ended after step {last} of {plan.steps}, as asked"))
        file = save(training, loop.adapter(), loop.preview(last, tell), last, training.name)
    tell(Saved(file))
    return Result(file, last, training.run.sheet)


class Loop:
    """The state that moves: factors, optimizer, clock."""

    def __init__(self, training: Training, layers: Learning, data: Encoded) -> None:
        self.training, self.layers, self.data = training, layers, data
        self.plan, self.model = training.plan, training.model
        self.accelerator = Accelerator(cpu=self.model.device.type == "cpu")
        self.parameters = layers.parameters()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.plan.learning_rate, weight_decay=0.01)

    def steps(self, first: int, stop: Stop, tell: Report) -> Iterator[tuple[int, set[Ask]]]:
        """Make the steps after `first`, yielding the number of each and what was asked for meanwhile.

        The state is saved now and then, when it was asked for, and at the end.
        """
        saved, busy = time.monotonic(), 0.0
        for step in range(first, self.plan.steps):
            start = time.monotonic()
            loss = self.step(step)
            now = time.monotonic()
            # Saves and previews are not training: the speed and what is left are of steps alone.
            busy += now - start
            speed = (step + 1 - first) * self.plan.batch / busy
            eta = (self.plan.steps - step - 1) * self.plan.batch / speed
            tell(Step(step + 1, self.plan.steps, round(loss, 6), round(speed, 2), round(eta, 1)))
            asks = asked(self.training.run.folder)
            over = stop() or not asks.isdisjoint({"pause", "stop"})
            if over or "save" in asks or step + 1 == self.plan.steps or now - saved > SAVE_SECONDS:
                self.save_state(step + 1)
                saved = time.monotonic()
            yield step + 1, asks
            if over:
                return

    def step(self, step: int) -> float:
        """One optimizer step; everything random in it comes from the seed and the step's number."""
        loss = self.loss(step)
        if not torch.isfinite(loss):
            raise RequestError(
                f"the loss is {loss.item()} at step {step + 1}: learning rate {self.plan.learning_rate:g} is too high; "
                f"lower --learning-rate and give another --name, or remove {self.training.run.folder}"
            )
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * warm_cosine(step, self.plan.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def loss(self, step: int) -> Tensor:
        """The mean loss of one step's pictures."""
        rng = torch.Generator().manual_seed(self.training.config.seed * 1_000_003 + step)
        rows = order(self.training.config.seed, len(self.data), step * self.plan.batch, self.plan.batch)
        dropped = torch.rand(len(rows), generator=rng) < self.training.config.caption_dropout
        latents, cond = self.data.batch(rows, dropped)
        return self.model.loss(latents, cond, rng).mean()

    def probe(self) -> str:
        """Minutes and memory of this training, measured by real steps that change nothing."""
        self.accelerator.backward(self.loss(0))
        start = time.monotonic()
        for _ in range(2):
            self.accelerator.backward(self.loss(0))
        minutes = (time.monotonic() - start) / 2 * self.plan.steps / 60
        self.optimizer.zero_grad(set_to_none=True)
        return f"about {minutes:.1f} minutes, {peak_memory(self.model.device):.1f} GB (measured by two real steps)"

    def preview(self, step: int, tell: Report) -> list[Image.Image]:
        """Draw the fixed-seed pictures and add them to the sheet."""
        prompts = self.training.prompts
        side = (self.plan.resolution, self.plan.resolution)
        seeds = range(PREVIEW_SEED, PREVIEW_SEED + len(prompts))
        words = [
            ", ".join(filter(None, [self.plan.trigger, p])) if self.training.config.preview_prompts else p
            for p in prompts
        ]
        pixels = self.model.draw(
            words, [""] * len(words), seeds=list(seeds), steps=PREVIEW_STEPS, guidance=5.0, size=side
        )
        pictures = to_pictures(pixels)
        tell(Preview(step, self.training.run.add_previews(step, pictures, prompts), tuple(prompts)))
        return pictures

    def adapter(self) -> Adapter:
        """The style as learnt so far."""
        info = Info(self.training.name, self.model.family, self.model.name, self.training.config.trigger or "")
        return Adapter(self.layers.factors(), info)

    def save_state(self, step: int) -> None:
        """Factors and optimizer moments, by place."""
        tensors = {}
        for i, parameter in enumerate(self.parameters):
            state = self.optimizer.state[parameter]
            tensors |= {
                f"{i}.value": parameter.detach(),
                f"{i}.mean": state["exp_avg"],
                f"{i}.square": state["exp_avg_sq"],
            }
        self.training.run.save_state(step, tensors)

    @torch.no_grad()
    def resume(self) -> int:
        """Put back the last saved state and return its step; 0 without one."""
        found = self.training.run.load_state()
        if found is None:
            return 0
        step, tensors = found
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"{i}.value"])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"{i}.mean"].to(parameter.device),
                "exp_avg_sq": tensors[f"{i}.square"].to(parameter.device),
            }
        return step


def save(training: Training, adapter: Adapter, previews: Sequence[Image.Image], step: int, name: str) -> Path:
    """Write the style as learnt after `step` with its record: into the library, a finished one also beside its run."""
    config, plan = training.config, training.plan
    metadata = style_metadata(
        info=replace(adapter.info, name=name),
        rank=plan.rank,
        alpha=plan.alpha,
        config=shared_row(config) | {"version": __version__},
        captions=[item.caption for item in training.data.items],
        folder=config.images.resolve().name,
        fingerprint=training.fingerprint,
        resolution=plan.resolution,
        pictures=plan.pictures,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        thumbnail=webp(previews[0]) if previews else None,
    )
    metadata["ss_steps"] = str(step)
    if name == training.name:
        save_adapter(training.run.folder / training.file.name, adapter, metadata)
    return replace_style(training.file.with_name(f"{name}.safetensors"), adapter, metadata)


def shared_row(config: TrainConfig) -> dict:
    """The config as it goes into a file that people share: without where things lie on this machine."""
    row = {k: v for k, v in as_row(config).items() if k not in {"out", "runs"}}
    return row | {"images": config.images.resolve().name}


def webp(picture: Image.Image, side: int = 256) -> bytes:
    """A small picture for cards."""
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = BytesIO()
    small.save(buffer, format="WEBP", quality=88)
    return buffer.getvalue()
