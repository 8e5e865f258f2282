"""The library of styles: cards tell what is true, edits touch words only, nothing is lost on the way."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from conftest import random_adapter
from PIL import Image

from difflora.adapters import cards as cards_room
from difflora.adapters import edits as edits_room
from difflora.adapters.adapter import Adapter, Info
from difflora.adapters.cards import card, cards
from difflora.adapters.edits import content_sha256, edit, install, rename, trash
from difflora.adapters.files import load_adapter, read_header, save_adapter, save_tensors, sha256, style_metadata
from difflora.adapters.norms import by_block, squared_norm
from difflora.adapters.thumbnail import clean_thumbnail, thumbnail_in
from difflora.errors import AdapterFileError, DiffloraError, OutputError, RequestError


def picture(kind: str = "PNG", side: int = 300, **how: object) -> bytes:
    """A small picture as bytes."""
    buffer = BytesIO()
    Image.effect_noise((side, side), 60).convert("RGB").save(buffer, format=kind, **how)
    return buffer.getvalue()


@pytest.fixture
def library(tmp_path: Path, model) -> Path:
    """One style with all its words, one that says little, one of another base."""
    folder = tmp_path / "loras"
    folder.mkdir()
    info = Info("ink", model.family, "toy", "inkish")
    words = style_metadata(
        info=info, config={"seed": 1}, captions=["inkish, a cat"], folder="ink", fingerprint="f",
        resolution=32, pictures=9, steps=3, learning_rate=1e-3, thumbnail=picture("WEBP"),
    )  # fmt: skip
    save_adapter(folder / "ink.safetensors", replace(random_adapter(model, 4, 2.0, 1), info=info), words)
    save_adapter(folder / "plain.safetensors", random_adapter(model, 2, 5.0, 2), {})
    other = replace(random_adapter(model, 3, 1.0, 3), info=Info("other", "sd1"))
    save_adapter(folder / "other.safetensors", other, {})
    return folder


def numbers(path: Path) -> bytes:
    """Everything after the header."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


# --- cards


def test_a_card_says_what_the_header_says(library, model):
    ink = {c.name: c for c in cards(library, model.shapes(), model.family)}["ink"]
    assert (ink.trigger, ink.weight, ink.family, ink.base) == ("inkish", 1.0, model.family, "toy")
    assert (ink.rank, ink.pictures, ink.problem) == ("4", "9", "")
    assert ink.layers == len(load_adapter(ink.path, model.shapes()))
    assert ink.size == ink.path.stat().st_size
    assert ink.sha256 == hashlib.sha256(numbers(ink.path)).hexdigest()
    with Image.open(BytesIO(ink.thumbnail)) as small:
        assert small.format == "WEBP" and max(small.size) == 256
    assert "modelspec.thumbnail" not in ink.metadata


def test_a_card_tells_why_a_style_does_not_fit_the_base(library, model):
    found = {c.name: c for c in cards(library, model.shapes(), model.family)}
    assert "family 'sd1'" in found["other"].problem
    assert not any(c.problem for c in cards(library))
    shapes = {path: (shape[0] + 1, *shape[1:]) for path, shape in model.shapes().items()}
    assert "made for another family" in card(library / "ink.safetensors", shapes).problem
    assert not card(library / "ink.safetensors", model.shapes()).problem


def test_a_broken_file_is_a_card_with_a_problem(library, model, tmp_path):
    (library / "cut.safetensors").write_bytes((library / "ink.safetensors").read_bytes()[:500])
    (library / "empty.safetensors").write_bytes(b"")
    (library / ".hidden.safetensors").write_bytes(b"")
    outside = save_adapter(tmp_path / "outside.safetensors", random_adapter(model, 2, 1.0, 4), {})
    (library / "link.safetensors").symlink_to(outside)
    found = {c.name: c for c in cards(library, model.shapes(), model.family)}
    assert list(found) == ["cut", "empty", "ink", "link", "other", "plain"]
    assert "ends inside its header" in found["cut"].problem
    assert "empty" in found["empty"].problem
    assert "leads out" in found["link"].problem and not found["link"].metadata
    assert "no such file" in card(library / "gone.safetensors").problem.lower()
    assert cards(library / "nowhere") == []


def test_a_card_is_read_again_only_when_its_file_or_the_base_changed(library, model, monkeypatch):
    read = []
    monkeypatch.setattr(cards_room, "read_header", lambda path: read.append(path.stem) or read_header(path))
    shapes = model.shapes()
    cards(library, shapes, model.family)
    cards(library, dict(shapes), model.family)
    assert read == ["ink", "other", "plain"]
    edit(library / "ink.safetensors", trigger="blot")
    assert cards(library, shapes, model.family)[0].trigger == "blot"
    assert read[3:] == ["ink"]
    cards(library, shapes, "sd1")
    assert len(read) == 7


def test_a_card_of_a_stranger_is_printable_text_only(tmp_path, model):
    words = {
        "ss_output_name": "x\x1b[31m\n<script>", "modelspec.trigger_phrase": "a\nb\u202e", "key\n": "v\x00" * 5000,
        "difflora.weight": "1e99", "modelspec.thumbnail": "data:image/png;base64,AAAA", "modelspec.date": "\x07",
    }  # fmt: skip
    found = card(save_adapter(tmp_path / "x.safetensors", random_adapter(model, 2, 1.0, 5), words))
    texts = [found.name, found.trigger, found.made, found.family, *found.metadata, *found.metadata.values()]
    assert all(text.isprintable() and len(text) <= 2000 for text in texts)
    assert found.weight == 1.0 and found.thumbnail == b""


@pytest.mark.parametrize(
    ("said", "weight"), [("0.7", 0.7), ("-2", -2.0), ("0", 0.0), ("nan", 1.0), ("11", 1.0), ("much", 1.0)]
)
def test_a_preferred_weight_is_a_number_from_minus_10_to_10_or_one(tmp_path, model, said, weight):
    path = save_adapter(tmp_path / "x.safetensors", random_adapter(model, 2, 1.0, 5), {"difflora.weight": said})
    assert card(path).weight == weight


def test_what_a1111_keeps_beside_a_file_is_read_where_the_file_is_silent(library):
    for name in ("ink", "plain"):
        said = {"activation text": "from beside", "preferred weight": 0.6, "notes": 1}
        (library / f"{name}.json").write_text(json.dumps(said))
    ink, _, plain = cards(library)
    assert (plain.trigger, plain.weight) == ("from beside", 0.6)
    assert (ink.trigger, ink.weight) == ("inkish", 0.6)
    edit(ink.path, trigger="", weight=0.9)
    assert (card(ink.path).trigger, card(ink.path).weight) == ("", 0.9)
    for text in ("[]", "{", '{"preferred weight": 0, "activation text": 5}', '{"preferred weight": "x"}'):
        (library / "plain.json").write_text(text)
        assert (card(plain.path).trigger, card(plain.path).weight) == ("", 1.0)


# --- pictures inside files


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_thumbnail_is_drawn_anew_and_small(kind):
    wide = BytesIO()
    Image.effect_noise((900, 300), 60).convert("RGB").save(wide, format=kind, exif=Image.Exif())
    clean = clean_thumbnail(wide.getvalue())
    with Image.open(BytesIO(clean)) as small:
        assert small.format == "WEBP" and small.size == (256, 85)
    assert thumbnail_in(f"data:image/{kind.lower()};base64,{base64.b64encode(wide.getvalue()).decode()}")


def test_an_odd_thumbnail_is_no_thumbnail():
    sound = picture()
    gif, large, heavy = picture("GIF"), picture(side=1025), sound + bytes(2**20)
    cut, mixed = sound[: len(sound) // 2], sound[:60] + b"\xff" * 40 + sound[100:]
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    for odd in (b"", b"\x89PNG\r\n\x1a\n", gif, large, heavy, cut, mixed, svg):
        assert clean_thumbnail(odd) == b""
    encoded = base64.b64encode(sound).decode()
    for url in ("", "x", encoded, f"data:text/html;base64,{encoded}", f"data:image/png,{encoded}"):
        assert thumbnail_in(url) == b""
    assert thumbnail_in(f"data:image/png;base64,{encoded}!") == b""


# --- edits


def test_an_edit_changes_words_and_no_number(library, model):
    path = library / "ink.safetensors"
    before, content, whole = numbers(path), content_sha256(path), sha256(path)
    edit(path, trigger="  blot  ", weight=0.65, thumbnail=picture(side=64))
    assert numbers(path) == before
    assert content_sha256(path) == content and sha256(path) != whole
    found = card(path, model.shapes(), model.family)
    assert (found.trigger, found.weight, found.problem) == ("blot", 0.65, "")
    assert found.metadata["modelspec.usage_hint"].startswith("Begin the prompt with: blot.")
    assert load_adapter(path, model.shapes(), model.family).info.trigger == "blot"
    with Image.open(BytesIO(found.thumbnail)) as small:
        assert small.size == (64, 64)
    edit(path, thumbnail=b"")
    assert card(path).thumbnail == b"" and card(path).trigger == "blot"


def test_an_edited_file_is_the_file_that_would_have_been_saved_so(tmp_path, model):
    made, words = random_adapter(model, 4, 2.0, 1), {"ss_output_name": "ink", "ss_seed": "7"}
    old = save_adapter(tmp_path / "ink.safetensors", made, words)
    new = rename(old, "blot")
    fresh = words | {"ss_output_name": "blot", "modelspec.title": "blot"}
    assert new.read_bytes() == save_adapter(tmp_path / "fresh.safetensors", made, fresh).read_bytes()


def test_a_foreign_file_keeps_its_rows_when_it_is_edited(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"lora_unet_conv_in.lora_down.weight": torch.randn(2, 4, 3, 3), "odd": torch.randn(5)}
    save_tensors(path, tensors, {"ss_note": "kept"})
    before = read_header(path)
    edit(path, trigger="word")
    after = read_header(path)
    assert after.tensors == before.tensors and after.metadata["ss_note"] == "kept"
    whole = hashlib.sha256(numbers(path)).hexdigest()
    assert after.metadata["sshs_model_hash"] == whole == after.metadata["modelspec.hash_sha256"][2:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": 10.5}, "from -10 to 10"),
        ({"weight": float("nan")}, "from -10 to 10"),
        ({"trigger": "a\nb"}, "one line"),
        ({"trigger": "x" * 121}, "at most 120"),
        ({"thumbnail": b"no picture"}, "a PNG, JPEG or WebP"),
    ],
)
def test_an_edit_that_cannot_be_kept_changes_nothing(library, change, words):
    path = library / "ink.safetensors"
    before = path.read_bytes()
    with pytest.raises(RequestError, match=words):
        edit(path, **change)
    assert path.read_bytes() == before and len(list(library.iterdir())) == 3


def test_an_edit_that_is_interrupted_leaves_the_old_file(library, monkeypatch):
    path = library / "ink.safetensors"
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        edit(path, trigger="x")
    assert path.read_bytes() == before and len(list(library.iterdir())) == 3


# --- rename, trash, install


def test_a_renamed_style_keeps_its_numbers_and_what_lies_beside_it(library):
    (library / "ink.json").write_text('{"preferred weight": 0.5}')
    content = content_sha256(library / "ink.safetensors")
    new = rename(library / "ink.safetensors", "blot 2")
    assert new.name == "blot 2.safetensors" and content_sha256(new) == content
    assert read_header(new).metadata["ss_output_name"] == "blot 2"
    assert card(new).weight == 0.5
    assert sorted(p.name for p in library.iterdir()) == [
        "blot 2.json", "blot 2.safetensors", "other.safetensors", "plain.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "ink", "../out", "a/b", ".x", "", "a:b", "x" * 81])
def test_a_taken_or_bad_name_changes_nothing(library, name):
    before = {p.name: p.read_bytes() for p in library.iterdir()}
    with pytest.raises(RequestError, match="name"):
        rename(library / "ink.safetensors", name)
    assert {p.name: p.read_bytes() for p in library.iterdir()} == before


def test_a_rename_killed_before_its_end_has_lost_nothing(library, monkeypatch):
    content = content_sha256(library / "ink.safetensors")
    real = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "ink.safetensors":
            raise KeyboardInterrupt
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        rename(library / "ink.safetensors", "blot")
    assert {content_sha256(library / f"{n}.safetensors") for n in ("ink", "blot")} == {content}


def test_a_thrown_away_style_lies_in_the_trash_under_its_time(library):
    before = (library / "ink.safetensors").read_bytes()
    gone = trash(library / "ink.safetensors")
    assert gone.parent == library / ".trash" and gone.read_bytes() == before
    assert gone.stem.startswith("ink-20") and [c.name for c in cards(library)] == ["other", "plain"]
    for _ in range(2):
        save_adapter(library / "ink.safetensors", Adapter(load_gone(gone).layers), {})
        trash(library / "ink.safetensors")
    assert len(list((library / ".trash").iterdir())) == 3
    with pytest.raises(OutputError, match="no such file"):
        trash(library / "ink.safetensors")


def load_gone(path: Path) -> Adapter:
    """An adapter of the random model."""
    from conftest import random_model

    return load_adapter(path, random_model().shapes())


def test_an_installed_style_is_the_file_that_was_checked_under_a_free_name(library, model, tmp_path):
    source = save_adapter(tmp_path / "ink.safetensors", random_adapter(model, 3, 7.0, 8), {})
    places = [install(source, library, model.shapes(), model.family) for _ in range(2)]
    assert [p.name for p in places] == ["ink-2.safetensors", "ink-3.safetensors"]
    assert all(p.read_bytes() == source.read_bytes() for p in places) and source.exists()
    odd = source.rename(tmp_path / "my: (style).safetensors")
    assert install(odd, library, model.shapes(), model.family).stem == "my- -style-"
    assert install(odd, library, model.shapes(), model.family, "blot").stem == "blot"


def test_what_cannot_be_loaded_is_not_installed_and_leaves_nothing(library, model, tmp_path, monkeypatch):
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    wrong = save_adapter(tmp_path / "wrong.safetensors", load_gone(library / "plain.safetensors"), {})
    spoilt = wrong.read_bytes()[:-8] + b"\x00\x7e" * 4
    (tmp_path / "spoilt.safetensors").write_bytes(spoilt)
    monkeypatch.setattr(edits_room, "MAX_FILE", len(spoilt) - 1)
    before = sorted(library.rglob("*"))
    with pytest.raises(AdapterFileError, match=r"wrong.safetensors: .* bytes; expected a style of at most 2 GB"):
        install(wrong, library, model.shapes(), model.family)
    monkeypatch.undo()
    for name, shapes, words in (
        ("broken", model.shapes(), "not a safetensors file"),
        ("spoilt", model.shapes(), "not finite"),
        ("wrong", {"unet.conv_in": (1, 1)}, "not in the base"),
        ("gone", model.shapes(), "no such file"),
    ):
        with pytest.raises(AdapterFileError, match=words) as error:
            install(tmp_path / f"{name}.safetensors", library, shapes, model.family)
        assert str(error.value).startswith(str(tmp_path / name))
    with pytest.raises(DiffloraError):
        install(wrong, library, model.shapes(), model.family, "../up")
    assert sorted(library.rglob("*")) == before


# --- norms


def test_a_blocks_norm_is_that_of_its_dense_updates(model, adapters):
    adapter = adapters[0]
    found = by_block({path: squared_norm(update) for path, update in adapter.layers.items()})
    dense = {
        "text encoder": "text_encoder.", "entry": "unet.conv_in", "down 1": "unet.down_blocks.0.",
        "down 2": "unet.down_blocks.1.", "middle": "unet.mid_block.", "up 1": "unet.up_blocks.0.",
        "up 2": "unet.up_blocks.1.",
    }  # fmt: skip
    assert list(found) == list(dense)
    for name, start in dense.items():
        deltas = [f.delta().flatten() for path, f in adapter.layers.items() if path.startswith(start)]
        assert found[name] == pytest.approx(float(torch.cat(deltas).double().norm()), rel=1e-5)
    assert all(squared_norm(f) == pytest.approx(float(f.delta().norm() ** 2)) for f in adapter.layers.values())


def test_blocks_are_named_for_a_large_network_too(adapters):
    factors = next(iter(adapters[0].layers.values()))
    unet = [f"unet.{path}" for path in ("add_embedding.linear_1", "up_blocks.10.x", "up_blocks.2.x", "conv_out")]
    paths = [*unet, "text_encoder_2.text_model.x", "text_encoder.text_model.x", "transformer.x", "unet.conv_out.x"]
    found = by_block(dict.fromkeys(paths, squared_norm(factors)))
    assert list(found) == ["text encoder", "text encoder 2", "time", "up 3", "up 11", "exit", "transformer"]
    assert found["exit"] == pytest.approx(found["time"] * 2**0.5)
