"""Pictogram packages -> sample_data: three styles of the same 100 concepts, and 24 that no style has seen."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from . import pictures

# Chosen by eye: concepts that all three artists show as the same, recognisable thing. Left out are, for example,
# 'turkey' (a flag in one set), 'penguin' and 'bird' (only a head), 'tennis' (a ball or a racket).
TRAINING = (
    # animals
    "ant", "baby chick", "blowfish", "boar", "bug", "camel", "chipmunk", "cow", "cow face", "crocodile", "dog",
    "dolphin", "goat", "hatching chick", "horse", "horse face", "koala", "lady beetle", "monkey", "mouse", "ox", "pig",
    "poodle", "rabbit", "snake", "tiger", "tropical fish",
    # plants
    "blossom", "four leaf clover", "hibiscus", "mushroom", "palm tree", "rose", "seedling", "sunflower", "tulip",
    # food
    "beer mug", "bread", "candy", "cocktail glass", "cookie", "custard", "french fries", "grapes", "honey pot",
    "hot beverage", "lemon", "peach", "pear", "pizza", "poultry leg", "shortcake", "soft ice cream", "spaghetti",
    "strawberry", "sushi", "tangerine", "tomato", "watermelon", "wine glass",
    # travel and places
    "airplane", "ambulance", "anchor", "bus", "crescent moon", "delivery truck", "droplet", "fire", "fire engine",
    "fuel pump", "helicopter", "hospital", "locomotive", "oncoming taxi", "snowman", "speedboat", "sun with face",
    "tractor", "watch",
    # objects
    "artist palette", "balloon", "basketball", "battery", "bomb", "briefcase", "christmas tree", "crystal ball", "door",
    "dress", "glasses", "handbag", "lipstick", "microphone", "open book", "radio", "television", "wrench",
    # figures
    "alien", "ghost", "skull",
)  # fmt: skip
HELD_OUT = (
    "cat", "elephant", "turtle", "snail", "octopus", "honeybee",
    "red apple", "cherries", "hamburger", "doughnut", "birthday cake", "cactus",
    "automobile", "bicycle", "rocket", "sailboat",
    "house with garden", "office building", "circus tent",
    "guitar", "umbrella", "crown", "bell", "telephone",
)  # fmt: skip


def make(out: Path, styles: Path, base: Path) -> None:
    """Write `out`/STYLE and `out`/heldout/STYLE: 128 px pictures on white with a caption beside each.

    `styles` is the cache for the style packages, `base` the one of the base's own pictures, whose names the captions
    take. Raises ValueError when a concept is unknown to the base, missing from a style, or on both lists.
    """
    modules = pictures.install(styles, pictures.STYLE_SETS)
    emojis = pictures.read_names(modules)
    known = {pictures.key(row["name"]): row["name"] for row in pictures.render_all(base)[1] if row["drawn"]}
    check(known)
    for style, (package, _) in pictures.STYLE_SETS.items():
        found = pictures.read_set(modules, package, emojis)
        missing = [name for name in TRAINING + HELD_OUT if pictures.key(name) not in found]
        if missing:
            raise ValueError(f"{package} has no picture of {', '.join(missing)}")
        for folder, names in ((out / style, TRAINING), (out / "heldout" / style, HELD_OUT)):
            write(folder, {known[pictures.key(name)]: found[pictures.key(name)] for name in names})


def check(known: dict[str, str]) -> None:
    """Raise ValueError unless every concept is on one list only, once, and known to the base."""
    names = TRAINING + HELD_OUT
    twice = sorted({name for name in names if names.count(name) > 1})
    unknown = [name for name in names if pictures.key(name) not in known]
    if twice or unknown:
        raise ValueError(f"listed twice: {twice}; unknown to the base: {unknown}")


def write(folder: Path, found: dict) -> None:
    """Fill `folder` with a lossless WebP and a caption for each named (128, 128, 4) picture, and with nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.webp"), *folder.glob("*.txt")]:
        old.unlink()
    for name, rgba in found.items():
        picture = Image.fromarray(rgba)
        page = Image.new("RGBA", picture.size, "white")
        page.alpha_composite(picture)
        stem = name.replace(" ", "-")
        # Lossless, so that a rebuild gives the same pixels whichever encoder version made it.
        page.convert("RGB").save(folder / f"{stem}.webp", lossless=True, quality=100, method=6)
        (folder / f"{stem}.txt").write_text(name + "\n", encoding="utf-8")
