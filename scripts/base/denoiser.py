"""The text encoder and the denoiser of the embedded base, trained together on encoded pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import autoencoder, compose
from .progress import Ema, Record, autocast, load_state, save_state

TOKENS = 32
WIDTH = 192
VOCABULARY = Path(__file__).with_name("vocabulary.json")
EMA_DECAY, EMA_EVERY = 0.996, 4
# What is learnt first; a wider list wants more samples.
CONCEPTS = set(Path(__file__).with_name("concepts.txt").read_text(encoding="utf-8").splitlines())
# Six drawings of one thing under one name blur into each other; three can be learnt apart in hours.
SETS = {"noto", "twemoji", "fluent flat"}
# Share of training pictures on white; the rest stand on a colour that the caption names.
WHITE = 0.92


class Drawer(nn.Module):
    """What is trained: the text encoder and the UNet as one module."""

    def __init__(self, vocabulary: int, end: int) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH,
                num_hidden_layers=4, num_attention_heads=6, max_position_embeddings=TOKENS,
                bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
            )
        )  # fmt: skip
        self.unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(96, 192, 256),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
            down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3,
        )

    def forward(self, noisy: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """(B, 4, h, w), (B,), (B, 32) -> the predicted velocity (B, 4, h, w)."""
        return self.unet(noisy, times, self.text_encoder(tokens).last_hidden_state).sample


def scheduler() -> DDIMScheduler:
    """v-prediction with zero terminal SNR (Lin et al. 2023, arXiv 2305.08891), never clipping latents."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def corpus() -> list[str]:
    """Words that captions are made of."""
    relations = [
        "next to",
        "on",
        "above",
        "below",
        "and",
        "two",
        "three",
        "small",
        "large",
        "background",
        "style",
        "with",
    ]
    return [*compose.PALETTE, *relations, "a", "an", "the", "of", "white", "photo", "picture", "drawing", "icon"]


def tokenizer(rows: list[dict]) -> CLIPTokenizer:
    """The committed vocabulary; BPE training differs between runs, so it happens once."""
    if not VOCABULARY.exists():
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        names = sorted({row["name"] for row in rows} | {row["set"] for row in rows} | {row["group"] for row in rows})
        bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=2998,
            end_of_word_suffix="</w>",
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator([text.lower() for text in (names + corpus()) * 3], trainer)
        model = json.loads(bpe.to_str())["model"]
        vocab = list(model["vocab"])
        vocab += [c + "</w>" for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c + "</w>" not in model["vocab"]]
        VOCABULARY.write_text(json.dumps({"vocab": vocab, "merges": model["merges"]}, ensure_ascii=False))
    kept = json.loads(VOCABULARY.read_text())
    words = [*kept["vocab"], "<|startoftext|>", "<|endoftext|>"]
    table = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=table, merges=[tuple(pair) for pair in kept["merges"]], model_max_length=TOKENS)


@dataclass(frozen=True)
class Pool:
    """Encoded pictures and the parts their captions are made of."""

    latents: Tensor
    """(N, 4, h, w) float16, normalised per channel."""
    texts: list[str]
    sets: list[str]
    mean: Tensor
    std: Tensor


def article(name: str) -> str:
    """The name with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def place(rgba: Tensor, scale: float) -> Tensor:
    """One picture (4, H, W) at `scale` of its size in the middle."""
    theta = torch.tensor([[[1 / scale, 0, 0], [0, 1 / scale, 0]]], dtype=torch.float32)
    grid = F.affine_grid(theta, [1, *rgba.shape], align_corners=False)
    return F.grid_sample(rgba[None], grid, padding_mode="zeros", align_corners=False)[0]


def compositions(pictures: np.ndarray, rows: list[dict]) -> Iterator[tuple[Tensor, str, str]]:
    """(picture (3, 128, 128) in 0..1, caption, set): each picture on white, then each on a colour, in a fixed order."""
    rng = np.random.default_rng(0)
    colours = list(compose.PALETTE)
    chosen = [i for i, row in enumerate(rows) if row["name"] in CONCEPTS and row["set"] in SETS]
    for i in chosen:
        rgba = autoencoder.as_tensor(pictures[i : i + 1])
        yield compose.over(rgba, torch.ones(1, 3, 128, 128))[0], rows[i]["name"], rows[i]["set"]
    for i in chosen:
        name = colours[rng.integers(len(colours))]
        ground = torch.tensor(compose.PALETTE[name]).view(1, 3, 1, 1).expand(1, 3, 128, 128)
        rgba = place(autoencoder.as_tensor(pictures[i : i + 1])[0], rng.uniform(0.7, 0.9))
        yield compose.over(rgba[None], ground)[0], f"{rows[i]['name']}, {name} background", rows[i]["set"]


def make_pool(model: AutoencoderKL, pictures: np.ndarray, rows: list[dict], work: Path, px: int) -> Pool:
    """Encode the pool once; kept in work/pool.pt."""
    path = work / "pool.pt"
    if not path.exists():
        latents, texts, sets, waiting = [], [], [], []
        for picture, text, label in compositions(pictures, rows):
            waiting.append(picture)
            texts.append(text)
            sets.append(label)
            if len(waiting) == 64:
                latents.append(encode(model, torch.stack(waiting), px))
                waiting = []
        if waiting:
            latents.append(encode(model, torch.stack(waiting), px))
        stacked = torch.cat(latents)
        mean, std = stacked.mean((0, 2, 3)), stacked.std((0, 2, 3))
        normal = (stacked - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
        torch.save({"latents": normal.half(), "texts": texts, "sets": sets, "mean": mean, "std": std}, path)
    return Pool(**torch.load(path, weights_only=True))


@torch.inference_mode()
def encode(model: AutoencoderKL, pictures: Tensor, px: int) -> Tensor:
    """(B, 3, H, W) in 0..1 -> latents (B, 4, px / 4, px / 4) in float32."""
    small = F.interpolate(pictures, size=(px, px), mode="area") * 2 - 1
    return model.encode(small).latent_dist.mode().float()


def caption(text: str, label: str, chance: float) -> str:
    """One of the ways a caption is written; `chance` in 0..1 decides which."""
    if chance < 0.1:
        return ""
    if chance < 0.35:
        return text
    if chance < 0.55:
        return article(text)
    return f"{text if chance < 0.75 else article(text)}, {label} style"


def draw_times(count: int, rng: torch.Generator) -> Tensor:
    """(count,) times in 0..1, four of five around 0.6, where shapes are decided (Esser et al. 2024, section 3.1).

    One in each of `count` equal slices: the same mean with less noise in the loss.
    """
    even = (torch.arange(count) + torch.rand(count, generator=rng)) / count
    shaped = torch.sigmoid(0.5 + 1.2 * torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)))
    return torch.where(torch.rand(count, generator=rng) < 0.2, even, shaped)


def train(
    pictures: np.ndarray, rows: list[dict], work: Path, px: int, samples: int, batch: int = 16, rate: float = 4e-4
) -> None:
    """Train until `samples` pictures were seen, resuming from work/denoiser.pt; the last third cools down."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pool = make_pool(autoencoder.load(work), pictures, rows, work, px)
    words = tokenizer(rows)
    torch.manual_seed(0)
    model = Drawer(len(words), words.eos_token_id).to(device)
    # One pass over the weights instead of ten: a quarter of a step on a CPU.
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    ema = Ema(model, EMA_DECAY)
    seen = load_state(work / "denoiser.pt", model, optimizer, ema)
    record = Record(work / "denoiser.jsonl", samples)
    alphas = scheduler().alphas_cumprod.to(device)
    latents = pool.latents.float().to(device)
    saved = time.monotonic()
    while seen < samples:
        rng = torch.Generator().manual_seed(seen)
        half = len(latents) // 2
        chosen = torch.randint(half, (batch,), generator=rng)
        chosen += half * (torch.rand(batch, generator=rng) >= WHITE)
        chances = torch.rand(batch, generator=rng).tolist()
        texts = [caption(pool.texts[i], pool.sets[i], c) for i, c in zip(chosen.tolist(), chances, strict=True)]
        tokens = words(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        times = (draw_times(batch, rng) * len(alphas)).long().clamp_max(len(alphas) - 1).to(device)
        clean, noise = latents[chosen.to(device)], torch.randn(batch, *latents.shape[1:], generator=rng).to(device)
        signal, spread = (x.view(-1, 1, 1, 1) for x in (alphas[times].sqrt(), (1 - alphas[times]).sqrt()))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (seen + batch) / 9600) * min(1, max(0.01, 3 * (samples - seen) / samples))
        with autocast(device):
            velocity = model(signal * clean + spread * noise, times, tokens)
        loss = (velocity.float() - (signal * noise - spread * clean)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += batch
        if seen // batch % EMA_EVERY == 0:
            ema.update(model)
        record.add(seen, loss.item())
        if time.monotonic() - saved > 300 or seen >= samples:
            save_state(work / "denoiser.pt", model, optimizer, ema, seen)
            saved = time.monotonic()


def load(rows: list[dict], work: Path) -> tuple[Drawer, CLIPTokenizer, int]:
    """The averaged weights of the last save, the tokenizer, and the pictures seen."""
    words = tokenizer(rows)
    model = Drawer(len(words), words.eos_token_id)
    ema = Ema(model, EMA_DECAY)
    seen = load_state(work / "denoiser.pt", model, None, ema)
    ema.copy_to(model)
    return model.eval().requires_grad_(False), words, seen
