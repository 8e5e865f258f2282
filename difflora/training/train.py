"""The loop: a folder of pictures in, an adapter out. The only door to accelerate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ..adapters.adapter import Adapter, Info
from ..adapters.files import save_adapter, style_metadata, writable_folder
from ..config import TrainConfig, as_row, check_name
from ..drawing.generate import to_pictures
from ..errors import RequestError
from ..events import Note, Preview, Report, Saved, Step, ignore
from ..models.attach import Learning, learning
from ..models.family import BaseModel, open_model
from ..version import __version__
from .cache import Encoded, encode
from .data import StyleDataset, fingerprint, read_folder
from .plan import Plan, make_plan, peak_memory
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
    machine with as many threads).
    """
    config, plan, model = training.config, training.plan, training.model

    def tell(event) -> None:
        training.run.log(event)
        report(event)

    data = encode(model, training.data, plan.resolution, train_text=config.text_encoder, report=report)
    paths = model.targets(config.targets, config.text_encoder)
    with learning(model.parts, paths, plan.rank, plan.alpha, config.seed) as layers:
        loop = Loop(training, layers, data)
        first = loop.resume()
        if first == 0:
            tell(Note(loop.probe()))
            loop.preview(0, tell)
        elif first < plan.steps:
            tell(Note(f"going on after step {first}"))
        last = first
        for last in loop.steps(first, stop, tell):
            if plan.preview_every and last % plan.preview_every == 0 and last < plan.steps:
                loop.preview(last, tell)
        if last < plan.steps:
            tell(Note(f"paused after step {last}; the same command goes on"))
            return Result(None, last, training.run.sheet)
        pictures = loop.preview(plan.steps, tell)
        adapter = Adapter(layers.factors(), Info(training.name, model.family, model.name, config.trigger or ""))
    file = save(training, adapter, pictures)
    tell(Saved(file))
    return Result(file, plan.steps, training.run.sheet)


class Loop:
    """The state that moves: factors, optimizer, clock."""

    def __init__(self, training: Training, layers: Learning, data: Encoded) -> None:
        self.training, self.layers, self.data = training, layers, data
        self.plan, self.model = training.plan, training.model
        self.accelerator = Accelerator(cpu=self.model.device.type == "cpu")
        self.parameters = layers.parameters()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.plan.learning_rate, weight_decay=0.01)

    def steps(self, first: int, stop: Stop, tell: Report) -> Iterator[int]:
        """Make the steps after `first`, yielding the number of each; the state is saved now and then and at the end."""
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
            over = stop()
            if over or step + 1 == self.plan.steps or now - saved > SAVE_SECONDS:
                self.save_state(step + 1)
                saved = time.monotonic()
            yield step + 1
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
        tell(Preview(step, self.training.run.add_previews(step, pictures, prompts)))
        return pictures

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


def order(seed: int, count: int, start: int, batch: int) -> list[int]:
    """The rows of one batch: every epoch is a fresh shuffle of all `count` pictures, a function of seed and place."""
    rows = []
    for place in range(start, start + batch):
        epoch, index = divmod(place, count)
        rng = torch.Generator().manual_seed(seed * 7_368_787 + epoch)
        rows.append(int(torch.randperm(count, generator=rng)[index]))
    return rows


def warm_cosine(step: int, steps: int, warm: float = 0.05, floor: float = 0.05) -> float:
    """The learning rate's factor: a short rise, then half a cosine down to `floor`."""
    rise = max(1, round(steps * warm))
    if step < rise:
        return (step + 1) / rise
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def save(training: Training, adapter: Adapter, previews: Sequence[Image.Image]) -> Path:
    """Write the style with its whole record, into the library and beside its run."""
    config, plan = training.config, training.plan
    metadata = style_metadata(
        info=replace(adapter.info, name=training.name),
        rank=plan.rank,
        alpha=plan.alpha,
        config=as_row(config) | {"version": __version__},
        captions=[item.caption for item in training.data.items],
        folder=config.images.resolve().name,
        fingerprint=training.fingerprint,
        resolution=plan.resolution,
        pictures=plan.pictures,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        thumbnail=webp(previews[0]) if previews else None,
    )
    save_adapter(training.run.folder / training.file.name, adapter, metadata)
    return save_adapter(training.file, adapter, metadata)


def webp(picture: Image.Image, side: int = 256) -> bytes:
    """A small picture for cards."""
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = BytesIO()
    small.save(buffer, format="WEBP", quality=88)
    return buffer.getvalue()
