"""Stable Diffusion XL: two text encoders, their pooled features, and the picture's size and crop told to the UNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import objectives, prompts
from .clip import layer_features, tokenizers
from .opening import How, Source
from .sd import Recommended, StableDiffusion

BOTH = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True, eq=False)
class StableDiffusionXL(StableDiffusion):
    """A frozen UNet, two text encoders and an autoencoder (Podell et al. 2023, arXiv 2307.01952)."""

    tokenizer_2: Callable | None = None
    zeros_for_empty: bool = True
    """Whether an empty text is nothing but zeros, as this base was trained without a prompt."""

    own_skip = 2
    normed = False

    @property
    def recommended(self) -> Recommended:
        """Learning rate, batch and showings per picture: the middle of what trainers default to."""
        return Recommended(1e-4, 1, 20)

    def place(self, original: tuple, corner: tuple, target: tuple) -> dict[str, Tensor]:
        """What the UNet is told: (height, width) of the picture, (top, left) of its crop, (height, width) shown."""
        return {"time_ids": torch.tensor([[*original, *corner, *target]], dtype=torch.float32)}

    def windows(self, prompt: str) -> int:
        """How many windows of the text encoders a prompt fills: they split exclamation marks differently."""
        return max(prompts.windows(own, prompt) for own in (self.tokenizer, self.tokenizer_2))

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids for both text encoders, (B, length of their window)."""
        found = super().tokenize(texts)
        more = self.tokenizer_2(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return found | {"input_ids_2": more.to(self.device)}

    def encode_prompts(self, texts: Sequence[str], clip_skip: int | None = None, least: int = 1) -> dict[str, Tensor]:
        """Text features of both encoders side by side, (B, windows · tokens, width), and pooled ones, (B, width)."""
        words = (self.tokenizer, self.tokenizer_2)
        if least == 1 and all(prompts.is_plain(own, text) for own in words for text in texts):
            return self.encode_tokens(self.tokenize(texts), clip_skip)
        most = max(least, *(self.windows(text) for text in texts))
        rows = [
            torch.cat([self._weighted(*own, text, clip_skip, most) for own in zip(words, BOTH, strict=True)], -1)
            for text in texts
        ]
        # The first window without weights stands for the whole: the pooled features know no tokens.
        plain = self.tokenize([prompts.without_marks(text) for text in texts])
        pooled = self._pooled(plain["input_ids_2"])
        return self._emptied(plain["input_ids"], torch.cat(rows), pooled)

    def encode_tokens(self, cond: Mapping[str, Tensor], clip_skip: int | None = None) -> dict[str, Tensor]:
        """Token ids -> text features and pooled ones; features pass through."""
        if "input_ids" not in cond:
            return dict(cond)
        skip = clip_skip or self.clip_skip or self.own_skip
        first, second = (
            layer_features(self.parts[part], cond[ids], None, skip, self.normed)
            for part, ids in zip(BOTH, ("input_ids", "input_ids_2"), strict=True)
        )
        features = torch.cat([first.features, second.features], -1)
        if "token_weights" in cond:
            features = objectives.weighted(features, cond["token_weights"])
        rest = {key: value for key, value in cond.items() if key == "time_ids"}
        return self._emptied(cond["input_ids"], features, second.pooled) | rest

    def predict(self, noisy: Tensor, times: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The UNet's answer to (B, C, h, w) at (B,) timesteps; a picture of unknown size is as large as it is drawn."""
        if "time_ids" in cond:
            told = cond["time_ids"]
        else:
            size = noisy.shape[2] * self.factor, noisy.shape[3] * self.factor
            told = self.place(size, (0, 0), size)["time_ids"].expand(len(noisy), -1)
        added = {"text_embeds": cond["text_embeds"].to(self.dtype), "time_ids": told.to(self.device)}
        features = cond["encoder_hidden_states"].to(self.dtype)
        return self.parts["unet"](noisy.to(self.dtype), times, features, added_cond_kwargs=added).sample.float()

    def _pooled(self, ids: Tensor) -> Tensor:
        """The second encoder's word for a whole text, (B, width)."""
        return layer_features(self.parts["text_encoder_2"], ids, None, 1, True).pooled

    def _emptied(self, ids: Tensor, features: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """The features, zeros for texts of no token where the base wants that (diffusers' pipeline does the same)."""
        if self.zeros_for_empty:
            some = ids[:, 1] != self.tokenizer.eos_token_id
            features = torch.where(some.view(-1, 1, 1), features, 0)
            pooled = torch.where(some.view(-1, 1), pooled, 0)
        return {"encoder_hidden_states": features, "text_embeds": pooled}


def assemble(source: Source, how: How, networks: Mapping[str, object]) -> StableDiffusionXL:
    """The model of networks that are ready."""
    parts = {name: networks[name] for name in ("unet", *BOTH)}
    first, second = tokenizers(source)
    zeros = bool(source.index.get("force_zeros_for_empty_prompt", True))
    return StableDiffusionXL(
        source.name, family_of(networks["unet"]), parts, networks["vae"], first, networks["scheduler"], how.device,
        how.config.vae, how.clip_skip, second, zeros,
    )  # fmt: skip


def family_of(unet: nn.Module) -> str:
    """The family by the width of the text features: what makes adapters interchangeable."""
    width = unet.config.cross_attention_dim
    return "sdxl" if width == 2048 else f"sdxl-{width}"
