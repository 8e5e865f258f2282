"""Samplers by the names people know, as diffusers schedulers made from the base's own schedule."""

from __future__ import annotations

import re

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from ..errors import RequestError

KARRAS, SDE = {"use_karras_sigmas": True}, {"algorithm_type": "sde-dpmsolver++"}
SAMPLERS = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpm++ 2m": (DPMSolverMultistepScheduler, {}),
    "dpm++ 2m karras": (DPMSolverMultistepScheduler, KARRAS),
    "dpm++ 2m sde": (DPMSolverMultistepScheduler, SDE),
    "dpm++ 2m sde karras": (DPMSolverMultistepScheduler, SDE | KARRAS),
    "dpm++ 2s": (DPMSolverSinglestepScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lms": (LMSDiscreteScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "ddpm": (DDPMScheduler, {}),
    "lcm": (LCMScheduler, {}),
}
# What other programs call the same.
ALSO = {
    "euler ancestral": "euler a", "k euler": "euler", "k euler a": "euler a", "dpmpp 2m": "dpm++ 2m", "plms": "pndm",
    "dpmpp 2m karras": "dpm++ 2m karras", "dpmpp 2m sde": "dpm++ 2m sde", "dpmpp 2m sde karras": "dpm++ 2m sde karras",
    "uni pc": "unipc", "dpmpp 2s": "dpm++ 2s",
}  # fmt: skip
LEAST = 2.0**-24
"""The signal that is left at the end of a schedule of zero signal, for samplers that divide by it."""


def sampler_name(text: str) -> str:
    """The name here of what other programs write as "DPM++ 2M Karras" or dpmpp_2m_karras; RequestError for others."""
    plain = re.sub(r"[\s_-]+", " ", text.lower()).strip().removeprefix("sample ")
    name = ALSO.get(plain, plain)
    if name not in SAMPLERS:
        raise RequestError(f"--sampler {text}: expected one of {', '.join(SAMPLERS)}")
    return name


def make_sampler(own: SchedulerMixin, name: str | None) -> SchedulerMixin:
    """A fresh scheduler: a copy of the base's own, or the named one on its schedule; RequestError for other names."""
    if name is None:
        return type(own).from_config(own.config)
    kind, extra = SAMPLERS[sampler_name(name)]
    known = kind().config
    # The default of the second-order solvers clips latents for nobody; DDIM's does and draws noise.
    more = {"clip_sample": False} if "clip_sample" in known else {}
    if own.config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
        more["trained_betas"] = betas(own.alphas_cumprod)
    return kind.from_config(own.config, **more, **extra)


def betas(alphas: torch.Tensor) -> list[float]:
    """The noise added at each step of a schedule, (steps,) cumulative alphas, its end kept from zero signal."""
    kept = alphas.double().clamp_min(LEAST)
    return (1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])).tolist()
