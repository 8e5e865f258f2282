"""A DrawConfig -> recipes -> files: what `difflora generate` does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..adapters.adapter import Adapter, Info
from ..adapters.blend import blend
from ..adapters.files import find_adapter, load_adapter, save_adapter, sha256, writable_folder
from ..config import DrawConfig, parse_lora, parse_size
from ..errors import RequestError
from ..events import Note, Report, Saved, ignore
from ..models.family import BaseModel, open_model
from ..version import __version__
from .generate import generate, mark_folded
from .recipe import Recipe, Style, read_recipe, save_picture

Drawn = list[tuple[Path, Recipe]]


def draw_files(config: DrawConfig, report: Report = ignore, model: BaseModel | None = None) -> Drawn:
    """Draw what the config asks for and write each picture as soon as it is done; raises DiffloraError."""
    writable_folder(config.out)
    if config.like is not None:
        return draw_like(config, report, model)
    prompts = read_prompts(config)
    styles = [find_style(text, config.loras) for text in config.lora]
    size = parse_size(config.size) if config.size else None
    model = model or open_model(config.base)
    adapters = load_styles(styles, model)
    for trigger in {a.info.trigger for a in adapters.values()} - {""}:
        if not all(trigger.lower() in prompt.lower() for prompt in prompts):
            report(Note(f"a style was learnt with the trigger {trigger!r}: it is strongest with that in the prompt"))
    width, height = size or (model.side, model.side)
    recipes = [
        Recipe(
            prompt=prompt, negative=config.negative, seed=config.seed + i, steps=config.steps, guidance=config.guidance,
            width=width, height=height, sampler=config.sampler, base=config.base, styles=tuple(styles),
            version=__version__,
        )
        for prompt in prompts
        for i in range(config.count)
    ]  # fmt: skip
    return write_all(
        generate(model, mark_folded(recipes), adapters, batch=config.batch, report=report), config.out, report
    )


def draw_like(config: DrawConfig, report: Report, model: BaseModel | None) -> Drawn:
    """Redraw one picture from its recipe, in a batch of the same size, so that every bit is the same."""
    if config.prompts or config.prompts_file or config.lora:
        raise RequestError("--like takes everything from the picture: expected no prompt and no --lora beside it")
    recipe = read_recipe(config.like)
    styles = [found_again(style, config.loras) for style in recipe.styles]
    model = model or open_model(recipe.base)
    adapters = load_styles(styles, model)
    copies = generate(model, recipe.copies(), adapters, batch=recipe.batch, report=report)
    own = [(drawn, picture) for drawn, picture in copies if drawn.row == recipe.row]
    return write_all(own, config.out, report)


def read_prompts(config: DrawConfig) -> list[str]:
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


def find_style(text: str, folder: Path) -> Style:
    """NAME[:WEIGHT] -> a style with its file and the file's sha256."""
    name, weight = parse_lora(text)
    path = find_adapter(name, folder)
    return Style(path.stem, weight, str(path), sha256(path))


def found_again(style: Style, folder: Path) -> Style:
    """A recipe's style on this machine; RequestError when the file has changed since."""
    path = Path(style.path) if Path(style.path).is_file() else find_adapter(style.name, folder)
    found = sha256(path)
    if found != style.sha256:
        raise RequestError(
            f"{path} is not the file the picture was drawn with (sha256 {found[:12]}, expected {style.sha256[:12]}): "
            "put the old file back, or draw from the prompt instead"
        )
    return replace(style, path=str(path))


def load_styles(styles: Sequence[Style], model: BaseModel) -> dict[str, Adapter]:
    """Every style's adapter, by name; RequestError when a name is given twice."""
    names = [style.name for style in styles]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(
                f"--lora {name} is given twice: expected each style once, with the weight it should have"
            )
    shapes = model.shapes()
    return {style.name: load_adapter(Path(style.path), shapes, model.family) for style in styles}


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
    words = re.sub(r"[^\w]+", "-", recipe.prompt.lower()).strip("-")[:60] or "picture"
    stem = f"{words}-{recipe.seed}"
    number = 1
    while (path := folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")).exists():
        number += 1
    return path


def blend_file(loras: Sequence[str], out: Path, base: str, folder: Path) -> Path:
    """Write the exact sum of styles as one file with its recipe in the header; raises DiffloraError."""
    import json

    if out.suffix != ".safetensors":
        raise RequestError(f"--out {out}: expected a name ending in .safetensors")
    styles = [find_style(text, folder) for text in loras]
    if not styles:
        raise RequestError("nothing to blend: expected styles such as ink:0.7 gouache:0.4")
    model = open_model(base)
    adapters = load_styles(styles, model)
    writable_folder(out.parent)
    triggers = ", ".join(a.info.trigger for a in adapters.values() if a.info.trigger)
    info = Info(out.stem, model.family, base, triggers)
    summed = blend([adapters[s.name] for s in styles], [s.weight for s in styles], info)
    sources = [{"name": s.name, "weight": s.weight, "sha256": s.sha256} for s in styles]
    ranks = {f.rank for f in summed.layers.values()}
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    metadata = {
        "ss_output_name": out.stem, "ss_network_module": "networks.lora", "ss_network_dim": rank,
        "ss_network_alpha": rank, "modelspec.title": out.stem, "modelspec.trigger_phrase": triggers,
        "modelspec.merged_from": ", ".join(s.name for s in styles), "difflora.version": __version__,
        "difflora.family": model.family, "difflora.base": base, "difflora.blend": json.dumps(sources),
    }  # fmt: skip
    return save_adapter(out, summed, metadata)
