"""Stable Diffusion 1.x and 2.x, and the embedded base, which has their shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from ..errors import RequestError
from . import objectives, prompts
from .clip import layer_features, tokenizers
from .opening import How, Source
from .samplers import SAMPLERS, make_sampler
from .sampling import OnStep, sample

PIXELS_AT_ONCE = 512 * 512
"""So many are encoded or decoded at once, or one picture: of a picture of 512 px a full-size autoencoder's first level
alone is 134 MB in float32."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MLP = ("ff.net.0.proj", "ff.net.2")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Recommended:
    """Where training and drawing start unless told otherwise."""

    learning_rate: float
    batch: int
    samples_per_picture: int
    """How often each picture is shown."""
    rank: int = 16
    guidance: float = 7.5
    """How strictly prompts are followed in drawings, unless told otherwise."""


# tiny: what scripts/bench/RESULTS.md was reached with; others: the middle of what trainers of these default to.
RECOMMENDED = {"tiny": Recommended(6e-4, 8, 24, guidance=2.5)}
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
    on: torch.device | None = None
    """Where it computes; where the UNet is unless given."""
    vae_name: str | None = None
    """Another autoencoder than its own, as it was asked for."""
    clip_skip: int | None = None
    """Layer of the text encoder that is read unless a call says so, from its end; None for the family's own."""

    own_skip = 1
    normed = True
    """Whether the text encoder's last norm is applied to the layer that is read."""
    samplers = tuple(SAMPLERS)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.on or self._first.device

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
        """Where training and drawing start for this family."""
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
        """Paths of the attention (and feed-forward) layers of the UNet and, on request, of all text encoders."""
        image = ATTENTION + (MLP if layers == "attention+mlp" else ())
        wanted = {part: image if part == "unet" else TEXT if text_encoder else () for part in self.parts}
        return [
            path
            for path in self.shapes()
            if any(path.endswith(f".{end}") for end in wanted[path.split(".")[0]]) and ".vision" not in path
        ]

    def check_size(self, width: int, height: int) -> None:
        """RequestError unless both sides are multiples of what the UNet halves to."""
        if width % self.unit or height % self.unit:
            raise RequestError(f"size {width}x{height}: expected multiples of {self.unit} for {self.name}")

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture's latents; RequestError for a size that the network cannot take."""
        self.check_size(width, height)
        return self.parts["unet"].config.in_channels, height // self.factor, width // self.factor

    def place(self, original: tuple, corner: tuple, target: tuple) -> dict[str, Tensor]:
        """What the network is told of a picture's size and crop: nothing in this family."""
        return {}

    def sampler(self, name: str | None) -> object:
        """A fresh scheduler of the base's own kind, or by name; RequestError for names that are not known."""
        return make_sampler(self.scheduler, name)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> latents (B, C, H / factor, W / factor): the posterior's mean."""
        found = []
        for part in pixels.split(at_once(pixels.shape[2] * pixels.shape[3])):
            posterior = self.vae.encode(part.to(self.device, self.vae.dtype)).latent_dist
            found.append(posterior.mode().float() * self.vae.config.scaling_factor)
        return torch.cat(found)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W) in -1..1 on the CPU, a few at a time."""
        pixels = self.factor**2 * latents.shape[2] * latents.shape[3]
        return torch.cat([self._decode(part) for part in latents.split(at_once(pixels))])

    def _decode(self, latents: Tensor) -> Tensor:
        scaled = latents / self.vae.config.scaling_factor
        pixels = self.vae.decode(scaled.to(self.vae.dtype)).sample.float()
        if self.vae.dtype != torch.float32 and not torch.isfinite(pixels).all():
            # Some autoencoders overflow in half precision and draw black; in float32 they do not.
            self.vae.float()
            pixels = self.vae.decode(scaled.float()).sample
        return pixels.clamp(-1, 1).cpu()

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids, (B, length of the text encoder's window)."""
        ids = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return {"input_ids": ids.to(self.device)}

    def token_weights(self, text: str, spans: Sequence[tuple[int, int, float]]) -> Tensor:
        """(tokens,) how much each token of `text` counts: the weight of the (start, end, weight) it is in, else 1."""
        return prompts.token_weights(self.tokenizer, text, spans)

    def windows(self, prompt: str) -> int:
        """How many windows of the text encoder a prompt fills."""
        return prompts.windows(self.tokenizer, prompt)

    def encode_prompts(self, texts: Sequence[str], clip_skip: int | None = None, least: int = 1) -> dict[str, Tensor]:
        """Text features, (B, windows · tokens, width), at least so many windows; `(words:1.3)` counts more or less."""
        if least == 1 and all(prompts.is_plain(self.tokenizer, text) for text in texts):
            return self.encode_tokens(self.tokenize(texts), clip_skip)
        most = max(least, *(self.windows(text) for text in texts))
        rows = [self._weighted(self.tokenizer, "text_encoder", text, clip_skip, most) for text in texts]
        return {"encoder_hidden_states": torch.cat(rows)}

    def _weighted(self, tokenizer: Callable, part: str, text: str, clip_skip: int | None, least: int) -> Tensor:
        encode = partial(self._read, part, clip_skip=clip_skip)
        return prompts.weighted_features(tokenizer, encode, text, device=self.device, least=least)

    def _read(self, part: str, ids: Tensor, mask: Tensor | None = None, clip_skip: int | None = None) -> Tensor:
        """Features of one text encoder, (B, tokens, width)."""
        skip = clip_skip or self.clip_skip or self.own_skip
        return layer_features(self.parts[part], ids, mask, skip, self.normed).features

    def encode_tokens(self, cond: Mapping[str, Tensor], clip_skip: int | None = None) -> dict[str, Tensor]:
        """Token ids -> text features; features pass through."""
        if "input_ids" not in cond:
            return dict(cond)
        features = self._read("text_encoder", cond["input_ids"], clip_skip=clip_skip)
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

    def time_at(self, share: float) -> int:
        """The timestep at a share, 0 to below 1, of the way to pure noise."""
        return int(share * len(self.alphas))

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
        texts: Sequence[str],
        negatives: Sequence[str],
        *,
        guidance: float,
        clip_skip: int | None = None,
        on_step: OnStep | None = None,
        **how: object,
    ) -> Tensor:
        """One picture a prompt, (B, 3, H, W) in -1..1; the rest as for `sampling.sample`."""
        rows = [*negatives, *texts] if guidance > 1 else texts
        cond = self.encode_prompts(rows, clip_skip)
        return self.decode(self.sample(cond, guidance=guidance, on_step=on_step, **how))

    def sample(self, cond: Mapping[str, Tensor], **how: object) -> Tensor:
        """Finished latents, (B, C, h, w), see `sampling.sample`."""
        return sample(self, cond, **how)


def at_once(pixels: int) -> int:
    """How many pictures of so many pixels go through the autoencoder together."""
    return max(1, PIXELS_AT_ONCE // pixels)


def assemble(source: Source, how: How, networks: Mapping[str, object]) -> StableDiffusion:
    """The model of networks that are ready."""
    parts = {"unet": networks["unet"], "text_encoder": networks["text_encoder"]}
    [tokenizer] = tokenizers(source)
    return StableDiffusion(
        source.name, family_of(networks["unet"]), parts, networks["vae"], tokenizer, networks["scheduler"], how.device,
        how.config.vae, how.clip_skip,
    )  # fmt: skip


def family_of(unet: nn.Module) -> str:
    """The family by the width of the text features: what makes adapters interchangeable."""
    width = unet.config.cross_attention_dim
    return {192: "tiny", 768: "sd1", 1024: "sd2"}.get(width, f"sd-{width}")
