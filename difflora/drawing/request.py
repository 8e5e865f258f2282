"""A DrawConfig -> recipes -> files: what `difflora generate` does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..adapters.files import writable_folder
from ..config import BaseConfig, BlendConfig, DrawConfig, PictureConfig, parse_size
from ..errors import RequestError
from ..events import Note, Report, Saved, ignore
from ..models.family import BaseModel, open_model
from ..version import __version__
from .export import EXACT, Exported, check_out, export, taken
from .generate import generate, mark_folded
from .recipe import Recipe, Style, read_recipe, save_picture
from .styles import check_fit_before, find_styles, found_again, load_styles

Drawn = list[tuple[Path, Recipe]]


def draw_files(config: DrawConfig, report: Report = ignore, model: BaseModel | None = None) -> Drawn:
    """Draw what the config asks for and write each picture as soon as it is done; raises DiffloraError."""
    writable_folder(config.out)
    if config.like is not None:
        return draw_like(config, report, model)
    styles = find_styles(config.lora, config.loras, config if model is None else None)
    prompts = read_prompts(config)
    if config.size:
        parse_size(config.size)
    if model is None:
        check_fit_before(styles, config)
        model = open_model(config, report=report)
    adapters = load_styles(styles, model)
    for trigger in {a.info.trigger for a in adapters.values()} - {""}:
        if not all(trigger.lower() in prompt.lower() for prompt in prompts):
            report(Note(f"a style was learnt with the trigger {trigger!r}: it is strongest with that in the prompt"))
    recipes = recipes_for(config, styles, model)
    return write_all(
        generate(model, mark_folded(recipes), adapters, batch=config.batch, report=report), config.out, report
    )


def recipes_for(config: PictureConfig, styles: Sequence[Style], model: BaseModel) -> list[Recipe]:
    """One recipe a picture: every prompt with `count` seeds; raises RequestError without a prompt or for a bad size."""
    width, height = parse_size(config.size) if config.size else (model.side, model.side)
    guidance = guidance_of(config, model)
    return [
        Recipe(
            prompt=prompt, negative=config.negative, seed=config.seed + i, steps=config.steps, guidance=guidance,
            width=width, height=height, sampler=config.sampler, clip_skip=config.clip_skip, base=config.base,
            vae=model.vae_name, styles=tuple(styles),
            budget=config.budget, orthogonal=config.orthogonal, switch=config.switch, version=__version__,
        )
        for prompt in read_prompts(config)
        for i in range(config.count)
    ]  # fmt: skip


def guidance_of(config: PictureConfig, model: BaseModel) -> float:
    """What was asked for, else what the base draws best with."""
    return model.recommended.guidance if config.guidance is None else config.guidance


def draw_like(config: DrawConfig, report: Report, model: BaseModel | None) -> Drawn:
    """Redraw one picture from its recipe, in a batch of the same size, so that every bit is the same."""
    if config.prompts or config.prompts_file or config.lora:
        raise RequestError("--like takes everything from the picture: expected no prompt and no --lora beside it")
    recipe = read_recipe(config.like)
    styles = [found_again(style, config.loras) for style in recipe.styles]
    model = model or open_model(replace(config, base=recipe.base, vae=recipe.vae), report=report)
    adapters = load_styles(styles, model)
    copies = generate(model, recipe.copies(), adapters, batch=recipe.batch, report=report)
    own = [(drawn, picture) for drawn, picture in copies if drawn.row == recipe.row]
    return write_all(own, config.out, report)


def read_prompts(config: PictureConfig) -> list[str]:
    """The prompts of the command and of its file; RequestError when there are none."""
    prompts = list(config.prompts)
    if config.prompts_file is not None:
        try:
            lines = config.prompts_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"--prompts-file {config.prompts_file} is not readable: {error}") from error
        prompts += [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise RequestError('no prompt: expected one such as difflora generate "a red apple", or --prompts-file FILE')
    return prompts


def write_all(pictures, folder: Path, report: Report) -> Drawn:
    """Save each picture with its recipe under a free name."""
    files = []
    for recipe, picture in pictures:
        path = free_name(folder, recipe)
        save_picture(picture, recipe, path)
        report(Saved(path))
        files.append((path, recipe))
    return files


def free_name(folder: Path, recipe: Recipe) -> Path:
    """PROMPT-SEED.png, numbered when it is taken: no picture is ever overwritten."""
    words = re.sub(r"[^\w]+", "-", recipe.prompt.lower()).strip("-")[:60]
    # Letters of other alphabets take up to four bytes each, and a file's name has 255.
    words = words.encode()[:200].decode(errors="ignore") or "picture"
    return numbered(folder / f"{words}-{recipe.seed}.png")


def numbered(path: Path) -> Path:
    """The path itself if it is free, else with -2, -3 … after its name."""
    number = 1
    while (free := path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return free


def blend_file(
    loras: Sequence[str], out: Path, base: str, folder: Path, asked: BlendConfig = EXACT, report: Report = ignore
) -> Exported:
    """Write a blend of styles as one file with its recipe in the header, the exact sum unless asked otherwise.

    Raises DiffloraError.
    """
    check_out(out)
    if not loras:
        raise RequestError("nothing to blend: expected styles such as ink:0.7 gouache:0.4")
    if out.exists() and not asked.force:
        raise taken(out)
    styles = find_styles(loras, folder, BaseConfig(base=base))
    check_fit_before(styles, BaseConfig(base=base))
    return export(styles, out, open_model(base, report=report), asked, base=base, report=report)
