"""What a training will do, decided from the folder, the base and the machine, with the reasons; what each step sees."""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import asdict, dataclass

import torch

from ..config import TrainConfig
from ..models.family import BaseModel
from .data import StyleDataset

LEAST_SAMPLES, MOST_SAMPLES = 800, 6400


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every number of a training. What was not asked for was chosen, and `reasons` says why."""

    base: str
    device: str
    pictures: int
    captions: str
    trigger: str
    resolution: int
    rank: int
    alpha: float
    layers: int
    learning_rate: float
    batch: int
    steps: int
    preview_every: int
    reasons: tuple[str, ...]

    def row(self) -> dict:
        """JSON-ready values."""
        return asdict(self)


def make_plan(config: TrainConfig, model: BaseModel, data: StyleDataset) -> Plan:
    """Fill in what the config leaves open; raises RequestError for a resolution that the base cannot take."""
    start, reasons = model.recommended, []
    resolution = config.resolution or model.side
    model.check_size(resolution, resolution)
    batch = min(config.batch or start.batch, len(data))
    samples = min(max(start.samples_per_picture * len(data), LEAST_SAMPLES), MOST_SAMPLES)
    steps = config.steps or max(1, round(samples / batch))
    if config.steps is None:
        reasons.append(
            f"{steps} steps show each of the {len(data)} pictures about {steps * batch / len(data):.0f} times"
        )
    if config.learning_rate is None:
        reasons.append(f"learning rate {start.learning_rate:g} is what this base learns styles at")
    if len(data) < 20:
        reasons.append(f"{len(data)} pictures are few: 50 to 200 carry a style better")
    return Plan(
        base=model.name,
        device=str(model.device),
        pictures=len(data),
        captions=", ".join(
            f"{count} from {source}" for source, count in data.found.items() if count and source != "pictures"
        ),
        trigger=config.trigger or "",
        resolution=resolution,
        rank=config.rank,
        alpha=float(config.alpha or config.rank),
        layers=len(model.targets(config.targets, config.text_encoder)),
        learning_rate=config.learning_rate or start.learning_rate,
        batch=batch,
        steps=steps,
        preview_every=max(1, steps // 4) if config.preview_every is None else config.preview_every,
        reasons=tuple(reasons),
    )


def order(seed: int, count: int, start: int, batch: int) -> list[int]:
    """The rows of one batch: every epoch is a fresh shuffle of all `count` pictures, a function of seed and place."""
    rows = []
    for place in range(start, start + batch):
        epoch, index = divmod(place, count)
        rng = torch.Generator().manual_seed(seed * 7_368_787 + epoch)
        rows.append(int(torch.randperm(count, generator=rng)[index]))
    return rows


def warm_cosine(step: int, steps: int, warm: float = 0.05, floor: float = 0.05) -> float:
    """The learning rate's factor: a short rise, then half a cosine down to `floor`."""
    rise = max(1, round(steps * warm))
    if step < rise:
        return (step + 1) / rise
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def peak_memory(device: torch.device) -> float:
    """The most memory used so far in GB: the process's own on a CPU, the allocator's on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
