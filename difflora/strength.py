"""How strongly a style acts: on pictures and words, on each part of the network, over the steps. Knows no tensors."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache

from .errors import RequestError

WEIGHT_LIMIT = 10.0
UNET = r"unet\."
# A block's name -> what the paths of its modules begin with or hold; {n} is a number counted from 1, or none for all.
PLACES = {
    "text": r"text_encoder",
    "time": UNET + r"(?:time|add)_embedding\.|.*\.time_emb_proj$",
    "in": UNET + r"conv_in",
    "down": UNET + r"down_blocks\.",
    "mid": UNET + r"mid_block\.",
    "up": UNET + r"up_blocks\.",
    "out": UNET + r"conv_out",
    "self": UNET + r".*\.attn1\.",
    "cross": UNET + r".*\.attn2\.",
    "mlp": UNET + r".*\.ff\.",
    "resnet": UNET + r".*\.resnets\.",
    "conv": UNET + r"(?:conv_in|conv_out|.*\.(?:conv\d?|conv_shortcut|proj_in|proj_out)$)",
}
NUMBERED = ("text", "down", "up")
# In an artist's words; scripts/bench/presets.py measures what each of them does.
PRESETS: dict[str, tuple[str, ...]] = {
    "composition": ("text", "down", "mid", "up1", "up2"),
    "colour": ("up3", "up4"),
    "texture": ("cross",),
}
SPELT = {"color": "colour", "middle": "mid", "te": "text", "ff": "mlp"}
NAME = re.compile(r"([a-z]+?)(\d*)")


@dataclass(frozen=True)
class Strength:
    """A style's weight, -10 to 10: `image` for the UNet, `text` for the text encoders, by block where it differs."""

    image: float = 1.0
    text: float | None = None
    """As image unless given."""
    blocks: tuple[tuple[str, float], ...] = ()
    """By name; such a weight stands in place of the others for the block's modules, a later one before an earlier."""
    start: float = 0.0
    """Share of the steps after which the image network feels it, 0 to 1; text encoders always do."""
    end: float = 1.0
    """And until which."""

    def __post_init__(self) -> None:
        for weight in (self.image, *([] if self.text is None else [self.text]), *(w for _, w in self.blocks)):
            check_weight(weight)
        for name, _ in self.blocks:
            pattern(name)
        if not 0 <= self.start < self.end <= 1:
            raise RequestError(
                f"steps {self.start:g}-{self.end:g}: expected shares of the drawing that rise, such as steps=0-0.5"
            )

    def at(self, path: str) -> float:
        """The weight of the module at a path."""
        return _at(self, path)

    def during(self, share: float) -> bool:
        """Whether it acts after that share of the steps."""
        return self.start <= share < self.end

    def scaled(self, factor: float) -> Strength:
        """All of it times a factor; kept within the limit of weights."""

        def times(weight: float) -> float:
            return max(-WEIGHT_LIMIT, min(WEIGHT_LIMIT, weight * factor))

        return replace(
            self,
            image=times(self.image),
            text=None if self.text is None else times(self.text),
            blocks=tuple((name, times(weight)) for name, weight in self.blocks),
        )

    @property
    def nothing(self) -> bool:
        """Whether it acts nowhere."""
        return not (self.image or self.text or any(weight for _, weight in self.blocks))

    def __str__(self) -> str:
        """As it is typed after a style's name: 0.7/0.3@up=0.4,mid=0."""
        text = "" if self.text is None else f"/{self.text:g}"
        rows = [f"{name}={weight:g}" for name, weight in self.blocks]
        if (self.start, self.end) != (0.0, 1.0):
            rows.append(f"steps={self.start:g}-{self.end:g}")
        return f"{self.image:g}{text}" + (f"@{','.join(rows)}" if rows else "")


def weight_at(weight: float | Strength, path: str) -> float:
    """The weight of a module, whichever way it is given."""
    return weight.at(path) if isinstance(weight, Strength) else float(weight)


def check_weight(weight: float) -> None:
    """RequestError unless it is a number from -10 to 10."""
    if not abs(weight) <= WEIGHT_LIMIT:
        raise RequestError(f"weight {weight:g}: expected a number from -10 to 10")


def parse_strength(text: str) -> Strength:
    """WEIGHT[/TEXT][@BLOCK=WEIGHT,…]: 0.7, 0.7/0.3, 0.7@up=0.4,mid=0, @texture, 1@steps=0-0.5; raises RequestError.

    A block without a weight is the only one that acts, at the weight before the @.
    """
    weights, at, rest = text.partition("@")
    image, slash, words = weights.partition("/")
    whole = _number(image, text) if image or not at else 1.0
    found = Strength(whole, _number(words, text) if slash else None)
    rows = [row.strip().partition("=") for row in rest.split(",")] if at else []
    alone = [name.strip() for name, equals, _ in rows if not equals]
    if alone:
        found = Strength(0.0, 0.0, tuple((_known(name), whole) for name in alone))
    for name, equals, value in rows:
        if not equals:
            continue
        if name.strip() == "steps":
            start, dash, end = value.partition("-")
            found = replace(found, start=_number(start, text), end=_number(end, text) if dash else 1.0)
        else:
            found = replace(found, blocks=(*found.blocks, (_known(name.strip()), _number(value, text))))
    return found


def _number(text: str, whole: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RequestError(
            f"{text!r} in {whole!r} is no number: expected a weight from -10 to 10, such as 0.7, 0.7/0.3 or 0.7@up=0.4"
        )
    return number


def _known(name: str) -> str:
    pattern(name)
    return name


def block_names() -> list[str]:
    """What blocks may be called, numbers apart: presets, places from the first to the last, kinds of layer."""
    return [*PRESETS, *PLACES]


@lru_cache(maxsize=256)
def pattern(name: str) -> re.Pattern[str]:
    """What matches the paths of a block's modules; RequestError with the nearest names for one that is not known.

    "down2" is the second of them, "text2" the second text encoder; a preset is all of its blocks.
    """
    plain = SPELT.get(name, name)
    if plain in PRESETS:
        return re.compile("|".join(f"(?:{pattern(part).pattern})" for part in PRESETS[plain]))
    found = NAME.fullmatch(plain)
    word, number = (SPELT.get(found[1], found[1]), found[2]) if found else ("", "")
    if word not in PLACES or (number and word not in NUMBERED) or number.startswith("0"):
        raise RequestError(f"no block {name!r}: expected {nearest_names(name)}")
    if not number:
        return re.compile(PLACES[word])
    if word == "text":
        return re.compile(r"text_encoder\." if number == "1" else rf"text_encoder_{number}\.")
    return re.compile(rf"{PLACES[word]}{int(number) - 1}\.")


def nearest_names(name: str) -> str:
    """The blocks whose names come nearest, in a sentence; all of them where none is near."""
    near = difflib.get_close_matches(name, [*block_names(), *(f"{n}{i}" for n in NUMBERED for i in "1234")], 3, 0.5)
    return " or ".join(near) if near else f"one of {', '.join(block_names())} (down, up and text also with a number)"


@lru_cache(maxsize=65536)
def _at(strength: Strength, path: str) -> float:
    for name, weight in reversed(strength.blocks):
        if pattern(name).match(path):
            return weight
    if path.startswith("text_encoder") and strength.text is not None:
        return strength.text
    return strength.image
