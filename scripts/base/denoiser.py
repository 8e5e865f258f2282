"""The text encoder and the denoiser of the embedded base, trained together on encoded pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import autoencoder, compose, scenes
from .progress import Course, Ema, Record, autocast, compiled, here, load_state, save_state

TOKENS = 32
WIDTH = 192
VOCABULARY = Path(__file__).with_name("vocabulary.json")
EMA_DECAY = 0.999
NAMELESS = 0.1
"""Share of pictures that are learnt without a caption, for guidance."""


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
            in_channels=autoencoder.CHANNELS,
            out_channels=autoencoder.CHANNELS,
            block_out_channels=(96, 192, 256),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
            down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3,
        )


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
    """Encoded pictures with the ways their captions are written."""

    latents: Tensor
    """(N, C, h, w) float16, normalised per channel."""
    tokens: Tensor
    """(N, 4, 32): plain, plain, with the set's name, with the set's name."""
    weights: Tensor
    singles: Tensor
    """Rows of the pictures that stand by themselves: the first of the pool."""
    mean: Tensor
    std: Tensor


def plan(sources: Tensor, rows: list[dict], work: Path, count: int) -> None:
    """Lay out every picture and `count` scenes and write their captions in tokens, once: work/plan.pt."""
    path = work / "plan.pt"
    if path.exists():
        return
    laid = scenes.plan(rows, *scenes.hues(sources), count)
    words = tokenizer(rows)
    flat = [text for ways in laid.captions() for text in ways]
    tokens = [
        torch.from_numpy(
            words(flat[i : i + 20_000], padding="max_length", truncation=True, return_tensors="np").input_ids
        )
        for i in range(0, len(flat), 20_000)
    ]
    save(path, laid.tensors() | {"tokens": torch.cat(tokens).short().view(-1, 4, TOKENS)})


def make_pool(model: AutoencoderKL, sources: Tensor, work: Path, px: int) -> None:
    """Draw and encode the plan once: work/pool.pt."""
    path = work / "pool.pt"
    if path.exists():
        return
    laid = torch.load(work / "plan.pt", weights_only=True)
    model, latents, batch = model.to(sources.device), [], 128
    for start in range(0, len(laid["things"]), batch):
        pictures = scenes.draw(laid, slice(start, start + batch), sources, px)
        latents.append(encode(model, pictures).half())
    stacked = torch.cat(latents)
    mean, std = stacked.float().mean((0, 2, 3)), stacked.float().std((0, 2, 3))
    normal = (stacked - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    kept = {name: laid[name] for name in ("tokens", "weights", "singles")}
    kept |= {"latents": normal.half(), "mean": mean, "std": std}
    save(path, {name: value.cpu() for name, value in kept.items()})


def load_pool(work: Path) -> Pool:
    """The pool that `make_pool` kept."""
    return Pool(**torch.load(work / "pool.pt", weights_only=True))


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the file whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(tensors, part)
    part.replace(path)


@torch.inference_mode()
def encode(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 -> latents (B, C, H / 8, W / 8)."""
    with autocast(pictures.device.type):
        return model.encode(pictures * 2 - 1).latent_dist.mode().float()


def draw_times(count: int, rng: torch.Generator) -> Tensor:
    """(count,) times in 0..1, four of five around 0.6, where shapes are decided (Esser et al. 2024, section 3.1).

    One in each of `count` equal slices: the same mean with less noise in the loss.
    """
    even = (torch.arange(count, device=rng.device) + compose.rand(count, rng=rng)) / count
    shaped = torch.sigmoid(0.5 + 1.2 * torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)))
    return torch.where(compose.rand(count, rng=rng) < 0.2, even, shaped)


class Batches:
    """Noisy latents, times, tokens and velocities, drawn from a pool on its device."""

    def __init__(self, pool: Pool, end: int, seed: int) -> None:
        self.device = here()
        self.latents = pool.latents.to(self.device)
        self.tokens = pool.tokens.to(self.device)
        self.edges = pool.weights.double().cumsum(0).to(self.device)
        self.alphas = scheduler().alphas_cumprod.to(self.device)
        self.empty = torch.full((TOKENS,), end, dtype=torch.short, device=self.device)
        self.empty[0] = end - 1
        self.rng = torch.Generator(self.device).manual_seed(seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, C, h, w), (B,), (B, 32) and the velocity to predict (B, C, h, w)."""
        rng, device = self.rng, self.device
        spots = torch.rand(count, generator=rng, device=device, dtype=torch.float64) * self.edges[-1]
        chosen = torch.searchsorted(self.edges, spots).clamp_max(len(self.latents) - 1)
        ways = torch.randint(4, (count,), generator=rng, device=device)
        tokens = self.tokens[chosen, ways]
        tokens = torch.where((compose.rand(count, rng=rng) < NAMELESS)[:, None], self.empty, tokens).long()
        times = (draw_times(count, rng) * len(self.alphas)).long().clamp_max(len(self.alphas) - 1)
        clean = self.latents[chosen].float()
        noise = torch.randn(clean.shape, generator=rng, device=device)
        signal, spread = (x.view(-1, 1, 1, 1) for x in (self.alphas[times].sqrt(), (1 - self.alphas[times]).sqrt()))
        return signal * clean + spread * noise, times, tokens, signal * noise - spread * clean


def train(
    pool: Pool,
    rows: list[dict],
    work: Path,
    course: Course,
    batch: int = 16,
    rate: float = 4e-4,
    look: Callable | None = None,
) -> None:
    """Train to the end of the course, resuming from work/denoiser.pt; the last third cools down.

    `look(model, course)` is called with the averaged weights at each sixth, after saving.
    """
    device = here()
    words = tokenizer(rows)
    torch.manual_seed(0)
    model = Drawer(len(words), words.eos_token_id).to(device)
    # One pass over the weights instead of ten: a quarter of a step on a CPU.
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    ema = Ema(model, EMA_DECAY)
    load_state(work / "denoiser.pt", model, optimizer, ema, course)
    model.unet.to(memory_format=torch.channels_last)
    record = Record(work / "denoiser.jsonl", course)
    batches = Batches(pool, words.eos_token_id, course.seen)
    forward, saved, looked = compiled(model.unet), time.monotonic(), int(6 * course.done)
    while course.done < 1:
        noisy, times, tokens, velocity = batches.draw(batch)
        warm = min(1, (course.seen / batch + 1) / 400)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * min(1, max(0.01, 3 * (1 - course.done)))
        with autocast(device):
            states = model.text_encoder(tokens).last_hidden_state
            found = forward(noisy.to(memory_format=torch.channels_last), times, states).sample
        loss = (found.float() - velocity).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model)
        course.seen += batch
        record.add(loss)
        if look and int(6 * course.done) > looked:
            looked = int(6 * course.done)
            save_state(work / "denoiser.pt", model, optimizer, ema, course)
            with ema.applied(model):
                record.note(**look(model, course))
        if time.monotonic() - saved > 300:
            save_state(work / "denoiser.pt", model, optimizer, ema, course)
            saved = time.monotonic()
    save_state(work / "denoiser.pt", model, optimizer, ema, course)


def load(rows: list[dict], work: Path) -> tuple[Drawer, CLIPTokenizer, int]:
    """The averaged weights of the last save, the tokenizer, and the pictures seen."""
    words = tokenizer(rows)
    model = Drawer(len(words), words.eos_token_id)
    ema = Ema(model, EMA_DECAY)
    seen = load_state(work / "denoiser.pt", model, None, ema)
    ema.copy_to(model)
    return model.eval().requires_grad_(False), words, seen


def warm(rows: list[dict], batch: int) -> None:
    """Compile the denoiser's step for the GPU into the compiler's cache, while other work goes on."""
    few = torch.zeros(1, autoencoder.CHANNELS, 16, 16, dtype=torch.half)
    tokens, one = torch.zeros(1, 4, TOKENS, dtype=torch.short), torch.ones(1)
    pool = Pool(few, tokens, one, torch.zeros(1), torch.zeros(1), torch.zeros(1))
    with TemporaryDirectory() as work:
        train(pool, rows, Path(work), Course(2 * batch), batch, 1e-4)
