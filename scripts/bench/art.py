"""Large pictures without a source: two made-up hands, `flat` (outlined shapes) and `brush` (strokes on canvas)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZES = ((1024, 1024), (1152, 896), (896, 1152), (1280, 832))
FLAT = ((244, 236, 219), (214, 90, 60), (48, 84, 120), (240, 178, 66), (92, 138, 104), (30, 30, 36), (250, 250, 248))
BRUSH = ((96, 70, 52), (178, 148, 104), (60, 84, 92), (210, 196, 170), (132, 58, 44), (84, 104, 62))


def flat(seed: int) -> Image.Image:
    """Flat shapes with dark outlines on one ground, anti-aliased."""
    rng = np.random.default_rng(seed)
    width, height = SIZES[seed % len(SIZES)]
    page = Image.new("RGB", (2 * width, 2 * height), FLAT[rng.integers(len(FLAT) - 2) if seed % 3 else -1])
    draw = ImageDraw.Draw(page)
    for _ in range(rng.integers(6, 16)):
        x, y = rng.uniform(0.2, 0.8, 2) * page.size
        size, fill = rng.uniform(0.05, 0.22) * min(page.size), FLAT[rng.integers(len(FLAT))]
        corners = rng.integers(3, 9)
        turn = np.sort(rng.uniform(0, 2 * np.pi, corners))
        points = [(x + size * np.cos(a), y + size * np.sin(a)) for a in turn]
        line = int(rng.choice([0, 6, 10, 14]))
        if rng.random() < 0.4:
            draw.ellipse((x - size, y - size * 0.8, x + size, y + size * 0.8), fill, FLAT[5] if line else None, line)
        else:
            draw.polygon(points, fill, FLAT[5] if line else None, line)
        if rng.random() < 0.5:
            draw.line([tuple(p) for p in rng.uniform(0.1, 0.9, (4, 2)) * page.size], FLAT[5], 8, "curve")
    return page.resize((width, height), Image.Resampling.LANCZOS)


def brush(seed: int) -> Image.Image:
    """Strokes that follow a slow field, over a rough ground, on canvas."""
    rng = np.random.default_rng(seed)
    width, height = SIZES[seed % len(SIZES)]
    small = Image.fromarray((rng.random((4, 5, 3)) * 110 + 70).astype(np.uint8))
    page = small.resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    field = np.asarray(Image.fromarray((rng.random((4, 4)) * 255).astype(np.uint8)).resize((64, 64)), float) / 40
    draw = ImageDraw.Draw(page)
    for i in range(1400):
        place = rng.uniform(0, 1, 2)
        angle = field[int(place[1] * 63), int(place[0] * 63)]
        length = rng.uniform(20, 220) * (1 if i < 900 else 0.35)
        step = np.array([np.cos(angle), np.sin(angle)]) * length
        start = place * page.size
        colour = np.clip(np.array(BRUSH[rng.integers(len(BRUSH))]) + rng.normal(0, 18, 3), 0, 255).astype(int)
        draw.line([tuple(start), tuple(start + step)], tuple(map(int, colour)), int(rng.uniform(3, 26)))
    page = page.resize((width, height), Image.Resampling.LANCZOS)
    grain = rng.normal(0, 5, (height, width, 1)) + 4 * np.sin(np.arange(width) * 1.9)[None, :, None]
    return Image.fromarray(np.clip(np.asarray(page, float) + grain, 0, 255).astype(np.uint8))


def render(kind: str, folder: Path, count: int) -> None:
    """Fill `folder` with `count` captioned pictures of one hand, where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    things = [
        "boats",
        "hills",
        "lamps",
        "doors",
        "birds",
        "stones",
        "bridges",
        "cups",
        "clouds",
        "gardens",
        "towers",
        "windows",
    ]
    for i in range(count):
        if not (path := folder / f"{kind}-{i:03}.png").exists():
            {"flat": flat, "brush": brush}[kind](i).save(path)
            words = f"{things[i % 12]} beside {things[(i * 5 + 3) % 12]} and {1 + i % 7} {things[(i * 7 + 1) % 12]}"
            path.with_suffix(".txt").write_text(words)
