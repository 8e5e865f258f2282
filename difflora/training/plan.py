"""What a training will do, decided from the folder, the base and the machine, with the reasons."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from ..config import BaseConfig, TrainConfig
from ..models.family import BaseModel
from .buckets import table
from .data import StyleDataset
from .reading import one_line

LEAST_SAMPLES, MOST_SAMPLES = 800, 6400
FEW, SMALL = 20, 40
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every number of a training. What was not asked for was chosen, and `reasons` says why."""

    base: str
    device: str
    precision: str
    pictures: int
    """Pictures that are learnt from."""
    holdout: int
    """Pictures kept back."""
    captions: str
    trigger: str
    resolution: int
    buckets: str
    rank: int
    alpha: float
    layers: int
    learning_rate: float
    batch: int
    micro_batch: int
    gradient_checkpointing: bool
    steps: int
    ema: float
    preview_every: int
    reasons: tuple[str, ...]
    area: float = 1.0
    """Mean area of the pictures as they are learnt, of the resolution's square: what a step's time goes with."""
    minutes: float | None = None
    """Measured by real steps, checkpoints included; None before that."""
    memory: float | None = None
    """The most memory used by those steps, in GB."""

    def row(self) -> dict:
        """JSON-ready values."""
        return asdict(self)

    def decided(self) -> dict:
        """What repeating the training needs: everything that decides the result, whoever chose it."""
        apart = {"base", "device", "captions", "trigger", "buckets", "reasons", "area", "minutes", "memory"}
        return {name: value for name, value in self.row().items() if name not in apart}


def base_of(config: TrainConfig) -> BaseConfig:
    """The base that a training asks for, all of it on the device: what is learnt cannot wait in main memory."""
    return BaseConfig(base=config.base, bases=config.bases, vae=config.vae, precision=config.precision, offload=False)


def make_plan(config: TrainConfig, model: BaseModel, data: StyleDataset) -> Plan:
    """Fill in what the config leaves open; raises RequestError for a resolution that the base cannot take."""
    start, reasons = model.recommended, []
    resolution = config.resolution or model.side
    model.check_size(resolution, resolution)
    holdout = choose_holdout(config, len(data), reasons)
    pictures = len(data) - holdout
    batch = min(config.batch or start.batch, pictures)
    steps = choose_steps(config, start.samples_per_picture, pictures, batch, reasons)
    every = max(1, -(-steps // 8)) if config.preview_every is None else config.preview_every
    if config.early_stop and 0 < 4 * every < steps:
        reasons.append("it ends earlier when three checkpoints in a row are no better")
    rank = choose_rank(config, start.rank, pictures, reasons)
    if config.learning_rate is None:
        reasons.append(f"learning rate {start.learning_rate:g} is what this base learns styles at")
    if len(data) < FEW:
        reasons.append(f"{len(data)} pictures are few: 50 to 200 carry a style better")
    buckets = table([item.size for item in data.items], resolution, model.unit)
    if len(buckets) > 1:
        reasons.append(f"{len(buckets)} sizes keep the pictures' shapes; none is enlarged")
    return Plan(
        base=model.name,
        device=str(model.device),
        precision=PRECISIONS.get(model.dtype, str(model.dtype)),
        pictures=pictures,
        holdout=holdout,
        captions=", ".join(
            f"{count} from {source}" for source, count in data.found.items() if count and source != "pictures"
        ),
        trigger=one_line(config.trigger or ""),
        resolution=resolution,
        buckets=", ".join(f"{w} x {h}: {count}" for (w, h), count in buckets.items()),
        rank=rank,
        alpha=float(config.alpha or rank),
        layers=len(model.targets(config.targets, config.text_encoder)),
        learning_rate=config.learning_rate or start.learning_rate,
        batch=batch,
        micro_batch=min(config.micro_batch or batch, batch),
        gradient_checkpointing=config.gradient_checkpointing,
        steps=steps,
        ema=choose_ema(config, steps),
        preview_every=every,
        reasons=tuple(reasons),
        area=round(sum(w * h * n for (w, h), n in buckets.items()) / sum(buckets.values()) / resolution**2, 4),
    )


def choose_steps(config: TrainConfig, showings: int, pictures: int, batch: int, reasons: list[str]) -> int:
    """As many as show each picture often enough, within the range in which styles were learnt."""
    samples = min(max(showings * pictures, LEAST_SAMPLES), MOST_SAMPLES)
    steps = config.steps or max(1, round(samples / batch))
    if config.steps is None:
        reasons.append(f"{steps} steps show each of the {pictures} pictures about {steps * batch / pictures:.0f} times")
    return steps


def choose_rank(config: TrainConfig, usual: int, pictures: int, reasons: list[str]) -> int:
    """The base's usual rank; half of it for a handful of pictures, which a large adapter would learn by heart."""
    if config.rank is not None:
        return config.rank
    rank = max(1, usual // 2) if pictures < FEW else usual
    reasons.append(f"rank {rank}: " + ("few pictures have less to hold" if pictures < FEW else "room for one style"))
    return rank


def choose_holdout(config: TrainConfig, pictures: int, reasons: list[str]) -> int:
    """One picture in twenty, two to eight, kept back; of a small folder none is given away."""
    if config.holdout is not None:
        return min(config.holdout, pictures - 1)
    if pictures < SMALL:
        reasons.append("none of so few pictures is kept back: mirrored ones stand in for unseen ones")
        return 0
    count = min(8, max(2, round(pictures / 20)))
    reasons.append(f"{count} pictures are kept back, to see how well unseen ones are drawn")
    return count


def choose_ema(config: TrainConfig, steps: int) -> float:
    """A decay that remembers about a twentieth of the run."""
    return config.ema if config.ema is not None else round(1 - 1 / max(2.0, steps / 20), 5)


def warm_cosine(step: int, steps: int, warm: float = 0.05, floor: float = 0.05) -> float:
    """The learning rate's factor: a short rise, then half a cosine down to `floor`."""
    rise = max(1, round(steps * warm))
    if step < rise:
        return (step + 1) / rise
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
