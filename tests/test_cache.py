"""What is kept of pictures and captions between trainings, and what still varies while training."""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import random_model
from PIL import Image
from torch import Tensor

from difflora.adapters import disk
from difflora.config import TrainConfig
from difflora.emphasis import parse
from difflora.errors import ImageFolderError
from difflora.events import Event, Note
from difflora.models.sd import StableDiffusion
from difflora.training import cache, store
from difflora.training.cache import encode
from difflora.training.data import Item, StyleDataset, read_folder
from difflora.training.encoded import Encoded, Group
from difflora.training.wording import features, reworded, tags_of, variants

WORDS = ("red cat", "blue dog", "green fish", "old house")
SIZES = ((64, 64), (96, 48), (64, 64), (48, 96))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures of three shapes."""
    place = tmp_path / "art"
    place.mkdir()
    for seed, (words, size) in enumerate(zip(WORDS, SIZES, strict=True)):
        paint(place / f"{words.replace(' ', '-')}.png", size, seed)
        (place / f"{words.replace(' ', '-')}.txt").write_text(words)
    return place


def paint(path: Path, size: tuple[int, int], seed: int) -> None:
    """A picture of four by four random colours."""
    colours = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(seed)) * 255
    Image.fromarray(colours.byte().numpy()).resize(size).save(path)


class Counted:
    """How much of a model was computed."""

    def __init__(self, model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures = self.texts = 0
        images, words = StableDiffusion.encode_images, StableDiffusion.encode_tokens

        def encode_images(own: StableDiffusion, pixels: Tensor) -> Tensor:
            self.pictures += len(pixels)
            return images(own, pixels)

        def encode_tokens(own: StableDiffusion, cond: dict) -> dict:
            self.texts += 1
            return words(own, cond)

        monkeypatch.setattr(StableDiffusion, "encode_images", encode_images)
        monkeypatch.setattr(StableDiffusion, "encode_tokens", encode_tokens)

    def taken(self) -> tuple[int, int]:
        """(pictures, batches of texts) since the last look."""
        seen, self.pictures, self.texts = (self.pictures, self.texts), 0, 0
        return seen


@pytest.fixture
def counted(model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Counts what the session's model computes."""
    return Counted(model, monkeypatch)


def encoded(model: StableDiffusion, folder: Path, kept: Path | None = None, **changes: object) -> Encoded:
    """A folder at 32 pixels, the text encoder frozen unless told otherwise."""
    more = {name: changes.pop(name) for name in ("mirrored", "report") if name in changes}
    config = TrainConfig(images=folder, **{"text_encoder": False} | changes)
    return encode(model, read_folder(folder, config.trigger), 32, config=config, folder=kept, **more)


def by_name(data: Encoded, folder: Path) -> dict[str, Tensor]:
    """Latents under the names of the files."""
    names = [item.path.name for item in read_folder(folder).items]
    return dict(zip(names, data.latents, strict=True))


def same(a: Encoded, b: Encoded) -> bool:
    """Whether latents and features are equal to the last bit."""
    return (
        all(torch.equal(x, y) for x, y in zip(a.latents, b.latents, strict=True))
        and a.texts.keys() == b.texts.keys()
        and all(torch.equal(value, b.texts[key]) for key, value in a.texts.items())
        and (a.wordings, a.firsts, a.windows) == (b.wordings, b.firsts, b.windows)
    )


def rng(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def rows_in_order(groups: Iterable[Group], key: str = "") -> list[Tensor]:
    """Latents, or one kind of conditioning, in the order of the rows that were asked for."""
    pairs = [
        pair for group in groups for pair in zip(group.places, group.cond[key] if key else group.latents, strict=True)
    ]
    return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]


# What is kept


def test_a_second_training_encodes_nothing_and_gets_the_same_bits(model, folder, tmp_path, counted):
    fresh = encoded(model, folder)
    first = encoded(model, folder, tmp_path / "kept")
    assert counted.taken() == (8, 2)
    second = encoded(model, folder, tmp_path / "kept")
    assert counted.taken() == (0, 0)
    assert same(first, second) and same(first, fresh)


def test_pictures_that_are_kept_are_not_even_decoded(model, folder, tmp_path, monkeypatch):
    first, data = encoded(model, folder, tmp_path / "kept"), read_folder(folder)
    monkeypatch.setattr(cache, "open_picture", None)
    config = TrainConfig(images=folder, text_encoder=False)
    assert same(encode(model, data, 32, config=config, folder=tmp_path / "kept"), first)


def test_the_same_picture_under_another_name_is_not_encoded_again(model, folder, tmp_path, counted):
    before = by_name(encoded(model, folder, tmp_path / "kept"), folder)
    for ending in ("png", "txt"):
        (folder / f"red-cat.{ending}").rename(folder / f"zebra.{ending}")
    counted.taken()
    after = by_name(encoded(model, folder, tmp_path / "kept"), folder)
    assert counted.taken() == (0, 0)
    assert torch.equal(after["zebra.png"], before["red-cat.png"])


def test_another_picture_under_the_same_name_is_encoded_anew(model, folder, tmp_path, counted):
    before = by_name(encoded(model, folder, tmp_path / "kept"), folder)
    paint(folder / "red-cat.png", (64, 64), 99)
    counted.taken()
    after = by_name(encoded(model, folder, tmp_path / "kept"), folder)
    assert counted.taken() == (1, 0)
    assert not torch.equal(after.pop("red-cat.png"), before.pop("red-cat.png"))
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_picture_replaced_while_it_is_encoded_is_not_kept_as_the_one_before(model, folder, tmp_path, monkeypatch):
    whole, opened = (folder / "red-cat.png").read_bytes(), cache.open_picture

    def swapped(path: Path, name: str) -> Image.Image:
        if path.name == "red-cat.png":
            paint(path, (64, 64), 99)
        return opened(path, name)

    monkeypatch.setattr(cache, "open_picture", swapped)
    encoded(model, folder, tmp_path / "kept")
    monkeypatch.undo()
    (folder / "red-cat.png").write_bytes(whole)
    assert same(encoded(model, folder, tmp_path / "kept"), encoded(model, folder))


def test_another_caption_encodes_that_caption_only(model, folder, tmp_path, counted):
    before = encoded(model, folder, tmp_path / "kept")
    (folder / "red-cat.txt").write_text("a tiger")
    counted.taken()
    after = encoded(model, folder, tmp_path / "kept")
    assert counted.taken() == (0, 1)
    assert same(after, encoded(model, folder)) and not same(after, before)


def test_another_base_size_crop_or_side_gets_encodings_of_its_own(model, folder, tmp_path, counted):
    config = TrainConfig(images=folder, text_encoder=False)
    encoded(model, folder, tmp_path / "kept")
    other = random_model(seed=1)
    counted.taken()
    assert same(encoded(other, folder, tmp_path / "kept"), encoded(other, folder))
    assert counted.taken() == (8, 2)
    # Of the kept ones only the mirrored side is missing.
    assert same(encoded(model, folder, tmp_path / "kept", flip=True), encoded(model, folder, flip=True))
    assert counted.taken()[0] == 4 + 8
    encoded(model, folder, tmp_path / "kept", crops=0.25)
    assert counted.taken()[0] == 4
    encode(model, read_folder(folder), 24, config=config, folder=tmp_path / "kept")
    assert counted.taken()[0] == 4


def test_other_settings_of_an_autoencoder_with_the_same_numbers_are_another_one(folder, tmp_path, monkeypatch):
    one, two = random_model(), random_model()
    two.vae.register_to_config(scaling_factor=0.5)
    encoded(one, folder, tmp_path / "kept")
    half = encoded(two, folder, tmp_path / "kept")
    assert same(half, encoded(two, folder))


@pytest.mark.parametrize("damage", ["empty", "cut", "a bit", "of another picture", "a folder", "no tensors"])
def test_what_is_damaged_is_made_again_without_a_word(model, folder, tmp_path, counted, damage):
    fresh = encoded(model, folder, tmp_path / "kept")
    files = sorted((tmp_path / "kept").glob("*.safetensors"))
    whole = [file.read_bytes() for file in files]
    for place, file in enumerate(files):
        data = bytearray(whole[place])
        if damage == "a folder":
            file.unlink()
            file.mkdir()
        elif damage == "of another picture":
            file.write_bytes(whole[place - 1])
        else:
            data[-3] ^= 4
            cases = {"empty": b"", "cut": data[:-7], "a bit": data, "no tensors": b"\x02\0\0\0\0\0\0\0{}"}
            file.write_bytes(cases[damage])
    counted.taken()
    said: list[Event] = []
    assert same(encoded(model, folder, tmp_path / "kept", report=said.append), fresh)
    assert counted.taken() == (4, 1)
    assert not any(isinstance(event, Note) for event in said)
    if damage != "a folder":
        assert [file.read_bytes() for file in files] == whole or same(encoded(model, folder, tmp_path / "kept"), fresh)
        assert counted.taken() == (0, 0)


def test_a_full_disk_keeps_nothing_and_stops_nothing(model, folder, tmp_path, monkeypatch):
    fresh = encoded(model, folder)
    replaced = disk.os.replace

    def full(source: Path, target: Path) -> None:
        if "kept" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr(disk.os, "replace", full)
    assert same(encoded(model, folder, tmp_path / "kept"), fresh)
    assert not list((tmp_path / "kept").iterdir())
    (tmp_path / "file").write_text("")
    assert same(encoded(model, folder, tmp_path / "file" / "kept"), fresh)


def test_beyond_its_size_what_was_used_longest_ago_goes(model, folder, tmp_path, counted, monkeypatch):
    encoded(model, folder, tmp_path / "kept")
    for place, file in enumerate(sorted((tmp_path / "kept").iterdir())):
        disk.os.utime(file, (1000 + place, 1000 + place))
    Path(folder / "green-fish.png").unlink()
    used = encoded(model, folder, tmp_path / "kept")
    newest = [file for file in (tmp_path / "kept").iterdir() if file.stat().st_mtime > 2000]
    monkeypatch.setattr(store, "MOST_BYTES", sum(file.stat().st_size for file in newest))
    encoded(model, folder, tmp_path / "kept")
    assert set((tmp_path / "kept").iterdir()) == set(newest)
    counted.taken()
    assert same(encoded(model, folder, tmp_path / "kept"), used)
    assert counted.taken() == (0, 0)


def test_a_picture_that_went_away_is_named_though_it_is_kept(model, folder, tmp_path):
    data = read_folder(folder)
    encoded(model, folder, tmp_path / "kept")
    (folder / "blue-dog.png").unlink()
    with pytest.raises(ImageFolderError, match="blue-dog.png"):
        encode(model, data, 32, config=TrainConfig(images=folder), folder=tmp_path / "kept")


@pytest.mark.parametrize("kept", [False, True])
def test_order_and_company_change_no_bit_of_a_picture_or_caption(model, folder, tmp_path, kept):
    data, config = read_folder(folder), TrainConfig(images=folder, text_encoder=False)
    together = encode(model, data, 32, config=config, folder=tmp_path / "kept" if kept else None)
    for rows in ([3, 2, 1, 0], [2], [1, 3]):
        some = replace(data, items=tuple(data.items[row] for row in rows))
        alone = encode(model, some, 32, config=config)
        for place, row in enumerate(rows):
            assert torch.equal(alone.latents[place], together.latents[row])
            for key, value in alone.texts.items():
                assert torch.equal(value[alone.firsts[place]], together.texts[key][together.firsts[row]])


def test_every_picture_keeps_its_shape_and_none_is_enlarged(model, folder):
    data = encoded(model, folder)
    shapes = {name: tuple(value.shape) for name, value in by_name(data, folder).items()}
    assert shapes["red-cat.png"] == (1, 4, 8, 8)
    assert shapes["blue-dog.png"][2] < shapes["blue-dog.png"][3]
    assert shapes["old-house.png"][2] > shapes["old-house.png"][3]
    paint(folder / "tiny.png", (24, 16), 5)
    assert tuple(by_name(encoded(model, folder), folder)["tiny.png"].shape) == (1, 4, 4, 6)


# What varies


def test_nothing_varies_unless_asked_for(model, folder):
    config = TrainConfig(images=folder)
    assert (config.flip, config.shuffle_tags, config.tag_dropout, config.crops) == (False, False, 0.0, 0.0)
    data = encoded(model, folder, mirrored=True)
    plain = data.plain(range(4))
    for seed in range(8):
        drawn = data.draw(range(4), rng(seed), 0.0)
        for one, other in zip(drawn, plain, strict=True):
            assert one.places == other.places and torch.equal(one.latents, other.latents)
            assert all(torch.equal(one.cond[key], other.cond[key]) for key in other.cond)


def test_a_showing_depends_on_rows_and_seed_alone_and_as_many_numbers_are_drawn_as_ever(model, folder):
    data = encoded(model, folder)
    ours, theirs = rng(3), rng(3)
    data.draw([0, 1, 2], ours, 0.1)
    torch.rand(3, generator=theirs)
    assert torch.equal(ours.get_state(), theirs.get_state())
    varied = encoded(model, folder, flip=True, crops=0.4, shuffle_tags=True)
    rows = [2, 0, 2, 1, 3]
    one, two = (rows_in_order(varied.draw(rows, rng(5), 0.3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("learning", [False, True])
def test_captions_are_dropped_as_often_as_asked_and_are_then_the_empty_one(model, folder, tmp_path, learning):
    key = "input_ids" if learning else "encoder_hidden_states"
    cond = model.tokenize([""]) if learning else features(model, [""])
    for _ in range(2):
        data = encoded(model, folder, tmp_path / "kept", text_encoder=learning)
        rows = [row % 4 for row in range(400)]
        shown = rows_in_order(data.draw(rows, rng(), 0.25), key)
        empty = [torch.equal(value, cond[key][0]) for value in shown]
        assert 70 < sum(empty) < 130
        own = rows_in_order(data.plain(rows), key)
        assert all(torch.equal(a, b) for a, b, gone in zip(shown, own, empty, strict=True) if not gone)
        assert not any(torch.equal(value, cond[key][0]) for value in rows_in_order(data.draw(rows, rng(), 0.0), key))


@pytest.mark.parametrize("learning", [False, True])
def test_each_of_several_captions_is_shown_and_each_goes_with_its_own_picture(model, folder, learning):
    (folder / "red-cat.txt").write_text("a cat\na tomcat\na pet")
    key = "input_ids" if learning else "encoder_hidden_states"
    data = encoded(model, folder, text_encoder=learning)
    items = read_folder(folder).items
    of = features if not learning else StableDiffusion.tokenize
    for row, item in enumerate(items):
        own = of(model, item.captions)[key]
        shown = rows_in_order(data.draw([row] * 40, rng(), 0.0), key)
        met = {next(i for i, value in enumerate(own) if torch.equal(value, one)) for one in shown}
        assert met == set(range(len(item.captions)))


def test_flip_shows_both_sides_and_mirrored_ones_are_those_of_the_mirrored_picture(model, folder, tmp_path):
    data = encoded(model, folder, tmp_path / "kept", flip=True)
    for row in range(4):
        sides = rows_in_order(data.draw([row] * 20, rng(), 0.0))
        assert {torch.equal(side, data.latents[row][0]) for side in sides} == {True, False}
        assert all(any(torch.equal(side, own) for own in data.latents[row]) for side in sides)
    mirrored = tmp_path / "mirrored"
    mirrored.mkdir()
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored / path.name)
    turned = by_name(encoded(model, mirrored), mirrored)
    # Square pictures: resizing others rounds differently from left and from right.
    for name in ("red-cat.png", "green-fish.png"):
        own = by_name(data, folder)[name][1]
        assert torch.allclose(own, turned[name][0], atol=0.05) and not torch.equal(own, turned["blue-dog.png"][0])


def test_crops_are_windows_of_the_picture_elsewhere_each_time(model, folder):
    data = encoded(model, folder, crops=0.5)
    whole = encoded(model, folder)
    assert data.windows == whole.windows
    assert tuple(data.latents[1].shape[2:]) > data.windows[1]
    for row in range(4):
        shown = rows_in_order(data.draw([row] * 60, rng(), 0.0))
        (high, wide), (h, w) = data.latents[row].shape[2:], data.windows[row]
        corners = [(t, left) for t in range(high - h + 1) for left in range(wide - w + 1)]
        windows = [data.latents[row][0, :, t : t + h, left : left + w] for t, left in corners]
        met = {next(i for i, window in enumerate(windows) if torch.equal(window, one)) for one in shown}
        assert len(met) > len(windows) / 2
        assert {tuple(one.shape[1:]) for one in shown} == {(h, w)}


@pytest.mark.parametrize("crops", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("size", [(32, 32), (40, 33), (500, 700), (96, 48)])
def test_a_picture_is_not_enlarged_for_crops_and_at_most_their_share_is_cut_off(size, crops):
    bucket = cache.bucket_of(size, 32, 8)
    width, height = cache.roomy(size, bucket, crops, 4)
    for side, own, shown in zip((width, height), size, bucket, strict=True):
        assert shown <= side <= max(own, shown)
        assert side % 4 == 0 and 1 - shown / side <= crops + 4 / side


# How captions are worded


def item(*captions: str) -> Item:
    """A picture with these captions."""
    return Item(Path("a.png"), captions[0], captions[1:])


def config(**changes: object) -> TrainConfig:
    """Settings of a training."""
    return TrainConfig(images=Path("art"), **changes)


TAGS = "inkish, one, two, three, four, five, six"


def test_captions_stand_as_they_are_unless_tags_may_move():
    assert variants(item(TAGS, "inkish, plain words"), config(trigger="inkish")) == (TAGS, "inkish, plain words")


def test_shuffled_tags_are_the_same_tags_and_the_front_ones_stay_in_front():
    shown = variants(item(TAGS), config(trigger="inkish", shuffle_tags=True, keep_tags=2))
    assert len(shown) == 16 and len(set(shown)) > 8
    for text in shown:
        assert text.startswith("inkish, one, two, ")
        assert sorted(text.split(", ")) == sorted(TAGS.split(", "))


def test_dropped_tags_are_gone_as_often_as_asked_and_the_front_ones_and_the_order_stay():
    tags, shown = TAGS.split(", "), []
    for seed in range(40):
        shown += variants(item(TAGS), config(trigger="inkish", tag_dropout=0.3, keep_tags=1, seed=seed))
    left = [text.split(", ") for text in shown]
    assert all(some[:2] == tags[:2] and [tag for tag in tags if tag in some] == some for some in left)
    share = 1 - sum(len(some) - 2 for some in left) / (5 * len(left))
    assert 0.25 < share < 0.35


def test_a_trigger_of_several_words_and_commas_stays_whole_in_front():
    shown = variants(item("ink, by hand, a, b, c"), config(trigger="ink, by  hand", shuffle_tags=True))
    assert all(text.startswith("ink, by hand, ") for text in shown) and len(set(shown)) > 3


def test_a_word_that_only_begins_like_the_trigger_is_a_tag():
    shown = variants(item("inkling, a, b, c"), config(trigger="ink", shuffle_tags=True))
    assert {tag for text in shown for tag in text.split(", ")} == {"inkling", "a", "b", "c"}


def test_no_caption_loses_all_its_words():
    shown = variants(item("one, two"), config(tag_dropout=0.9))
    assert all(shown)


def test_wordings_are_a_function_of_seed_and_captions_and_every_caption_has_some():
    how = config(shuffle_tags=True)
    assert variants(item(TAGS), how) == variants(item(TAGS), how)
    assert variants(item(TAGS), how) != variants(item(TAGS), replace(how, seed=1))
    assert {"a" in text for text in variants(item("a, b", "c, d"), how)} == {True, False}


def test_each_of_many_captions_is_shown_though_tags_move():
    many = tuple(f"thing {i}, red" for i in range(20))
    item = Item(Path("a.png"), many[0], many[1:])
    shown = variants(item, TrainConfig(images=Path("x"), shuffle_tags=True))
    assert {re.search(r"thing \d+", text)[0] for text in shown} == {f"thing {i}" for i in range(20)}


def test_weighted_words_move_as_one_tag():
    assert tags_of("a, (red, blue:1.3), (x, y), ((p, q:1.2), r:0.5), b") == [
        "a", "(red, blue:1.3)", "(x", "y)", "((p, q:1.2), r:0.5)", "b",
    ]  # fmt: skip
    shown = reworded("a, (red, blue:1.3), c, d", config(shuffle_tags=True), random.Random(1))
    assert "(red, blue:1.3)" in shown


@pytest.mark.parametrize("learning", [False, True])
def test_shuffled_captions_are_shown_from_what_is_kept(model, folder, tmp_path, counted, learning):
    (folder / "red-cat.txt").write_text("red, cat, sofa, lamp")
    settings = {"text_encoder": learning, "shuffle_tags": True, "trigger": "ink"}
    data = encoded(model, folder, tmp_path / "kept", **settings)
    counted.taken()
    again = encoded(model, folder, tmp_path / "kept", **settings)
    assert counted.taken() == (0, 0) and same(data, again)
    row = [i.path.name for i in read_folder(folder).items].index("red-cat.png")
    key = next(iter(data.texts))
    shown = rows_in_order(again.draw([row] * 60, rng(), 0.0), key)
    assert len({value.numpy().tobytes() for value in shown}) > 8
    first = rows_in_order(again.plain([row]), key)[0]
    of = features if not learning else StableDiffusion.tokenize
    assert torch.equal(first, of(model, ["ink, red, cat, sofa, lamp"])[key][0])


# Weighted words


def text_features(model: StableDiffusion, *captions: str) -> Tensor:
    """(B, tokens, width)."""
    return features(model, captions)["encoder_hidden_states"]


def test_a_weight_of_one_changes_nothing_and_others_change_the_features(model):
    plain, one, more, less = text_features(model, "a red cat", "a (red:1.0) cat", "a (red:1.5) cat", "a (red:0.5) cat")
    assert torch.equal(plain, one) and torch.equal(plain, text_features(model, "a red cat")[0])
    assert torch.isfinite(torch.stack([more, less])).all()
    assert not torch.allclose(plain, more) and not torch.allclose(plain, less) and not torch.allclose(more, less)


def test_a_weight_is_on_its_own_tokens_only(model):
    text, spans = "a red cat on a sofa", ((2, 5, 1.5),)
    told = model.tokenizer(text, padding="max_length", truncation=True, return_offsets_mapping=True)
    weights = model.token_weights(text, spans).tolist()
    assert [weight == 1.5 for weight in weights] == [2 <= start < end <= 5 for start, end in told["offset_mapping"]]
    assert set(weights) == {1.0, 1.5} and len(weights) == model.tokenize([text])["input_ids"].shape[1]


@pytest.mark.parametrize("learning", [False, True])
def test_weighted_captions_train_alike_frozen_and_learning_and_leave_the_others_alone(
    model, folder, tmp_path, learning
):
    plain = encoded(model, folder, text_encoder=learning)
    (folder / "red-cat.txt").write_text("(red:1.4) cat")
    for _ in range(2):
        data = encoded(model, folder, tmp_path / "kept", text_encoder=learning)
        for row, one in enumerate(read_folder(folder).items):
            (group,), (before,) = data.plain([row]), plain.plain([row])
            shown, old = model.encode_tokens(group.cond), model.encode_tokens(before.cond)
            key = "encoder_hidden_states"
            assert torch.equal(shown[key], old[key]) is (one.path.name != "red-cat.png")
            assert torch.equal(shown[key], text_features(model, one.caption))
    assert torch.isfinite(model.loss(group.latents, group.cond, rng())).all()


# Autoencoders that fail in half precision


@pytest.fixture
def overflowing() -> StableDiffusion:
    """A model whose autoencoder works in half precision and overflows on white."""
    made = random_model()
    with torch.no_grad():
        made.vae.encoder.conv_in.weight.abs_().mul_(4e4)
        made.vae.encoder.conv_in.bias.zero_()
    made.vae.half()
    return made


def test_an_autoencoder_that_overflows_in_half_precision_goes_to_float32_for_all_pictures(overflowing, tmp_path):
    place = tmp_path / "art"
    place.mkdir()
    for name, colour in (("a", 127), ("b", 255), ("c", 128)):
        Image.new("RGB", (32, 32), (colour,) * 3).save(place / f"{name}.png")
    said: list[Event] = []
    found = encoded(overflowing, place, tmp_path / "kept", report=said.append)
    notes = [event.text for event in said if isinstance(event, Note)]
    assert len(notes) == 1 and "float32 from now on" in notes[0]
    assert overflowing.vae.dtype == torch.float32
    assert same(found, encoded(overflowing, place))
    # The next process begins in half precision again, and what it had kept is not mixed with the rest.
    overflowing.vae.half()
    assert same(encoded(overflowing, place, tmp_path / "kept"), found)


def test_an_autoencoder_that_is_sound_in_half_precision_stays_in_it(folder):
    made = random_model()
    made.vae.half()
    said: list[Event] = []
    data = encoded(made, folder, report=said.append)
    assert made.vae.dtype == torch.float16 and not any(isinstance(event, Note) for event in said)
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in data.latents)


def test_a_picture_that_no_precision_makes_numbers_of_is_named(folder):
    made = random_model()
    with torch.no_grad():
        made.vae.encoder.conv_in.bias.fill_(float("nan"))
    with pytest.raises(ImageFolderError, match=r"blue-dog\.png: found numbers that are not finite"):
        encoded(made, folder)


def test_a_data_set_without_sizes_is_measured_from_its_pictures(model, folder):
    data, how = read_folder(folder), TrainConfig(images=folder, text_encoder=False)
    bare = StyleDataset(tuple(replace(one, size=(0, 0)) for one in data.items), data.folder, data.found)
    assert same(encode(model, bare, 32, config=how), encode(model, data, 32, config=how))


def test_repeats_are_what_the_folder_says(model, folder):
    place = folder / "3_cats"
    place.mkdir()
    paint(place / "kitten.png", (32, 32), 7)
    data = encoded(model, folder)
    names = [one.path.name for one in read_folder(folder).items]
    assert dict(zip(names, data.repeats, strict=True))["kitten.png"] == 3
    assert sum(data.repeats) == 7 and len(data) == 5


def test_marks_inside_each_other_take_no_time():
    start = time.perf_counter()
    assert parse("(" * 20_000 + "a" + ")" * 20_000).spans == ()
    assert len(tags_of("(a:1.2), " * 5000)) == 5000
    assert time.perf_counter() - start < 5
