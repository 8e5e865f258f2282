"""The state that moves: factors, their average, optimizer, clock. The only door to accelerate."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor

from ..adapters.adapter import Adapter, Info
from ..errors import RequestError
from ..events import Note, Report, Step
from ..models.attach import Learning
from ..models.family import BaseModel
from .control import Ask, added, asked
from .encoded import Encoded, Group
from .gauge import Gauge
from .order import Schedule
from .plan import warm_cosine

if TYPE_CHECKING:
    from .train import Training

SAVE_SECONDS = 30
MENDS, WINDOW, EXPLODED = 3, 16, 3.0
# Gradients below 6e-8 are nothing in float16, and those of a mean are small (Micikevicius et al. 2018, arXiv
# 1710.03740). A fixed scale: those of a mean are never large, and an overflow would be mended like any other.
HALF_SCALE = 4096.0
Stop = Callable[[], bool]
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Fit:
    """How a step is made to fit into memory: pictures at once, and whether activations are computed twice."""

    def __init__(self, model: BaseModel, micro: int, twice: bool) -> None:
        self.model, self.micro, self.twice = model, micro, twice
        model.checkpointing(twice)

    def smaller(self) -> str:
        """Need less memory from now on; says how. RequestError when there is nothing left to give up."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.micro > 1:
            self.micro = (self.micro + 1) // 2
            return f"{self.micro} at once, a step still being gathered from all of its pictures"
        if not self.twice:
            self.twice = True
            self.model.checkpointing(True)
            return "activations computed twice instead of kept (gradient checkpointing)"
        raise RequestError(
            "memory is too small for one picture even with gradient checkpointing: lower --resolution or --rank, "
            "or close other programs"
        )


class Average:
    """The moving average of the factors (Polyak & Juditsky 1992), in place; it starts quickly."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Move towards the factors after step `step` (from 0)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - keep)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The average stands in the model inside the block, the factors after it, bit for bit."""
        kept = [p.data for p in self.parameters]
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data = value
        try:
            yield
        finally:
            for parameter, value in zip(self.parameters, kept, strict=True):
                parameter.data = value


class Loop:
    """Makes steps, each a function of the seed and its number; saves and takes up its state."""

    def __init__(self, training: Training, layers: Learning, data: Encoded, tell: Report) -> None:
        self.training, self.layers, self.data, self.tell = training, layers, data, tell
        self.plan, self.model = training.plan, training.model
        self.accelerator = Accelerator(cpu=self.model.device.type == "cpu")
        self.parameters = layers.parameters()
        self.average = Average(self.parameters, self.plan.ema)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.plan.learning_rate, weight_decay=0.01)
        self.schedule = Schedule(data.sizes, data.repeats, training.config.seed, self.plan.batch)
        self.fit = Fit(self.model, self.plan.micro_batch, self.plan.gradient_checkpointing)
        self.fresh = [p.detach().clone() for p in self.parameters]
        self.rate, self.mends, self.losses, self.leaving = 1.0, 0, [], False
        self.gauge = Gauge(self.model.device)

    @property
    def total(self) -> int:
        """The last step, with what was added on the way."""
        return [self.plan.steps, *(total for _, total in self.training.run.segments())][-1]

    def steps(self, first: int, stop: Stop) -> Iterator[tuple[int, set[Ask]]]:
        """Make the steps after `first`, yielding the number of each and what was asked for meanwhile.

        The state is saved now and then, when it was asked for, and at the end.
        """
        saved, busy, made, step = time.monotonic(), 0.0, 0, first
        while step < self.total:
            start = time.monotonic()
            loss = self.step(step)
            if loss is None:
                step = self.mend(step)
                continue
            step, now, made = step + 1, time.monotonic(), made + 1
            # Saves and previews are not training: the speed and what is left are of steps alone.
            busy += now - start
            asks = asked(self.training.run.folder)
            self.add(step, added(self.training.run.folder))
            self.say(step, loss, made / busy)
            self.leaving = over = stop() or not asks.isdisjoint({"pause", "stop"})
            if over or "save" in asks or step == self.total or now - saved > SAVE_SECONDS:
                self.save(step)
                saved = time.monotonic()
            yield step, asks
            if over:
                return

    def say(self, step: int, loss: float, speed: float) -> None:
        """Tell of one step; `speed` in steps a second."""
        memory, busy = self.gauge.read()
        rate = self.optimizer.param_groups[0]["lr"]
        left, pictures = (self.total - step) / speed, speed * self.plan.batch
        busy = None if busy is None else round(busy, 3)
        self.tell(
            Step(step, self.total, round(loss, 6), round(pictures, 2), round(left, 1), rate, round(memory, 3), busy)
        )

    def add(self, step: int, more: int) -> None:
        """Go on for `more` steps than planned, or than were made where the run had ended before its last one."""
        if more:
            run = self.training.run
            run.extend(step, (step if run.ended(step) else self.total) + more)
            self.tell(Note(f"{more} steps more, as asked: {self.total} in all"))

    def step(self, step: int) -> float | None:
        """One optimizer step; None, with nothing changed, where numbers fail or the loss has exploded."""
        losses = self.gradients(step)
        loss = losses.mean().item()
        norm = self.accelerator.clip_grad_norm_(self.parameters, 1.0)
        if not (torch.isfinite(losses).all() and torch.isfinite(norm)) or self.exploded(loss):
            self.optimizer.zero_grad(set_to_none=True)
            self.losses.append(loss)
            return None
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * self.rate * warm_cosine(step, self.total_at(step))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.take(step)
        # What explosion is measured by: the first losses and the newest ones.
        self.losses = [*self.losses[:WINDOW], *[*self.losses[WINDOW:], loss][-WINDOW:]]
        return loss

    def total_at(self, step: int) -> int:
        """The number of steps that counted when `step` was made first: steps added later don't change the past."""
        return [self.plan.steps, *(total for at, total in self.training.run.segments() if at <= step)][-1]

    def exploded(self, loss: float) -> bool:
        """Whether the newest losses are far above the first ones."""
        newest = [*self.losses[WINDOW:], loss][-WINDOW:]
        first = self.losses[:WINDOW]
        return len(newest) == WINDOW and sum(newest) > EXPLODED * sum(first)

    def gradients(self, step: int) -> Tensor:
        """The loss of each of the step's pictures, (batch,), its mean's gradients left in the parameters."""
        while True:
            try:
                return self.try_gradients(step)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            self.tell(Note(f"out of memory at step {step + 1}; going on with {self.fit.smaller()}"))

    def try_gradients(self, step: int) -> Tensor:
        """`gradients` with as many pictures at once as `fit` says; all that is random comes from seed and step."""
        rng = torch.Generator().manual_seed(self.training.config.seed * 1_000_003 + step)
        rows = self.schedule.rows(step)
        groups = self.data.draw(rows, rng, self.training.config.caption_dropout)
        times = self.model.times(len(rows), rng)
        shapes = {place: group.latents.shape[1:] for group in groups for place in group.places}
        noise = [torch.randn(shapes[place], generator=rng) for place in range(len(rows))]
        losses = torch.zeros(len(rows))
        scale = HALF_SCALE if self.model.dtype == torch.float16 else 1.0
        for part in parts(groups, self.fit.micro):
            part_noise = torch.stack([noise[place] for place in part.places]).to(part.latents)
            loss = self.model.loss_at(part.latents, part.cond, times[part.places], part_noise)
            self.accelerator.backward(loss.sum() * (scale / len(rows)))
            losses[part.places] = loss.detach().float().cpu()
        if scale != 1:
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], 1 / scale)
        return losses

    def mend(self, step: int) -> int:
        """Go back to the last checkpoint with half the learning rate; RequestError when that was tried often enough."""
        found = self.losses[-1]
        what = f"the loss is {found:g} at step {step + 1}"
        if self.mends == MENDS:
            raise RequestError(
                f"{what} and lower learning rates did not help: lower --learning-rate and give another --name, "
                f"or remove {self.training.run.folder}"
            )
        rate, mends = self.rate / 2, self.mends + 1
        first = self.resume("good")
        if first == 0:
            self.restart()
        self.rate, self.mends = rate, mends
        self.tell(Note(f"{what}: back to step {first} with a learning rate of {self.plan.learning_rate * rate:g}"))
        self.save(first)
        return first

    @torch.no_grad()
    def restart(self) -> None:
        """Be as before the first step."""
        for parameter, average, value in zip(self.parameters, self.average.values, self.fresh, strict=True):
            parameter.copy_(value)
            average.copy_(value)
        self.optimizer.state.clear()
        self.losses = []

    def adapter(self) -> Adapter:
        """The style as learnt so far: the average."""
        info = Info(self.training.name, self.model.family, self.model.name, self.plan.trigger)
        with self.average.shown():
            return Adapter(self.layers.factors(), info)

    def save(self, step: int, which: str = "state") -> None:
        """Factors, average and optimizer moments, by place, and the losses that explosion is measured by."""
        tensors = {}
        for i, (parameter, average) in enumerate(zip(self.parameters, self.average.values, strict=True)):
            tensors |= {f"{i}.value": parameter.detach(), f"{i}.average": average}
            if state := self.optimizer.state.get(parameter):
                tensors |= {f"{i}.mean": state["exp_avg"], f"{i}.square": state["exp_avg_sq"]}
        more = {"rate": repr(self.rate), "mends": str(self.mends), "made": str(self.made_of_state())}
        more["losses"] = json.dumps(self.losses)
        self.training.run.save_state(step, tensors, more, which)

    def made_of_state(self) -> int:
        """How many steps the optimizer has made since it began; not the step's number after a restart."""
        state = self.optimizer.state.get(self.parameters[0])
        return int(state["step"]) if state else 0

    @torch.no_grad()
    def resume(self, which: str = "state") -> int:
        """Put back the last saved state and return its step; 0, with nothing changed, without one."""
        found = self.training.run.load_state(which, self.tell)
        if found is None:
            return 0
        step, tensors, more = found
        self.rate, self.mends = float(more["rate"]), int(more["mends"])
        self.losses = json.loads(more["losses"])
        self.optimizer.state.clear()
        for i, (parameter, average) in enumerate(zip(self.parameters, self.average.values, strict=True)):
            parameter.copy_(tensors[f"{i}.value"])
            average.copy_(tensors[f"{i}.average"])
            if f"{i}.mean" in tensors:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(more["made"])),
                    "exp_avg": tensors[f"{i}.mean"].to(parameter.device),
                    "exp_avg_sq": tensors[f"{i}.square"].to(parameter.device),
                }
        return step


def parts(groups: Sequence[Group], micro: int) -> Iterator[Group]:
    """Groups of at most `micro` pictures."""
    for group in groups:
        for start in range(0, len(group.places), micro):
            yield group.part(start, start + micro)


def out_of_memory(error: Exception) -> bool:
    """Whether a device or the machine had no memory left, whatever the error is called."""
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in said for words in OUT_OF_MEMORY)
