"""A model's words about a picture without those about its style: a style's captions say what is shown, not how."""

from __future__ import annotations

import re


def _any(words: str) -> str:
    """A pattern for any of the words, the longest first; `_` stands for a space or a dash."""
    listed = sorted((word.replace("_", "[- ]?") for word in words.split()), key=len, reverse=True)
    return f"(?:{'|'.join(listed)})"


ARTICLE = _any("an? the this that two some")
MATERIAL = _any(
    "oil acrylic watercolou?r digital ink pencil pen charcoal pastel vector line pixel stock anime comic manga crayon"
    " chalk computer pop concept clip cgi 3d 2d flat hand portrait"
)
NOUN = _any(
    "painting drawing illustration sketch cartoon artwork art clip_art image picture photo photograph photography"
    " render rendering icon emoji pictogram logo print poster graphic vector watercolou?r depiction engraving woodcut"
    " etching doodle comic animation line_art silhouette sticker mosaic collage screenshot stencil scan figure close_up"
)
# Words that speak of a style even when they stand alone, and those that do so only before a noun such as "drawing".
LOOK = _any(
    "black_and_white black_&_white monochrome greyscale grayscale colou?rful colou?red full_colou?r simplistic"
    " minimalist minimalistic minimal stylized stylised realistic hyperrealistic abstract surreal hand_drawn"
    " hand_painted retro vintage cartoonish cartoon_style animated low_poly pixelated isometric impressionist cubist"
    " expressionist detailed highly_detailed glossy"
)
WEAK = _any(
    "very highly simple cute beautiful old modern painted drawn flat 3d 2d digital traditional japanese chinese line"
    " grey gray blurry high_quality"
)
MEDIUM = rf"(?:(?:{LOOK}|{WEAK}),? (?:and )?)*(?:{MATERIAL} )*{NOUN}s?"
SHOWING = _any("of showing shows? depicting depicts? featuring features? with containing representing represents?")
MADE = _any("done drawn painted made rendered created shown depicted")
TRAITS = _any(
    "style artist medium technique mood atmosphere line_?work lines shading composition brush_?strokes?"
    " colou?r_palette colou?r_scheme artistic_style"
)
SAYS = _any("is are has have uses appears seems creates conveys evokes gives adds")


def _patterns(*texts: str) -> list[re.Pattern]:
    return [re.compile(text, re.IGNORECASE) for text in texts]


LEADS = _patterns(
    rf"^(?:here is|this is|it is|it's|there is|i see|we see) (?={ARTICLE} {MEDIUM}\b)",
    rf"^in (?:the|this) {MEDIUM},? (?:there (?:is|are)|(?:we|you) (?:can )?see)?\s*",
    rf"^(?:{ARTICLE} )?{MEDIUM} (?:is |are )?{SHOWING}\b:?\s*",
    rf"^{ARTICLE} {MEDIUM}$",
)
INSIDE = _patterns(
    # Up to the next comma or stop: an artist's name has any number of words.
    rf",? (?:{MADE} )?in the style of [^,.;]+",
    rf",? (?:{MADE} )?(?:in|with) (?:an? |the )?(?:[\w'-]+ ){{0,3}}?(?:style|aesthetic|technique)\b",
    # "in vintage cars" speaks of the things, and so does "covered in oil".
    rf",?(?<!covered)(?<!soaked)(?<!dipped) (?:{MADE} )?in "
    rf"(?:{LOOK}|watercolou?rs?|oils?|ink|pencil|charcoal|pastels?|crayon)(?=\s*(?:[,.;]|$))",
    r",? by an? (?:unknown )?artist\b[^,.;]*",
)
TAG = re.compile(
    rf"(?:{ARTICLE} )?(?:{LOOK}|{MEDIUM}|(?:[\w-]+ )?style|masterpiece|(?:best|high) quality|trending on [\w ]+|"
    r"lineart|simple background|traditional media|[48]k|u?hd|sketchy|(?:cel )?shading|artistic)",
    re.IGNORECASE,
)
# Things that may be shown, where they follow on others.
OBJECT = re.compile(rf"{ARTICLE} (?:poster|picture|photo|logo|sticker|figure|print|mosaic|sign)s?", re.IGNORECASE)
SENTENCE = re.compile(
    rf"^(?:the|its|his|her|this) (?:overall )?(?:{MEDIUM}|(?:\w+ )?{TRAITS}) {SAYS}\b(?! (?:of|showing)\b)",
    re.IGNORECASE,
)


def content_words(text: str) -> str:
    """What a caption says of the things shown; "" when it speaks of nothing but the style.

    "A black and white drawing of a cat, in a cartoon style" -> "a cat". Words are only taken out, never put in.
    """
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    return " ".join(content for sentence in sentences if (content := _of_sentence(sentence)))


def content_tags(text: str) -> str:
    """Tags with commas between them, each once and none for a style; bullets and numbers before them are left out."""
    lines = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line) for line in text.splitlines()]
    parts = [" ".join(part.split()).strip(" .\"'").lower() for part in re.split(r"[,;]|\.\s", ", ".join(lines))]
    return ", ".join(dict.fromkeys(tag for tag in parts if tag and not TAG.fullmatch(tag)))


def _of_sentence(sentence: str) -> str:
    """One sentence without its style."""
    if SENTENCE.match(sentence):
        return ""
    end = sentence[-1:] if sentence[-1:] in ".!?" else ""
    words, before = sentence.removesuffix(end), None
    # "This is an image of a painting of a cat" has more than one of them.
    while words != before:
        before = words
        for lead in LEADS:
            words = lead.sub("", words).strip()
    for phrase in INSIDE:
        words = phrase.sub("", words)
    parts = [part.strip() for part in words.split(",")]
    own = (i > 0 and bool(OBJECT.fullmatch(part)) or not TAG.fullmatch(part) for i, part in enumerate(parts))
    words = ", ".join(part for part, kept in zip(parts, own, strict=True) if part and kept)
    return f"{words}{end}" if words else ""
