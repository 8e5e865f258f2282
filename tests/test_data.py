"""What may be learnt from, and what is refused before any training time is spent."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from difflora.errors import ImageFolderError
from difflora.events import Event, Note, Progress
from difflora.training.data import fingerprint, read_folder, square

SAMPLES = Path(__file__).parent.parent / "sample_data"
STYLES = ("fluent3d", "ink", "cartoon")


def paint(path: Path, size: tuple[int, int] = (32, 32), colour: object = "red", mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def captions(folder: Path, trigger: str | None = None) -> list[str]:
    return [item.caption for item in read_folder(folder, trigger).items]


def refusal(folder: Path, *parts: str) -> str:
    """The message; it is one line that says what was found and expected, and holds every one of `parts`."""
    with pytest.raises(ImageFolderError) as caught:
        read_folder(folder)
    message = str(caught.value)
    assert "\n" not in message and "found" in message and "expected" in message, message
    for part in parts:
        assert part in message, message
    return message


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 99))]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def swapped_profile() -> bytes:
    """An RGB profile in which red and blue have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    rows = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = rows[b"rXYZ"], rows[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


# what is read


def test_every_ending_in_any_case_is_read_from_subfolders_too_and_ordered_by_name(tmp_path: Path) -> None:
    for name in ("d.PNG", "b.jpg", "sub/a.JPEG", "c.webp", "Z.Webp"):
        paint(tmp_path / name)
    write(tmp_path / "notes.psd", "ignored")
    names = [item.path.relative_to(tmp_path).as_posix() for item in read_folder(tmp_path).items]
    assert names == ["Z.Webp", "b.jpg", "c.webp", "d.PNG", "sub/a.JPEG"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("a.png", ".b.png", ".trash/c.png", "._a.png"):
        paint(tmp_path / name)
    assert captions(tmp_path) == ["a"]


def test_a_name_that_is_not_text_is_left_out_with_a_note(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    try:
        shutil.copy(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff\xfe.png")
    except OSError:
        pytest.skip("this file system holds only names that are text")
    events: list[Event] = []
    assert len(read_folder(tmp_path, report=events.append)) == 1
    assert any(isinstance(event, Note) and "1 left out" in event.text for event in events)


def test_progress_is_reported_for_every_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        paint(tmp_path / name)
    events: list[Event] = []
    read_folder(tmp_path, report=events.append)
    assert events == [Progress("checking pictures", 1, 2), Progress("checking pictures", 2, 2)]


def test_a_caption_comes_from_txt_then_caption_then_metadata_then_the_name(tmp_path: Path) -> None:
    for stem in "abcd":
        paint(tmp_path / f"{stem}.png")
    write(tmp_path / "a.txt", "from txt")
    for stem in "ab":
        write(tmp_path / f"{stem}.caption", "from caption")
    rows = [json.dumps({"file_name": f"{stem}.png", "text": "from metadata"}) for stem in "abc"]
    write(tmp_path / "metadata.jsonl", "\n".join(rows) + "\n")
    dataset = read_folder(tmp_path)
    assert [item.caption for item in dataset.items] == ["from txt", "from caption", "from metadata", "d"]
    found = {name: count for name, count in dataset.found.items() if count}
    assert found == {"pictures": 4, "txt": 1, "caption": 1, "metadata.jsonl": 1, "file name": 1}


def test_metadata_of_a_subfolder_speaks_of_that_subfolder(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    paint(tmp_path / "sub/a.png")
    write(tmp_path / "sub/metadata.jsonl", '{"file_name": "a.png", "text": "inner"}')
    assert captions(tmp_path) == ["a", "inner"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red-apple_01", "red apple"),
        ("red apple (3)", "red apple"),
        ("red_apple", "red apple"),
        ("apple2", "apple2"),
        ("Äpfel--rot", "Äpfel rot"),
    ],
)
def test_a_file_name_becomes_words(tmp_path: Path, name: str, words: str) -> None:
    paint(tmp_path / f"{name}.webp")
    assert captions(tmp_path) == [words]


def test_the_trigger_stands_before_every_caption(tmp_path: Path) -> None:
    paint(tmp_path / "red-apple.png")
    assert captions(tmp_path, "ink") == ["ink, red apple"]
    assert captions(tmp_path, "  ") == ["red apple"]


def test_a_name_without_words_is_enough_only_with_a_trigger(tmp_path: Path) -> None:
    paint(tmp_path / "0001.png")
    refusal(tmp_path, "0001.png", "no caption", ".txt")
    assert captions(tmp_path, "ink") == ["ink"]


def test_a_byte_order_mark_and_line_ends_are_no_part_of_a_caption(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    write(tmp_path / "a.txt", "\ufeffa  red apple,\ton a table \r\n\r\n")
    assert read_folder(tmp_path).items[0].captions == ("a red apple, on a table",)


# what the pictures look like


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 16), "white")
    picture.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    upright, _ = read_folder(tmp_path)[0]
    assert upright.size == (16, 32)
    assert upright.getpixel((15, 0)) == (0, 0, 0) and upright.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 16, 32))
    picture.convert(mode).save(tmp_path / "a.png")
    flat, _ = read_folder(tmp_path)[0]
    assert flat.mode == "RGB"
    assert flat.getpixel((2, 2)) == (0, 0, 0) and flat.getpixel((30, 2)) == (255, 255, 255)


def test_half_transparent_black_is_mid_grey(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", colour=(0, 0, 0, 128), mode="RGBA")
    assert read_folder(tmp_path)[0][0].getpixel((0, 0)) == (127, 127, 127)


def test_an_srgb_profile_changes_no_colour(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    paint(tmp_path / "a.png", colour=(200, 30, 90), icc_profile=profile)
    seen = read_folder(tmp_path)[0][0].getpixel((0, 0))
    assert all(abs(a - b) <= 1 for a, b in zip(seen, (200, 30, 90), strict=True))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_another_profile_is_turned_to_srgb(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA" if mode == "RGBA" else "RGB", (32, 32), "red").convert(mode)
    picture.save(tmp_path / "a.png", icc_profile=swapped_profile())
    seen = read_folder(tmp_path)[0][0].getpixel((0, 0))
    assert seen[2] > 240 and max(seen[:2]) < 15


def test_a_profile_for_another_kind_of_picture_says_nothing(tmp_path: Path) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"GRAY"
    paint(tmp_path / "a.png", colour=(200, 30, 90), icc_profile=bytes(profile))
    assert read_folder(tmp_path)[0][0].getpixel((0, 0)) == (200, 30, 90)


def test_sixteen_bit_grey_keeps_its_tones(tmp_path: Path) -> None:
    picture = Image.new("I;16", (32, 32), 32896)
    picture.putpixel((0, 0), 65535)
    picture.save(tmp_path / "a.png")
    seen, _ = read_folder(tmp_path)[0]
    assert seen.getpixel((5, 5)) == (128, 128, 128) and seen.getpixel((0, 0)) == (255, 255, 255)


def test_a_cmyk_jpeg_is_read(tmp_path: Path) -> None:
    paint(tmp_path / "a.jpg", mode="CMYK", colour=(0, 255, 255, 0))
    seen = read_folder(tmp_path)[0][0].getpixel((0, 0))
    assert seen[0] > 240 and max(seen[1:]) < 15


def test_transparent_sixteen_bit_grey_becomes_white_and_keeps_its_tones(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">32H", *[0x1234] * 16, *[32896] * 16)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, 0, 0, 0, 0)), (b"tRNS", b"\x12\x34")]
    chunks += [(b"IDAT", zlib.compress(row * 32)), (b"IEND", b"")]
    write(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks))
    seen, _ = read_folder(tmp_path)[0]
    assert seen.getpixel((2, 2)) == (255, 255, 255) and seen.getpixel((30, 2)) == (128, 128, 128)


@pytest.mark.parametrize("kind", ["L", "1", "P", "RGBA", "WEBP"])
def test_every_kind_of_picture_keeps_black_and_white(tmp_path: Path, kind: str) -> None:
    picture = Image.new("RGB", (32, 32), "white")
    picture.paste("black", (0, 0, 16, 32))
    name, mode = ("a.webp", "RGBA") if kind == "WEBP" else ("a.png", kind)
    picture.convert(mode).save(tmp_path / name, **({"lossless": True} if kind == "WEBP" else {}))
    seen, _ = read_folder(tmp_path)[0]
    assert (seen.mode, seen.getpixel((2, 2)), seen.getpixel((30, 2))) == ("RGB", (0, 0, 0), (255, 255, 255))


def test_a_turned_cmyk_photograph_with_a_profile_for_rgb_is_upright_and_red(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    paint(tmp_path / "a.jpg", (32, 16), (0, 255, 255, 0), "CMYK", exif=exif, icc_profile=profile)
    seen, _ = read_folder(tmp_path)[0]
    assert seen.size == (16, 32) and seen.getpixel((4, 4))[0] > 240 and max(seen.getpixel((4, 4))[1:]) < 15


def test_the_contents_decide_and_not_the_ending(tmp_path: Path) -> None:
    paint(tmp_path / "a.jpg", format="PNG")
    assert len(read_folder(tmp_path)) == 1


def test_a_square_is_the_picture_resized_by_its_shorter_side_and_cut_to_the_middle() -> None:
    wide = Image.effect_noise((90, 30), 80).convert("RGB")
    whole = wide.resize((30, 10), Image.Resampling.LANCZOS).crop((10, 0, 20, 10))
    assert square(wide, 10).tobytes() == whole.tobytes()
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    assert square(tall, 30).tobytes() == tall.crop((0, 30, 30, 60)).tobytes()
    assert square(Image.new("RGB", (16, 16_000)), 512).size == (512, 512)


def test_a_square_of_its_own_size_is_untouched() -> None:
    picture = Image.effect_noise((32, 32), 80).convert("RGB")
    assert square(picture, 32).tobytes() == picture.tobytes()


# the fingerprint


def test_order_and_fingerprint_do_not_depend_on_the_place(tmp_path: Path) -> None:
    for name, colour in (("b.png", "red"), ("a.png", "blue"), ("c/a.png", "green")):
        paint(tmp_path / "one" / name, colour=colour)
    for name in ("c/a.png", "a.png", "b.png"):
        (tmp_path / "two" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "one" / name, tmp_path / "two" / name)
    one, two = read_folder(tmp_path / "one"), read_folder(tmp_path / "two")
    assert [item.caption for item in one.items] == [item.caption for item in two.items]
    assert fingerprint(one) == fingerprint(two) and len(fingerprint(one)) == 64


def test_a_changed_caption_picture_or_trigger_changes_the_fingerprint(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    marks = [fingerprint(read_folder(tmp_path)), fingerprint(read_folder(tmp_path, "ink"))]
    write(tmp_path / "a.txt", "an apple")
    marks.append(fingerprint(read_folder(tmp_path)))
    paint(tmp_path / "a.png", colour="blue")
    marks.append(fingerprint(read_folder(tmp_path)))
    assert len(set(marks)) == 4


def test_a_picture_that_went_away_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    dataset = read_folder(tmp_path)
    (tmp_path / "a.png").unlink()
    for use in (lambda: dataset[0], lambda: fingerprint(dataset)):
        with pytest.raises(ImageFolderError, match="a.png"):
            use()


# what is refused


def test_no_such_folder_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "nowhere", "nowhere", "nothing there")


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    refusal(paint(tmp_path / "a.png"), "a.png", "a file")


def test_a_folder_without_pictures_is_refused_and_says_what_is_there(tmp_path: Path) -> None:
    refusal(tmp_path, "empty")
    for name in ("a.gif", "b.GIF", "c.psd"):
        write(tmp_path / name, "x")
    refusal(tmp_path, "3 files: .gif, .psd", ".png")


def cut_jpeg(folder: Path) -> None:
    Image.effect_noise((200, 200), 90).save(folder / "a.jpg")
    write(folder / "a.jpg", (folder / "a.jpg").read_bytes()[:4000])


def cut_webp(folder: Path) -> None:
    Image.effect_noise((200, 200), 90).convert("RGB").save(folder / "a.webp")
    write(folder / "a.webp", (folder / "a.webp").read_bytes()[:2000])


def animate(path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def two_of_one_stem(folder: Path) -> None:
    paint(folder / "a.png")
    paint(folder / "a.jpg")
    write(folder / "a.txt", "which?")


def captioned(folder: Path, text: str | bytes, name: str = "a.txt") -> None:
    paint(folder / "a.png")
    write(folder / name, text)


LINE = '{"file_name": "a.png", "text": "apple"}\n'
BAD = {
    "a truncated JPEG": (cut_jpeg, "a.jpg: found damaged or incomplete"),
    "a truncated WebP": (cut_webp, "a.webp: found damaged or incomplete"),
    "a JPEG of nonsense": (lambda f: write(f / "a.jpg", b"\xff\xd8\xff" + b"no" * 999), "a.jpg: found damaged"),
    "an empty file": (lambda f: write(f / "a.png", b""), "a.png: found an empty file"),
    "a GIF named PNG": (lambda f: paint(f / "a.png", format="GIF"), "a.png: found data that begin with b'GIF8"),
    "a dead link": (lambda f: (f / "a.png").symlink_to(f / "gone.png"), "a.png: found no ordinary file"),
    "a tiny picture": (lambda f: paint(f / "a.png", (15, 400)), "a.png: found 15 x 400 pixels"),
    "a very wide picture": (lambda f: paint(f / "a.png", (16_385, 16)), "a.png: found 16,385 x 16 pixels"),
    "a picture of 40,000 pixels": (lambda f: write(f / "a.png", png_header(40_000, 40_000)), "40,000 x 40,000"),
    "a picture over 100 megapixels": (lambda f: write(f / "a.png", png_header(10_001, 10_000)), "100 megapixels"),
    "an animated WebP": (lambda f: animate(f / "a.webp"), "a.webp: found an animation of 3 frames"),
    "an animated PNG": (lambda f: animate(f / "a.png"), "a.png: found an animation of 3 frames"),
    "a damaged profile": (
        lambda f: paint(f / "a.png", icc_profile=b"x" * 200),
        "a.png: found a damaged colour profile",
    ),
    "a caption that is not UTF-8": (lambda f: captioned(f, b"caf\xe9"), "a.txt: found a byte at 3 that is not UTF-8"),
    "an empty caption": (lambda f: captioned(f, " \n\t"), "a.txt: found an empty caption"),
    "an empty .caption": (lambda f: captioned(f, "", "a.caption"), "a.caption: found an empty caption"),
    "two pictures for one caption": (two_of_one_stem, "a.txt: found a caption for both a.jpg and a.png"),
    "metadata with a broken line": (
        lambda f: captioned(f, LINE + "\n{oops\n", "metadata.jsonl"),
        "metadata.jsonl line 3: found '{oops'",
    ),
    "metadata without text": (
        lambda f: captioned(f, '{"file_name": "a.png"}', "metadata.jsonl"),
        "metadata.jsonl line 1: found no file_name or no text",
    ),
    "metadata with an empty text": (
        lambda f: captioned(f, LINE.replace("apple", " "), "metadata.jsonl"),
        "line 1: found an empty caption",
    ),
    "metadata with half a character": (
        lambda f: captioned(f, LINE.replace("apple", "\\ud800"), "metadata.jsonl"),
        "line 1: found no file_name or no text",
    ),
    "metadata for a missing file": (
        lambda f: captioned(f, LINE + LINE.replace("a.png", "b.png"), "metadata.jsonl"),
        "metadata.jsonl line 2: found file_name 'b.png'",
    ),
    "metadata for nothing": (
        lambda f: captioned(f, LINE.replace("a.png", ""), "metadata.jsonl"),
        "line 1: found file_name ''",
    ),
    "metadata for a file outside": (
        lambda f: captioned(f, LINE.replace("a.png", "../a.png"), "metadata.jsonl"),
        "line 1: found file_name '../a.png'",
    ),
    "metadata that repeats itself": (
        lambda f: captioned(f, LINE + LINE, "metadata.jsonl"),
        "line 2: found a.png a second time",
    ),
    "metadata that is not UTF-8": (lambda f: captioned(f, b"\xff", "metadata.jsonl"), "metadata.jsonl: found a byte"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_by_name_in_one_line(tmp_path: Path, case: str) -> None:
    spoil, message = BAD[case]
    spoil(tmp_path)
    refusal(tmp_path, message)


def test_a_bomb_is_refused_before_it_is_decoded_and_pillow_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    write(tmp_path / "a.png", png_header(16_000, 16_000))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    refusal(tmp_path, "16,000 x 16,000")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_two_pictures_of_one_stem_are_fine_without_a_caption_to_share(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    paint(tmp_path / "a.jpg")
    assert captions(tmp_path) == ["a", "a"]


def test_many_bad_files_are_three_names_and_a_count(tmp_path: Path) -> None:
    for stem in "abcde":
        paint(tmp_path / f"{stem}.png", (4, 4))
    paint(tmp_path / "good.png")
    message = refusal(tmp_path, "a.png", "b.png", "c.png", "… and 2 more")
    assert "d.png" not in message


def test_a_name_with_a_line_end_still_gives_one_line(tmp_path: Path) -> None:
    paint(tmp_path / "a\nb.png", (4, 4))
    refusal(tmp_path, "a\\nb.png")


# the sample data


@pytest.mark.parametrize("style", STYLES)
def test_the_sample_styles_read_cleanly_with_100_pictures_and_24_held_out(style: str) -> None:
    for folder, count in ((SAMPLES / style, 100), (SAMPLES / "heldout" / style, 24)):
        dataset = read_folder(folder)
        assert dataset.found["pictures"] == dataset.found["txt"] == count
        for (picture, caption), item in zip(dataset, dataset.items, strict=True):
            assert picture.size == (128, 128) and item.path.stem == caption.replace(" ", "-")


def test_held_out_concepts_are_the_same_everywhere_and_in_no_training_folder() -> None:
    held_out = [captions(SAMPLES / "heldout" / style) for style in STYLES]
    assert held_out[0] == held_out[1] == held_out[2]
    for style in STYLES:
        assert not set(held_out[0]) & set(captions(SAMPLES / style))


def test_a_style_never_contains_one_picture_twice() -> None:
    for style in STYLES:
        folders = (SAMPLES / style, SAMPLES / "heldout" / style)
        pictures = [picture.tobytes() for folder in folders for picture, _ in read_folder(folder)]
        assert len(set(pictures)) == 124
