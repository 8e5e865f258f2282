"""Where styles clash: from what a person names to what is to be said of it. What `difflora conflict` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..adapters.adapter import Adapter
from ..adapters.blend import blend
from ..adapters.conflict import Conflict, conflict, parts_of
from ..adapters.families import match
from ..adapters.files import load_adapter
from ..adapters.header import shown_path
from ..adapters.places import sources
from ..config import parse_lora
from ..errors import AdapterFileError, RequestError
from ..events import Progress, Report, ignore
from ..models.family import BaseModel, open_model
from ..strength import Strength
from .effect import effects
from .styles import find_styles


def find_conflict(
    texts: Sequence[str],
    folder: Path,
    base: str | None = None,
    *,
    modules: bool = False,
    report: Report = ignore,
) -> Conflict:
    """NAME[:WEIGHT] of two or more styles -> where they clash; raises DiffloraError.

    base: a model to ask what of it shows in pictures, part by part, which takes a while; without one the weights alone
    are compared, by the family that fits them best.
    """
    if len(texts) < 2:
        said = f"one style, {texts[0]}" if texts else "no style"
        raise RequestError(
            f"{said}: expected two or more to compare, such as difflora conflict ink gouache; name another"
        )
    styles = find_styles(texts, folder)
    if base is None:
        model = None
        known = match([source for style in styles for source in sources(Path(style.path))])
        shapes, family = known.shapes, known.family
        if not shapes:
            paths = ", ".join(shown_path(Path(style.path)) for style in styles)
            raise AdapterFileError(
                f"{paths}: no family that is known; expected SD 1, 2 or XL; name the model with --base"
            )
    else:
        model = open_model(base)
        shapes, family = model.shapes(), model.family
    files = {path: load_adapter(Path(path), shapes, family) for path in {style.path for style in styles}}
    adapters = [files[style.path] for style in styles]
    weights = [style.asked for style in styles]
    return conflict(
        adapters, weights, [style.name for style in styles], typed=[parse_lora(text)[0] for text in texts],
        answers=answers(model, adapters, weights, report) if model else None, modules=modules,
    )  # fmt: skip


def answers(
    model: BaseModel, adapters: Sequence[Adapter], weights: Sequence[float | Strength], report: Report = ignore
) -> Mapping[str, Tensor]:
    """By the name of a part, (n, n) inner products of what the styles, each acting there alone, change of the answers.

    At their weights, whatever the step; see `effects`. Raises AdapterFileError for what is no plain LoRA.
    """
    scaled = [blend([adapter], [weight]) for adapter, weight in zip(adapters, weights, strict=True)]
    places = parts_of(tuple(dict.fromkeys(path for adapter in scaled for path in adapter.layers)))
    paths = tuple(dict.fromkeys(path for adapter in scaled for path in adapter.layers))
    found = {}
    for done, (part, where) in enumerate(places.items()):
        report(Progress("asking the base", done, len(places)))
        inside = {path for path, there in zip(paths, where.tolist(), strict=True) if there}
        found[part.name] = effects(model, [_within(adapter, inside) for adapter in scaled])
    report(Progress("asking the base", len(places), len(places)))
    return found


def _within(adapter: Adapter, paths: set[str]) -> Adapter:
    """What an adapter does in some modules."""
    return replace(adapter, layers={path: update for path, update in adapter.layers.items() if path in paths})
