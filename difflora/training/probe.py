"""Minutes and memory of a training, measured by a few real steps that change nothing."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from ..config import TrainConfig
from ..models.attach import Learning, learning
from ..models.family import BaseModel
from .judge import rows_of_checkpoint
from .loop import Fit, out_of_memory
from .plan import Plan

FEWEST, MOST, ENOUGH = 2, 5, 3.0
"""Calls that are timed, and the seconds that they are to take together at the pace of the quickest."""


def measured(plan: Plan, config: TrainConfig, model: BaseModel) -> Plan:
    """The plan with its minutes and memory in GB, and with as few pictures at once as memory asks for.

    Real steps of the largest picture size on random latents: time and memory don't depend on what is shown. Raises
    RequestError when one picture does not fit.
    """
    fit = Fit(model, plan.micro_batch, plan.gradient_checkpointing)
    reasons = list(plan.reasons)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    paths = model.targets(config.targets, config.text_encoder)
    with learning(model.parts, paths, plan.rank, plan.alpha, config.seed) as layers:
        while True:
            try:
                seconds, forward = timed(plan, config, model, layers, fit.micro)
                break
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            reasons.append(f"memory is short: {fit.smaller()}")
    checkpoints = plan.steps // plan.preview_every if plan.preview_every else 2
    minutes = (seconds * plan.area * plan.steps + forward * rows_of_checkpoint(plan) * checkpoints) / 60
    return replace(
        plan,
        micro_batch=fit.micro,
        gradient_checkpointing=fit.twice,
        minutes=round(minutes, 2),
        memory=round(peak_memory(model.device), 2),
        reasons=tuple(reasons),
    )


def timed(plan: Plan, config: TrainConfig, model: BaseModel, layers: Learning, micro: int) -> tuple[float, float]:
    """Seconds of one step, and of one picture's way through the network without learning."""
    rng = torch.Generator().manual_seed(0)
    side = plan.resolution
    pixels = torch.rand(1, 3, side, side, generator=rng) * 2 - 1
    latents = model.encode_images(pixels).clone().expand(micro, -1, -1, -1)
    with torch.no_grad():
        cond = model.tokenize([plan.trigger] * micro)
        cond = cond if config.text_encoder else model.encode_tokens(cond)

    def losses() -> Tensor:
        return model.loss(latents, cond, rng)

    def step() -> None:
        for _ in range(-(-plan.batch // micro)):
            losses().mean().backward()
        for parameter in layers.parameters():
            parameter.grad = None

    step()
    with torch.no_grad():
        losses()
        forward = clock(losses, model.device) / micro
    return clock(step, model.device), forward


def clock(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's own work waited for: the median, since a moment's other load is no measure."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda _: None
    wait(device)
    spans: list[float] = []
    while len(spans) < FEWEST or (len(spans) < MOST and min(spans) * len(spans) < ENOUGH):
        start = time.perf_counter()
        work()
        wait(device)
        spans.append(time.perf_counter() - start)
    return median(spans)


def peak_memory(device: torch.device) -> float:
    """The most memory used so far in GB: the process's own on a CPU, the allocator's on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
