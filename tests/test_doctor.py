"""The folder doctor: what is spoilt is found, what is clean is left alone, and nothing is touched."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from difflora.cli import main
from difflora.errors import ImageFolderError, RequestError
from difflora.events import Note
from difflora.training import sight as sights
from difflora.training.data import EXCLUDED, read_excluded, read_folder
from difflora.training.doctor import brief, check, exclude, fix, include
from difflora.training.faults import unlike
from difflora.training.report import page, write_report
from difflora.training.squeezed import block_trace, jpeg_quality
from difflora.training.wordcheck import everywhere, holds, style_words

SAMPLES = Path(__file__).parent.parent / "sample_data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixteen clean pictures with captions of one hand."""
    place = tmp_path / "hand"
    place.mkdir()
    for file in sorted((SAMPLES / "cartoon").iterdir())[:32]:
        shutil.copy(file, place)
    return place


def faults_of(checkup) -> dict[str, set[str]]:
    return {v.path: {fault.name for fault in v.faults} for v in checkup.verdicts if v.faults}


def spoil(folder: Path, name: str, change) -> None:
    path = folder / f"{name}.webp"
    change(Image.open(path).convert("RGB")).save(path, lossless=True)


def as_jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.mark.parametrize("style", ["ink", "fluent3d", "cartoon"])
def test_clean_flat_pictures_are_left_alone(style):
    found = check(SAMPLES / style, side=64)
    assert found.count("exclude") == 0
    assert found.count("look") <= 2
    assert not found.groups


@pytest.mark.parametrize(
    "name, change",
    [
        ("blurred", lambda p: p.filter(ImageFilter.GaussianBlur(2))),
        (
            "enlarged",
            lambda p: p.resize((32, 32), Image.Resampling.LANCZOS).resize((128, 128), Image.Resampling.BICUBIC),
        ),
        ("enlarged", lambda p: p.resize((32, 32)).resize((128, 128), Image.Resampling.NEAREST)),
        ("tiny", lambda p: p.resize((40, 40), Image.Resampling.LANCZOS)),
        ("frame", lambda p: ImageOps.expand(p, 9, (40, 60, 120))),
        ("blank", lambda p: Image.new("RGB", p.size, "white")),
    ],
)
def test_a_spoilt_picture_is_named_with_its_fault_and_no_other_is(folder, name, change):
    spoil(folder, "ant", change)
    found = faults_of(check(folder, side=64))
    assert set(found) == {"ant.webp"}
    assert name in found["ant.webp"]


def test_softness_that_learning_would_not_show_is_no_fault(folder):
    spoil(folder, "ant", lambda p: p.filter(ImageFilter.GaussianBlur(1)).resize((512, 512), Image.Resampling.BICUBIC))
    assert not faults_of(check(folder, side=16))


def test_a_poor_jpeg_is_known_by_its_tables_and_by_its_blocks(folder):
    picture = Image.open(folder / "ant.webp").convert("RGB")
    (folder / "ant.webp").unlink()
    (folder / "ant.jpg").write_bytes(as_jpeg(picture, 12))
    assert jpeg_quality(folder / "ant.jpg") == 12
    assert jpeg_quality(folder / "alien.webp") is None
    (verdict,) = [v for v in check(folder, side=64).verdicts if v.faults]
    assert (verdict.path, verdict.kind, verdict.faults[0].figure) == ("ant.jpg", "exclude", 12)
    rng = np.random.default_rng(0)
    small = Image.fromarray((rng.random((48, 48, 3)) * 120 + 60).astype(np.uint8))
    noisy = small.resize((384, 384), Image.Resampling.BICUBIC)
    noisy = Image.fromarray((np.asarray(noisy) + rng.integers(0, 9, (384, 384, 1))).astype(np.uint8))
    again = Image.open(io.BytesIO(as_jpeg(noisy, 12)))
    traces = [block_trace(np.asarray(p.convert("L"), np.float32)) for p in (noisy, again, again.crop((3, 5, 380, 380)))]
    assert traces[0] < 0.2 and min(traces[1:]) > 0.3


def test_copies_are_grouped_and_all_but_the_best_are_left_out(folder):
    picture = Image.open(folder / "ant.webp").convert("RGB")
    (folder / "b.jpg").write_bytes(as_jpeg(picture, 80))
    (folder / "c.jpg").write_bytes(as_jpeg(picture.resize((100, 100), Image.Resampling.LANCZOS), 90))
    (folder / "d.jpg").write_bytes(as_jpeg(picture.crop((4, 3, 125, 126)), 95))
    found = check(folder, side=64)
    assert [(group[0], set(group)) for group in found.groups] == [("ant.webp", {"ant.webp", "b.jpg", "c.jpg", "d.jpg"})]
    assert {v.path for v in found.verdicts if v.kind == "exclude"} == {"b.jpg", "c.jpg", "d.jpg"}


def test_a_mirrored_copy_deserves_a_look_and_the_same_drawing_in_another_colour_none(folder):
    picture = Image.open(folder / "ant.webp").convert("RGB")
    ImageOps.mirror(picture).save(folder / "mirrored.webp", lossless=True)
    red, green, blue = Image.open(folder / "balloon.webp").convert("RGB").split()
    Image.merge("RGB", (blue, red, green)).save(folder / "recoloured.webp", lossless=True)
    (folder / "copy.jpg").write_bytes(as_jpeg(picture, 90))
    for name in ("mirrored", "recoloured", "copy"):
        (folder / f"{name}.txt").write_text(name)
    copy, verdict = [v for v in check(folder, side=64).verdicts if v.faults]
    assert (copy.path, copy.kind) == ("copy.jpg", "exclude")
    assert verdict.kind == "look" and "mirror" in verdict.reason


def test_the_same_mark_in_a_corner_of_many_pictures_is_found_in_all_of_them(folder):
    def sign(picture: Image.Image) -> Image.Image:
        ImageDraw.Draw(picture).text((2, 116), "mia", (70, 60, 60))
        return picture

    for name in ("airplane", "alien", "balloon", "battery", "basketball"):
        spoil(folder, name, sign)
    found = faults_of(check(folder, side=64))
    assert {path for path, names in found.items() if "mark" in names} >= {
        "alien.webp",
        "balloon.webp",
        "basketball.webp",
    }
    assert all(
        path.removesuffix(".webp") in ("airplane", "alien", "balloon", "battery", "basketball") for path in found
    )


def test_rows_far_from_the_rest_are_unlike_and_a_folder_of_one_kind_has_none():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 40)) @ rng.normal(size=(40, 200))
    assert not any(unlike(rows))
    rows[[3, 7]] += 20 * rng.normal(size=200)
    assert [i for i, found in enumerate(unlike(rows)) if found] == [3, 7]


def test_a_picture_of_another_hand_is_found_with_the_models_eyes(folder, model):
    stranger = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    Image.fromarray(stranger).save(folder / "noise.png")
    (folder / "noise.txt").write_text("noise")
    for file in sorted((SAMPLES / "cartoon").iterdir())[32:100]:
        shutil.copy(file, folder)
    found = faults_of(check(folder, model=model, side=64))
    assert "unlike" in found.pop("noise.png")
    assert not found


def test_a_picture_that_cannot_be_read_is_a_verdict_and_not_the_end(folder):
    (folder / "ant.webp").write_bytes((folder / "ant.webp").read_bytes()[:200])
    (folder / "alien.webp").write_bytes(b"")
    found = check(folder, side=64)
    assert {v.path: v.kind for v in found.verdicts if v.faults} == {"ant.webp": "exclude", "alien.webp": "exclude"}
    assert all("unreadable" in names for names in faults_of(found).values())


def test_caption_holes_and_words_of_style_are_named(folder):
    for text in folder.glob("*.txt"):
        text.write_text(f"a small {text.stem} seen from the left")
    (folder / "ant.txt").unlink()
    (folder / "alien.txt").write_text("alien")
    (folder / "balloon.txt").write_text("an Oil Painting of a balloon, masterpiece")
    found = check(folder)
    names = {"ant.webp": {"no caption"}, "alien.webp": {"short caption"}, "balloon.webp": {"style words"}}
    assert faults_of(found) == names
    assert any("“small”" in note and "“left”" in note for note in found.notes)


def test_style_words_are_whole_phrases():
    assert style_words("Digital art, in the style of x") == ["digital art", "in the style of"]
    assert style_words("a painter's 4kg bag beside a kart") == []
    assert everywhere([f"zor {word}" for word in "abcdefg"]) == [("zor", 7)]
    assert everywhere([f"zor {word}" for word in "abcdefg"], "zor") == []
    assert holds("Zor, a cat", "zor") and not holds("zorro", "zor")


def test_a_trigger_in_most_captions_is_missed_in_the_others(folder):
    for text in folder.glob("*.txt"):
        text.write_text(f"zor, {text.stem}")
    (folder / "ant.txt").write_text("ant")
    assert faults_of(check(folder, trigger="zor")) == {"ant.webp": {"no trigger"}}
    assert any("no trigger given" in note for note in check(folder).notes)


def test_fix_writes_what_training_heeds_and_keeps_lines_written_by_hand(folder):
    before = {file: file.read_bytes() for file in folder.iterdir()}
    (folder / EXCLUDED).write_text("# mine\nalien.webp  # I do not like it\n\n")
    (folder / "again.jpg").write_bytes(as_jpeg(Image.open(folder / "ant.webp").convert("RGB"), 90))
    assert fix(check(folder)) == 1
    assert fix(check(folder)) == 0
    text = (folder / EXCLUDED).read_text()
    assert text.startswith("# mine\nalien.webp  # I do not like it\n") and text.count("again.jpg") == 1
    assert len(read_folder(folder)) == 14 + 1
    assert all(file.read_bytes() == data for file, data in before.items())
    assert check(folder).count("exclude") == 0


def test_include_takes_back_what_exclude_wrote(folder):
    assert exclude(folder, {"ant.webp": "not\nmine", "alien.webp": ""}) == 2
    assert read_excluded(folder) == {"ant.webp": "not mine", "alien.webp": ""}
    assert include(folder, ["ant.webp", "nothing"]) == 1
    assert read_excluded(folder) == {"alien.webp": ""}
    with pytest.raises(RequestError, match="expected one of this folder's pictures"):
        exclude(folder, {"../ant.webp": ""})


def test_pictures_are_measured_once_while_their_files_stay_as_they_are(folder, monkeypatch):
    check(folder)
    opened = []
    monkeypatch.setattr(sights, "measure", lambda *given: opened.append(given) or 1 / 0)
    check(folder)
    assert not opened


def test_brief_says_one_line_when_something_is_wrong_and_nothing_else(folder):
    said: list[Note] = []
    brief(read_folder(folder), said.append)
    assert not [event for event in said if isinstance(event, Note)]
    spoil(folder, "ant", lambda p: p.filter(ImageFilter.GaussianBlur(3)))
    brief(read_folder(folder), said.append)
    (note,) = [event for event in said if isinstance(event, Note)]
    assert "1 of 16 pictures" in note.text and "blurred (1)" in note.text


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ImageFolderError, match="found no pictures"):
        check(tmp_path)


def test_the_report_needs_nothing_but_itself_and_takes_words_as_words(folder, tmp_path):
    nasty = "<img src=x onerror=alert(1)>&\"'.webp"
    shutil.copy(folder / "ant.webp", folder / nasty)
    (folder / "alien.txt").write_text("</style><script>alert(1)</script><!--cards-->")
    found = check(folder, side=64)
    html = write_report(found, tmp_path / "check.html").read_text()
    assert "<script" not in html and "<img src=x" not in html and "&lt;script&gt;" in html
    # Every address in a tag is data:, and no style sheet names one.
    tags = re.findall(r"<[a-z][^>]*>", html)
    assert all("data:image/webp" in tag for tag in tags if re.search(r"\b(src|href|action|on[a-z]+)\s*=", tag))
    assert "url(" not in html and "@import" not in html
    assert html.count("<article") == len(found.verdicts) and html.count("data:image/webp;base64,") == 17 + 2
    assert page(found, {}).count("cannot be shown") == 17 + 2


def test_check_answers_with_rows_and_an_exit_code(folder, capsys, tmp_path):
    main(["check", str(folder), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["kind"] for row in rows if row["event"] == "verdict"] == ["keep"] * 16
    assert rows[-1]["event"] == "checkup" and rows[-1]["exclude"] == 0
    (folder / "again.jpg").write_bytes(as_jpeg(Image.open(folder / "ant.webp").convert("RGB"), 90))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(folder), "--report", str(tmp_path / "r.html")])
    assert ended.value.code == 1
    assert "again.jpg" in capsys.readouterr().out
    main(["check", str(folder), "--fix"])
    assert "again.jpg" in (folder / EXCLUDED).read_text()
