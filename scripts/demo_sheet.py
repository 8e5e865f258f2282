"""Draw the demo's sheet: a row a concept that no style was trained on, a column a blend, all blends in one batch."""

from dataclasses import replace
from pathlib import Path

from difflora.drawing.generate import generate
from difflora.drawing.recipe import Recipe
from difflora.drawing.sheet import grid
from difflora.drawing.styles import find_style, load_styles
from difflora.models.family import open_model

CONCEPTS = ("red apple", "cat", "rocket", "umbrella", "turtle", "birthday cake", "octopus", "house with garden")
BLENDS = {
    "base": (0.0, 0.0, 0.0),
    "fluent3d": (1.0, 0.0, 0.0),
    "ink": (0.0, 1.0, 0.0),
    "cartoon": (0.0, 0.0, 1.0),
    "3d 0.5 + ink 0.5": (0.5, 0.5, 0.0),
    "3d 0.6 + cartoon 0.6": (0.6, 0.0, 0.6),
}


def main() -> None:
    """Draw and write demo/sheet.png."""
    folder = Path("demo")
    model = open_model("tiny")
    styles = [find_style(name, folder / "loras") for name in ("fluent3d", "ink", "cartoon")]
    adapters = load_styles(styles, model)
    recipes = [
        Recipe(
            prompt=concept,
            seed=7,
            guidance=model.recommended.guidance,
            width=model.side,
            height=model.side,
            styles=tuple(replace(s, weight=weight) for s, weight in zip(styles, weights, strict=True)),
        )
        for concept in CONCEPTS
        for weights in BLENDS.values()
    ]
    width = len(BLENDS)
    pictures = [picture for _, picture in generate(model, recipes, adapters, batch=4 * width)]
    rows = [pictures[i : i + width] for i in range(0, len(pictures), width)]
    sheet = folder / "sheet.png"
    grid(rows, list(BLENDS), list(CONCEPTS)).save(sheet)
    print(f"\n{len(recipes)} pictures of concepts that no style has seen: {sheet}")
    for name in ("fluent3d", "ink", "cartoon"):
        print(f"style file: {folder}/loras/{name}.safetensors   its previews: {folder}/runs/{name}/previews.png")
    print(f"mix them in the browser: .venv/bin/difflora ui --loras {folder}/loras")


if __name__ == "__main__":
    main()
