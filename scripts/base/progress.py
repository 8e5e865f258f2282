"""What both trainings of the base share: averaged weights, atomic saves, a log, half precision where it is faster."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

torch.backends.cudnn.benchmark = True


class Ema:
    """A running mean of a module's parameters."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.mean = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the mean towards the module; young means move faster."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.mean, [p.detach() for p in module.parameters()], 1 - keep)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the mean into the module."""
        for parameter, mean in zip(module.parameters(), self.mean, strict=True):
            parameter.copy_(mean)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module holds the mean inside the block and its own weights after it."""
        own = [p.detach().clone() for p in module.parameters()]
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(module.parameters(), own, strict=True):
                    parameter.copy_(value)


class Course:
    """How far a training is: in pictures seen, and in minutes spent where its length is given in minutes."""

    def __init__(self, samples: int, minutes: float | None = None) -> None:
        self.samples, self.minutes = samples, minutes
        self.seen, self.before, self.start = 0, 0.0, time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.before + time.monotonic() - self.start

    @property
    def done(self) -> float:
        """The share that is done, 0..1: of the pictures or of the minutes, whichever is further."""
        return min(1.0, max(self.seen / self.samples, self.spent / 60 / self.minutes if self.minutes else 0.0))


def save_state(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, course: Course) -> None:
    """Write everything that resuming needs, whole or not at all."""
    state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "seen": course.seen}
    state |= {"ema": ema.mean, "ema_steps": ema.steps, "spent": course.spent}
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load_state(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None, ema: Ema, course: Course | None = None
) -> int:
    """Restore the last save and return how many pictures it had seen (0 without one)."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    ema.mean = [mean.to(old.device) for mean, old in zip(state["ema"], ema.mean, strict=True)]
    ema.steps = state["ema_steps"]
    if course is not None:
        course.seen, course.before = state["seen"], state["spent"]
    return state["seen"]


def here() -> str:
    """The device that the base is trained on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def compiled(function: Callable) -> Callable:
    """The function compiled for a GPU; as it is on a processor, where compiling costs more than it saves."""
    return torch.compile(function) if torch.cuda.is_available() else function


class Record:
    """A log file and a line on the screen every few seconds."""

    def __init__(self, path: Path, course: Course) -> None:
        self.path, self.course = path, course
        self.losses: list[torch.Tensor] = []
        self.first, self.since, self.shown = course.seen, time.monotonic(), time.monotonic()

    def add(self, loss: torch.Tensor) -> None:
        """Count one step; print and log the mean loss about every 10 s."""
        self.losses.append(loss.detach())
        now = time.monotonic()
        if now - self.shown > 10:
            speed = (self.course.seen - self.first) / (now - self.since)
            self.note(loss=torch.stack(self.losses).mean().item(), speed=speed)
            self.losses, self.first, self.since, self.shown = [], self.course.seen, now, now

    def note(self, **values: float) -> None:
        """Append one line of figures."""
        row = {"seen": self.course.seen, "spent": round(self.course.spent, 1)}
        row |= {name: round(value, 5) for name, value in values.items()}
        with self.path.open("a") as log:
            log.write(json.dumps(row) + "\n")
        figures = (f"{name} {value:.4g}" for name, value in values.items())
        print(f"{self.course.seen:>9,} ({self.course.done:.0%})", *figures, flush=True)


def autocast(device: str) -> torch.autocast:
    """bfloat16 on CUDA and on processors that multiply it natively; float32 elsewhere."""
    native = device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device, torch.bfloat16, enabled=native)
