"""Does the folder doctor find what was spoilt on purpose, and does it leave clean pictures alone?

    .venv/bin/python scripts/bench/doctor.py

Copies of the three sample folders (128 px, learnt at 64) and of two made-up hands (about 1 megapixel, learnt at 512)
are spoilt with known faults, looked over, and counted. A fault is found when the picture it was planted in is named
with it; a false alarm is a fault named in a picture where it was not planted.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

import numpy as np
from art import render
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from difflora.models.family import BaseModel, open_model
from difflora.training.doctor import Checkup, check

DATA = Path("sample_data")
FOLDERS = {"ink": 64, "fluent3d": 64, "cartoon": 64, "flat": 512, "brush": 512}
FOREIGN = {"ink": "fluent3d", "fluent3d": "cartoon", "cartoon": "ink", "flat": "brush", "brush": "flat"}
EACH, FEW = 5, 3
SOFT = {"blurred", "enlarged"}
# What a planted fault may be called.
CALLED = {
    "blurred slightly": SOFT,
    "blurred": SOFT,
    "enlarged 2x": SOFT,
    "enlarged 4x": SOFT,
    "enlarged 3x, hard pixels": SOFT,
    "copy, JPEG": {"twin"},
    "copy, resized": {"twin"},
    "copy, cut": {"twin"},
    "copy, mirrored": {"twin"},
    "tiny": {"tiny", "blurred", "enlarged"},
    "JPEG 8 to 15": {"compressed"},
    "JPEG 12, saved as PNG": {"compressed"},
    "frame": {"frame"},
    "signature, one's own": {"mark"},
    "same mark in many": {"mark"},
    "another hand": {"unlike"},
    "no caption": {"no caption"},
    "words of style": {"style words"},
    "trigger missing": {"no trigger"},
    "damaged": {"unreadable"},
}
Spoil = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """The picture as a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def enlarged(picture: Image.Image, times: int, how: Image.Resampling) -> Image.Image:
    """Made smaller, then as large as before."""
    small = picture.resize([max(1, n // times) for n in picture.size], Image.Resampling.LANCZOS)
    return small.resize([n * times for n in small.size], how)


def signed(picture: Image.Image, words: str, corner: int, colour: tuple[int, int, int]) -> Image.Image:
    """With words written in a corner, a fifteenth of the picture high."""
    done, side = picture.copy(), min(picture.size)
    draw, font = ImageDraw.Draw(done), ImageFont.load_default(max(8, side // 22))
    left, top, right, bottom = draw.textbbox((0, 0), words, font=font)
    gap = side // 40
    x = gap if corner % 2 == 0 else done.width - gap - right
    y = gap - top if corner < 2 else done.height - gap - bottom
    draw.text((x, y), words, colour, font)
    return done


def cut(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """With up to a tenth of each side cut away."""
    width, height = picture.size
    a = rng.uniform(0.01, 0.05, 4)
    return picture.crop((int(a[0] * width), int(a[1] * height), int((1 - a[2]) * width), int((1 - a[3]) * height)))


def any_of(rng: np.random.Generator) -> Image.Resampling:
    """A way of resizing."""
    return Image.Resampling(
        [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BILINEAR][rng.integers(3)]
    )


def spoils(side: int) -> dict[str, Spoil]:
    """Faults of the picture itself, for a folder learnt at `side` px."""
    down = Image.Resampling.LANCZOS
    return {
        "blurred slightly": lambda p, rng: p.filter(ImageFilter.GaussianBlur(min(p.size) / side * 0.6)),
        "blurred": lambda p, rng: p.filter(ImageFilter.GaussianBlur(min(p.size) / side * rng.uniform(1, 2))),
        "enlarged 2x": lambda p, rng: enlarged(p, 2, any_of(rng)),
        "enlarged 4x": lambda p, rng: enlarged(p, 4, any_of(rng)),
        "enlarged 3x, hard pixels": lambda p, rng: enlarged(p, 3, Image.Resampling.NEAREST),
        "tiny": lambda p, rng: ImageOps.contain(p, (int(side * 0.7), int(side * 0.7)), down),
        "frame": lambda p, rng: ImageOps.expand(p, min(p.size) // 16, tuple(map(int, rng.integers(0, 200, 3)))),
        "signature, one's own": lambda p, rng: signed(
            p, ["M. Hart", "jwb 2019", "@lenadraws", "Anna K."][rng.integers(4)], int(rng.integers(4)), (40, 36, 32)
        ),
    }  # fmt: skip


def spoil(folder: Path, foreign: Path, side: int, seed: int) -> dict[str, set[str]]:
    """Plant EACH of every fault (FEW in a small folder), one a picture, and return what was planted where."""
    rng = np.random.default_rng(seed)
    pictures = sorted(p for p in folder.iterdir() if p.suffix in (".webp", ".png"))
    order = [pictures[i] for i in rng.permutation(len(pictures))]
    planted: dict[str, set[str]] = defaultdict(set)
    size = EACH if len(pictures) >= 100 else FEW

    def some() -> list[Path]:
        return [order.pop() for _ in range(size)]

    for name, change in spoils(side).items():
        for path in some():
            change(Image.open(path).convert("RGB"), rng).save(path, lossless=True)
            planted[name].add(path.name)
    for path in some():
        data = jpeg(Image.open(path).convert("RGB"), int(rng.integers(8, 16)))
        path.unlink()
        path.with_suffix(".jpg").write_bytes(data)
        planted["JPEG 8 to 15"].add(f"{path.stem}.jpg")
    for path in some():
        data = jpeg(Image.open(path).convert("RGB"), 12)
        Image.open(io.BytesIO(data)).convert("RGB").save(path, lossless=True)
        planted["JPEG 12, saved as PNG"].add(path.name)
    for path in some():
        signed(Image.open(path).convert("RGB"), "© studio", 3, (90, 90, 90)).save(path, lossless=True)
        planted["same mark in many"].add(path.name)
    for path in some():
        path.with_suffix(".txt").unlink()
        planted["no caption"].add(path.name)
    for path in some():
        style = ["an oil painting of ", "masterpiece, ", "digital art, ", "in the style of an old master, "][
            rng.integers(4)
        ]
        path.with_suffix(".txt").write_text(style + path.with_suffix(".txt").read_text())
        planted["words of style"].add(path.name)
    copies(folder, order[:size], planted, rng)
    strangers(folder, foreign, size, planted, rng)
    for path in sorted(folder.glob("*.txt")):
        path.write_text(f"zorvex, {path.read_text()}")
    for path in order[size : size * 2]:
        path.with_suffix(".txt").write_text(path.with_suffix(".txt").read_text().removeprefix("zorvex, "))
        planted["trigger missing"].add(path.name)
    planted["trigger missing"] |= planted["no caption"]
    return planted


def copies(folder: Path, chosen: list[Path], planted: dict[str, set[str]], rng: np.random.Generator) -> None:
    """Four kinds of copies beside their originals, and broken files; either of two may be called the copy."""
    for path in chosen:
        picture, words = Image.open(path).convert("RGB"), path.with_suffix(".txt").read_text()
        made = {
            "copy, JPEG": jpeg(picture, 80),
            "copy, resized": jpeg(picture.resize([int(n * 0.8) for n in picture.size], Image.Resampling.LANCZOS), 95),
            "copy, cut": jpeg(cut(picture, rng), 95),
            "copy, mirrored": jpeg(ImageOps.mirror(picture), 95),
        }
        for i, (name, data) in enumerate(made.items()):
            place = folder / f"{path.stem} again {'abcd'[i]}.jpg"
            place.write_bytes(data)
            place.with_suffix(".txt").write_text(words)
            planted[name].add(place.name)
        (folder / f"{path.stem} half.png").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        (folder / f"{path.stem} half.txt").write_text(words)
        planted["damaged"].add(f"{path.stem} half.png")


def strangers(folder: Path, foreign: Path, size: int, planted: dict[str, set[str]], rng: np.random.Generator) -> None:
    """Pictures by another hand."""
    files = sorted(p for p in foreign.iterdir() if p.suffix in (".webp", ".png"))
    for i in rng.choice(len(files), size, replace=False):
        path = folder / f"other {files[i].name}"
        path.write_bytes(files[i].read_bytes())
        path.with_suffix(".txt").write_text(files[i].with_suffix(".txt").read_text())
        planted["another hand"].add(path.name)


def count(checkup: Checkup, planted: dict[str, set[str]], table: dict[str, Counter]) -> None:
    """Add one folder to the table."""
    named = {v.path: {fault.name for fault in v.faults} for v in checkup.verdicts}
    for fault, paths in planted.items():
        found = sum(bool(named[path] & CALLED[fault]) for path in paths)
        table[fault].update(planted=len(paths), found=found, missed=len(paths) - found)
    for path, faults in named.items():
        meant = set().union(*(CALLED[fault] for fault, paths in planted.items() if path in paths))
        for fault in faults - meant:
            table[f"({fault})"].update(false=1)


def clean(name: str, folder: Path, model: BaseModel, side: int) -> None:
    """What is said of pictures as they are."""
    start = time.monotonic()
    found = check(folder, model=model, side=side)
    faults = Counter(fault.name for v in found.verdicts for fault in v.faults)
    said = ", ".join(f"{fault} {n}" for fault, n in faults.items()) or "nothing"
    size = len(found.verdicts)
    kinds = f"{found.count('exclude')} | {found.count('look')}"
    print(f"| {name} | {size} | {kinds} | {said} | {time.monotonic() - start:.1f} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--art", type=Path, default=Path(".cache/art"), help="Where large pictures are drawn, once.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folders", nargs="*", default=list(FOLDERS))
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    for kind in ("flat", "brush"):
        render(kind, options.art / kind, 60)
    place = {name: DATA / name if (DATA / name).exists() else options.art / name for name in FOLDERS}
    model = open_model("tiny")
    print("| clean folder | pictures | exclude | look | faults | seconds |\n|---|---|---|---|---|---|")
    for name in options.folders:
        clean(name, place[name], model, FOLDERS[name])
    tables: dict[str, dict[str, Counter]] = {"small": defaultdict(Counter), "large": defaultdict(Counter)}
    for name in options.folders:
        for seed in range(options.seeds):
            with TemporaryDirectory() as spoilt:
                folder = Path(copytree(place[name], Path(spoilt) / name))
                planted = spoil(folder, place[FOREIGN[name]], FOLDERS[name], seed)
                found = check(folder, trigger="zorvex", model=model, side=FOLDERS[name])
                count(found, planted, tables["small" if FOLDERS[name] == 64 else "large"])
                if options.verbose:
                    tell(name, found, planted)
    for size, table in tables.items():
        print(f"\n| {size}: fault | planted | found | missed | false alarms |\n|---|---|---|---|---|")
        for fault in [*CALLED, *sorted(set(table) - set(CALLED))]:
            row = table[fault]
            print(
                f"| {fault} | "
                + " | ".join(str(row[key] or "") for key in ("planted", "found", "missed", "false"))
                + " |"
            )


def tell(name: str, found: Checkup, planted: dict[str, set[str]]) -> None:
    """Every miss and every false alarm, for whoever mends a detector."""
    for v in found.verdicts:
        meant = [fault for fault, paths in planted.items() if v.path in paths]
        named = {fault.name for fault in v.faults}
        allowed = set().union(*(CALLED[fault] for fault in meant))
        missed = [fault for fault in meant if not named & CALLED[fault]]
        if missed or named - allowed:
            figures = {f.name: f.figure for f in v.faults}
            print(f"  {name} {v.path}: planted {meant}, named {figures}")


if __name__ == "__main__":
    main()
