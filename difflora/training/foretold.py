"""What a training will take, before anything of the base is loaded."""

from __future__ import annotations

from dataclasses import replace

from ..config import TrainConfig
from ..events import Report, ignore
from ..models.bases import locate
from ..models.imagined import NAMES, Imagined, imagined
from ..models.needs import Need, training_need
from ..models.opening import how_to_open
from ..models.pace import Pace, speed
from .data import StyleDataset, read_folder
from .judge import rows_of_checkpoint
from .plan import Plan, base_of, make_plan

FORWARD = 1 / 3
"""The way through the network without learning, as a share of a step: the way back is twice as long."""


def plan_training(config: TrainConfig, report: Report = ignore) -> tuple[Plan, Need]:
    """The plan of a training and what it needs, from the folder and the base's configs; raises DiffloraError.

    Pictures at once and gradient checkpointing are chosen as the training itself would where memory is short.
    """
    locate(config.base, config.bases)
    data = read_folder(config.images, config.trigger, report)
    asked = base_of(config)
    how = how_to_open(asked)
    pace = speed(how.device, NAMES[how.dtype])
    with imagined(asked) as base:
        return fitted(base, config, data, pace)


def fitted(base: Imagined, config: TrainConfig, data: StyleDataset, pace: Pace) -> tuple[Plan, Need]:
    """The plan with as few pictures at once as fit, and its need."""
    plan = replace(make_plan(config, base.model, data), device=str(base.device), precision=base.precision)
    need, reasons = need_of(base, config, plan, pace), list(plan.reasons)
    while not need.fits and (plan.micro_batch > 1 or not plan.gradient_checkpointing):
        if plan.micro_batch > 1:
            plan = replace(plan, micro_batch=(plan.micro_batch + 1) // 2)
            said = f"{plan.micro_batch} pictures at once, as memory is short"
        else:
            plan = replace(plan, gradient_checkpointing=True)
            said = "activations computed twice, as memory is short"
        need = need_of(base, config, plan, pace)
        reasons.append(said)
    checkpoints = plan.steps // plan.preview_every if plan.preview_every else 2
    looking = need.seconds / plan.batch * FORWARD * rows_of_checkpoint(plan) * checkpoints
    minutes = (need.seconds * plan.area * plan.steps + looking) / 60
    return replace(plan, minutes=round(minutes, 2), memory=round(need.total / 1e9, 2), reasons=tuple(reasons)), need


def need_of(base: Imagined, config: TrainConfig, plan: Plan, pace: Pace) -> Need:
    """What one step of the plan needs."""
    return training_need(
        base, rank=plan.rank, targets=config.targets, text_encoder=config.text_encoder, alpha=plan.alpha,
        batch=plan.batch, micro_batch=plan.micro_batch, resolution=plan.resolution,
        checkpointing=plan.gradient_checkpointing, pace=pace,
    )  # fmt: skip
