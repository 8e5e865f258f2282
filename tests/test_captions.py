"""Where captions are found, what weights in them mean, and how a model writes those that are missing."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    BartConfig,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2VisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.florence2.processing_florence2 import Florence2Processor

from difflora.cli import main
from difflora.emphasis import MOST, parse
from difflora.errors import BaseModelError, ImageFolderError, RequestError
from difflora.events import Event, Note, Progress
from difflora.models.captioner import open_captioner
from difflora.training.caption import caption_folder
from difflora.training.captions import SOURCES
from difflora.training.contentwords import content_tags, content_words
from difflora.training.data import fingerprint, read_excluded, read_folder
from difflora.training.survey import write_caption


def paint(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), colour).save(path)
    return path


def write(path: Path, text: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def notes(folder: Path, trigger: str | None = None) -> list[str]:
    events: list[Event] = []
    read_folder(folder, trigger, events.append)
    return [event.text for event in events if isinstance(event, Note)]


def learnt(folder: Path) -> dict[str, tuple[str, ...]]:
    return {item.path.stem: item.captions for item in read_folder(folder).items}


def found(folder: Path) -> dict[str, int]:
    return {name: count for name, count in read_folder(folder).found.items() if count and name != "pictures"}


# where captions stand


def test_every_source_is_read_in_the_documented_order_and_counted(tmp_path):
    for i in range(6):
        paint(tmp_path / f"{'abcdef'[i]}.png")
    paint(tmp_path / "10_red_house/001.png")
    for stem in "a":
        write(tmp_path / f"{stem}.txt", "from txt")
    for stem in "ab":
        write(tmp_path / f"{stem}.caption", "from caption")
    for stem in "abc":
        write(tmp_path / f"{stem}.json", {"caption": "from json"})
    rows = [json.dumps({"file_name": f"{stem}.png", "text": "from jsonl"}) for stem in "abcd"]
    write(tmp_path / "metadata.jsonl", "\n".join(rows))
    write(tmp_path / "metadata.csv", "file_name,text\n" + "".join(f"{stem}.png,from csv\n" for stem in "abcde"))
    shared = {stem: {"caption": "from shared"} for stem in "abcde"} | {"f": {"tags": "from, shared"}}
    write(tmp_path / "meta_cap.json", shared)
    paint(tmp_path / "g-name.png")
    assert [texts[0] for texts in learnt(tmp_path).values()] == [
        "red house", "from txt", "from caption", "from json", "from jsonl", "from csv", "from, shared", "g name"
    ]  # fmt: skip
    assert found(tmp_path) == dict.fromkeys(SOURCES, 1)
    said = notes(tmp_path)
    assert any("captions come from txt (1), caption (1)" in text for text in said)
    passed = sum(int(text.split("captions: ")[1].split()[0]) for text in said if "comes first" in text)
    assert passed == 5 + 4 + 3 + 2 + 1


def test_every_line_is_a_caption_and_a_list_is_several(tmp_path):
    for stem in "abcd":
        paint(tmp_path / f"{stem}.png")
    write(tmp_path / "a.txt", "\ufeffa cat\r\n\r\n a  dog \na cat\n")
    write(tmp_path / "b.json", {"captions": ["one", "two"], "tags": ["x", "y"]})
    row = {"file_name": "c.png", "text": ["one", "two"], "caption": "three"}
    write(tmp_path / "metadata.jsonl", json.dumps(row))
    assert learnt(tmp_path) == {"a": ("a cat", "a dog"), "b": ("one, x, y", "two, x, y"), "c": ("one", "two", "three"),
        "d": ("d",)}  # fmt: skip
    assert any("3 pictures with several captions" in text for text in notes(tmp_path))
    assert read_folder(tmp_path, "ink").items[0].captions == ("ink, a cat", "ink, a dog")
    assert read_folder(tmp_path)[0][1] == "a cat"


def test_a_table_may_have_quotes_commas_and_a_byte_order_mark(tmp_path):
    paint(tmp_path / "a.png"), paint(tmp_path / "sub/b.png")
    write(
        tmp_path / "metadata.csv",
        '\ufefffile_name,text,size\r\na.png,"a cat, ""big"",\nand a dog",3\r\nsub/b.png,b b,4\r\n',
    )
    assert learnt(tmp_path) == {"a": ('a cat, "big", and a dog',), "b": ("b b",)}


CSV, META = "metadata.csv", "meta_cap.json"
BAD = {
    "an unquoted comma": (CSV, "file_name,text\na.png,a cat, a dog\n", "line 2: found more fields"),
    "another header": (CSV, "file;text\na.png;a\n", "the header 'file;text'"),
    "an open quote": (CSV, 'file_name,text\na.png,"a cat\n', "no table"),
    "a row without words": (CSV, "file_name,text\na.png\n", "line 2: found no file_name or no text"),
    "a row for another picture": (CSV, "file_name,text\nb.png,b\n", "line 2: found file_name 'b.png'"),
    "a row again": (CSV, "file_name,text\na.png,b\na.png,c\n", "a.png a second time"),
    "shared captions that are no JSON": (META, "{", "meta_cap.json: found no JSON"),
    "a picture told twice": (META, '{"a": {"caption": "x"}, "a.png": "y"}', "a.png a second time"),
    "a picture's JSON cut short": ("a.json", '{"caption": "x', "a.json: found no JSON"),
    "a picture's JSON of nothing": ("a.json", '{"caption": " "}', "a.json: found an empty caption"),
    "nested without end": (META, "[" * 100_000, "meta_cap.json: found no JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_caption_file_is_refused_by_name(tmp_path, case):
    name, text, message = BAD[case]
    paint(tmp_path / "a.png"), write(tmp_path / name, text)
    with pytest.raises(ImageFolderError) as caught:
        read_folder(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_shared_captions_name_pictures_with_or_without_ending_or_by_paths_of_another_machine(tmp_path):
    for name in ("a.png", "b.png", "5_x/c.png", "sub/d.png", "sub/e.png", "e.png"):
        paint(tmp_path / name)
    keys = ["a", "b.png", "C:\\train\\5_x\\c.png", "/home/x/train/d", "sub/e", "gone"]
    write(
        tmp_path / "meta_lat.json", {key: {"caption": key[-1], "tags": "t", "train_resolution": [1, 2]} for key in keys}
    )
    texts = {item.path.relative_to(tmp_path).as_posix(): item.caption for item in read_folder(tmp_path).items}
    assert texts == {"a.png": "a, t", "b.png": "g, t", "5_x/c.png": "g, t", "sub/d.png": "d, t", "sub/e.png": "e, t",
        "e.png": "e"}  # fmt: skip
    assert any("1 in meta_lat.json not used, as no picture has that name: 'gone'" in text for text in notes(tmp_path))


def test_a_caption_file_that_is_not_used_is_always_said(tmp_path):
    paint(tmp_path / "a.png"), paint(tmp_path / "c.png")
    for name, text in (
        ("a.txt", "a"), ("a.caption", "b"), ("lonely.txt", "c"), ("sub/lost.caption", "d"), ("c.json", {"seed": 1}),
        ("package.json", {"name": "x"}), ("train.jsonl", "{}"), ("table.csv", "a,b"),
    ):  # fmt: skip
        write(tmp_path / name, text)
    said = " | ".join(notes(tmp_path))
    for name in ("a.caption", "lonely.txt", "sub/lost.caption", "4 not used", "and 1 more"):
        assert name in said, name
    strange = [text for text in notes(tmp_path) if "4 not used" in text]
    assert "package.json" in strange[0] and learnt(tmp_path)["c"] == ("c",)
    (tmp_path / "a.caption").unlink(), (tmp_path / "c.json").unlink()
    for name in ("lonely.txt", "sub/lost.caption", "package.json", "train.jsonl", "table.csv"):
        (tmp_path / name).unlink()
    write(tmp_path / "c.txt", "c")
    assert notes(tmp_path) == []


def test_a_numbered_folder_repeats_its_pictures_and_lends_its_words(tmp_path):
    for name in ("10_ink cat/001.png", "3_line/x.png", "2024_sketches/dog.png", "0_zero/fish.png", "plain/bird.png"):
        paint(tmp_path / name)
    write(tmp_path / "3_line/x.txt", "an own one")
    items = {item.path.parent.name: (item.caption, item.repeats) for item in read_folder(tmp_path).items}
    assert items == {
        "10_ink cat": ("ink cat", 10), "3_line": ("an own one", 3), "2024_sketches": ("dog", 1), "0_zero": ("fish", 1),
        "plain": ("bird", 1),
    }  # fmt: skip
    assert any("10_ink cat 10 times, 3_line 3 times" in text for text in notes(tmp_path))


def test_every_caption_and_repeat_counts_in_the_fingerprint_and_plain_folders_keep_theirs(tmp_path):
    import hashlib

    picture = paint(tmp_path / "in/a.png")
    text = write(tmp_path / "in/a.txt", "one")
    plain = hashlib.sha256(hashlib.sha256(picture.read_bytes()).digest() + hashlib.sha256(b"one").digest()).hexdigest()
    assert fingerprint(read_folder(tmp_path / "in")) == plain
    marks = [plain]
    for words in ("one\ntwo", "one\nthree"):
        write(text, words)
        marks.append(fingerprint(read_folder(tmp_path / "in")))
    write(text, "one")
    (tmp_path / "in").rename(tmp_path / "5_in")
    marks.append(fingerprint(read_folder(tmp_path)))
    assert len(set(marks)) == 4


# excluded.txt


def test_an_excluded_picture_is_not_even_decoded_and_the_rest_is_learnt(tmp_path):
    for name in ("a.png", "b.jpg", "sub/c.png"):
        paint(tmp_path / name)
    write(tmp_path / "sub/broken.png", "no picture"), write(tmp_path / "#1.png", "no picture")
    write(tmp_path / "b.png", "no picture"), write(tmp_path / "b.txt", "for b.jpg")
    write(tmp_path / "metadata.jsonl", '{"file_name": "sub/broken.png", "text": "known"}')
    lines = "\ufeff# by hand\n\nsub/broken.png  # blurred\r\n./#1.png\nb.png\nb.png\ngone.png\n"
    write(tmp_path / "excluded.txt", lines)
    assert learnt(tmp_path) == {"a": ("a",), "b": ("for b.jpg",), "c": ("c",)}
    said = notes(tmp_path)
    assert any("3 pictures left out, as excluded.txt says" in text for text in said)
    assert any("'gone.png' named there, but no such picture" in text for text in said)
    assert not any("excluded.txt" in text and "not used" in text for text in said)
    assert read_excluded(tmp_path) == {"sub/broken.png": "blurred", "./#1.png": "", "b.png": "", "gone.png": ""}


def test_an_excluded_picture_takes_no_caption_from_one_of_the_same_name(tmp_path):
    for name in ("a.png", "a.jpg"):
        paint(tmp_path / name)
    write(tmp_path / "captions.json", '{"a": "words"}'), write(tmp_path / "excluded.txt", "a.jpg\n")
    assert learnt(tmp_path) == {"a": ("words",)}
    write_caption(tmp_path, "a.png", "better words")
    assert learnt(tmp_path) == {"a": ("better words",)}


def test_pictures_that_cannot_be_read_and_links_to_folders_are_always_said(tmp_path):
    paint(tmp_path / "art" / "a.png"), paint(tmp_path / "more" / "b.png")
    for name in ("c.TIF", "d.heic", "notes.md"):
        write(tmp_path / "art" / name, "x")
    (tmp_path / "art" / "linked").symlink_to(tmp_path / "more")
    said = notes(tmp_path / "art")
    assert any("2 not read" in text and "c.TIF" in text and "d.heic" in text for text in said)
    assert any("links" in text and "linked" in text for text in said)
    assert not any("notes.md" in text for text in said)


def test_a_folder_of_which_everything_is_excluded_is_refused(tmp_path):
    paint(tmp_path / "a.png"), write(tmp_path / "excluded.txt", "a.png")
    with pytest.raises(ImageFolderError, match="naming every picture"):
        read_folder(tmp_path)


# weights


@pytest.mark.parametrize(
    ("text", "plain", "spans"),
    [
        ("a (red:1.3) cat", "a red cat", ((2, 5, 1.3),)),
        ("a cat (sitting)", "a cat (sitting)", ()),
        (r"a \(red:1.3\) cat", "a (red:1.3) cat", ()),
        ("((red:1.5) cat:2) x", "red cat x", ((0, 3, 3.0), (3, 7, 2.0))),
        ("((red:4):4)", "red", ((0, 3, MOST),)),
        ("(x (y) z: .5 )", "x (y) z", ((0, 7, 0.5),)),
        ("(a:0)", "a", ((0, 1, 0.0),)),
        ("(a:1)(b:1.0)", "ab", ()),
        ("(at 10:30) (:1.3) (a:-1) (b:x)", "(at 10:30) (:1.3) (a:-1) (b:x)", ()),
        ("a) b:1.2) ((c:1.2", "a) b:1.2) ((c:1.2", ()),
        ("猫(犬:1.25)です", "猫犬です", ((1, 2, 1.25),)),
        ("", "", ()),
    ],
)
def test_weighted_words_are_taken_out_and_all_else_is_words(text, plain, spans):
    assert (parse(text).text, parse(text).spans) == (plain, spans)


# content, not style


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a painting of a cat", "a cat"),
        ("A black and white drawing of a cat, in a cartoon style.", "a cat."),
        ("a colorful, hand-drawn illustration of two birds", "two birds"),
        ("This is a digital painting of a woman with a hat.", "a woman with a hat."),
        ("the image shows a dog in the style of van gogh, running", "a dog, running"),
        ("In this image, there is a house. The overall style is minimalist.", "a house."),
        ("this is a picture of a painting of a lion", "a lion"),
        ("an old man in black and white", "an old man"),
        ("vector illustration of a tree, clip art", "a tree"),
        ("a drawing", ""),
        ("A photograph.", ""),
        ("a woman drawing a cat", "a woman drawing a cat"),
        ("an artist painting a house", "an artist painting a house"),
        ("a cat sitting on a picture frame", "a cat sitting on a picture frame"),
        ("a white and black cat, a red ball", "a white and black cat, a red ball"),
        ("the art museum of paris", "the art museum of paris"),
        ("a flat tire", "a flat tire"),
        ("people in vintage cars", "people in vintage cars"),
        ("a knight in black and white armor", "a knight in black and white armor"),
        ("a man covered in oil", "a man covered in oil"),
        ("a cat done in ink, sleeping", "a cat, sleeping"),
        ("a desk, a lamp, a poster", "a desk, a lamp, a poster"),
        ("", ""),
    ],
)
def test_words_on_the_style_are_taken_out_and_words_on_the_things_stay(said, kept):
    assert content_words(said) == kept
    assert content_words(kept) == kept


def test_tags_are_listed_once_without_style_bullets_and_numbers():
    assert content_tags("1girl, cat, digital art, Cat, black and white, masterpiece") == "1girl, cat"
    assert content_tags("- cat\n- red hat\n* drawing\n3. 2 trees.") == "cat, red hat, 2 trees"


def test_taking_words_out_takes_no_time_whatever_a_model_says():
    start = time.perf_counter()
    for said in ("a " * 3000, "very " * 1000 + "cat", "colorful and, " * 500, "(" * 3000, "the image of " * 500):
        content_words(said), content_tags(said), parse(said)
    assert time.perf_counter() - start < 5


# a model that writes them


@dataclass
class Fake:
    """Says the picture's corner colour, and keeps what it was asked."""

    seen: list[int] = field(default_factory=list)
    answer: str = "a drawing of a {}"

    def question(self, mode: str, prompt: str | None = None) -> str:
        return prompt or mode

    def describe(self, pictures, question="", length=0):
        self.seen.append(len(pictures))
        names = {(255, 0, 0): "rose", (0, 0, 255): "sea", (0, 128, 0): "leaf"}
        return [self.answer.format(names[picture.getpixel((0, 0))]) for picture in pictures]


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    folder = tmp_path / "garden"
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "green"), ("d", "red"), ("e", "blue")):
        paint(folder / f"{name}.png", colour)
    write(folder / "b.txt", "an own one"), write(folder / "c.txt", " \n")
    write(folder / "metadata.jsonl", '{"file_name": "d.png", "text": "also own"}')
    return folder


def test_pictures_without_a_caption_get_one_and_the_others_keep_theirs(garden):
    events: list[Event] = []
    done = caption_folder(garden, Fake(), prefix="icon of", batch=2, report=events.append)
    assert learnt(garden) == {"a": ("icon of a rose",), "b": ("an own one",), "c": ("icon of a leaf",),
        "d": ("also own",), "e": ("icon of a sea",)}  # fmt: skip
    assert done.row() == {"written": ["a.png", "c.png", "e.png"], "had_one": 2, "refused": [], "left": 0}
    counts = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert counts == [(2, 3), (3, 3)] and events[-1].eta == 0
    assert not list(garden.glob("*.tmp"))
    assert caption_folder(garden, Fake()).row()["written"] == []
    again = caption_folder(garden, Fake(), overwrite=True, mode="full")
    assert len(again.written) == 5 and learnt(garden)["d"] == ("a drawing of a rose",)


def test_a_stop_between_batches_keeps_what_is_written_and_the_next_call_goes_on(garden):
    fake = Fake()
    done = caption_folder(garden, fake, batch=1, stop=lambda: bool(fake.seen))
    assert (len(done.written), done.left) == (1, 2) and (garden / "a.txt").read_text() == "a rose\n"
    assert [path.name for path in caption_folder(garden, Fake()).written] == ["c.png", "e.png"]


def test_what_cannot_be_described_is_said_and_stops_nothing(garden):
    write(garden / "a.png", "broken"), paint(garden / "twin.png"), paint(garden / "twin.jpg"), paint(garden / "x.png")
    paint(garden / "excluded.png"), write(garden / "excluded.txt", "x.png  # blurred\n")
    done = caption_folder(garden, Fake())
    assert [path.name for path in done.written] == ["c.png", "e.png"]
    told = " | ".join(done.refused)
    assert len(done.refused) == 4 and all(name in told for name in ("a.png", "twin.jpg", "twin.png", "excluded.png"))
    assert not (garden / "x.txt").exists() and read_excluded(garden) == {"x.png": "blurred"}
    style_only = caption_folder(garden, Fake(answer="a drawing"), overwrite=True)
    assert style_only.written == () and "nothing but style" in style_only.refused[1]
    assert (garden / "b.txt").read_text() == "an own one"


def words(*extra: str) -> BertTokenizer:
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *extra, "a", "cat", "dog", "house", "red", "tree"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(listed)})
    tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    return tokenizer


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
EYE = SMALL | {"num_hidden_layers": 2, "image_size": 32, "patch_size": 16, "projection_dim": 16}


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    """A BLIP of random numbers: it is told nothing, and says something."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "blip", words("[DEC]")
    torch.manual_seed(0)
    text = SMALL | {"encoder_hidden_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 256}
    text |= {"vocab_size": len(tokenizer), "bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=EYE))
    # It always says something.
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[:6] = -100
        model.text_decoder.cls.predictions.decoder.bias[:6] = -100
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    """A LLaVA of random numbers: it is asked in words."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "llava", words("<image>")
    torch.manual_seed(0)
    text = LlamaConfig(**SMALL, num_hidden_layers=1, num_key_value_heads=2, vocab_size=len(tokenizer), bos_token_id=2,
        eos_token_id=3, pad_token_id=0)  # fmt: skip
    config = LlavaConfig(vision_config=CLIPVisionConfig(**EYE), text_config=text, image_token_index=5)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    eye = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(eye, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=template,
        num_additional_image_tokens=1).save_pretrained(folder)  # fmt: skip
    return folder


PAIR = [Image.effect_noise((40, 30), 90).convert("RGB"), Image.new("RGB", (30, 50), "blue")]


def test_a_model_without_questions_says_the_same_of_a_picture_alone_in_a_batch_and_again(blip):
    model = open_captioner(str(blip), "cpu")
    assert model.asked == "not at all" and model.question("content") == ""
    both = model.describe(PAIR)
    assert both == [model.describe([picture])[0] for picture in PAIR] == model.describe(PAIR)
    assert all(text and set(text.split()) <= {"a", "cat", "dog", "house", "red", "tree"} for text in both)
    with pytest.raises(RequestError, match="--mode tags"):
        model.question("tags")
    begun = model.describe(PAIR, model.question("tags", "a cat"))
    assert not any(text.startswith("a cat") for text in begun)


def test_a_model_that_is_asked_answers_without_repeating_the_question(llava):
    model = open_captioner(str(llava), "cpu")
    assert model.asked == "in words" and "style" in model.question("content") and model.question("tags")
    both = model.describe(PAIR, "a cat a dog", 5)
    assert all(len(text.split()) <= 5 for text in both)
    assert both == [model.describe([picture], "a cat a dog", 5)[0] for picture in PAIR]


def test_a_model_asked_by_task_gets_its_task_and_answers(tmp_path):
    listed = ["<s>", "<pad>", "</s>", "<unk>", "<image>", "what", "does", "the", "image", "describe", "?", "cat", "dog"]
    marks = {"unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<unk>"}
    tokenizer = BertTokenizer(
        vocab={word: i for i, word in enumerate(listed)}, bos_token="<s>", eos_token="</s>", **marks,
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    eye = Florence2VisionConfig(
        embed_dim=[8, 8, 16, 16], depths=[1] * 4, num_heads=[1, 1, 2, 2], num_groups=[1, 1, 2, 2], projection_dim=16,
        window_size=4,
    )  # fmt: skip
    text = BartConfig(
        vocab_size=len(listed), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Florence2ForConditionalGeneration(Florence2Config(text_config=text, vision_config=eye, image_token_id=4))
    reader = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    # 64 pixels become 2 x 2 cells, and one for the whole.
    reader.image_seq_length = 5
    model.save_pretrained(tmp_path), Florence2Processor(reader, tokenizer).save_pretrained(tmp_path)
    florence = open_captioner(str(tmp_path), "cpu")
    questions = [florence.question(mode) for mode in ("content", "full")]
    assert florence.asked == "by task" and questions == ["<CAPTION>", "<MORE_DETAILED_CAPTION>"]
    assert florence.question("tags", "<GENERATE_TAGS>") == "<GENERATE_TAGS>"
    assert len(florence.describe(PAIR, "<CAPTION>", 8)) == 2
    with pytest.raises(RequestError, match="--mode tags"):
        florence.question("tags")


def test_what_is_no_captioning_model_is_refused_in_one_line(tmp_path, toy_folder):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for name in (str(tmp_path), str(toy_folder), "/no/where", "./nowhere", "nobody/nothing"):
        with pytest.raises(BaseModelError, match="--with") as caught:
            open_captioner(name, "cpu")
        assert "\n" not in str(caught.value) and "expected" in str(caught.value)


def test_a_model_that_needs_another_package_says_which(tmp_path):
    words().save_pretrained(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    write(settings, json.loads(settings.read_text()) | {"chat_template": "x"})
    write(tmp_path / "config.json", {"model_type": "qwen2_vl"})
    reader = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    write(tmp_path / "preprocessor_config.json", reader)
    with pytest.raises(BaseModelError, match="it needs torchvision, which is not installed"):
        open_captioner(str(tmp_path), "cpu")


def test_the_command_writes_editable_captions_and_says_what_it_lacks(garden, blip, capsys):
    main(["caption", str(garden), "--with", str(blip), "--mode", "full", "--prefix", "words", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["event"] == "captions" and lines[-1]["written"] == ["a.png", "c.png", "e.png"]
    assert all(learnt(garden)[stem][0].startswith("words") for stem in "ace")
    for flags, message in (
        ([], "--with is missing"), (["--with", str(blip), "--batch", "0"], "--batch 0"),
        (["--with", str(blip), "--mode", "tags", "--overwrite"], "--mode tags"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(["caption", str(garden), *flags])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and message in said and said.count("\n") == 1
