"""What may join the line: recipes this base can draw, as they will be handed back. Knows no queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ..adapters.files import content_sha256
from ..config import Budget, demand, in_range
from ..errors import RequestError
from ..models.family import BaseModel
from ..version import __version__
from .generate import sized
from .recipe import Recipe

LONGEST_PROMPT = 10_000
MOST_PICTURES = 200
LARGEST = 16


def admit(recipes: Sequence[Recipe], model: BaseModel, *, ordered: bool = True) -> list[tuple[Recipe, int]]:
    """Each recipe with the hashes of its styles known, and how often the network runs for it.

    ordered: styles by name, so that requests are drawn together whatever order they name them in; else as they stand.
    Raises DiffloraError for what cannot be drawn, before it costs anyone's time.
    """
    demand(0 < len(recipes) <= MOST_PICTURES, f"{len(recipes)} pictures", f"1 to {MOST_PICTURES} in a request")
    for recipe in recipes:
        check_recipe(recipe, model)
    recipes = sized(recipes, model)
    hashes = {s: s.sha256 or content_sha256(Path(s.path)) for s in {s for r in recipes for s in r.styles}}
    kinds = {(r.sampler, r.steps): r for r in recipes}
    runs = {kind: passes(recipe, model) for kind, recipe in kinds.items()}
    ready = []
    for recipe in recipes:
        styles = [replace(s, sha256=hashes[s]) for s in recipe.styles]
        # Where one style makes way for another, their order means something.
        free = ordered and not recipe.orthogonal and not recipe.switch
        styles = sorted(styles, key=lambda style: (style.name, str(style.asked))) if free else styles
        ready.append((replace(recipe, styles=tuple(styles), version=__version__), runs[recipe.sampler, recipe.steps]))
    return ready


def check_recipe(recipe: Recipe, model: BaseModel) -> None:
    """RequestError when the model cannot draw it: another base, a number out of range, a style named twice."""
    demand(recipe.base == model.name, f"base {recipe.base}", f"{model.name}, the one that is open")
    for name, low, high in (
        ("seed", 0, 2**31 - 1), ("steps", 1, 1000), ("width", 8, 4096), ("height", 8, 4096), ("guidance", 0, 100),
    ):  # fmt: skip
        value = getattr(recipe, name)
        demand(isinstance(value, int | float if name == "guidance" else int), f"{name} {value!r}", "a number")
        in_range(name, value, low, high)
    demand(recipe.vae == model.vae_name, f"vae {recipe.vae}", f"{model.vae_name or 'none'}, as the base is open")
    if recipe.clip_skip is not None:
        demand(isinstance(recipe.clip_skip, int), f"clip_skip {recipe.clip_skip!r}", "a whole number")
        in_range("clip_skip", recipe.clip_skip, 1, 12)
    demand(isinstance(recipe.sampler, str | None), f"sampler {recipe.sampler!r}", "a name, or None")
    for text in (recipe.prompt, recipe.negative):
        whole = isinstance(text, str) and text.encode(errors="ignore").decode() == text
        demand(whole, f"prompt {ascii(text)[:40]}", "text; a character is half there, type it again")
        demand(len(text) <= LONGEST_PROMPT, f"a prompt of {len(text)} letters", f"at most {LONGEST_PROMPT}")
    model.check_size(recipe.width, recipe.height)
    demand(
        recipe.width * recipe.height <= LARGEST * model.side**2,
        f"size {recipe.width}x{recipe.height}",
        f"at most {LARGEST} times the pixels of {model.side}x{model.side}, what this base draws",
    )
    in_range("orthogonal", recipe.orthogonal, 0, 1)
    in_range("switch", recipe.switch, 0, 1000)
    demand(recipe.budget in get_args(Budget), f"budget {recipe.budget!r}", ", ".join(get_args(Budget)))
    contents = {style.name: style.sha256 for style in recipe.styles}
    for style in recipe.styles:
        same = contents[style.name] == style.sha256
        demand(same, f"two files are called {style.name}", "names that differ; rename one")
        try:
            _ = style.strength
        except RequestError as error:
            raise RequestError(f"{style.name}: {error}") from None


def passes(recipe: Recipe, model: BaseModel) -> int:
    """How often the network runs for a picture; RequestError for a sampler that is not known or not for these steps."""
    sampler = model.sampler(recipe.sampler)
    try:
        sampler.set_timesteps(recipe.steps)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{recipe.steps} steps with {recipe.sampler}: expected fewer steps ({reason})") from None
    return len(sampler.timesteps)
