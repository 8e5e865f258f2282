"""What both trainings of the base share: averaged weights, atomic saves, a log, half precision where it is faster."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn


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


def save_state(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, seen: int) -> None:
    """Write everything that resuming needs, whole or not at all."""
    state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "seen": seen}
    state |= {"ema": ema.mean, "ema_steps": ema.steps}
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load_state(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None, ema: Ema) -> int:
    """Restore the last save and return how many pictures it had seen (0 without one)."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    ema.mean = [mean.to(old.device) for mean, old in zip(state["ema"], ema.mean, strict=True)]
    ema.steps = state["ema_steps"]
    return state["seen"]


class Record:
    """A log file and a line on the screen every few seconds."""

    def __init__(self, path: Path, samples: int) -> None:
        self.path, self.samples = path, samples
        self.losses: list[float] = []
        self.start, self.first, self.shown = time.monotonic(), None, 0.0

    def add(self, seen: int, loss: float) -> None:
        """Count one step; print and log the mean loss about every 15 s."""
        self.first = seen if self.first is None else self.first
        self.losses.append(loss)
        now = time.monotonic()
        if now - self.shown > 15:
            speed = (seen - self.first) / max(now - self.start, 1e-9)
            self.note(seen, loss=sum(self.losses) / len(self.losses), speed=speed)
            self.losses, self.shown = [], now

    def note(self, seen: int, **values: float) -> None:
        """Append one line of figures."""
        row = {"seen": seen} | {name: round(value, 5) for name, value in values.items()}
        with self.path.open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(f"{seen:>9,} of {self.samples:,}", *(f"{name} {value:.4g}" for name, value in values.items()), flush=True)


def autocast(device: str) -> torch.autocast:
    """bfloat16 on CUDA and on processors that multiply it natively; float32 elsewhere."""
    native = device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device, torch.bfloat16, enabled=native)
