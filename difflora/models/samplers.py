"""Samplers by the names people know, as diffusers schedulers made from the base's own schedule."""

from __future__ import annotations

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from ..errors import RequestError

SAMPLERS = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpm++ 2m": (DPMSolverMultistepScheduler, {}),
    "dpm++ 2m karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {}),
}


def make_sampler(own: SchedulerMixin, name: str | None) -> SchedulerMixin:
    """A fresh scheduler: a copy of the base's own, or the named one on its schedule; RequestError for other names."""
    if name is None:
        return type(own).from_config(own.config)
    known = SAMPLERS.get(name.lower().strip())
    if known is None:
        raise RequestError(f"--sampler {name}: expected one of {', '.join(SAMPLERS)}")
    kind, extra = known
    # The default of the second-order solvers clips latents for nobody; DDIM's does and draws noise.
    clip = {"clip_sample": False} if "clip_sample" in kind().config else {}
    return kind.from_config(own.config, **clip, **extra)
