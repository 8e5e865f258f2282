"""What a denoiser is asked to predict: noising, target and loss for epsilon, v and sample prediction."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_BACK = 5.0
LEAST_SIGNAL = 1e-3


def noised(clean: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) noise; clean and noise (B, …), alphas (B,) in 0..1."""
    signal, spread = _halves(alphas, clean)
    return signal * clean + spread * noise


def target(kind: str, clean: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """What the denoiser should answer for `kind`: "epsilon", "v_prediction" or "sample" (Salimans & Ho 2022)."""
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return clean
    signal, spread = _halves(alphas, clean)
    return signal * noise - spread * clean


def clean(kind: str, noisy: Tensor, answer: Tensor, alphas: Tensor) -> Tensor:
    """The finished picture that an answer to `noisy` amounts to, for the same kinds; alphas (B,) in 0..1."""
    if kind == "sample":
        return answer
    signal, spread = _halves(alphas, noisy)
    if kind == "epsilon":
        return (noisy - spread * answer) / signal.clamp_min(LEAST_SIGNAL)
    return signal * noisy - spread * answer


def per_picture(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each picture, (B, …) -> (B,), in float32."""
    return (predicted.float() - wanted.float()).square().flatten(1).mean(1)


def weighted(features: Tensor, weights: Tensor) -> Tensor:
    """Text features (B, T, D) times token weights (B, T), the mean of each row put back.

    As A1111's prompt emphasis does (modules/sd_emphasis.py, "Original"); rows of weight 1 stay as they are, and where
    the mean says nothing, as with features around 0, it is not put back ("No norm" there).
    """
    scaled = features * weights[..., None].to(features)
    before, after = features.mean((1, 2), keepdim=True), scaled.mean((1, 2), keepdim=True)
    back = before / torch.where(after == 0, 1, after)
    sound = (back > 1 / MOST_BACK) & (back < MOST_BACK)
    plain = (weights == 1).all(1).view(-1, 1, 1)
    return torch.where(plain, features, scaled * torch.where(sound, back, 1))


def _halves(alphas: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (-1, *[1] * (like.dim() - 1))
    return alphas.sqrt().view(shape), (1 - alphas).clamp_min(0).sqrt().view(shape)


def spread_times(count: int, steps: int, rng: torch.Generator) -> Tensor:
    """(count,) timesteps, one in each of `count` equal slices of 0..steps in random order: uniform, with less noise."""
    slices = torch.randperm(count, generator=rng) + torch.rand(count, generator=rng)
    return (slices / count * steps).long().clamp_max(steps - 1)
