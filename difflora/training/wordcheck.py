"""Captions looked through: holes, words of style, words in all of them, and the trigger."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

# Phrases that name how a picture is made, not what it shows; longer ones first, so that the fullest is quoted.
STYLE = (
    "in the style of", "style of", "digital painting", "digital art", "concept art", "line art", "pixel art",
    "vector art", "fan art", "clip art", "oil painting", "acrylic painting", "watercolor painting",
    "watercolour painting", "pencil drawing", "pencil sketch", "ink drawing", "charcoal drawing", "line drawing",
    "3d render", "cgi render", "octane render", "unreal engine", "studio ghibli", "art nouveau", "art deco",
    "pop art", "ukiyo-e", "impressionist", "impressionism", "expressionist", "surrealist", "photorealistic",
    "hyperrealistic", "photo-realistic", "cel shaded", "cel-shaded", "flat design", "flat illustration",
    "minimalist illustration", "trending on artstation", "artstation", "deviantart", "masterpiece", "best quality",
    "high quality", "highly detailed", "ultra detailed", "intricate details", "award winning", "award-winning",
    "beautiful lighting", "cinematic lighting", "8k", "4k", "hdr", "watercolor", "watercolour", "gouache",
    "oil on canvas", "acrylic on canvas", "lithograph", "woodcut", "linocut", "etching", "engraving", "screenprint",
    "illustration of", "painting of", "drawing of", "sketch of", "render of", "illustrated", "illustration",
    "anime style", "manga style", "cartoon style", "comic style", "artwork", "aesthetic",
)  # fmt: skip
_STYLE = re.compile("|".join(rf"(?<!\w){re.escape(phrase)}(?!\w)" for phrase in STYLE), re.IGNORECASE)
_CAMERA = re.compile(r"(img|dscn?f?|pxl|image|picture|photo|scan|screenshot|untitled|file|download)?[\W\d_]*", re.I)
FUNCTION = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "on",
        "in",
        "at",
        "to",
        "and",
        "or",
        "with",
        "by",
        "for",
        "from",
        "its",
        "it",
        "is",
        "are",
        "as",
        "his",
        "her",
        "their",
        "near",
        "beside",
        "over",
        "under",
    ]
)
OFTEN, SOME = 0.8, 0.5
FEWEST = 5
"""Captions from which on words in nearly all of them say something."""
LONG, SHORT = 4, 1


def style_words(caption: str) -> list[str]:
    """The phrases of a caption that name how the picture is made, in lower case, each once."""
    return list(dict.fromkeys(found.group().lower() for found in _STYLE.finditer(caption)))


def words_of(caption: str) -> list[str]:
    """Its words in lower case."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", caption.lower())


def everywhere(captions: Sequence[str], trigger: str = "") -> list[tuple[str, int]]:
    """(word, captions that hold it) for words of content in at least four of five captions; the trigger's left out."""
    if len(captions) < FEWEST or len(set(captions)) == 1:
        return []
    counts = Counter(word for caption in captions for word in set(words_of(caption)))
    own = {*words_of(trigger), *FUNCTION}
    return [(word, n) for word, n in counts.most_common() if n >= OFTEN * len(captions) and word not in own]


def holds(caption: str, trigger: str) -> bool:
    """Whether the trigger stands in a caption as words of its own."""
    return bool(re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE))


def holes(captions: Sequence[str], named: Sequence[bool]) -> dict[int, tuple[str, str]]:
    """Captions that say too little: index -> (fault, words for a person).

    named: whether a caption is only the file's name. In a folder that is named by its files throughout, or whose
    captions are one word each throughout, that is how it is meant.
    """
    lengths = [len(words_of(caption)) for caption in captions]
    written = [length for length, by_name in zip(lengths, named, strict=True) if not by_name]
    usual = median(written) if written else 0
    found = {}
    for i, (caption, by_name) in enumerate(zip(captions, named, strict=True)):
        if not caption.strip():
            found[i] = ("no caption", "has no caption; say in a few words what it shows")
        elif by_name and _CAMERA.fullmatch(caption):
            found[i] = ("no caption", f"has no caption, and its name ({caption}) says nothing; say what it shows")
        elif by_name and len(written) >= SOME * len(captions):
            found[i] = ("no caption", f"has no caption but its file's name ({caption}), where the others have one")
        elif not by_name and usual >= LONG and lengths[i] <= SHORT:
            found[i] = ("short caption", f"is called only “{caption}”, where the others take {usual:g} words")
    return found
