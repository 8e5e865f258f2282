"""A folder is shown with all its faults, mended in place, and filled from what was dropped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from difflora.errors import ImageFolderError, RequestError
from difflora.events import Progress
from difflora.training.data import read_folder
from difflora.training.dropped import clean_name, copy_in
from difflora.training.survey import Survey, survey, write_caption


def paint(path: Path, colour: str = "red", size: tuple[int, int] = (24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(found: Survey) -> dict[str, str]:
    return {picture.path: picture.problem for picture in found.pictures if picture.problem}


def captions(found: Survey) -> dict[str, str]:
    return {picture.path: picture.caption for picture in found.pictures}


# looking


def test_every_picture_is_shown_with_its_caption_its_size_and_what_is_wrong(tmp_path):
    write(paint(tmp_path / "cat.png").with_suffix(".txt"), "a  cat\n")
    paint(tmp_path / "sub/red_dog.jpg", "blue", (40, 30))
    write(tmp_path / "broken.png", b"\x89PNG\r\n\x1a\nnothing")
    paint(tmp_path / "tiny.png", "green", (4, 4))
    write(paint(tmp_path / "empty.png", "black").with_suffix(".txt"), "")
    paint(tmp_path / "001.webp", "white")
    found = survey(tmp_path)
    assert [p.path for p in found.pictures] == [
        "001.webp", "broken.png", "cat.png", "empty.png", "sub/red_dog.jpg", "tiny.png"
    ]  # fmt: skip
    cat, dog = found.pictures[2], found.pictures[4]
    assert (cat.caption, cat.source, cat.width, cat.height, cat.problem) == ("a cat", "txt", 24, 20, "")
    assert (dog.caption, dog.source, dog.width, dog.height) == ("red dog", "file name", 40, 30)
    wrong = problems(found)
    assert set(wrong) == {"001.webp", "broken.png", "empty.png", "tiny.png"}
    assert "damaged" in wrong["broken.png"] and "4 x 4" in wrong["tiny.png"] and "empty" in wrong["empty.png"]
    assert "no caption" in wrong["001.webp"] and not any("\n" in text for text in wrong.values())
    assert "001.webp" not in problems(survey(tmp_path, trigger="ink"))
    assert captions(survey(tmp_path, trigger="ink"))["cat.png"] == "a cat"


def test_a_folder_is_ready_exactly_when_training_would_take_it(tmp_path):
    paint(tmp_path / "cat.png")
    assert survey(tmp_path).ready and read_folder(tmp_path)
    write(tmp_path / "metadata.jsonl", '{"file_name": "dog.png", "text": "a dog"}\nnonsense\n')
    found = survey(tmp_path)
    assert len(found.notes) == 2 and "line 1" in found.notes[0] and "line 2" in found.notes[1]
    assert not found.ready and not problems(found)
    (tmp_path / "metadata.jsonl").unlink()
    write(tmp_path / "dog.png", b"")
    assert not survey(tmp_path).ready
    with pytest.raises(ImageFolderError):
        read_folder(tmp_path)


def test_several_captions_are_lines_and_every_source_is_named(tmp_path):
    for name in ("a.png", "b.png", "c.png", "5_d/1.png"):
        paint(tmp_path / name, name[0] == "a" and "red" or "blue", (20 + len(name), 20 + ord(name[0]) % 7))
    write(tmp_path / "a.txt", "one\ntwo\n")
    write(tmp_path / "metadata.csv", "file_name,text\nb.png,three\n")
    write(tmp_path / "meta_cap.json", '{"c": {"caption": "four", "tags": "five"}}')
    found = survey(tmp_path)
    assert [(p.caption, p.source) for p in found.pictures] == [
        ("d", "folder name"), ("one\ntwo", "txt"), ("three", "metadata.csv"), ("four, five", "shared json")
    ]  # fmt: skip
    assert found.ready and found.notes == ()
    write(tmp_path / "lonely.txt", "words")
    assert "lonely.txt" in survey(tmp_path).notes[0]


def test_an_excluded_picture_is_shown_as_one_and_stops_nothing(tmp_path):
    paint(tmp_path / "a.png"), paint(tmp_path / "b.png"), write(tmp_path / "c.png", b"broken")
    write(tmp_path / "excluded.txt", "a.png  # twin\nc.png\n")
    found = survey(tmp_path)
    assert [p.excluded for p in found.pictures] == [True, False, True] and found.ready
    assert list(problems(found)) == ["c.png"] and "2 pictures left out" in found.notes[0]
    write(tmp_path / "excluded.txt", "a.png\nb.png\nc.png")
    assert not survey(tmp_path).ready
    paint(tmp_path / "excluded.png")
    with pytest.raises(RequestError, match="names pictures to pass over"):
        write_caption(tmp_path, "excluded.png", "words")


def test_a_copy_of_a_picture_is_named_on_the_second_one_and_stops_nothing(tmp_path):
    write(tmp_path / "b.png", paint(tmp_path / "a.png").read_bytes())
    paint(tmp_path / "c.png", "blue")
    found = survey(tmp_path)
    assert list(problems(found)) == ["b.png"] and "a.png" in problems(found)["b.png"]
    assert found.ready and not any(picture.refused for picture in found.pictures)


def test_an_empty_folder_is_said_and_a_missing_one_is_refused(tmp_path):
    found = survey(tmp_path)
    assert found.pictures == () and "no pictures" in found.notes[0] and not found.ready
    with pytest.raises(ImageFolderError, match="nothing there"):
        survey(tmp_path / "nowhere")


# captions


def test_a_caption_written_is_the_caption_learnt_wherever_the_old_one_stood(tmp_path):
    for name, old in (("a.png", "a.txt"), ("b.png", "b.caption"), ("sub/c.png", "sub/c.TXT"), ("d.png", "")):
        paint(tmp_path / name)
        if old:
            write(tmp_path / old, "an old one")
    write(tmp_path / "metadata.jsonl", '{"file_name": "d.png", "text": "an old one"}')
    for name in ("a.png", "b.png", "sub/c.png", "d.png"):
        write_caption(tmp_path, name, f" new  words for {name}\r\n\n and\tothers ")
        assert captions(survey(tmp_path))[name] == f"new words for {name}\nand others"
    assert read_folder(tmp_path).items[0].captions == ("new words for a.png", "and others")
    assert (tmp_path / "b.caption").read_text() == "an old one"
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_caption_is_written_only_for_a_picture_of_the_folder_and_never_empty(tmp_path):
    folder = tmp_path / "in"
    paint(folder / "a.png"), paint(tmp_path / "out.png"), paint(folder / ".hidden.png")
    write(folder / "notes.md", "")
    outside = str(tmp_path / "out.png")
    for name in ("../out.png", outside, "./a.png", "a.txt", "notes.md", ".hidden.png", "", "a.png\x00"):
        with pytest.raises(RequestError, match="this folder's pictures"):
            write_caption(folder, name, "words")
    with pytest.raises(RequestError, match="empty"):
        write_caption(folder, "a.png", " \n ")
    paint(folder / "a.jpg")
    with pytest.raises(RequestError, match=r"a.jpg and a.png"):
        write_caption(folder, "a.png", "words")
    assert not list(tmp_path.rglob("*.txt"))


def test_a_link_in_a_captions_place_is_replaced_and_not_followed(tmp_path):
    paint(tmp_path / "in/a.png")
    target = write(tmp_path / "secret.txt", "keep")
    (tmp_path / "in/a.txt").symlink_to(target)
    write_caption(tmp_path / "in", "a.png", "words")
    assert target.read_text() == "keep" and (tmp_path / "in/a.txt").read_text() == "words\n"


# dropping


def test_dropped_files_become_a_folder_that_training_takes(tmp_path):
    drop, folder = tmp_path / "drop", tmp_path / "data/ink"
    files = [paint(drop / "cat.png"), write(drop / "cat.txt", "a cat"), paint(drop / "dog.JPG", "blue")]
    files += [write(drop / "dog.caption", "a dog"), paint(drop / "x:fish?.webp", "green")]
    files += [write(drop / "train.jsonl", '{"file_name": "images/x:fish?.webp", "text": "a fish"}\n')]
    seen = []
    found = copy_in(files, folder, report=seen.append)
    assert found.ready and found.notes == ()
    assert captions(found) == {"cat.png": "a cat", "dog.jpg": "a dog", "x_fish_.webp": "a fish"}
    assert len(read_folder(folder)) == 3
    assert Progress("copying pictures", 6, 6) in seen


def test_pictures_of_the_same_name_are_numbered_each_with_its_own_caption(tmp_path):
    files = []
    for place, colour in (("one", "red"), ("two", "blue")):
        files += [paint(tmp_path / place / "cat.png", colour), write(tmp_path / place / "cat.txt", f"a {colour} cat")]
    files.append(paint(tmp_path / "three/cat.jpg", "green"))
    found = copy_in(files, tmp_path / "data")
    by_colour = {}
    for picture in found.pictures:
        with Image.open(tmp_path / "data" / picture.path) as image:
            by_colour[image.convert("RGB").getpixel((0, 0))] = picture.caption
    assert by_colour == {(255, 0, 0): "a red cat", (0, 0, 255): "a blue cat", (0, 128, 1): "cat"}
    apart = [paint(tmp_path / f"{colour}/dog.png", colour) for colour in ("red", "blue")]
    unclear = copy_in([*apart, write(tmp_path / "text/dog.txt", "whose")], tmp_path / "other")
    assert "2 pictures of that name" in unclear.notes[0] and set(captions(unclear).values()) == {"dog"}
    more = copy_in([paint(tmp_path / "four/Cat.png", "white")], tmp_path / "data")
    assert len(more.pictures) == 4 and more.ready and len({p.path.lower() for p in more.pictures}) == 4


def test_what_is_refused_is_named_and_the_rest_is_kept(tmp_path):
    drop = tmp_path / "drop"
    files = [paint(drop / "good.png"), write(drop / "bad.png", b"GIF89a"), write(drop / "run.exe", "MZ")]
    files += [write(drop / "lonely.txt", "words"), write(drop / "good.txt", b"\xff\xfe"), drop / "gone.png", drop]
    rows = ['{"file_name": "good.png", "text": "a good one"}', "nonsense", '{"file_name": "no.png", "text": "x"}']
    rows += ['{"file_name": "good.png", "text": "again"}', '{"file_name": "good.png", "text": " "}']
    files.append(write(drop / "metadata.jsonl", "\n".join(rows)))
    found = copy_in(files, tmp_path / "data")
    assert captions(found) == {"good.png": "a good one"} and found.ready
    told = " | ".join(found.notes)
    for name in ("bad.png", "run.exe", "lonely.txt", "good.txt", "gone.png", "drop: ", "line 2", "line 3", "line 4"):
        assert name in told, name
    assert len(found.notes) == 10 and not any("\n" in note for note in found.notes)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["good.png", "metadata.jsonl"]


def test_dropped_tables_and_json_find_their_pictures_by_the_names_they_were_dropped_with(tmp_path):
    drop = tmp_path / "drop"
    files = [
        paint(drop / f"{name}.png", size=(20 + i, 20)) for i, name in enumerate(["a:1", "b", "c", "d", "excluded"])
    ]
    files.append(write(drop / "metadata.csv", 'file_name,text\nimg/a:1.png,"one, two"\nlost.png,x\n'))
    files.append(
        write(drop / "meta_cap.json", json.dumps({"b": {"caption": ["x", "y"]}, "/p/c.png": "z", "gone": "q"}))
    )
    files.append(write(drop / "d.json", '{"tags": ["five", "six"]}'))
    found = copy_in(files, tmp_path / "data")
    assert captions(found) == {"a_1.png": "one, two", "b.png": "x\ny", "c.png": "z", "d.png": "five, six",
        "excluded-2.png": "excluded"}  # fmt: skip
    assert len(found.notes) == 2 and "lost.png" in found.notes[0] and "1 of 3 captions left out" in found.notes[1]
    assert read_folder(tmp_path / "data").items[1].captions == ("x", "y") and found.ready
    strange = copy_in([write(tmp_path / "x.json", "{}")], tmp_path / "data")
    assert "no captions" in strange.notes[0] and strange.ready


def test_names_are_made_clean_and_lead_nowhere(tmp_path):
    assert clean_name("../../etc/passwd") == "_.._etc_passwd"
    assert clean_name("...") == clean_name("") == "picture"
    assert clean_name(" . .hidden\n") == "hidden_"
    assert len(clean_name("x" * 300)) == 80
    files = [paint(tmp_path / "drop" / name) for name in (".hidden.png", "ä b.png", "a\nb.png")]
    found = copy_in(files, tmp_path / "data")
    assert [picture.path for picture in found.pictures] == ["a_b.png", "hidden.png", "ä b.png"]


def test_a_folder_takes_so_many_pictures_and_bytes_and_no_more(tmp_path):
    files = [paint(tmp_path / "drop" / f"{name}.png", size=(20 + i, 20)) for i, name in enumerate("abcd")]
    found = copy_in(files[:3], tmp_path / "data", limit_pictures=2)
    assert len(found.pictures) == 2 and "more than 2 pictures" in found.notes[0]
    found = copy_in(files[3:], tmp_path / "data", limit_pictures=2)
    assert len(found.pictures) == 2 and "d.png" in found.notes[0]
    room = sum(file.stat().st_size for file in files[:2])
    found = copy_in(files, tmp_path / "other", limit_bytes=room)
    assert len(found.pictures) == 2 and all("bytes" in note for note in found.notes)


def test_each_dropped_picture_is_decoded_once(tmp_path, monkeypatch):
    from difflora.training import dropped, survey

    opened = []
    real = survey.open_picture
    for room in (dropped, survey):
        monkeypatch.setattr(room, "open_picture", lambda path, name: opened.append(name) or real(path, name))
    found = copy_in([paint(tmp_path / "drop/a.png"), paint(tmp_path / "drop/b.png", "blue")], tmp_path / "data")
    assert sorted(opened) == ["a.png", "b.png"] and found.pictures[0].width == 24


def test_captions_in_other_alphabets_survive(tmp_path):
    files = [paint(tmp_path / "drop/猫.png"), write(tmp_path / "drop/猫.txt", "\ufeff一只猫")]
    found = copy_in(files, tmp_path / "data")
    assert captions(found) == {"猫.png": "一只猫"}
    rows = json.dumps({"file_name": "犬.png", "text": "犬"})
    found = copy_in([paint(tmp_path / "d/犬.png", "blue"), write(tmp_path / "d/m.jsonl", rows)], tmp_path / "data")
    assert captions(found)["犬.png"] == "犬"
