"""Prompts of any length with weighted words, through compel."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from compel import CompelForSD
from conftest import random_model
from diffusers import StableDiffusionPipeline
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import CLIPTokenizer

from difflora.emphasis import parse
from difflora.models.clip import clip_tokenizer, layer_features
from difflora.models.family import EMBEDDED
from difflora.models.prompts import is_plain, weighted_features, windows, without_marks

PLAIN = (
    "",
    "a",
    "a red  cat's toy",
    "ünï 日本語 😀",
    "a!b ! c",
    "cat+ (dog)1.5 .blend(0.5, 0.5)",
    "x <|endoftext|> y",
    "(a",
)
SMALL = CLIPTokenizer.from_pretrained(EMBEDDED["tiny"] / "tokenizer")
TOKENIZERS = (SMALL, clip_tokenizer("<|endoftext|>"), clip_tokenizer("!"))
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=("embedded", "clip", "clip that pads with !"))
LONG = ". ".join(f"A red cat, number {i}, sits on a sofa" for i in range(40))


class Table:
    """A text encoder of one table: a token's features are its own and half of the mean of what it sees before it."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.numbers = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
        self.dtype = dtype
        self.seen: list[list[int]] = []

    def __call__(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        self.seen.append(ids[0].tolist())
        own = self.numbers[ids % 1000]
        counts = torch.ones_like(own) if mask is None else mask[..., None].expand_as(own).float()
        return (own + (own * counts).cumsum(1) / counts.cumsum(1).clamp_min(1) / 2).to(self.dtype)


def usual(tokenizer, encode, text: str) -> Tensor:
    """What a pipeline that knows no weights makes of a prompt."""
    return encode(tokenizer([text], padding="max_length", truncation=True, return_tensors="pt").input_ids)


@pytest.fixture(scope="module")
def encode():
    """The encoder of a small random CLIP, at its last layer."""
    text_encoder = random_model().parts["text_encoder"]
    with torch.inference_mode():
        yield lambda ids, mask=None, skip=1: layer_features(text_encoder, ids, mask, skip, True).features


@each_tokenizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_plain_prompt_has_the_usual_features_bit_for_bit(tokenizer, dtype):
    table = Table(dtype)
    for text in PLAIN:
        assert is_plain(tokenizer, text) and windows(tokenizer, text) == 1
        found = weighted_features(tokenizer, table, text)
        assert found.dtype == dtype and torch.equal(found, usual(tokenizer, table, text))


def test_a_plain_prompt_is_the_same_through_a_real_encoder_at_any_layer(encode):
    for skip in (1, 2):
        own = partial(encode, skip=skip)
        for text in PLAIN:
            assert torch.equal(weighted_features(SMALL, own, text), usual(SMALL, own, text))
    assert not torch.equal(encode(torch.ones(1, 4).long()), encode(torch.ones(1, 4).long(), skip=2))


@each_tokenizer
def test_a_weight_of_1_and_a_backslash_change_nothing(tokenizer):
    table = Table()
    for text, plain in (
        ("a (red:1.0) cat", "a red cat"),
        (r"a \(red:1.5\) cat", "a (red:1.5) cat"),
        (r"\\(a:1)", r"\a"),
    ):
        assert without_marks(text) == plain and not is_plain(tokenizer, text)
        assert torch.equal(weighted_features(tokenizer, table, text), usual(tokenizer, table, plain))


def test_a_weight_moves_the_features_of_its_words_and_those_alone_if_it_is_above_1(encode):
    plain, empty = usual(SMALL, encode, "a red cat"), usual(SMALL, encode, "")
    place = SMALL("a red cat").input_ids.index(SMALL("red").input_ids[1])
    for weight in (1.3, 2.0, 5.0):
        found = weighted_features(SMALL, encode, f"a (red:{weight}) cat")
        assert torch.allclose(found[:, place], (empty + weight * (plain - empty))[:, place], atol=1e-5)
        others = [i for i in range(SMALL.model_max_length) if i != place]
        assert torch.equal(found[:, others], plain[:, others])


def test_a_weight_moves_its_words_away_from_the_empty_prompt_step_by_step(encode):
    empty = usual(SMALL, encode, "")
    for text, word in (("a ({}:{}) cat", "red"), ("({}:{})", "cat"), ("a cat on a ({}:{}), green", "sofa")):
        place = SMALL(without_marks(text.format(word, 2))).input_ids.index(SMALL(word).input_ids[1])
        found = [weighted_features(SMALL, encode, text.format(word, w)) for w in (0, 0.3, 0.6, 0.9, 1, 1.1, 1.5, 3, 5)]
        far = [(features - empty)[0, place].norm().item() for features in found]
        assert all(near < further for near, further in pairwise(far)), far


def test_words_of_weight_0_are_hidden_from_all_others(encode):
    ids = SMALL(["a red cat"], padding="max_length", return_tensors="pt").input_ids
    place = ids[0].tolist().index(SMALL("red").input_ids[1])
    mask = torch.ones_like(ids)
    mask[0, place] = 0
    found, hidden = weighted_features(SMALL, encode, "a (red:0) cat"), encode(ids, mask)
    others = [i for i in range(ids.shape[1]) if i != place]
    assert torch.allclose(found[:, others], hidden[:, others], atol=1e-3)
    assert torch.allclose(found[:, place], usual(SMALL, encode, "")[:, place], atol=1e-3)


def test_a_token_partly_inside_counts_the_mean_of_its_letters():
    table = Table()
    assert SMALL.tokenize("red") == ["red</w>"]
    for text, mean in (("(r:4)ed cat", 2.0), ("r(ed:2.5) cat", 2.0), ("(r:2)(e:3)(d:1) cat", 2.0)):
        found, whole = (weighted_features(SMALL, table, t) for t in (text, f"(red:{mean}) cat"))
        assert torch.equal(found, whole)


@each_tokenizer
def test_a_long_prompt_fills_windows_each_with_a_start_and_an_end(tokenizer):
    table, length = Table(), tokenizer.model_max_length
    found = weighted_features(tokenizer, table, LONG)
    assert windows(tokenizer, LONG) == len(table.seen) > 4 and not is_plain(tokenizer, LONG)
    assert found.shape == (1, len(table.seen) * length, 8)
    words = []
    for ids in table.seen:
        assert len(ids) == length and ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
        end = ids.index(tokenizer.eos_token_id)
        assert set(ids[end + 1 :]) <= {tokenizer.pad_token_id}
        words += ids[1:end]
    assert words == tokenizer(LONG, add_special_tokens=False, verbose=False).input_ids
    # Sentences stay whole where they fit.
    for ids in table.seen:
        assert tokenizer.convert_ids_to_tokens(ids[ids.index(tokenizer.eos_token_id) - 1]) in (
            ".</w>",
            "sofa</w>",
            "a</w>",
        )


@each_tokenizer
@given(st.lists(st.sampled_from(["cat", "red", "extraordinary", "sofa,", "a", "ünï", "12", "it's."]), max_size=120))
@settings(max_examples=30, deadline=None)
def test_words_are_never_cut_in_half(tokenizer, words):
    table = Table()
    weighted_features(tokenizer, table, " ".join(words))
    for ids in table.seen:
        body = ids[1 : ids.index(tokenizer.eos_token_id)]
        assert not body or tokenizer.convert_ids_to_tokens(body[-1]).endswith("</w>")


@each_tokenizer
@pytest.mark.parametrize(
    "piece", ["cat ", "x", "😀", "!", "(", "(cat:0.5) ", "(cat:0)x ", "((((a:1.1) b:1.2):.9)", "\\", ". "]
)
def test_10000_letters_are_encoded_a_bounded_number_of_times(tokenizer, piece):
    text, table = (piece * 10_000)[:10_000], Table()
    found, count = weighted_features(tokenizer, table, text), windows(tokenizer, text)
    assert found.shape == (1, count * tokenizer.model_max_length, 8) and torch.isfinite(found).all()
    # Each window once, once without each part of it that counts less, and the empty prompt.
    less = sum(weight < 1 for _, _, weight in parse(text).spans)
    assert len(table.seen) <= 2 * count + less + 1
    assert (
        count <= 1 + len(tokenizer(without_marks(text), verbose=False).input_ids) / (tokenizer.model_max_length - 2) * 2
    )


def test_a_weight_in_one_window_leaves_the_others_alone():
    table, length = Table(), SMALL.model_max_length
    plain = weighted_features(SMALL, table, LONG)
    for weight in ("0", "0.5", "2"):
        found = weighted_features(SMALL, table, LONG.replace("cat, number 0,", f"(cat:{weight}), number 0,"))
        assert not torch.equal(found[:, :length], plain[:, :length])
        assert torch.equal(found[:, length:], plain[:, length:])


def test_weights_across_windows_act_in_each():
    table, length = Table(), SMALL.model_max_length
    plain, found = (weighted_features(SMALL, table, text) for text in (LONG, f"({LONG}:0.5)"))
    moved = (found - plain).abs().amax(-1).view(-1, length)
    assert (moved.amax(1) > 0.1).all()


@each_tokenizer
def test_missing_windows_are_the_empty_prompts(tokenizer):
    table, length = Table(), tokenizer.model_max_length
    empty = usual(tokenizer, table, "")
    for text in ("a cat", "a (red:1.3) cat", ""):
        found = weighted_features(tokenizer, table, text, least=3)
        assert found.shape[1] == 3 * length
        assert torch.equal(found[:, :length], weighted_features(tokenizer, table, text))
        assert torch.equal(found[:, length:], empty.repeat(1, 2, 1))


MARKS = st.lists(
    st.sampled_from(["(", ")", ":1.3)", ":0)", ":.5)", "\\", ":", "!", "cat", " ", "é", "é", "<|endoftext|>",
                     "<|startoftext|>", "!!", "\u200b", "\x00", "\n", "猫", "'s", "+", "-", '.and("a")', "."]),
    max_size=60,
).map("".join)  # fmt: skip


@each_tokenizer
@given(st.one_of(MARKS, st.text(st.characters(codec="utf-8"), max_size=200)))
@example("(!:0.5)!(!:0)")
@example("(e:0)\u0301 (\u0301:2)")
@example("(<|endoftext|>:0)a(\x00:.5)")
@settings(max_examples=60, deadline=None)
def test_nothing_that_is_typed_raises(tokenizer, text):
    table = Table()
    found = weighted_features(tokenizer, table, text)
    assert found.shape[1] == windows(tokenizer, text) * tokenizer.model_max_length and torch.isfinite(found).all()
    plain = without_marks(text)
    if not parse(text).spans and windows(tokenizer, text) == 1:
        assert torch.equal(found, usual(tokenizer, table, plain))


def test_half_precision_holds_what_counts_nothing():
    found = weighted_features(SMALL, Table(torch.float16), "(a:0) cat (b:0) on (c:0)")
    assert found.dtype == torch.float16 and torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("a (cat)1.3 on a sofa", "a (cat:1.3) on a sofa"),
        ("a (red cat)0.6 on a sofa", "a (red cat:0.6) on a sofa"),
        ("a (red)0.5 (cat)0 on a (sofa)1.7", "a (red:0.5) (cat:0) on a (sofa:1.7)"),
        (LONG, LONG),
        (f"a (cat)1.3, {LONG}", f"a (cat:1.3), {LONG}"),
    ],
)
def test_the_features_are_those_of_compel_in_a_pipeline_of_the_embedded_base(pipeline, theirs, ours):
    encoder = pipeline.text_encoder
    with torch.inference_mode():
        wanted = CompelForSD(pipeline)(theirs).embeds
        found = weighted_features(pipeline.tokenizer, lambda ids, mask: encoder(ids, mask).last_hidden_state, ours)
    assert torch.equal(found, wanted)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    """The embedded base as diffusers opens it."""
    return StableDiffusionPipeline.from_pretrained(EMBEDDED["tiny"])
