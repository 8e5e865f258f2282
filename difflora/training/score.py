"""How well a style was learnt, measured with nothing but the base's own networks.

Style distance: the energy distance (Székely & Rizzo 2013) between two sets of pictures in the space of channel means
and deviations of the autoencoder's encoder (the statistics style transfer matches: Huang & Belongie 2017).
Prompt followed: the base as a classifier (Li et al. 2023, arXiv 2303.16203): the concept that was asked for must be
among the captions under which the base finds the picture likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import parse_lora
from ..drawing.generate import generate
from ..drawing.recipe import Recipe, Style
from ..drawing.styles import find_style, load_styles
from ..errors import ImageFolderError
from ..events import Progress, Report, ignore
from ..models.family import BaseModel, open_model
from .cache import as_pixels
from .data import read_folder, square

STEPS = 20
TIMES = (0.35, 0.5, 0.65, 0.8, 0.9)
FOUND_AMONG, SEEN_AT_ONCE = 3, 8


@dataclass(frozen=True)
class Scores:
    """What was measured; distances are energy distances, shares are 0..1."""

    style: str
    weight: float
    pictures: int
    distance: float
    """From the style's pictures to the artist's."""
    base_distance: float
    """From the base's pictures to the artist's."""
    followed: float
    """Share of the style's pictures in which the base finds the concept asked for."""
    base_followed: float
    """The same for the base's own pictures."""

    @property
    def style_ratio(self) -> float:
        """0: the artist's style reached, 1: no nearer than the base."""
        return self.distance / max(self.base_distance, 1e-12)

    @property
    def prompt_ratio(self) -> float:
        """1: prompts followed as often as by the base."""
        return self.followed / max(self.base_followed, 1e-12)

    def row(self) -> dict:
        """JSON-ready values."""
        return asdict(self) | {"style_ratio": self.style_ratio, "prompt_ratio": self.prompt_ratio}

    def words(self) -> dict[str, str]:
        """For a person."""
        return {
            "style": f"{self.style} at {self.weight:g}, {self.pictures} held-out concepts",
            "style distance": f"{self.distance:.4f}; the base alone {self.base_distance:.4f}; "
            f"{self.style_ratio:.2f} of it (lower is nearer to the artist)",
            "prompt followed": f"{self.followed:.0%}; the base alone {self.base_followed:.0%}; "
            f"{self.prompt_ratio:.2f} of it",
        }


@torch.inference_mode()
def style_features(vae: nn.Module, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in -1..1 -> (B, D): channel means and deviations after each level of the encoder."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        flat = output.float().flatten(2)
        found.extend([flat.mean(2), flat.std(2)])

    levels = [vae.encoder.conv_in, *vae.encoder.down_blocks]
    hooks = [level.register_forward_hook(keep) for level in levels]
    rows = []
    try:
        for part in pixels.split(SEEN_AT_ONCE):
            found.clear()
            vae.encoder(part.to(vae.device, vae.dtype))
            rows.append(torch.cat(found, dim=1).cpu())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(rows)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two sets (N, D), (M, D); 0 for equal sets, in the features' unit."""
    across = torch.cdist(a, b).mean()
    within = torch.cdist(a, a).mean() + torch.cdist(b, b).mean()
    return float(2 * across - within)


def style_distance(model: BaseModel, drawn: Tensor, artist: Tensor) -> float:
    """Energy distance of two sets of pictures (N, 3, H, W), features scaled by their spread over the artist's set."""
    a, b = style_features(model.vae, drawn), style_features(model.vae, artist)
    spread = b.std(0).clamp_min(1e-6) * b.shape[1] ** 0.5
    return energy_distance(a / spread, b / spread)


@torch.inference_mode()
def likelihoods(model: BaseModel, pixels: Tensor, captions: Sequence[str], report: Report = ignore) -> Tensor:
    """(pictures, captions) denoising losses, lower is likelier; the same noise for all captions of a picture."""
    latents = model.encode_images(pixels)
    cond = model.encode_tokens(model.tokenize(captions))
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(len(TIMES), *latents.shape, generator=rng).to(latents.device)
    times = [model.time_at(share) for share in TIMES]
    table = torch.zeros(len(latents), len(captions))
    for i in range(len(latents)):
        for k, time in enumerate(times):
            rows = latents[i : i + 1].expand(len(captions), -1, -1, -1)
            when = torch.full((len(captions),), time, device=latents.device)
            table[i] += model.loss_at(rows, cond, when, noise[k, i : i + 1].expand_as(rows)).cpu()
        report(Progress("reading pictures", i + 1, len(latents)))
    return table


def share_followed(losses: Tensor, asked: Sequence[int], among: int = FOUND_AMONG) -> float:
    """Share of rows whose asked column is among the `among` smallest."""
    ranks = (losses < losses.gather(1, torch.tensor(asked).view(-1, 1))).sum(1)
    return float((ranks < among).float().mean())


@dataclass(frozen=True)
class Reading:
    """What was measured of one set of pictures."""

    distance: float
    """To the artist's pictures."""
    followed: float
    """Share in which the base finds the concept asked for."""


def read_set(
    model: BaseModel, drawn: Tensor, artist: Tensor, captions: Sequence[str], report: Report = ignore
) -> Reading:
    """Measure pictures (N, 3, H, W) drawn from N captions, by a model that is the base alone."""
    losses = likelihoods(model, drawn, captions, report)
    return Reading(style_distance(model, drawn, artist), share_followed(losses, range(len(captions))))


def draw_set(
    model: BaseModel, captions: Sequence[str], style: Style | None, adapters: dict, seed: int, report: Report
) -> Tensor:
    """One picture a caption, (N, 3, H, W) in -1..1."""
    recipes = [
        Recipe(
            prompt=caption, seed=seed + i, steps=STEPS, guidance=model.recommended.guidance,
            width=model.side, height=model.side,
            styles=(style,) if style else (), folded=style is not None,
        )
        for i, caption in enumerate(captions)
    ]  # fmt: skip
    return as_pixels([picture for _, picture in generate(model, recipes, adapters, report=report)])


def score(
    model: BaseModel,
    style: Style,
    adapters: dict,
    artist: Tensor,
    captions: Sequence[str],
    *,
    seed: int = 0,
    trigger: str = "",
    report: Report = ignore,
) -> Scores:
    """Draw every caption with and without the style and compare with the artist's pictures (N, 3, H, W) of them."""
    prompts = [f"{trigger}, {caption}" if trigger else caption for caption in captions]
    base = read_set(model, draw_set(model, captions, None, {}, seed, report), artist, captions, report)
    styled = read_set(model, draw_set(model, prompts, style, adapters, seed, report), artist, captions, report)
    return Scores(
        style=style.name,
        weight=style.weight,
        pictures=len(captions),
        distance=styled.distance,
        base_distance=base.distance,
        followed=styled.followed,
        base_followed=base.followed,
    )


def score_file(lora: str, images: Path, *, base: str, loras: Path, seed: int = 0, report: Report = ignore) -> Scores:
    """What `difflora score` does: a style file against a folder of held-out pictures; raises DiffloraError."""
    parse_lora(lora)
    data = read_folder(images)
    captions = [item.caption for item in data.items]
    if len(set(captions)) <= FOUND_AMONG:
        raise ImageFolderError(
            f"{images} holds {len(set(captions))} different captions: expected more than {FOUND_AMONG} concepts"
        )
    style = find_style(lora, loras)
    model = open_model(base)
    adapters = load_styles([style], model)
    artist = as_pixels([square(picture, model.side) for picture, _ in data])
    trigger = adapters[style.name].info.trigger
    return score(model, style, adapters, artist, captions, seed=seed, trigger=trigger, report=report)
