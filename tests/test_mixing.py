"""What acts while a picture is drawn: styles twice, by block, in turns, out of each other's way, within a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.blend import blend
from difflora.adapters.files import load_adapter, save_adapter
from difflora.adapters.orthogonal import orthogonalised
from difflora.config import BlendConfig, DrawConfig
from difflora.drawing.export import export
from difflora.drawing.generate import generate, mark_folded
from difflora.drawing.recipe import Recipe, Style, parse_recipe
from difflora.drawing.request import blend_file, draw_files
from difflora.drawing.styles import find_styles, load_styles
from difflora.errors import DiffloraError, OutputError
from difflora.models.attach import attached
from difflora.strength import Strength, parse_strength, weight_at

SIZE = {"steps": 4, "guidance": 2.0, "width": 32, "height": 32}


@pytest.fixture
def library(tmp_path: Path, model, adapters) -> Path:
    """Three styles as files: alpha unlike rank, ranks unlike each other, one touching other layers."""
    folder = tmp_path / "loras"
    folder.mkdir()
    for name, adapter in zip(("ink", "gouache", "few"), adapters, strict=True):
        save_adapter(folder / f"{name}.safetensors", replace(adapter, info=Info(name)), {}, torch.float32)
    return folder


def drawn(model, library: Path, *texts: str, seed: int = 3, **asked: object) -> np.ndarray:
    """One picture of styles by NAME:WEIGHT, as numbers."""
    styles = tuple(find_styles(texts, library))
    recipe = Recipe(prompt="cat", seed=seed, styles=styles, **SIZE | asked)
    [(_, picture)] = generate(model, [recipe], load_styles(styles, model))
    return np.asarray(picture).astype(int)


def by_hand(model, adapters: list[Adapter], weights_at_step) -> np.ndarray:
    """The same picture with the stack's weights set before each step."""
    with attached(model.parts, adapters) as stack:
        stack.weights(weights_at_step(None))
        pixels = model.draw(
            ["cat"], [""], seeds=[3], steps=SIZE["steps"], guidance=SIZE["guidance"], size=(32, 32),
            on_step=lambda i, clean: stack.weights(weights_at_step(i)),
        )  # fmt: skip
    return ((pixels[0] + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).numpy().astype(int)


def scaled(adapter: Adapter, weight: float | Strength) -> Adapter:
    """Every layer times its weight, by hand."""
    layers = {
        path: Factors(update.down, update.up * weight_at(weight, path), update.alpha)
        for path, update in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def read(library: Path, model, *names: str) -> list[Adapter]:
    return [load_adapter(library / f"{name}.safetensors", model.shapes()) for name in names]


def far(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a - b).max())


def test_one_style_twice_is_the_sum_of_its_weights(model, library):
    once = drawn(model, library, "ink:0.3", "gouache:-0.4")
    assert far(drawn(model, library, "ink:0.7", "gouache:-0.4", "ink:-0.4"), once) <= 1
    assert far(drawn(model, library, "ink:0.7", "gouache:-0.4"), once) > 3


def test_two_files_of_one_name_are_two_styles(model, library, tmp_path):
    other = tmp_path / "others" / "ink.safetensors"
    other.parent.mkdir()
    other.write_bytes((library / "gouache.safetensors").read_bytes())
    styles = find_styles(["ink:0.7", f"{other}:-0.4", "ink:0.1"], library)
    assert [style.name for style in styles] == ["ink", "ink (2)", "ink"]
    both = drawn(model, library, "ink:0.7", f"{other}:-0.4")
    assert far(both, drawn(model, library, "ink:0.7", "gouache:-0.4")) == 0


@pytest.mark.parametrize("said", ["0.9/-0.5", "0.8@up=-0.3,mid=0", "0.6@conv=2,text=0", "1.5@self"])
def test_a_weight_by_block_draws_the_style_scaled_there_by_hand(model, library, said):
    [ink, few] = read(library, model, "ink", "few")
    hand = by_hand(model, [scaled(ink, parse_strength(said)), few], lambda step: [1.0, -0.4])
    assert far(drawn(model, library, f"ink:{said}", "few:-0.4"), hand) <= 1
    assert far(drawn(model, library, "ink:1", "few:-0.4"), hand) > 3


def test_a_style_with_a_window_acts_in_its_steps_only_and_on_the_words_always(model, library):
    both = read(library, model, "ink", "gouache")
    late = Strength(0.0, 0.9)

    def weights(step: int | None) -> list[float | Strength]:
        acts = step is None or step in (1, 2)
        return [Strength(0.9) if acts else late, -0.5]

    found = drawn(model, library, "ink:0.9@steps=0.25-0.75", "gouache:-0.5")
    assert far(found, by_hand(model, both, weights)) == 0
    assert far(found, drawn(model, library, "ink:0.9", "gouache:-0.5")) > 3


def test_styles_that_take_turns_act_one_at_a_time(model, library):
    both = read(library, model, "ink", "gouache")

    def weights(step: int | None) -> list[float]:
        return [0.45, -0.3] if step is None else [[0.9, 0.0], [0.0, -0.6]][step % 2]

    found = drawn(model, library, "ink:0.9", "gouache:-0.6", switch=1)
    assert far(found, by_hand(model, both, weights)) == 0
    slow = drawn(model, library, "ink:0.9", "gouache:-0.6", switch=2)
    assert far(slow, by_hand(model, both, lambda s: [0.45, -0.3] if s is None else weights(s // 2))) == 0
    assert far(found, slow) > 1


def test_a_style_out_of_the_others_way_is_the_one_whose_overlap_was_taken_out(model, library):
    both = read(library, model, "ink", "gouache")
    apart = orthogonalised(both, 0.7)
    found = drawn(model, library, "ink:0.9", "gouache:-0.6", orthogonal=0.7)
    assert far(found, by_hand(model, apart, lambda step: [0.9, -0.6])) == 0
    other = drawn(model, library, "gouache:-0.6", "ink:0.9", orthogonal=0.7)
    assert far(found, other) > 0, "the first style stays as it is"


@pytest.mark.parametrize("budget", ["normalised", "matched"])
def test_what_the_budget_makes_of_weights_is_in_the_recipe_and_draws_the_same_again(model, library, budget):
    styles = tuple(find_styles(["ink:0.9/0.4", "gouache:-0.6@up=0.2", "few:0.5"], library))
    recipe = Recipe(prompt="cat", seed=3, styles=styles, budget=budget, **SIZE)
    adapters = load_styles(styles, model)
    [(made, picture)] = generate(model, [recipe], adapters)
    gains = [style.gain for style in made.styles]
    assert all(gain is not None and gain > 0 for gain in gains) and set(gains) != {1.0}
    again = parse_recipe(made.text())
    assert again == made
    [(_, second)] = generate(model, [again], adapters)
    assert np.array_equal(np.asarray(picture), np.asarray(second))
    strengths = [style.asked.scaled(style.gain) for style in made.styles]
    hand = by_hand(model, list(adapters.values()), lambda step: strengths)
    assert far(np.asarray(picture).astype(int), hand) == 0


def test_pictures_of_one_batch_may_differ_in_budget_windows_and_turns(model, library):
    styles = tuple(find_styles(["ink:0.9", "gouache:0.6"], library))
    plain = Recipe(prompt="cat", seed=3, styles=styles, **SIZE)
    late = replace(styles[0], start=0.5)
    recipes = [
        plain,
        replace(plain, budget="normalised"),
        replace(plain, switch=1),
        replace(plain, styles=(late, styles[1])),
    ]
    adapters = load_styles(styles, model)
    together = [np.asarray(p).astype(int) for _, p in generate(model, mark_folded(recipes), adapters)]
    alone = [np.asarray(p).astype(int) for r in recipes for _, p in generate(model, [r], adapters)]
    assert all(far(a, b) <= 1 for a, b in zip(together, alone, strict=True))
    assert min(far(together[0], other) for other in together[1:]) > 1


def test_recipes_of_before_are_plain_sums():
    old = parse_recipe('{"prompt": "cat", "width": 32, "height": 32, "styles": [{"name": "ink", "weight": 0.5}]}')
    assert (old.budget, old.orthogonal, old.switch) == ("sum", 0.0, 0)
    assert old.styles == (Style("ink", 0.5),) and old.styles[0].strength == Strength(0.5)


@pytest.mark.parametrize(
    "row",
    ['"weight": "much"', '"weight": 99', '"weight": 1, "blocks": [1]', '"weight": 1, "blocks": [["upp", 1]]',
     '"weight": 1, "start": 2'],
)  # fmt: skip
def test_a_recipe_with_wrong_weights_is_damaged(row):
    with pytest.raises((ValueError, TypeError)):
        parse_recipe(f'{{"prompt": "cat", "width": 32, "height": 32, "styles": [{{"name": "x", {row}}}]}}')


@pytest.mark.parametrize("budget", ["sum", "normalised"])
def test_a_blend_file_draws_what_its_styles_draw(model, library, tmp_path, budget):
    texts = ["ink:0.9/0.4", "gouache:-0.6@up=0.2,conv=1", "few:0.5", "ink:0.1"]
    styles = find_styles(texts, library)
    asked = BlendConfig(budget=budget, orthogonal=0.3, precision="fp32")
    made = export(styles, tmp_path / "both.safetensors", model, asked)
    stack = drawn(model, library, *texts, budget=budget, orthogonal=0.3)
    assert far(drawn(model, tmp_path, "both"), stack) <= 1
    assert made.distance > 0 and made.error == 0 and made.measured == pytest.approx(made.distance, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "most"), [({"rank": 3}, 1.0), ({"max_error": 0.2}, 0.2), ({"max_error": 0.02}, 0.02)]
)
def test_the_error_told_of_a_smaller_file_is_its_distance_from_the_true_sum(model, library, tmp_path, settings, most):
    styles = find_styles(["ink:0.7", "gouache:-0.4@up=1", "few:1.5"], library)
    made = export(styles, tmp_path / "b.safetensors", model, BlendConfig(budget="sum", precision="fp32", **settings))
    parts = load_styles(styles, model)
    exact = blend([parts[s.name] for s in styles], [s.asked for s in styles])
    file = load_adapter(made.path, model.shapes())
    gap = sum(
        float(((file.layers[p].delta() if p in file.layers else 0) - exact.layers[p].delta()).square().sum())
        for p in exact.layers
    )
    true = (gap / sum(float(update.delta().square().sum()) for update in exact.layers.values())) ** 0.5
    assert true == pytest.approx(made.error, rel=1e-3) == pytest.approx(made.measured, rel=1e-3)
    assert 0 < true <= most


def test_a_name_that_is_taken_is_kept_unless_forced(library, tmp_path):
    out = tmp_path / "both.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="--force"):
        blend_file(["ink"], out, "tiny", library)
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [
        ([], {}, "nothing to blend"),
        (["ink:much"], {}, "'much' in 'much' is no number"),
        (["ink:11"], {}, "weight 11"),
        (["ink:1@upp=1"], {}, "no block 'upp': expected up"),
        (["ink:1@steps=0-0.5"], {}, "no steps"),
        (["ghost"], {}, "ghost"),
        (["ink"], {"rank": 0}, "--rank 0"),
        (["ink"], {"rank": 4000}, "rank 4000"),
        (["ink"], {"max_error": 1.0}, "--max-error 1.0"),
        (["ink"], {"rank": 4, "max_error": 0.1}, "one of them"),
        (["ink"], {"method": "switch"}, "difflora generate --switch 1"),
        (["ink"], {"method": "ties", "orthogonal": 0.5}, "one of them"),
    ],
)
def test_a_wrong_blend_is_one_line_and_writes_nothing(toy_folder, library, tmp_path, texts, settings, words):
    out = tmp_path / "both.safetensors"
    with pytest.raises(DiffloraError) as error:
        blend_file(texts, out, str(toy_folder), library, BlendConfig(**settings))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["loras"]


def test_a_command_draws_in_turns_out_of_the_way_and_within_the_budget(model, library, tmp_path):
    config = DrawConfig(
        prompts=("cat",), lora=("ink:1/0.4@steps=0-0.5", "gouache:0.6@up=0.3"), steps=4, loras=library,
        out=tmp_path / "p", budget="normalised", orthogonal=0.5, switch=1,
    )  # fmt: skip
    [(path, recipe)] = draw_files(config, model=model)
    assert (recipe.budget, recipe.orthogonal, recipe.switch, recipe.folded) == ("normalised", 0.5, 1, False)
    [(again, _)] = draw_files(DrawConfig(like=path, loras=library, out=tmp_path / "again"), model=model)
    assert again.read_bytes() == path.read_bytes()
