"""From the styles a person or a recipe names to files and adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..adapters.adapter import Adapter
from ..adapters.cards import cards
from ..adapters.checkpoint import open_checkpoint
from ..adapters.families import Match
from ..adapters.files import adapter_named, adapter_names, content_sha256, find_adapter, load_adapter, sha256
from ..adapters.fitting import check_fit
from ..adapters.header import shown_path
from ..adapters.library import MissingStyleError, missing, style_name
from ..adapters.networks import FAMILIES, modules
from ..adapters.places import sources
from ..config import BaseConfig, parse_lora
from ..errors import AdapterFileError, BaseModelError, RequestError
from ..models.bases import locate
from ..models.family import BaseModel
from .recipe import Style

DOWN = ("lora_down.weight", "lora_A.weight")
UNKNOWN_RANK = 32


def find_style(text: str, folder: Path) -> Style:
    """NAME[:WEIGHT] -> a style with its file and the sha256 of its numbers."""
    name, strength = parse_lora(text)
    path = find_adapter(name, folder)
    return Style(style_name(path), strength.image, str(path), content_sha256(path)).at(strength)


def find_styles(texts: Sequence[str], folder: Path, config: BaseConfig | None = None) -> list[Style]:
    """Every NAME[:WEIGHT] as a style; one may stand there twice, and another file of the same name gets a number.

    config: of the base they are for: for a name that is not there only styles that fit it are offered.
    """
    found: list[Style] = []
    try:
        asked = [find_style(text, folder) for text in texts]
    except MissingStyleError as error:
        known = shapes_before(config) if config is not None else None
        if known is None:
            raise
        names = [card.path.stem for card in cards(folder, known.shapes, known.family) if not card.problem]
        raise missing(error.name, folder, names) from None
    for style in asked:
        others = {other.name: other.sha256 for other in found}
        name, number = style.name, 1
        while others.get(name, style.sha256) != style.sha256:
            number += 1
            name = f"{style.name} ({number})"
        found.append(replace(style, name=name))
    return found


def found_again(style: Style, folder: Path) -> Style:
    """A recipe's style on this machine: where it was, by its name, or by its numbers if it was renamed.

    Words in the file may have changed since, numbers may not: RequestError when only a file with others is left.
    """
    place = Path(style.path)
    there = place.is_file() if style.path.endswith(".safetensors") else bool(style.path) and place.is_dir()
    if there and is_same(place, style.sha256):
        return style
    try:
        path = find_adapter(style.name, folder)
    except AdapterFileError:
        renamed = renamed_to(style.sha256, folder)
        if renamed is None:
            raise
        return replace(style, path=str(renamed))
    if is_same(path, style.sha256):
        return replace(style, path=str(path))
    if renamed := renamed_to(style.sha256, folder):
        return replace(style, path=str(renamed))
    raise RequestError(
        f"{path} is not the file the picture was drawn with (sha256 of its numbers {content_sha256(path)[:12]}, "
        f"expected {style.sha256[:12]}): put the old file back, or draw from the prompt instead"
    )


def is_same(path: Path, digest: str) -> bool:
    """Whether a file holds these numbers; older pictures recorded the hash of the whole file."""
    try:
        return content_sha256(path) == digest or sha256(path) == digest
    except AdapterFileError:
        return False


def renamed_to(digest: str, folder: Path) -> Path | None:
    """The style of a folder that holds these numbers, under whatever name."""
    for name in adapter_names(folder):
        try:
            path = adapter_named(name, folder)
            if content_sha256(path) == digest:
                return path
        except AdapterFileError:
            continue
    return None


def check_fit_before(styles: Sequence[Style], config: BaseConfig) -> None:
    """AdapterFileError for a style of another family, by the shapes in the headers, before a base is loaded."""
    known = shapes_before(config) if styles else None
    if known is None:
        return
    for path in {style.path for style in styles}:
        for source in sources(Path(path)):
            try:
                check_fit(source.header, known.shapes, known.family, source.part)
            except AdapterFileError as error:
                raise AdapterFileError(f"{shown_path(source.file)}: {error}") from None


def shapes_before(config: BaseConfig) -> Match | None:
    """What a base will be, before it is loaded; None for one that is known only when it is open."""
    located = locate(config.base, config.bases)
    if located.path is None:
        return Match(located.family, modules(located.family)) if located.family in FAMILIES else None
    try:
        opened = open_checkpoint(located.path)
    except BaseModelError:
        return None
    # Small networks are told apart by more than their headers say.
    return Match(opened.family if opened.family in FAMILIES else "", opened.shapes)


def ranks_of(styles: Sequence[Style]) -> int:
    """The ranks of all styles added up, as their headers tell them; a form that is no LoRA counts as one of 32."""
    found = 0
    for path in {style.path for style in styles}:
        shapes = {key: shape for source in sources(Path(path)) for key, shape in source.header.shapes().items()}
        found += max((shape[0] for key, shape in shapes.items() if key.endswith(DOWN)), default=UNKNOWN_RANK)
    return found


def load_styles(styles: Sequence[Style], model: BaseModel) -> dict[str, Adapter]:
    """Every style's adapter by name, each file read once; RequestError for two files of one name."""
    files = {(style.name, style.sha256): Path(style.path) for style in styles}
    names = [name for name, _ in files]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"two files are called {name}: expected names that differ; rename one")
    shapes = model.shapes()
    return {name: load_adapter(path, shapes, model.family) for (name, _), path in files.items()}
