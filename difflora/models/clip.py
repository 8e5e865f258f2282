"""CLIP's text encoders and their tokenizer: which layer is read, and the vocabulary that travels with difflora."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from .opening import Source, kind_of, one_line

CONFIGS = Path(__file__).with_name("configs")
MERGES = CONFIGS / "merges.txt.gz"
WINDOW = 77
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Read:
    """What a text encoder says."""

    features: Tensor
    """(B, tokens, width)"""
    pooled: Tensor | None
    """(B, width), the projected end of the text, from encoders that project it."""


def layer_features(encoder: nn.Module, ids: Tensor, mask: Tensor | None, skip: int, normed: bool) -> Read:
    """Features of the layer that is `skip` from the end, 1 the last one.

    normed: the last norm is applied, as in SD 1 and 2 (diffusers' pipeline_stable_diffusion.py, encode_prompt).
    """
    inner = getattr(encoder, "text_model", encoder)
    if skip == 1 and normed:
        out = encoder(ids, attention_mask=mask)
        return Read(out.last_hidden_state, getattr(out, "text_embeds", None))
    out = encoder(ids, attention_mask=mask, output_hidden_states=True)
    # The first one is what goes into the first layer.
    features = out.hidden_states[max(1, len(out.hidden_states) - skip)]
    return Read(inner.final_layer_norm(features) if normed else features, getattr(out, "text_embeds", None))


def tokenizers(source: Source) -> list[Callable]:
    """The tokenizers of a base's text encoders: its own, or for a single file those that travel with difflora."""
    names = [name for name in ("tokenizer", "tokenizer_2") if (source.index.get(name) or [None])[0]]
    if source.folder.parent == CONFIGS:
        settings = [json.loads((source.folder / name / "tokenizer_config.json").read_text()) for name in names]
        return [clip_tokenizer(own["pad_token"]) for own in settings]
    with one_line(source.name):
        return [
            kind_of("transformers", "CLIPTokenizer").from_pretrained(source.folder, subfolder=name) for name in names
        ]


@cache
def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's 49,408 tokens and the pairs they are joined from (Radford et al. 2021; openai/CLIP, MIT)."""
    merges = [tuple(line.split()) for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
    letters = [chr(point) for point in byte_points()]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return {word: place for place, word in enumerate(words)}, merges


def byte_points() -> list[int]:
    """The code point that stands for each byte, printable bytes first, as GPT-2's byte pairs have them."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return shown + [256 + place for place in range(256 - len(shown))]


@cache
def clip_tokenizer(pad: str) -> Callable:
    """CLIP's tokenizer with windows of 77 tokens; made once."""
    words, merges = vocabulary()
    return kind_of("transformers", "CLIPTokenizer")(
        vocab=dict(words), merges=list(merges), bos_token=START, eos_token=END, unk_token=END, pad_token=pad,
        model_max_length=WINDOW,
    )  # fmt: skip
