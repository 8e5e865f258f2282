"""Each checkpoint measured on the same prompts, seeds, noise and times, and the best one chosen.

What is measured is told in `events.Scored`; style and prompts as in `score.py`, on few pictures so that it stays a part
of the training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapters.files import load_tensors, save_tensors
from ..errors import AdapterFileError
from ..events import Scored
from ..models.family import BaseModel
from .plan import Plan
from .score import share_followed, style_features

PROMPTS, DRAW_STEPS, SEED = 8, 10, 1000
CANDIDATES, READ_TIMES, AMONG = 5, (0.5, 0.75), 1
UNSEEN, UNSEEN_TIMES = 8, (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
NEUTRAL, NEUTRAL_TIMES = ("a red apple", "a house", "a cat", "a car"), (0.2, 0.4, 0.6, 0.8)
MARGIN = 0.02
"""Of a total: what is nearer to the best than this is as good."""
LEARNT, BARELY = 0.85, 0.01
"""Share of the most that the loss came down, from which on a checkpoint has learnt; what of the loss is no fall."""
CHANCE = 0.13
"""Within this distance of the rest lie 95 in 100 sets of eight of an artist's pictures (scripts/bench/styles.py)."""
POOLED = 16


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What checkpoints are held against: fixed before the first step."""

    captions: tuple[str, ...]
    """What is drawn, without the trigger."""
    trigger: str
    artist: Tensor
    """(N, D) style features of the artist's pictures, in units of their spread."""
    spread: Tensor
    """(D,) the unit."""
    near: Tensor
    """(N, d) what copies are looked for among."""
    unseen: Tensor
    """(M, C, h, w) latents of pictures that are not learnt from."""
    unseen_captions: tuple[str, ...]
    neutral: Tensor
    """(4, C, h, w) latents of what the base draws for neutral prompts."""
    base: Mapping[str, float]
    """The base's own style distance, share followed, and loss on `neutral`."""

    @property
    def words(self) -> list[str]:
        """What is drawn, the trigger in front."""
        return [f"{self.trigger}, {caption}" if self.trigger else caption for caption in self.captions]


def rows_of_checkpoint(plan: Plan) -> int:
    """How many pictures the network sees for one checkpoint."""
    drawn, read = PROMPTS * DRAW_STEPS * 2, PROMPTS * CANDIDATES * len(READ_TIMES)
    return drawn + read + min(UNSEEN, plan.holdout or UNSEEN) * len(UNSEEN_TIMES) + len(NEUTRAL) * len(NEUTRAL_TIMES)


@torch.inference_mode()
def make_yardstick(
    model: BaseModel,
    captions: Sequence[str],
    trigger: str,
    artist: Tensor,
    unseen: Tensor,
    unseen_captions: Sequence[str],
    drawn: Tensor,
    neutral: Tensor,
) -> Yardstick:
    """Everything that is fixed; the model must be the base alone.

    artist: (N, 3, H, W) the artist's pictures; drawn: (len(captions), 3, H, W) the base's of the same captions;
    neutral: (4, 3, H, W) the base's of NEUTRAL; all in -1..1. unseen: (M, C, h, w) latents.
    """
    features = style_features(model.vae, artist)
    spread = features.std(0).clamp_min(1e-6) * features.shape[1] ** 0.5
    still = model.encode_images(neutral)
    base = {
        "distance": apart(style_features(model.vae, drawn) / spread, features / spread),
        "followed": followed(model, drawn, captions),
        "neutral": fixed_loss(model, still, NEUTRAL, NEUTRAL_TIMES),
    }
    near = pooled(model.encode_images(artist))
    return Yardstick(
        tuple(captions), trigger, features / spread, spread, near, unseen, tuple(unseen_captions), still, base
    )


@torch.inference_mode()
def scored(model: BaseModel, yard: Yardstick, step: int, drawn: Tensor, off) -> Scored:
    """One checkpoint's scores: `drawn` (len(captions), 3, H, W) are its pictures of `yard.words`.

    off: a context manager in which the model is the base alone, which is what reads the pictures.
    """
    sound = torch.isfinite(drawn).all() and drawn.std() > 1 / 255
    drawn = drawn if sound else torch.zeros_like(drawn)
    style = apart(style_features(model.vae, drawn) / yard.spread, yard.artist)
    copied = share_copied(pooled(model.encode_images(drawn)), yard.near)
    neutral = fixed_loss(model, yard.neutral, NEUTRAL, NEUTRAL_TIMES)
    loss = fixed_loss(model, yard.unseen, yard.unseen_captions, UNSEEN_TIMES)
    with off():
        share = followed(model, drawn, yard.captions)
    # What eight pictures are apart by chance counts on both sides: a base near the style would be divided by nothing.
    ratio = (style + CHANCE) / (yard.base["distance"] + CHANCE)
    harm = neutral / max(yard.base["neutral"], 1e-9) - 1
    # Losing every prompt costs as much as the way from the base to the style, copying all pictures half of it; harm
    # counts only where a trigger should have kept plain prompts apart.
    total = ratio + max(0.0, yard.base["followed"] - share) + copied / 2 + (max(0.0, harm) / 10 if yard.trigger else 0)
    rounded = (round(value, 5) for value in (ratio, share, copied, harm, loss, total))
    return Scored(step, *rounded)


def apart(a: Tensor, b: Tensor) -> float:
    """The energy distance of two sets (N, D), (M, D), as `score.energy_distance`, not biased by how few they are."""
    within = [torch.cdist(x, x).sum() / max(1, len(x) * (len(x) - 1)) for x in (a, b)]
    return max(0.0, float(2 * torch.cdist(a, b).mean() - sum(within)))


def followed(model: BaseModel, pixels: Tensor, captions: Sequence[str]) -> float:
    """Share of pictures (N, 3, H, W) whose own caption is likelier to the base than four of the others."""
    others = min(CANDIDATES, len(captions))
    latents, cond = model.encode_images(pixels), model.encode_tokens(model.tokenize(captions))
    noise = fixed_noise(latents, len(READ_TIMES))
    table = torch.zeros(len(latents), others)
    for place in range(others):
        # The picture's own caption first, then its neighbours'.
        index = (torch.arange(len(latents)) + place) % len(captions)
        rows = {key: value[index.to(value.device)] for key, value in cond.items()}
        for k, time in enumerate(READ_TIMES):
            table[:, place] += losses_at(model, latents, rows, time, noise[k])
    return share_followed(table, [0] * len(latents), AMONG)


def fixed_loss(model: BaseModel, latents: Tensor, captions: Sequence[str], times: Sequence[float]) -> float:
    """Mean loss of latents (N, C, h, w) at fixed noise and times."""
    cond, noise = model.encode_tokens(model.tokenize(captions)), fixed_noise(latents, len(times))
    found = [losses_at(model, latents, cond, time, noise[k]) for k, time in enumerate(times)]
    return float(torch.stack(found).mean())


def losses_at(model: BaseModel, latents: Tensor, cond: Mapping[str, Tensor], time: float, noise: Tensor) -> Tensor:
    """(N,) losses on the CPU at one time, 0..1 of the schedule."""
    when = torch.full((len(latents),), model.time_at(time), device=latents.device)
    return model.loss_at(latents, cond, when, noise).float().cpu()


def fixed_noise(latents: Tensor, count: int) -> Tensor:
    """(count, N, C, h, w) noise, the same for the same shape."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, *latents.shape, generator=rng).to(latents.device)


def pooled(latents: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, d) what a picture shows where, in which copies are looked for."""
    side = min(POOLED, *latents.shape[2:])
    return F.adaptive_avg_pool2d(latents.float(), side).flatten(1).cpu()


def share_copied(drawn: Tensor, artist: Tensor) -> float:
    """Share of rows (N, d) nearer to an artist's row (M, d) than 19 in 20 of the artist's come to each other."""
    if len(artist) < 2:
        return 0.0
    among = torch.cdist(artist, artist).fill_diagonal_(float("inf")).amin(1)
    return float((torch.cdist(drawn, artist).amin(1) < torch.quantile(among, 0.05)).float().mean())


@torch.inference_mode()
def copy_share(model: BaseModel, drawn: Tensor, artist: Tensor) -> float:
    """Share of pictures (N, 3, H, W) nearer to one of the artist's (M, 3, H, W) than those come to each other."""
    return share_copied(pooled(model.encode_images(drawn)), pooled(model.encode_images(artist)))


def choose(scores: Mapping[int, Scored]) -> tuple[int, str]:
    """The step of the best checkpoint and why, in a sentence.

    scores: with those of step 0, the base. Among the checkpoints that have learnt, of those within 0.02 of the lowest
    total the latest.
    """
    ready = learnt(scores)
    best = min(scores[step].total for step in ready)
    step, last = max(at for at in ready if scores[at].total <= best + MARGIN), max(scores)
    base = scores[min(scores)].loss
    said = "style {0} of the base's distance, prompts followed {1}, error at unseen pictures {2} lower"
    said = said.format(*figures(scores[step], base)) + copies(scores[step])
    if step != last:
        said += f"; the last one: {', '.join(figures(scores[last], base))}{copies(scores[last])}"
    return step, said


def figures(score: Scored, base: float) -> tuple[str, str, str]:
    """A checkpoint's style, prompts followed, and how much lower than `base` its loss is, in words."""
    return f"{score.style:.2f}", f"{score.followed:.0%}", f"{1 - score.loss / base:.0%}"


def copies(score: Scored) -> str:
    """The share of copies, if there are any."""
    return f", copied {score.copied:.0%}" if score.copied else ""


def learnt(scores: Mapping[int, Scored]) -> list[int]:
    """The steps after which the loss of unseen pictures had come down most of the way that it ever came down.

    The style distance alone would choose what hardly moved from the base: a few colours more, and none of the strokes.
    All steps but the base's, where the loss hardly moves.
    """
    base = scores[min(scores)].loss
    gains = {step: base - score.loss for step, score in scores.items() if step}
    most = max(gains.values())
    return [step for step, gain in gains.items() if most < BARELY * base or gain >= LEARNT * most]


def plateau(scores: Mapping[int, Scored], patience: int = 3) -> bool:
    """Whether the newest `patience` checkpoints were all no better than the best before them, as `choose` compares."""
    newest = set(sorted(step for step in scores if step)[-patience:])
    ready = learnt(scores) if len(scores) > patience + 1 else []
    before = [scores[step].total for step in ready if step not in newest]
    since = [scores[step].total for step in ready if step in newest]
    return bool(before) and min(since, default=math.inf) > min(before) - MARGIN


def save_yardstick(path: Path, key: str, yard: Yardstick) -> None:
    """Keep what was measured of the base, so that going on need not draw it again; raises OutputError."""
    words = {"captions": "\n".join(yard.captions), "trigger": yard.trigger, "unseen": "\n".join(yard.unseen_captions)}
    words["key"] = key
    tensors = {name: getattr(yard, name) for name in ("artist", "spread", "near", "unseen", "neutral")}
    save_tensors(path, tensors, words | {f"base.{name}": repr(value) for name, value in yard.base.items()})


def load_yardstick(path: Path, key: str, device: torch.device) -> Yardstick | None:
    """What was kept under the same key; None when it is not there or not whole."""
    try:
        tensors, words = load_tensors(path)
        base = {name: float(words[f"base.{name}"]) for name in ("distance", "followed", "neutral")}
        moved = {name: tensors[name].to(device) for name in ("unseen", "neutral")}
        kept = {name: tensors[name] for name in ("artist", "spread", "near")}
        captions, unseen = (tuple(words[name].split("\n")) for name in ("captions", "unseen"))
        plain = {"captions": captions, "trigger": words["trigger"], "unseen_captions": unseen, "base": base}
        return Yardstick(**plain, **kept, **moved) if words["key"] == key else None
    except (AdapterFileError, KeyError, ValueError):
        return None
