"""From noise to latents: one loop for every family whose sampler steps from time to time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import objectives

if TYPE_CHECKING:
    from .family import BaseModel

OnStep = Callable[[int, Tensor], None]


@torch.inference_mode()
def sample(
    model: BaseModel,
    cond: Mapping[str, Tensor],
    *,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    size: tuple[int, int],
    sampler: str | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Finished latents, (B, C, h, w), one for each seed; `on_step(i, clean)` runs before step i.

    cond: conditioning of B rows, or with guidance above 1 of 2 B, the negatives' rows before the prompts' (Ho &
    Salimans 2022). size: (width, height) in pixels. clean: what the sampler takes the finished latents to be; pure
    noise before step 0. What `on_step` raises ends the drawing and is passed on.
    """
    scheduler = model.sampler(sampler)
    scheduler.set_timesteps(steps, device=model.device)
    guided = guidance > 1
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = model.latent_shape(*size)
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(model.device)
    latents = clean = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    extra = {"generator": generators} if "generator" in _arguments(type(scheduler)) else {}
    for i, time in enumerate(scheduler.timesteps):
        if on_step is not None:
            on_step(i, clean)
        rows = torch.cat([latents, latents]) if guided else latents
        if hasattr(scheduler, "scale_model_input"):
            rows = scheduler.scale_model_input(rows, time)
        answer = model.predict(rows, time, cond)
        if guided:
            away, towards = answer.chunk(2)
            answer = away + guidance * (towards - away)
        stepped = scheduler.step(answer, time, latents, **extra)
        clean = _clean(scheduler, stepped, latents, answer, time)
        latents = stepped.prev_sample
    return latents


def _clean(scheduler: object, stepped: object, noisy: Tensor, answer: Tensor, time: Tensor) -> Tensor:
    """The sampler's own estimate of the finished latents, where it has one; else what the answer says."""
    for name in ("pred_original_sample", "denoised"):
        if getattr(stepped, name, None) is not None:
            return getattr(stepped, name)
    known = scheduler.config
    if "++" in known.get("algorithm_type", "") or known.get("predict_x0", False):
        return scheduler.model_outputs[-1]
    if not hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler, "sigmas"):
        # Rectified flow: the answer leads straight from the picture to the noise; the step has moved on by one.
        return noisy - scheduler.sigmas[scheduler.step_index - 1] * answer
    if hasattr(scheduler, "alphas_cumprod") and not hasattr(scheduler, "sigmas"):
        alphas = scheduler.alphas_cumprod.to(noisy.device)[time.long()].expand(len(noisy))
        return objectives.clean(known.prediction_type, noisy, answer, alphas)
    return stepped.prev_sample


@cache
def _arguments(kind: type) -> tuple[str, ...]:
    """Names of the parameters of a sampler's step."""
    return tuple(inspect.signature(kind.step).parameters)
