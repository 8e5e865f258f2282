"""Recipes -> pictures: blends are attached once, pictures are drawn in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from ..adapters.adapter import Adapter
from ..events import Progress, Report, ignore
from ..models.attach import Stack, attached
from ..models.family import BaseModel
from .balance import Balance
from .conditioning import conditioning
from .mixing import acting, is_timed, settled, strengths, strengths_at
from .recipe import Recipe


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in -1..1 -> RGB pictures."""
    levels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(level) for level in levels]


def batched(recipes: Sequence[Recipe], size: int) -> list[list[Recipe]]:
    """Neighbouring recipes that can be drawn together, with the batch facts written into each."""
    groups: list[list[Recipe]] = []
    for recipe in recipes:
        alike = groups and _settings(groups[-1][0]) == _settings(recipe) and len(groups[-1]) < size
        groups[-1].append(recipe) if alike else groups.append([recipe])
    return [[replace(r, batch=len(group), row=i) for i, r in enumerate(group)] for group in groups]


def _settings(recipe: Recipe) -> tuple:
    """What all pictures of a batch share."""
    names = tuple(s.name for s in recipe.styles)
    size = recipe.width, recipe.height
    text = recipe.clip_skip, recipe.windows
    return recipe.steps, recipe.guidance, *size, recipe.sampler, *text, names, recipe.orthogonal, recipe.folded


def sized(recipes: Sequence[Recipe], model: BaseModel) -> list[Recipe]:
    """The recipes with the windows of the text encoder that their texts fill."""
    known = {text: model.windows(text) for text in {text for r in recipes for text in (r.prompt, r.negative)}}
    most = [max(known[r.prompt], known[r.negative] if r.guidance > 1 else 1) for r in recipes]
    return [replace(recipe, windows=windows) for recipe, windows in zip(recipes, most, strict=True)]


def generate(
    model: BaseModel,
    recipes: Sequence[Recipe],
    adapters: Mapping[str, Adapter],
    *,
    batch: int = 8,
    report: Report = ignore,
) -> Iterator[tuple[Recipe, Image.Image]]:
    """Draw every recipe in order; `adapters` by the names the recipes use, all recipes naming the same ones.

    Weights may differ from picture to picture of a batch; a recipe marked folded must share its weights with the rest.
    Each comes back with what its budget made of its weights, and is drawn the same again with that.
    """
    groups = batched(settled(sized(recipes, model), adapters, Balance(model)), batch)
    done, total = 0, sum(group[0].steps for group in groups)
    for group in groups:
        own = acting(group[0].styles, adapters, group[0].orthogonal)
        with attached(model.parts, own) if own else nullcontext() as stack:
            set_weights(stack, group)

            def on_step(step: int, clean: Tensor, start: int = done, stack=stack, group=group) -> None:
                turn_weights(stack, group, step)
                report(Progress("drawing", start + step, total))

            pixels = draw_batch(model, stack, group, on_step)
        done += group[0].steps
        report(Progress("drawing", done, total))
        yield from zip(group, to_pictures(pixels), strict=True)


def set_weights(stack: Stack | None, group: Sequence[Recipe]) -> None:
    """Give each row its blend, or fold the one they share."""
    if stack is None:
        return
    if group[0].folded:
        stack.fold(strengths(group[0]))
    else:
        stack.weights([strengths(recipe) for recipe in group])


def turn_weights(stack: Stack | None, group: Sequence[Recipe], step: int) -> None:
    """Give each row what acts at a step, where that changes."""
    if stack is not None and any(map(is_timed, group)):
        stack.weights([strengths_at(recipe, step) for recipe in group])


@torch.inference_mode()
def draw_batch(model: BaseModel, stack: Stack | None, group: Sequence[Recipe], on_step) -> Tensor:
    """One call of the model's sampler, (B, 3, H, W) in -1..1."""
    first = group[0]
    latents = model.sample(
        conditioning(model, stack, group, set_weights),
        seeds=[r.seed for r in group],
        steps=first.steps,
        guidance=first.guidance,
        size=(first.width, first.height),
        sampler=first.sampler,
        on_step=on_step,
    )
    return model.decode(latents)


def constant_blend(recipes: Sequence[Recipe]) -> bool:
    """Whether all pictures share one blend from the first step to the last, so that it can be folded."""
    alike = len({(r.styles, r.budget, r.orthogonal) for r in recipes}) == 1
    return alike and not any(map(is_timed, recipes))


def mark_folded(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Fold where it pays: one constant blend of at least one style."""
    folded = bool(recipes) and bool(recipes[0].styles) and constant_blend(recipes)
    return [replace(r, folded=folded) for r in recipes]
