"""The autoencoder of the embedded base: AutoencoderKL, f = 8, 8 channels, trained on every picture and on made ones."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from . import compose
from .progress import Course, Ema, Record, autocast, compiled, here, load_state, save_state

NORMS = 8
CHANNELS = 8
SHARED = "autoencoder.half.pt"


def build(widths: tuple[int, ...] = (32, 64, 128, 160)) -> AutoencoderKL:
    """An untrained AutoencoderKL; len(widths) - 1 halvings."""
    return AutoencoderKL(
        latent_channels=CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        norm_num_groups=NORMS,
        # Convolutions alone generalise to any picture size.
        mid_block_add_attention=False,
        scaling_factor=1.0,
        sample_size=128,
    )


def gradient_loss(drawn: Tensor, target: Tensor) -> Tensor:
    """Mean difference of neighbouring-pixel differences: keeps edges where they are."""
    across = (drawn.diff(dim=-1) - target.diff(dim=-1)).abs().mean()
    return across + (drawn.diff(dim=-2) - target.diff(dim=-2)).abs().mean()


def loss_of(model: AutoencoderKL, pictures: Tensor, noise: Tensor) -> Tensor:
    """L1, gradient and coarse L1 loss with a light KL; `pictures` (B, 3, H, W) in -1..1, `noise` (2, B, C, h, w)."""
    mean, spread = model.quant_conv(model.encoder(pictures)).float().chunk(2, dim=1)
    spread = spread.clamp(-30, 20)
    kl = 0.5 * (mean.square() + spread.exp() - 1 - spread).mean()
    # A decoder that shrugs off a little noise also forgives the denoiser its small errors.
    latents = mean + (0.5 * spread).exp() * noise[0] + 0.05 * noise[1]
    drawn = model.decoder(model.post_quant_conv(latents)).float()
    # Latents that mean the same at half the size hold their picture in low frequencies, which a denoiser learns first
    # (Skorokhodov et al. 2025, arXiv 2502.14831).
    few = len(pictures) // 4
    small = model.decoder(model.post_quant_conv(F.avg_pool2d(latents[:few], 2))).float()
    half = (small - F.avg_pool2d(pictures[:few], 2)).abs().mean()
    coarse = (F.avg_pool2d(drawn, 4) - F.avg_pool2d(pictures, 4)).abs().mean()
    return (drawn - pictures).abs().mean() + gradient_loss(drawn, pictures) + coarse + 0.25 * half + 2e-4 * kl


def psnr(model: AutoencoderKL, pictures: Tensor) -> float:
    """Reconstruction PSNR in dB, the mean over pictures (B, 3, H, W) in -1..1."""
    with torch.inference_mode():
        drawn = torch.cat([model.decode(model.encode(part).latent_dist.mode()).sample for part in pictures.split(32)])
    error = ((drawn.clamp(-1, 1) - pictures) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.clamp_min(1e-10).log10()).mean())


def as_sources(rgba: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 4) -> uint8 (N, 4, H, W) on the device that is trained on."""
    return torch.from_numpy(np.ascontiguousarray(rgba)).permute(0, 3, 1, 2).contiguous().to(here())


def on_white(sources: Tensor, px: int) -> Tensor:
    """uint8 RGBA pictures (B, 4, H, W) on white, (B, 3, px, px) in -1..1."""
    full = compose.premultiplied(sources.float() / 255)
    return F.interpolate(full[:, :3] + 1 - full[:, 3:], size=(px, px), mode="area") * 2 - 1


def train(sources: Tensor, work: Path, px: int, course: Course, batch: int = 32, rate: float = 1e-3) -> None:
    """Train to the end of the course, resuming from work/autoencoder.pt; the last 40% cool down."""
    device = here()
    torch.manual_seed(0)
    model = build().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    ema = Ema(model, 0.999)
    load_state(work / "autoencoder.pt", model, optimizer, ema, course)
    record = Record(work / "autoencoder.jsonl", course)
    probe = on_white(sources[:: max(1, len(sources) // 128)], px)
    step, saved, noted = compiled(loss_of), time.monotonic(), 0.0
    rng = torch.Generator(device).manual_seed(course.seen)
    while course.done < 1:
        rows = torch.randint(len(sources), (batch,), generator=rng, device=device)
        target = compose.wide_batch(sources[rows].float() / 255, px, rng) * 2 - 1
        target = target.to(memory_format=torch.channels_last)
        noise = torch.randn(2, batch, CHANNELS, px // 8, px // 8, generator=rng, device=device)
        warm = min(1, (course.seen / batch + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * min(1, max(0.02, 2.5 * (1 - course.done)))
        with autocast(device):
            loss = step(model, target, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model)
        course.seen += batch
        record.add(loss)
        if course.done > noted + 0.2:
            noted = course.done
            with ema.applied(model):
                record.note(psnr=psnr(model, probe))
        if time.monotonic() - saved > 180:
            save_state(work / "autoencoder.pt", model, optimizer, ema, course)
            saved = time.monotonic()
    save_state(work / "autoencoder.pt", model, optimizer, ema, course)
    with ema.applied(model):
        record.note(psnr=psnr(model, probe))


def load(work: Path) -> AutoencoderKL:
    """The averaged weights of the last save, or those that were shared from another machine, in evaluation mode."""
    model = build()
    shared = work / SHARED
    if shared.exists() and not (work / "autoencoder.pt").exists():
        model.load_state_dict(torch.load(shared, weights_only=True))
    else:
        ema = Ema(model, 0.999)
        load_state(work / "autoencoder.pt", model, None, ema)
        ema.copy_to(model)
    return model.eval().requires_grad_(False)


def halve(work: Path) -> Path:
    """Write the averaged weights in half precision, 10 MB, which `load` takes in place of a save."""
    torch.save(load(work).half().state_dict(), work / SHARED)
    return work / SHARED
