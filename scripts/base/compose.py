"""Training pictures made on the fly: warps, colour shifts, glossy fills, backgrounds, drawn shapes.

The autoencoder sets the limit of every style that will ever be learnt on this base, so it must see far more colours,
gradients, outlines and textures than the flat pictograms hold. All tensors here are float in 0..1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# RGB -> YIQ: rotating the last two axes turns the hue and leaves the brightness.
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
PALETTE = {
    "red": (0.90, 0.20, 0.22), "orange": (0.98, 0.58, 0.16), "yellow": (1.0, 0.86, 0.30), "green": (0.33, 0.72, 0.36),
    "blue": (0.25, 0.50, 0.90), "light blue": (0.66, 0.86, 1), "purple": (0.58, 0.34, 0.80), "pink": (1.0, 0.66, 0.8),
    "brown": (0.56, 0.38, 0.26), "gray": (0.70, 0.71, 0.73), "black": (0.10, 0.10, 0.12), "teal": (0.16, 0.64, 0.62),
}  # fmt: skip


def rand(*shape: int, rng: torch.Generator) -> Tensor:
    """Uniform numbers in 0..1 on the generator's device."""
    return torch.rand(shape, generator=rng, device=rng.device)


def pick(chance: float, count: int, rng: torch.Generator) -> Tensor:
    """A (count, 1, 1, 1) float mask that is 1 with the given chance."""
    return (rand(count, 1, 1, 1, rng=rng) < chance).float()


def between(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Uniform numbers."""
    return low + (high - low) * rand(*shape, rng=rng)


def soft_colours(count: int, px: int, rng: torch.Generator) -> Tensor:
    """(count, 3, px, px) smooth fields of strong colours: the gradients that flat pictograms lack."""
    cells = int(torch.randint(1, 5, (), generator=rng, device=rng.device)) + 1
    field = rand(count, 3, cells, cells, rng=rng)
    return F.interpolate(field, size=(px, px), mode="bicubic", align_corners=True).clamp(0, 1)


def shift_colours(rgb: Tensor, rng: torch.Generator, chance: float = 0.6) -> Tensor:
    """Hue, saturation, brightness and contrast of (B, 3, H, W), shifted for some pictures of the batch."""
    count = len(rgb)
    angle = between(-math.pi, math.pi, (count,), rng)
    saturation = between(0.3, 1.5, (count,), rng)
    turn = torch.zeros(count, 3, 3, device=rng.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos() * saturation
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin() * saturation, angle.sin() * saturation
    yiq = YIQ.to(rng.device)
    matrix = torch.linalg.inv(yiq) @ turn @ yiq
    turned = torch.einsum("bij,bjhw->bihw", matrix, rgb)
    contrast, lift = between(0.6, 1.3, (count, 1, 1, 1), rng), between(-0.15, 0.15, (count, 1, 1, 1), rng)
    turned = ((turned - 0.5) * contrast + 0.5 + lift).clamp(0, 1)
    return torch.lerp(rgb, turned, pick(chance, count, rng))


def warp(rgba: Tensor, rng: torch.Generator, chance: float = 0.6) -> Tensor:
    """Scale, turn, move and mirror some of (B, 4, H, W); the rest stay pixel for pixel."""
    count = len(rgba)
    scale, angle = between(0.7, 2.2, (count,), rng), between(-0.4, 0.4, (count,), rng)
    mirror = torch.where(rand(count, rng=rng) < 0.5, -1.0, 1.0)
    move = between(-0.35, 0.35, (count, 2), rng)
    still = rand(count, rng=rng) >= chance
    scale[still], angle[still], move[still] = 1.0, 0.0, 0.0
    rows = [torch.stack([angle.cos() * scale * mirror, -angle.sin() * scale, move[:, 0]], 1)]
    rows += [torch.stack([angle.sin() * scale * mirror, angle.cos() * scale, move[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(rgba.shape), align_corners=False)
    return F.grid_sample(rgba, grid, padding_mode="zeros", align_corners=False)


def gloss(rgb: Tensor, rng: torch.Generator, chance: float = 0.4) -> Tensor:
    """Colour gradients, shade and highlights laid over (B, 3, H, W)."""
    count, _, px, _ = rgb.shape
    tinted = torch.lerp(rgb, soft_colours(count, px, rng), between(0.1, 0.8, (count, 1, 1, 1), rng))
    axis = torch.linspace(-1, 1, px, device=rng.device)
    x, y = axis.view(1, 1, 1, px), axis.view(1, 1, px, 1)
    place = between(-0.8, 0.8, (count, 2, 1, 1), rng)
    size = between(0.02, 0.4, (count, 1, 1, 1), rng)
    light = torch.exp(-((x - place[:, :1]) ** 2 + (y - place[:, 1:]) ** 2) / size)
    shade = 1 + (x * place[:, :1] + y * place[:, 1:]) * 0.6
    lit = (tinted * shade).clamp(0, 1)
    lit = lit + (1 - lit) * light * between(0, 0.9, (count, 1, 1, 1), rng)
    return torch.lerp(rgb, lit, pick(chance, count, rng))


def lines(rgba: Tensor, rng: torch.Generator, chance: float = 0.35) -> Tensor:
    """Dark contours along the edges of (B, 4, H, W), over its own fill, a flat one or none."""
    count = len(rgba)
    grey = torch.lerp(torch.ones_like(rgba[:, :1]), rgba[:, :3].mean(1, keepdim=True), rgba[:, 3:])
    width = 2 * int(torch.randint(1, 5, (), generator=rng, device=rng.device)) + 1
    range_ = F.max_pool2d(grey, width, 1, width // 2) + F.max_pool2d(-grey, width, 1, width // 2)
    line = torch.sigmoid((range_ - between(0.08, 0.3, (count, 1, 1, 1), rng)) * 40)
    flat = torch.lerp(rand(count, 3, 1, 1, rng=rng), torch.ones(1, device=rng.device),
                      pick(0.5, count, rng))  # fmt: skip
    fill = torch.lerp(rgba[:, :3], flat.expand_as(rgba[:, :3]), pick(0.5, count, rng))
    colour = rand(count, 3, 1, 1, rng=rng) * 0.3
    drawn = torch.cat([torch.lerp(fill, colour.expand_as(fill), line), torch.maximum(rgba[:, 3:], line)], 1)
    return torch.lerp(rgba, drawn, pick(chance, count, rng))


def textures(count: int, px: int, rng: torch.Generator) -> Tensor:
    """(count, 3, px, px) stripes and grain in two colours."""
    axis = torch.linspace(-1, 1, px, device=rng.device)
    angle = between(0, math.pi, (count, 1, 1, 1), rng)
    along = axis.view(1, 1, 1, px) * angle.cos() + axis.view(1, 1, px, 1) * angle.sin()
    waves = torch.sin(along * between(6, 60, (count, 1, 1, 1), rng))
    grain = F.interpolate(
        torch.randn(count, 1, px // 2, px // 2, generator=rng, device=rng.device), size=(px, px), mode="bilinear"
    )
    mask = torch.sigmoid(6 * torch.lerp(waves, grain, pick(0.3, count, rng)))
    one, two = soft_colours(count, px, rng), rand(count, 3, 1, 1, rng=rng)
    return torch.lerp(one, two.expand_as(one), mask)


def shapes(count: int, px: int, rng: torch.Generator, layers: int = 5) -> Tensor:
    """(count, 4, px, px): overlapping ellipses and boxes with gradient or textured fill, some with a dark outline."""
    axis = torch.linspace(-1, 1, px, device=rng.device)
    x, y = axis.view(1, 1, 1, px), axis.view(1, 1, px, 1)
    canvas = torch.zeros(count, 4, px, px, device=rng.device)
    for _ in range(layers):
        centre, size = between(-0.7, 0.7, (count, 2, 1, 1), rng), between(0.08, 0.6, (count, 2, 1, 1), rng)
        angle = between(0, math.pi, (count, 1, 1, 1), rng)
        dx, dy = x - centre[:, :1], y - centre[:, 1:]
        u = (dx * angle.cos() + dy * angle.sin()) / size[:, :1]
        v = (-dx * angle.sin() + dy * angle.cos()) / size[:, 1:]
        power = torch.where(rand(count, 1, 1, 1, rng=rng) < 0.5, 2.0, 8.0)
        distance = ((u.abs() ** power + v.abs() ** power + 1e-6) ** (1 / power) - 1) * size.amin(1, keepdim=True)
        alpha = torch.sigmoid(-distance * px)
        fill = torch.lerp(soft_colours(count, px, rng), textures(count, px, rng), pick(0.3, count, rng))
        line = torch.exp(-((distance * px / between(0.8, 3, (count, 1, 1, 1), rng)) ** 2)) * pick(0.4, count, rng)
        fill = fill * (1 - line)
        alpha = torch.maximum(alpha, line)
        canvas = torch.cat([fill * alpha + canvas[:, :3] * (1 - alpha), alpha + canvas[:, 3:] * (1 - alpha)], 1)
    # Straight alpha, as the pictograms have it.
    return torch.cat([canvas[:, :3] / canvas[:, 3:].clamp_min(1e-3), canvas[:, 3:]], 1).clamp(0, 1)


def backgrounds(count: int, px: int, rng: torch.Generator, white: float) -> Tensor:
    """(count, 3, px, px): white for the given share, else plain, two-tone, gradient or textured."""
    plain = rand(count, 3, 1, 1, rng=rng).expand(count, 3, px, px)
    edge = between(-0.5, 0.8, (count, 1, 1, 1), rng)
    below = (torch.linspace(-1, 1, px, device=rng.device).view(1, 1, px, 1) > edge).float()
    two_tone = torch.lerp(plain, rand(count, 3, 1, 1, rng=rng).expand_as(plain), below)
    kinds = torch.stack([plain, two_tone, soft_colours(count, px, rng), textures(count, px, rng)])
    weights = torch.tensor([0.4, 0.2, 0.3, 0.1], device=rng.device)
    chosen = torch.multinomial(weights, count, replacement=True, generator=rng)
    return torch.lerp(kinds[chosen, torch.arange(count)], torch.ones(1, device=rng.device), pick(white, count, rng))


def wide_batch(rgba: Tensor, px: int, rng: torch.Generator) -> Tensor:
    """Autoencoder pictures: (B, 4, S, S) pictograms -> (B, 3, px, px) in 0..1, an eighth of them drawn shapes."""
    side = rgba.shape[-1]
    drawn = len(rgba) // 8
    rgba = torch.cat([shapes(drawn, side, rng), rgba[drawn:]])
    rgb = gloss(shift_colours(rgba[:, :3], rng), rng)
    moved = warp(premultiplied(lines(torch.cat([rgb, rgba[:, 3:]], 1), rng)), rng)
    small = F.interpolate(moved, size=(px, px), mode="area")
    return small[:, :3] + backgrounds(len(rgba), px, rng, white=0.5) * (1 - small[:, 3:])


def premultiplied(rgba: Tensor) -> Tensor:
    """Colour times alpha: what may be resampled without dark rims."""
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
