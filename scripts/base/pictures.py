"""Public pictogram packages -> one array of 256 px RGBA pictures with names, sets and groups."""

from __future__ import annotations

import io
import json
import re
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

PX = 128
# Twice the side that is learnt, so that what is turned, moved and shrunk stays crisp.
SOURCE_PX = 256
# Exact versions: the array is a function of this table.
TRAINING_SETS = {
    "noto": ("@iconify-json/noto", "1.2.9"),
    "noto classic": ("@iconify-json/noto-v1", "1.2.5"),
    "fx": ("@iconify-json/fxemoji", "1.2.2"),
    "fluent flat": ("@iconify-json/fluent-emoji-flat", "1.2.6"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5"),
    "emojione": ("@iconify-json/emojione", "1.2.3"),
}
STYLE_SETS = {
    "fluent3d": ("@lobehub/fluent-emoji-3d", "1.1.0"),
    "ink": ("@iconify-json/fluent-emoji-high-contrast", "1.2.6"),
    "cartoon": ("@iconify-json/streamline-emojis", "1.2.4"),
}
NAMES = ("unicode-emoji-json", "0.9.0")
# Flags, letters and abstract signs teach a picture model nothing an artist would draw.
LEFT_OUT_GROUPS = {"Flags", "Symbols"}
LEFT_OUT_WORDS = ("skin-tone", "-light", "-dark", "-medium", "keycap", "flag-", "oclock", "o-clock", "thirty")
DRAWN_GROUPS = {"Animals & Nature", "Food & Drink", "Travel & Places", "Objects", "Activities"}
FACES = (
    "grinning face", "smiling face with sunglasses", "face with tears of joy", "skull", "ghost", "robot", "alien",
    "clown face", "red heart", "smiling face with heart eyes", "sleeping face", "crying face", "alien monster",
    "pile of poo", "eyes", "crown", "person", "baby",
)  # fmt: skip


@dataclass(frozen=True)
class Emoji:
    """One Unicode emoji: its plain name, its group and its code points as the 3D package writes them."""

    name: str
    group: str
    codes: tuple[str, ...]


def key(name: str) -> str:
    """The name with everything but letters and digits removed: how the sets' spellings are matched."""
    return re.sub("[^a-z0-9]", "", name.lower())


def install(cache: Path, packages: dict[str, tuple[str, str]]) -> Path:
    """Install the named npm packages under `cache` once and return its node_modules folder."""
    modules = cache / "node_modules"
    wanted = [*packages.values(), NAMES]
    missing = [f"{name}@{version}" for name, version in wanted if installed_version(modules, name) != version]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(cache), *missing], check=True
        )
    return modules


def installed_version(modules: Path, package: str) -> str | None:
    """The version that is installed, or None."""
    description = modules / package / "package.json"
    return json.loads(description.read_text())["version"] if description.exists() else None


def read_names(modules: Path) -> dict[str, Emoji]:
    """Every emoji without a skin tone, by key."""
    table = json.loads((modules / NAMES[0] / "data-by-emoji.json").read_text())
    emojis = {}
    for char, entry in table.items():
        whole = "-".join(f"{ord(c):x}" for c in char)
        name = re.sub(r"[_-]+", " ", entry["slug"])
        emojis[key(entry["slug"])] = Emoji(name, entry["group"], (whole, whole.replace("-fe0f", "")))
    return {k: e for k, e in emojis.items() if e.group not in LEFT_OUT_GROUPS or e.name == "red heart"}


def render_svg(icon: dict, sheet: dict, px: int) -> np.ndarray:
    """One pictogram as (px, px, 4) uint8 RGBA."""
    import resvg_py

    width, height = icon.get("width", sheet.get("width", 16)), icon.get("height", sheet.get("height", 16))
    body = icon["body"].replace("currentColor", "#000")
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{px}" height="{px}">{body}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=px, height=px))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA").resize((px, px), Image.Resampling.LANCZOS))


def read_set(modules: Path, package: str, emojis: dict[str, Emoji], px: int = PX) -> dict[str, np.ndarray]:
    """All pictures of one set whose names are known, by key."""
    if package == STYLE_SETS["fluent3d"][0]:
        return read_3d(modules / package / "assets", emojis, px)
    sheet = json.loads((modules / package / "icons.json").read_text())
    parents = {alias: entry["parent"] for alias, entry in sheet.get("aliases", {}).items()}
    frame = {side: sheet.get(side, 16) for side in ("width", "height")}
    icons: dict[str, dict] = {}
    for icon_name in sorted([*sheet["icons"], *parents]):
        known = key(re.sub(r"-\d+$", "", icon_name) if "streamline" in package else icon_name)
        icon = sheet["icons"].get(parents.get(icon_name, icon_name))
        if icon is None or known in icons or known not in emojis or any(w in icon_name for w in LEFT_OUT_WORDS):
            continue
        icons[known] = icon
    with ProcessPoolExecutor() as pool:
        drawn = pool.map(render_svg, icons.values(), repeat(frame), repeat(px), chunksize=16)
        return dict(zip(icons, drawn, strict=True))


def read_3d(assets: Path, emojis: dict[str, Emoji], px: int) -> dict[str, np.ndarray]:
    """The 3D set: WebP files named by code point."""
    pictures = {}
    for known, emoji in emojis.items():
        found = next((assets / f"{code}.webp" for code in emoji.codes if (assets / f"{code}.webp").exists()), None)
        if found is not None and not any(w in emoji.name.replace(" ", "-") for w in LEFT_OUT_WORDS):
            with Image.open(found) as picture:
                pictures[known] = np.asarray(picture.convert("RGBA").resize((px, px), Image.Resampling.LANCZOS))
    return pictures


def render_all(cache: Path) -> tuple[np.ndarray, list[dict]]:
    """The training pictures and a row for each {"name", "set", "group", "drawn"}; made once, then read from `cache`."""
    array, rows = cache / f"pictures{SOURCE_PX}.npy", cache / "pictures.json"
    if not (array.exists() and rows.exists()):
        modules = install(cache, TRAINING_SETS)
        emojis = read_names(modules)
        pictures, table = [], []
        sets = {label: read_set(modules, package, emojis, SOURCE_PX) for label, (package, _) in TRAINING_SETS.items()}
        drawn = drawn_concepts(sets, emojis)
        for label, found in sets.items():
            for known, picture in sorted(found.items()):
                emoji = emojis[known]
                pictures.append(picture)
                table.append({"name": emoji.name, "set": label, "group": emoji.group, "drawn": known in drawn})
        np.save(array, np.stack(pictures))
        rows.write_text(json.dumps(table))
    return np.load(array, mmap_mode="r"), json.loads(rows.read_text())


def drawn_concepts(sets: dict[str, dict], emojis: dict[str, Emoji]) -> set[str]:
    """The concepts the denoiser learns first: things (and a few faces) that at least five of the six sets share."""
    shared = {k for k in emojis if sum(k in found for found in sets.values()) >= 5}
    faces = {key(name) for name in FACES}
    everyday = {k for k in shared if emojis[k].group in DRAWN_GROUPS and len(emojis[k].name.split()) <= 3}
    core = {k for k in everyday if k in sets["fx"] or len(emojis[k].name.split()) == 1}
    return core | (shared & faces)
