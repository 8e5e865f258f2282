"""How much each style changes what the network answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from ..adapters.adapter import Adapter
from ..models.attach import attached
from ..models.family import BaseModel

PROMPTS = ("a cat", "a house", "a red apple", "a car")
STEPS = 4
"""Places along the base's own way from noise to picture at which it is asked."""


@torch.inference_mode()
def effects(model: BaseModel, adapters: Sequence[Adapter]) -> Tensor:
    """(n, n), float64: mean products of what the adapters, each alone at weight 1, change of the network's answer.

    The square root of the diagonal is the rms change, in units of the latents' noise. Asked along the base's own way to
    four prompts (with the adapter's trigger in front, on both sides) at the model's size, always from the same noise.
    """
    way = _way(model)
    plain: dict[str, Tensor] = {}
    changes = []
    for adapter in adapters:
        trigger = adapter.info.trigger
        if trigger not in plain:
            plain[trigger] = _answers(model, way, trigger)
        changes.append(_answers(model, way, trigger, adapter) - plain[trigger])
    rows = torch.stack(changes).double() if changes else torch.zeros(0, 1, dtype=torch.float64)
    return rows @ rows.T / rows.shape[1]


def _way(model: BaseModel) -> list[tuple[Tensor, Tensor]]:
    """(noisy latents (prompts, C, h, w), timesteps (prompts,)) of the base's own few steps without guidance."""
    # The same few straight steps on every base of a kind; what knows no DDIM goes its own way.
    scheduler = model.sampler("ddim" if "ddim" in model.samplers else None)
    scheduler.set_timesteps(STEPS, device=model.device)
    cond = model.encode_prompts(PROMPTS)
    shape = (len(PROMPTS), *model.latent_shape(model.side, model.side))
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    way = []
    for time in scheduler.timesteps:
        times = time.expand(len(PROMPTS))
        way.append((latents, times))
        latents = scheduler.step(model.predict(latents, times, cond), time, latents).prev_sample
    return way


def _answers(model: BaseModel, way: Sequence[tuple], trigger: str, adapter: Adapter | None = None) -> Tensor:
    """All of the network's answers along the way in one row, on the CPU."""
    prompts = [f"{trigger}, {prompt}" if trigger else prompt for prompt in PROMPTS]
    with attached(model.parts, [adapter]) if adapter else nullcontext():
        cond = model.encode_prompts(prompts)
        return torch.cat([model.predict(latents, times, cond).flatten().cpu() for latents, times in way])
