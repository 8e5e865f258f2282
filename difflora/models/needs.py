"""What a training or a drawing needs, found by running the same code on a base of shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ..adapters.precision import DTYPES
from ..machine import memory
from .attach import learning
from .family import BaseModel
from .imagined import Imagined
from .meter import Meter, Reading, cpu_scratch
from .pace import Pace
from .sd import at_once

PROGRAM = {"cpu": 500 * 10**6, "cuda": 0}
"""Bytes of Python and its libraries with what they load, where they lie on the device that computes (measured)."""
BACKWARD = 40 * 10**6
"""Bytes that the first way back takes on a CPU, for a thread of its own (measured)."""
WORK = ("convolutions", "products", "traffic")
COPIES = 6
"""An adapter that learns is there six times: factors, gradients, two moments, average, and as it began."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Memory in bytes and time of one training step, or of one batch of pictures."""

    device: str
    precision: str
    weights: Mapping[str, int]
    """Of each network."""
    adapters: int
    """Factors with gradients, moments and average when learning; with the weights they are folded into when drawing."""
    activations: int
    """Most at once beside those while the networks compute."""
    pictures: int
    """Most at once while the autoencoder encodes or decodes."""
    program: int
    """Python with its libraries, and memory that lies idle between what is in use."""
    waiting: int = 0
    """Of the weights, what is in main memory until it is needed."""
    flops: int
    """Floating point operations of a step, or of a picture."""
    seconds: float | None = None
    """Of a step, or of a picture; None where no pace is known."""
    free: int | None = None
    """Of the device now; None where that is not known."""

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        still = sum(self.weights.values()) - self.waiting + self.adapters + self.program
        return still + max(self.activations, self.pictures)

    @property
    def fits(self) -> bool:
        """Whether that is free, as far as is known."""
        return self.free is None or self.total <= self.free

    def row(self) -> dict:
        """JSON-ready values, memory in bytes."""
        return asdict(self) | {"total": self.total, "fits": self.fits, "weights": dict(self.weights)}


def training_need(
    base: Imagined,
    *,
    rank: int,
    targets: str = "attention+mlp",
    text_encoder: bool = False,
    alpha: float | None = None,
    batch: int = 1,
    micro_batch: int | None = None,
    resolution: int | None = None,
    checkpointing: bool = False,
    pace: Pace | None = None,
) -> Need:
    """The need of one step: its pictures encoded, its loss and the way back, its optimizer, one preview.

    resolution: side in pixels, the base's own unless given. micro_batch: pictures at once, all of the batch unless
    given. pace: of the device, for the seconds.
    """
    model, side = base.model, resolution or base.model.side
    micro = min(micro_batch or batch, batch)
    paths = model.targets(targets, text_encoder)
    model.checkpointing(checkpointing)
    try:
        with learning(model.parts, paths, rank, alpha or rank, 0) as layers:
            factors = layers.parameters()
            adapter = sum(parameter.nbytes for parameter in factors)
            step = learning_step(base, micro, side, text_encoder, factors)
    finally:
        model.checkpointing(False)
    times = -(-batch // micro)
    # Gradients are counted with the adapter; where a step is gathered in parts they are there from the start.
    learnt = max(step.peak - (adapter if times == 1 else 0), 0) + (BACKWARD if on_cpu(base) else 0)
    # What learns keeps more than what draws, unless it computes twice.
    shown = answering(base, micro, side, side, guided=True).peak if checkpointing else 0
    work = rounds(step, times)
    return total_need(
        base,
        adapters=COPIES * adapter,
        activations=max(learnt, shown),
        pictures=max(encoding(base, side, side).peak, decoding(base, micro, side, side).peak),
        reading=work,
        seconds=pace.seconds(work) if pace else None,
    )


def drawing_need(
    base: Imagined,
    *,
    width: int | None = None,
    height: int | None = None,
    batch: int = 1,
    steps: int = 25,
    guidance: float = 7.5,
    sampler: str | None = None,
    ranks: int = 0,
    folded: bool = False,
    windows: int = 1,
    pace: Pace | None = None,
) -> Need:
    """The need of one batch of pictures, flops and seconds of one of them.

    ranks: of all styles that are blended, added up; folded: as one constant blend, written into the weights. windows:
    of the text encoder that the longest prompt fills.
    """
    model = base.model
    width, height = width or model.side, height or model.side
    answer = answering(base, batch, width, height, guided=guidance > 1, windows=windows)
    decode = decoding(base, batch, width, height)
    count = evaluations(model, sampler, steps)
    factors, touched, share = blended(base, ranks)
    text = reading_words(base, batch * (2 if guidance > 1 else 1))
    asked = rounds(answer, count * (1 if folded else 1 + share))
    work = rounds(added(added(text, asked), decode), 1 / batch)
    return total_need(
        base,
        adapters=factors + (touched if folded else 0),
        activations=max(answer.peak, text.peak),
        pictures=decode.peak,
        reading=work,
        seconds=pace.seconds(work) if pace else None,
    )


def total_need(base: Imagined, *, adapters: int, activations: int, pictures: int, reading: Reading, **more) -> Need:
    """Everything added up, with what is free."""
    weights, free = weight_bytes(base.model), free_memory(base.device)
    program = PROGRAM.get(base.device.type, 0) + (slack(max(activations, pictures)) if on_cpu(base) else 0)
    return Need(
        device=str(base.device), precision=base.precision, weights=weights, adapters=adapters, activations=activations,
        pictures=pictures, program=program, waiting=waiting(base, sum(weights.values()), free), flops=reading.flops,
        free=free, **more,
    )  # fmt: skip


def waiting(base: Imagined, weights: int, free: int | None) -> int:
    """Bytes of weights that are not on the device: all but the largest layer, where layers are offloaded."""
    if on_cpu(base) or not (base.offload if base.offload is not None else free is not None and weights > 0.8 * free):
        return 0
    networks = [*base.model.parts.values(), base.model.vae]
    return weights - max(parameter.nbytes for network in networks for parameter in network.parameters())


def slack(moving: int) -> int:
    """Bytes that a CPU's allocator holds between tensors that come and go, when at most so many are in use at once."""
    return min(moving, 10**8) + moving // 5


def weight_bytes(model: BaseModel) -> dict[str, int]:
    """Bytes of each network."""
    networks = {**model.parts, "vae": model.vae}
    return {name: sum(tensor.nbytes for tensor in network.state_dict().values()) for name, network in networks.items()}


def learning_step(base: Imagined, count: int, side: int, text_encoder: bool, factors: Sequence[Tensor]) -> Reading:
    """What the loss of so many pictures and its way back need."""
    model = base.model
    with metering(base) as meter:
        latents = torch.zeros(count, *model.latent_shape(side, side))
        cond = words(base, count)
        if not text_encoder:
            with torch.no_grad():
                cond = model.encode_tokens(cond)
        loss = model.loss_at(latents, cond, torch.zeros(count, dtype=torch.long), torch.zeros_like(latents))
        loss.sum().backward()
    for parameter in factors:
        parameter.grad = None
    return meter.reading()


def answering(base: Imagined, count: int, width: int, height: int, *, guided: bool, windows: int = 1) -> Reading:
    """What one evaluation of the network for so many pictures needs."""
    rows = count * (2 if guided else 1)
    with torch.no_grad():
        cond = base.model.encode_tokens(words(base, rows))
        cond = {key: repeated(value, windows) for key, value in cond.items()}
        with metering(base) as meter:
            latents = torch.zeros(rows, *base.model.latent_shape(width, height))
            base.model.predict(latents, torch.tensor(0), cond)
    return meter.reading()


def repeated(features: Tensor, windows: int) -> Tensor:
    """Text features (B, tokens, width) as those of so many windows; pooled ones, (B, width), as they are."""
    return features.repeat(1, windows, 1) if features.dim() == 3 else features


def reading_words(base: Imagined, rows: int) -> Reading:
    """What the text encoders need for so many texts."""
    with torch.no_grad(), metering(base) as meter:
        base.model.encode_tokens(words(base, rows))
    return meter.reading()


def decoding(base: Imagined, count: int, width: int, height: int) -> Reading:
    """What the autoencoder needs for so many pictures, a few at a time, their pixels included."""
    model, shape = base.model, base.model.latent_shape(width, height)
    together = min(count, at_once(width * height))
    with torch.no_grad(), metering(base) as meter:
        latents = torch.zeros(together, *shape)
        pixels = model.vae.decode(latents.to(model.vae.dtype)).sample.float()
        del latents
        pixels.clamp(-1, 1)
    waiting = (count - together) * pixels.nbytes // together
    return rounds(replace(meter.reading(), peak=meter.peak + waiting), count / together)


def encoding(base: Imagined, width: int, height: int) -> Reading:
    """What the autoencoder needs for one picture on its way in."""
    vae = base.model.vae
    with torch.no_grad(), metering(base) as meter:
        vae.encode(torch.zeros(1, 3, height, width, dtype=vae.dtype)).latent_dist.mode()
    return meter.reading()


def words(base: Imagined, rows: int) -> dict[str, Tensor]:
    """Token ids of texts, (rows, tokens)."""
    return base.model.tokenize(["a"] * rows)


def rounds(reading: Reading, times: float) -> Reading:
    """The work done so many times, one after the other."""
    return replace(reading, **{name: round(getattr(reading, name) * times) for name in WORK})


def added(one: Reading, other: Reading) -> Reading:
    """The work of both, at the peak of the greater."""
    work = {name: getattr(one, name) + getattr(other, name) for name in WORK}
    return Reading(max(one.peak, other.peak), **work)


def evaluations(model: BaseModel, sampler: str | None, steps: int) -> int:
    """How often the network is asked for one picture: samplers of second order ask twice a step."""
    with unset_fake_temporarily():
        scheduler = model.sampler(sampler)
        scheduler.set_timesteps(steps)
        return len(scheduler.timesteps)


def blended(base: Imagined, ranks: int) -> tuple[int, int, float]:
    """(bytes of factors with so many ranks on what a training changes, bytes of those weights, share of work added)."""
    if not ranks:
        return 0, 0, 0.0
    shapes = base.model.shapes()
    own = [shapes[path] for path in base.model.targets("attention+mlp", True)]
    factors = ranks * sum(shape[0] + shape[1] for shape in own)
    whole = sum(shape[0] * shape[1] for shape in own)
    each = DTYPES[base.precision].itemsize
    return factors * each, whole * each, factors / whole


def metering(base: Imagined) -> Meter:
    """A meter for where the base would compute."""
    return Meter(cpu_scratch if on_cpu(base) else None)


def on_cpu(base: Imagined) -> bool:
    """Whether main memory is what is needed."""
    return base.device.type == "cpu"


def free_memory(device: torch.device) -> int | None:
    """Bytes of the device that are free now; None where that is not known."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    # An Apple GPU has the main memory.
    return memory()[1] if device.type in ("cpu", "mps") else None
