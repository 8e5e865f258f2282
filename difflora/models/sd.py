"""Stable Diffusion 1.x and 2.x, and the embedded base, which has their shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapters.precision import DTYPES
from ..errors import BaseModelError, RequestError
from . import objectives
from .samplers import make_sampler

ENCODED_AT_ONCE = 8
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MLP = ("ff.net.0.proj", "ff.net.2")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
OnStep = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Recommended:
    """Where training starts unless told otherwise."""

    learning_rate: float
    batch: int
    samples_per_picture: int
    """How often each picture is shown."""
    rank: int = 16


# tiny: what scripts/bench/RESULTS.md was reached with; others: the middle of what trainers of these default to.
RECOMMENDED = {"tiny": Recommended(1e-3, 8, 32)}
RECOMMENDED_ELSE = Recommended(1e-4, 2, 20)


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """A frozen UNet, text encoder and autoencoder with their schedule."""

    name: str
    family: str
    parts: Mapping[str, nn.Module]
    vae: nn.Module
    tokenizer: Callable
    scheduler: object

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return self._first.device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's precision."""
        return self._first.dtype

    @property
    def _first(self) -> Tensor:
        # diffusers asks all parameters, which takes longer than a small network's answer.
        return next(self.parts["unet"].parameters())

    @property
    def recommended(self) -> Recommended:
        """Learning rate, batch and showings per picture for this family."""
        return RECOMMENDED.get(self.family, RECOMMENDED_ELSE)

    @property
    def factor(self) -> int:
        """Pixels per latent cell along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def side(self) -> int:
        """The native picture side in pixels."""
        return self.parts["unet"].config.sample_size * self.factor

    @property
    def unit(self) -> int:
        """What picture sides are multiples of, in pixels: the UNet halves latents, one time less than it has levels."""
        return self.factor * 2 ** (len(self.parts["unet"].config.block_out_channels) - 1)

    @cached_property
    def alphas(self) -> Tensor:
        """Cumulative alphas of the schedule, (steps,), float32, on the model's device."""
        return self.scheduler.alphas_cumprod.float().to(self.device)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight shapes of every linear and convolutional layer, by module path."""
        layers = (nn.Linear, nn.Conv2d)
        return {
            f"{part}.{path}": tuple(module.weight.shape)
            for part, root in self.parts.items()
            for path, module in root.named_modules()
            if isinstance(module, layers)
        }

    def targets(self, layers: str, text_encoder: bool) -> list[str]:
        """Paths of the attention (and feed-forward) layers of the UNet and, on request, of the text encoder."""
        image = ATTENTION + (MLP if layers == "attention+mlp" else ())
        wanted = {"unet": image, "text_encoder": TEXT if text_encoder else ()}
        return [
            path
            for path in self.shapes()
            if any(path.endswith(f".{end}") for end in wanted[path.split(".")[0]]) and ".vision" not in path
        ]

    def check_size(self, width: int, height: int) -> None:
        """RequestError unless both sides are multiples of what the UNet halves to."""
        if width % self.unit or height % self.unit:
            raise RequestError(f"size {width}x{height}: expected multiples of {self.unit} for {self.name}")

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> latents (B, C, H / factor, W / factor): the posterior's mean."""
        found = []
        # A few at a time: of a picture of 512 px a full-size autoencoder's first level alone is 134 MB in float32.
        for part in pixels.split(ENCODED_AT_ONCE):
            posterior = self.vae.encode(part.to(self.device, self.vae.dtype)).latent_dist
            found.append(posterior.mode().float() * self.vae.config.scaling_factor)
        return torch.cat(found)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W) in -1..1 on the CPU."""
        scaled = latents / self.vae.config.scaling_factor
        pixels = self.vae.decode(scaled.to(self.vae.dtype)).sample.float()
        if self.vae.dtype != torch.float32 and not torch.isfinite(pixels).all():
            # Some autoencoders overflow in half precision and draw black; in float32 they do not.
            self.vae.float()
            pixels = self.vae.decode(scaled.float()).sample
        return pixels.clamp(-1, 1).cpu()

    def tokenize(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids, (B, length of the text encoder's window)."""
        ids = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return {"input_ids": ids.to(self.device)}

    def token_weights(self, text: str, spans: Sequence[tuple[int, int, float]]) -> Tensor:
        """(tokens,) how much each token of `text` counts: the weight of the (start, end, weight) it is in, else 1."""
        told = self.tokenizer(text, padding="max_length", truncation=True, return_offsets_mapping=True)
        weights = torch.ones(len(told["offset_mapping"]))
        for place, (start, end) in enumerate(told["offset_mapping"]):
            for first, last, weight in spans:
                if end > start and first <= start < last:
                    weights[place] = weight
        return weights

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text features, (B, tokens, width)."""
        return self.encode_tokens(self.tokenize(prompts))

    def encode_tokens(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Token ids -> text features; features pass through."""
        if "input_ids" not in cond:
            return dict(cond)
        features = self.parts["text_encoder"](cond["input_ids"]).last_hidden_state
        if "token_weights" in cond:
            features = objectives.weighted(features, cond["token_weights"])
        return {"encoder_hidden_states": features}

    def predict(self, noisy: Tensor, times: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The UNet's answer to (B, C, h, w) at (B,) timesteps."""
        features = cond["encoder_hidden_states"].to(self.dtype)
        return self.parts["unet"](noisy.to(self.dtype), times, features).sample.float()

    def times(self, count: int, rng: torch.Generator) -> Tensor:
        """(count,) timesteps to train at, drawn from `rng` on the CPU, on the model's device."""
        return objectives.spread_times(count, len(self.alphas), rng).to(self.device)

    def checkpointing(self, on: bool) -> None:
        """Whether the UNet computes activations twice instead of keeping them: the same gradients in less memory."""
        unet = self.parts["unet"]
        unet.enable_gradient_checkpointing() if on else unet.disable_gradient_checkpointing()

    def loss(self, latents: Tensor, cond: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """Denoising loss of each picture, (B,): latents (B, C, h, w), noise and times drawn from `rng` on the CPU."""
        times = self.times(len(latents), rng)
        noise = torch.randn(latents.shape, generator=rng).to(self.device)
        return self.loss_at(latents, cond, times, noise)

    def loss_at(self, latents: Tensor, cond: Mapping[str, Tensor], times: Tensor, noise: Tensor) -> Tensor:
        """The loss of each picture at given times and noise, (B,)."""
        alphas = self.alphas[times]
        answer = self.predict(objectives.noised(latents, noise, alphas), times, self.encode_tokens(cond))
        kind = self.scheduler.config.prediction_type
        return objectives.per_picture(answer, objectives.target(kind, latents, noise, alphas))

    @torch.inference_mode()
    def draw(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        size: tuple[int, int],
        sampler: str | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """One picture a prompt, (B, 3, H, W) in -1..1; `on_step(i, clean)` runs before step i.

        clean: what the sampler takes the finished latents to be, (B, C, h, w), for `decode`; pure noise before step 0.
        What `on_step` raises ends the drawing and is passed on.
        With guidance above 1 the networks see the negatives' rows, then the prompts' rows (Ho & Salimans 2022).
        """
        width, height = size
        self.check_size(width, height)
        scheduler = make_sampler(self.scheduler, sampler)
        scheduler.set_timesteps(steps, device=self.device)
        guided = guidance > 1
        cond = self.encode_prompts([*negatives, *prompts] if guided else prompts)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = (self.parts["unet"].config.in_channels, height // self.factor, width // self.factor)
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device)
        latents = clean = noise * scheduler.init_noise_sigma
        extra = {"generator": generators} if "generator" in _arguments(scheduler.step) else {}
        for i, time in enumerate(scheduler.timesteps):
            if on_step is not None:
                on_step(i, clean)
            rows = scheduler.scale_model_input(torch.cat([latents, latents]) if guided else latents, time)
            answer = self.predict(rows, time, cond)
            if guided:
                away, towards = answer.chunk(2)
                answer = away + guidance * (towards - away)
            stepped = scheduler.step(answer, time, latents, **extra)
            latents, clean = stepped.prev_sample, _clean(scheduler, stepped)
        return self.decode(latents)


def _clean(scheduler: object, stepped: object) -> Tensor:
    """The sampler's own estimate of the finished latents, where it has one; else the latents as they are."""
    for name in ("pred_original_sample", "denoised"):
        if getattr(stepped, name, None) is not None:
            return getattr(stepped, name)
    known = scheduler.config
    if "++" in known.get("algorithm_type", "") or known.get("predict_x0", False):
        return scheduler.model_outputs[-1]
    return stepped.prev_sample


def _arguments(function: Callable) -> tuple[str, ...]:
    """Names of a function's parameters."""
    import inspect

    return tuple(inspect.signature(function).parameters)


def open_folder(name: str, folder: Path, device: str, precision: str | None = None) -> StableDiffusion:
    """Open a diffusers folder (or hub id): unless told, bfloat16 on CUDA, else float32; raises BaseModelError."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as text_logging

    logging.disable_progress_bar()
    text_logging.disable_progress_bar()
    # Without its own units for it (measured: half the speed), a CPU is quickest in float32.
    dtype = DTYPES[precision or ("bf16" if device == "cuda" else "fp32")]
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            str(folder) if folder.is_dir() else name,
            dtype=dtype,
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"base {name} cannot be opened: {str(error).splitlines()[0]}") from error
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    for module in (*parts.values(), pipe.vae):
        module.eval().requires_grad_(False).to(device)
    return StableDiffusion(name, family_of(pipe.unet), parts, pipe.vae, pipe.tokenizer, pipe.scheduler)


def family_of(unet: nn.Module) -> str:
    """The family by the width of the text features: what makes adapters interchangeable."""
    width = unet.config.cross_attention_dim
    return {192: "tiny", 768: "sd1", 1024: "sd2"}.get(width, f"sd-{width}")
