"""The autoencoder of the embedded base: AutoencoderKL, f = 4, 4 channels, trained on every picture and on made ones."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from . import compose
from .progress import Ema, Record, autocast, load_state, save_state

NORMS = 8


def build(latent_channels: int = 4, widths: tuple[int, ...] = (32, 96, 160)) -> AutoencoderKL:
    """An untrained AutoencoderKL; len(widths) - 1 halvings."""
    return AutoencoderKL(
        latent_channels=latent_channels,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        norm_num_groups=NORMS,
        # Convolutions alone generalise to any picture size.
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def gradient_loss(drawn: Tensor, target: Tensor) -> Tensor:
    """Mean difference of neighbouring-pixel differences: keeps edges where they are."""
    across = (drawn.diff(dim=-1) - target.diff(dim=-1)).abs().mean()
    return across + (drawn.diff(dim=-2) - target.diff(dim=-2)).abs().mean()


def loss_of(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    """L1, gradient and half-size L1 loss with a light KL; `pictures` (B, 3, H, W) in -1..1."""
    posterior = model.encode(pictures).latent_dist
    latents = posterior.sample()
    # A decoder that shrugs off a little noise also forgives the denoiser its small errors.
    latents = latents + 0.05 * torch.randn_like(latents)
    drawn = model.decode(latents).sample.float()
    coarse = (F.avg_pool2d(drawn, 4) - F.avg_pool2d(pictures, 4)).abs().mean()
    return (drawn - pictures).abs().mean() + gradient_loss(drawn, pictures) + coarse + 1e-5 * posterior.kl().mean() / 64


def psnr(model: AutoencoderKL, pictures: Tensor) -> float:
    """Reconstruction PSNR in dB, the mean over pictures (B, 3, H, W) in -1..1."""
    with torch.inference_mode():
        drawn = torch.cat([model.decode(model.encode(part).latent_dist.mode()).sample for part in pictures.split(32)])
    error = ((drawn.clamp(-1, 1) - pictures) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.clamp_min(1e-10).log10()).mean())


def as_tensor(rgba: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 4) -> float (B, 4, H, W) in 0..1."""
    return torch.from_numpy(np.array(rgba)).permute(0, 3, 1, 2).float() / 255


def on_white(rgba: np.ndarray, px: int) -> Tensor:
    """uint8 RGBA pictures on white, (B, 3, px, px) in -1..1."""
    full = as_tensor(rgba)
    return F.interpolate(compose.over(full, torch.ones_like(full[:, :3])), size=(px, px), mode="area") * 2 - 1


def train(pictures: np.ndarray, work: Path, px: int, samples: int, batch: int = 32, rate: float = 8e-4) -> None:
    """Train until `samples` pictures were seen, resuming from work/autoencoder.pt; the last fifth cools down."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)
    ema = Ema(model, 0.999)
    seen = load_state(work / "autoencoder.pt", model, optimizer, ema)
    record = Record(work / "autoencoder.jsonl", samples)
    probe = on_white(pictures[:: max(1, len(pictures) // 128)], px).to(device)
    saved = time.monotonic()
    while seen < samples:
        rng = torch.Generator().manual_seed(seen)
        rows = torch.randint(len(pictures), (batch,), generator=rng).numpy()
        target = (compose.wide_batch(as_tensor(pictures[np.sort(rows)]), px, rng) * 2 - 1).to(device)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (seen + batch) / 6400) * min(1, max(0.02, (samples - seen) / (0.2 * samples)))
        with autocast(device):
            loss = loss_of(model, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model)
        seen += batch
        record.add(seen, loss.item())
        if time.monotonic() - saved > 180 or seen >= samples:
            save_state(work / "autoencoder.pt", model, optimizer, ema, seen)
            with ema.applied(model):
                record.note(seen, psnr=psnr(model, probe))
            saved = time.monotonic()


def load(work: Path) -> AutoencoderKL:
    """The averaged weights of the last save, in evaluation mode."""
    model = build()
    ema = Ema(model, 0.999)
    load_state(work / "autoencoder.pt", model, None, ema)
    ema.copy_to(model)
    return model.eval().requires_grad_(False)
