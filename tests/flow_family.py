"""A family that difflora does not have: a small flow-matching transformer in the shape of Stable Diffusion 3.

All that it takes is here: the protocol of models/family.py in one file, and one line in FAMILIES. The transformer is
diffusers' own; text and latents are seen together in one attention; the path from noise to picture is straight (Liu et
al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn

from difflora.errors import RequestError
from difflora.models import objectives, prompts
from difflora.models.clip import layer_features, tokenizers
from difflora.models.family import EMBEDDED
from difflora.models.opening import How, Source
from difflora.models.sampling import sample
from difflora.models.sd import Recommended

TIMES = 1000
"""Times run from 0, the picture, to so many, pure noise."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
MLP = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
SAMPLERS = ("euler",)


@dataclass(frozen=True, eq=False)
class ToyFlow:
    """A frozen transformer, text encoder and autoencoder."""

    name: str
    family: str
    parts: Mapping[str, nn.Module]
    vae: nn.Module
    tokenizer: Callable
    scheduler: FlowMatchEulerDiscreteScheduler
    device: torch.device
    vae_name: str | None = None
    clip_skip: int | None = None

    samplers = SAMPLERS
    recommended = Recommended(1e-3, 2, 20)

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's precision."""
        return next(self.parts["transformer"].parameters()).dtype

    @property
    def factor(self) -> int:
        """Pixels per latent cell along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def side(self) -> int:
        """The native picture side in pixels."""
        return self.parts["transformer"].config.sample_size * self.factor

    @property
    def unit(self) -> int:
        """What picture sides are multiples of: whole patches."""
        return self.factor * self.parts["transformer"].config.patch_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight shapes of every linear and convolutional layer, by module path."""
        return {
            f"{part}.{path}": tuple(module.weight.shape)
            for part, root in self.parts.items()
            for path, module in root.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        }

    def targets(self, layers: str, text_encoder: bool) -> list[str]:
        """The joint attention, its feed-forward layers on request, and the text encoder's projections."""
        image = ATTENTION + (MLP if layers == "attention+mlp" else ())
        wanted = {"transformer": image, "text_encoder": TEXT if text_encoder else ()}
        return [path for path in self.shapes() if path.endswith(tuple(f".{e}" for e in wanted[path.split(".")[0]]))]

    def check_size(self, width: int, height: int) -> None:
        """RequestError unless both sides are whole patches."""
        if width % self.unit or height % self.unit:
            raise RequestError(f"size {width}x{height}: expected multiples of {self.unit} for {self.name}")

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture's latents."""
        self.check_size(width, height)
        return self.parts["transformer"].config.in_channels, height // self.factor, width // self.factor

    def place(self, original: tuple, corner: tuple, target: tuple) -> dict[str, Tensor]:
        """Nothing: positions are in the patches."""
        return {}

    def sampler(self, name: str | None) -> FlowMatchEulerDiscreteScheduler:
        """A fresh scheduler; RequestError for any but Euler's straight steps."""
        if name is not None and name not in SAMPLERS:
            raise RequestError(f"--sampler {name}: expected one of {', '.join(SAMPLERS)} for {self.name}; leave it out")
        return FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> latents (B, C, h, w)."""
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        return posterior.mode().float() * self.vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W) in -1..1 on the CPU."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return self.vae.decode(scaled).sample.float().clamp(-1, 1).cpu()

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids, (B, length of the window)."""
        ids = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return {"input_ids": ids.to(self.device)}

    def token_weights(self, text: str, spans: Sequence[tuple[int, int, float]]) -> Tensor:
        """(tokens,) how much each token counts."""
        return prompts.token_weights(self.tokenizer, text, spans)

    def windows(self, prompt: str) -> int:
        """How many windows of the text encoder a prompt fills."""
        return prompts.windows(self.tokenizer, prompt)

    def encode_prompts(self, texts: Sequence[str], clip_skip: int | None = None, least: int = 1) -> dict[str, Tensor]:
        """Text features, (B, windows · tokens, width), and pooled ones, (B, width)."""
        if least == 1 and all(prompts.is_plain(self.tokenizer, text) for text in texts):
            return self.encode_tokens(self.tokenize(texts), clip_skip)
        most = max(least, *(self.windows(text) for text in texts))
        plain = self.encode_tokens(self.tokenize([prompts.without_marks(text) for text in texts]), clip_skip)
        encode = partial(self._read, clip_skip=clip_skip)
        rows = [
            prompts.weighted_features(self.tokenizer, encode, text, device=self.device, least=most) for text in texts
        ]
        return plain | {"encoder_hidden_states": torch.cat(rows)}

    def encode_tokens(self, cond: Mapping[str, Tensor], clip_skip: int | None = None) -> dict[str, Tensor]:
        """Token ids -> text features and pooled ones; features pass through."""
        if "input_ids" not in cond:
            return dict(cond)
        features = self._read(cond["input_ids"], clip_skip=clip_skip)
        if "token_weights" in cond:
            features = objectives.weighted(features, cond["token_weights"])
        pooled = layer_features(self.parts["text_encoder"], cond["input_ids"], None, 1, True).pooled
        return {"encoder_hidden_states": features, "pooled_projections": pooled}

    def _read(self, ids: Tensor, mask: Tensor | None = None, clip_skip: int | None = None) -> Tensor:
        skip = clip_skip or self.clip_skip or 1
        return layer_features(self.parts["text_encoder"], ids, mask, skip, True).features

    def predict(self, noisy: Tensor, times: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The velocity from picture to noise at (B, C, h, w) and (B,) times."""
        words, pooled = (cond[key].to(self.dtype) for key in ("encoder_hidden_states", "pooled_projections"))
        when = times.to(self.device).expand(len(noisy))
        return self.parts["transformer"](noisy.to(self.dtype), words, pooled, when).sample.float()

    def times(self, count: int, rng: torch.Generator) -> Tensor:
        """(count,) times to train at."""
        return objectives.spread_times(count, TIMES, rng).to(self.device)

    def time_at(self, share: float) -> int:
        """The time at a share of the way to pure noise."""
        return int(share * TIMES)

    def checkpointing(self, on: bool) -> None:
        """Compute activations twice instead of keeping them."""
        net = self.parts["transformer"]
        net.enable_gradient_checkpointing() if on else net.disable_gradient_checkpointing()

    def loss(self, latents: Tensor, cond: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """The training loss of each picture, (B,)."""
        times = self.times(len(latents), rng)
        return self.loss_at(latents, cond, times, torch.randn(latents.shape, generator=rng).to(self.device))

    def loss_at(self, latents: Tensor, cond: Mapping[str, Tensor], times: Tensor, noise: Tensor) -> Tensor:
        """The loss at given times and noise: x_t = (1 - t) x_0 + t noise, to be answered with noise - x_0."""
        share = (times / TIMES).view(-1, 1, 1, 1)
        answer = self.predict((1 - share) * latents + share * noise, times, self.encode_tokens(cond))
        return objectives.per_picture(answer, noise - latents)

    @torch.inference_mode()
    def draw(
        self,
        texts: Sequence[str],
        negatives: Sequence[str],
        *,
        guidance: float,
        clip_skip: int | None = None,
        **how: object,
    ) -> Tensor:
        """One picture a prompt, (B, 3, H, W) in -1..1."""
        cond = self.encode_prompts([*negatives, *texts] if guidance > 1 else texts, clip_skip)
        return self.decode(self.sample(cond, guidance=guidance, **how))

    def sample(self, cond: Mapping[str, Tensor], **how: object) -> Tensor:
        """Finished latents, see `sampling.sample`."""
        return sample(self, cond, **how)


def assemble(source: Source, how: How, networks: Mapping[str, object]) -> ToyFlow:
    """The model of networks that are ready."""
    parts = {name: networks[name] for name in ("transformer", "text_encoder")}
    [tokenizer] = tokenizers(source)
    family = f"toyflow-{networks['transformer'].config.joint_attention_dim}"
    return ToyFlow(
        source.name, family, parts, networks["vae"], tokenizer, networks["scheduler"], how.device, how.config.vae,
        how.clip_skip,
    )  # fmt: skip


def make_base(folder: Path) -> Path:
    """Write a random one as a folder of diffusers' layout, pictures of 32 px, with the embedded base's autoencoder."""
    from bases import livened, text_encoder, tokenizer

    net = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=24,
        pos_embed_max_size=16,
    )  # fmt: skip
    text = text_encoder(32, projection=24)
    livened(text)
    net.save_pretrained(folder / "transformer")
    text.save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    shutil.copytree(EMBEDDED["tiny"] / "vae", folder / "vae")
    index = {
        "_class_name": "ToyFlowPipeline",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
