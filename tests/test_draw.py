"""Drawing: a picture carries its recipe, and the recipe redraws the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_adapter, random_model
from PIL import Image, PngImagePlugin

from difflora.adapters.edits import edit, rename
from difflora.adapters.files import save_adapter, sha256
from difflora.config import DrawConfig
from difflora.drawing.generate import batched, generate, mark_folded
from difflora.drawing.recipe import KEY, Recipe, Style, read_recipe, save_picture
from difflora.drawing.request import draw_files, recipes_for
from difflora.drawing.sheet import grid
from difflora.errors import AdapterFileError, OutputError, RequestError
from difflora.models.samplers import SAMPLERS
from difflora.models.sd import RECOMMENDED, Recommended


@pytest.fixture
def library(tmp_path: Path, model) -> Path:
    """Two styles as files, alpha unlike rank, ranks unlike each other."""
    folder = tmp_path / "loras"
    folder.mkdir()
    for name, rank, alpha, seed in (("ink", 4, 2.0, 1), ("gouache", 2, 5.0, 2)):
        save_adapter(folder / f"{name}.safetensors", random_adapter(model, rank, alpha, seed), {"ss_output_name": name})
    return folder


@pytest.fixture
def config(tmp_path: Path, library: Path) -> DrawConfig:
    """Three steps, two pictures, a blend with a negative weight."""
    return DrawConfig(
        prompts=("cat", "a red apple"), lora=("ink:0.7", "gouache:-0.4"), steps=3, seed=5, count=2, guidance=3.0,
        negative="dog", loras=library, out=tmp_path / "pictures",
    )  # fmt: skip


def test_guidance_is_as_the_base_recommends_unless_given(config, model, monkeypatch):
    monkeypatch.setitem(RECOMMENDED, model.family, Recommended(1e-4, 2, 20, guidance=3.0))
    (one, *_) = recipes_for(replace(config, guidance=None), [], model)
    assert one.guidance == 3.0
    assert recipes_for(replace(config, guidance=7.0), [], model)[0].guidance == 7.0
    assert recipes_for(replace(config, guidance=0.0), [], model)[0].guidance == 0.0


def pixels(path: Path) -> np.ndarray:
    """A picture as numbers."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_every_picture_redraws_itself_bit_for_bit(config, model):
    for path, _ in draw_files(config, model=model):
        again = draw_files(DrawConfig(like=path, loras=config.loras, out=config.out), model=model)
        assert len(again) == 1
        assert again[0][0].read_bytes() == path.read_bytes()


def test_pictures_of_different_blends_redraw_themselves_bit_for_bit(config, model, library, tmp_path):
    names = ("ink", "gouache")
    from difflora.drawing.styles import find_style, load_styles

    found = [find_style(name, library) for name in names]
    adapters = load_styles(found, model)
    tables = [(1.0, 0.0), (0.5, 0.5), (-0.3, 1.2)]
    recipes = [
        Recipe(
            prompt="cat", seed=3, steps=3, guidance=3.0, width=32, height=32,
            styles=tuple(replace(s, weight=w) for s, w in zip(found, weights, strict=True)),
        )
        for weights in tables
    ]  # fmt: skip
    for i, (recipe, picture) in enumerate(list(generate(model, mark_folded(recipes), adapters))):
        assert not recipe.folded
        path = tmp_path / f"{i}.png"
        save_picture(picture, recipe, path)
        again = draw_files(DrawConfig(like=path, loras=library, out=tmp_path / "again"), model=model)
        assert np.array_equal(pixels(path), pixels(again[0][0]))


def test_folded_pictures_equal_gated_ones(config, model, library):
    from difflora.drawing.styles import find_style, load_styles

    styles = tuple(find_style(text, library) for text in ("ink:0.7", "gouache:-0.4"))
    adapters = load_styles(styles, model)
    recipes = [
        Recipe(prompt=p, seed=i, steps=3, guidance=2.0, width=32, height=32, styles=styles)
        for i, p in enumerate(["cat", "dog"])
    ]
    gated = [np.asarray(p).astype(int) for _, p in generate(model, recipes, adapters)]
    folded = [np.asarray(p).astype(int) for _, p in generate(model, mark_folded(recipes), adapters)]
    assert all(np.abs(a - b).max() <= 1 for a, b in zip(gated, folded, strict=True))


def test_same_seed_same_picture_and_another_seed_another(config, model):
    first = [path for path, _ in draw_files(config, model=model)]
    again = [path for path, _ in draw_files(config, model=model)]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, again, strict=True))
    assert set(first).isdisjoint(again)
    assert not np.array_equal(pixels(first[0]), pixels(first[1]))


def test_the_recipe_says_all_that_was_asked(config, model):
    path, recipe = draw_files(config, model=model)[1]
    assert read_recipe(path) == recipe
    assert (recipe.prompt, recipe.negative, recipe.seed, recipe.steps, recipe.guidance) == ("cat", "dog", 6, 3, 3.0)
    assert [(s.name, s.weight) for s in recipe.styles] == [("ink", 0.7), ("gouache", -0.4)]
    with Image.open(path) as picture:
        assert f"<lora:ink:{0.7 * recipe.styles[0].gain:g}>" in picture.text["parameters"]


def test_a_changed_style_file_is_not_drawn_as_the_old_one(config, model):
    path, _ = draw_files(config, model=model)[0]
    other = random_adapter(model, 3, 1.0, 9)
    save_adapter(config.loras / "ink.safetensors", other, {})
    with pytest.raises(RequestError, match="not the file the picture was drawn with"):
        draw_files(DrawConfig(like=path, loras=config.loras, out=config.out), model=model)


def test_an_old_picture_is_redrawn_after_its_styles_were_edited_and_renamed(config, model):
    path, recipe = draw_files(config, model=model)[0]
    edit(config.loras / "ink.safetensors", trigger="blot", weight=0.5)
    rename(config.loras / "gouache.safetensors", "paint")
    # Another style under the old name must not be taken for it.
    save_adapter(config.loras / "gouache.safetensors", random_adapter(model, 2, 3.0, 9), {})
    again = draw_files(DrawConfig(like=path, loras=config.loras, out=config.out), model=model)
    assert np.array_equal(pixels(path), pixels(again[0][0]))


def test_a_picture_that_recorded_the_hash_of_whole_files_is_still_redrawn(config, model, tmp_path):
    path, recipe = draw_files(config, model=model)[0]
    old = replace(recipe, styles=tuple(replace(s, sha256=sha256(Path(s.path))) for s in recipe.styles))
    with Image.open(path) as picture:
        save_picture(picture, old, tmp_path / "old.png")
    again = draw_files(DrawConfig(like=tmp_path / "old.png", loras=config.loras, out=config.out), model=model)
    assert np.array_equal(pixels(path), pixels(again[0][0]))


def test_a_recipe_that_names_a_file_outside_learns_nothing_of_it(config, model, tmp_path):
    path, recipe = draw_files(config, model=model)[0]
    secret = save_adapter(tmp_path / "secret.safetensors", random_adapter(model, 2, 3.0, 9), {})
    probing = tuple(replace(s, name="ghost", path=str(secret), sha256="0" * 64) for s in recipe.styles[:1])
    with Image.open(path) as picture:
        save_picture(picture, replace(recipe, styles=probing), tmp_path / "probe.png")
    with pytest.raises(AdapterFileError, match="no style 'ghost'") as error:
        draw_files(DrawConfig(like=tmp_path / "probe.png", loras=config.loras, out=config.out), model=model)
    assert "secret" not in str(error.value)


def test_prompts_come_from_a_file_too(config, model, tmp_path):
    lines = tmp_path / "prompts.txt"
    lines.write_text("one\n\n  two  \n", encoding="utf-8")
    drawn = draw_files(replace(config, prompts=(), prompts_file=lines, count=1), model=model)
    assert [recipe.prompt for _, recipe in drawn] == ["one", "two"]


def test_a_picture_is_as_large_as_asked(config, model):
    path, recipe = draw_files(replace(config, size="48x32", count=1), model=model)[0]
    with Image.open(path) as picture:
        assert picture.size == (48, 32) == (recipe.width, recipe.height)


@pytest.mark.parametrize("name", [*SAMPLERS, None])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_sampler_draws_finite_pictures_for_every_prediction(name, prediction):
    toy = random_model(prediction)
    drawn = toy.draw(["cat"] * 2, [""] * 2, seeds=[0, 1], steps=4, guidance=2.0, size=(32, 32), sampler=name)
    assert drawn.shape == (2, 3, 32, 32)
    assert torch.isfinite(drawn).all()
    assert drawn.std() > 0


@pytest.mark.parametrize("name", ["euler a", "lcm"])
def test_a_sampler_that_adds_noise_draws_the_same_picture_alone_and_in_a_batch(name, model):
    together = model.draw(["cat"] * 3, [""] * 3, seeds=[4, 5, 6], steps=3, guidance=2.0, size=(32, 32), sampler=name)
    alone = model.draw(["cat"], [""], seeds=[5], steps=3, guidance=2.0, size=(32, 32), sampler=name)
    assert float((together[1] - alone[0]).norm() / alone.norm()) < 1e-3


def test_the_bases_own_sampler_never_clips_latents(model):
    from difflora.models.samplers import make_sampler

    assert not make_sampler(model.scheduler, None).config.clip_sample
    assert not make_sampler(model.scheduler, "ddim").config.clip_sample


def test_recipes_are_drawn_together_only_when_they_share_their_settings():
    base = Recipe(prompt="a", width=32, height=32)
    groups = batched([base, base, replace(base, steps=9), replace(base, steps=9), base], 8)
    assert [[r.row for r in group] for group in groups] == [[0, 1], [0, 1], [0]]
    assert [group[0].batch for group in groups] == [2, 2, 1]
    assert [len(group) for group in batched([base] * 5, 2)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": ()}, "no prompt"),
        ({"size": "50"}, "multiples of 8"),
        ({"size": "big"}, "--size big"),
        ({"sampler": "magic"}, "expected one of ddim"),
        ({"lora": ("ink:much",)}, "ink:much: 'much' in 'much' is no number: expected a weight from -10 to 10"),
        ({"lora": ("ink:nan",)}, "weight from -10 to 10"),
        ({"lora": ("ink:11",)}, "weight 11: expected a number from -10 to 10"),
        ({"lora": ("ink:1/-11",)}, "weight -11: expected a number from -10 to 10"),
        ({"lora": ("ink:1@upp=2",)}, "no block 'upp': expected up"),
        ({"lora": ("ink:1@steps=0.7-0.2",)}, "shares of the drawing that rise"),
        ({"prompts_file": Path("nowhere.txt")}, "not readable"),
    ],
)
def test_a_wrong_request_is_one_line_and_draws_nothing(config, model, change, words):
    with pytest.raises(RequestError, match=words) as error:
        draw_files(replace(config, **change), model=model)
    assert "\n" not in str(error.value)
    assert not list(config.out.glob("*"))


def test_an_unknown_style_names_the_ones_there_are(config, model):
    with pytest.raises(AdapterFileError, match="gouache"):
        draw_files(replace(config, lora=("gouach",)), model=model)


def test_a_folder_that_cannot_be_written_is_refused_before_drawing(config, model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        draw_files(replace(config, out=tmp_path / "file" / "pictures"), model=model)


def test_pictures_without_a_sound_recipe_are_refused(tmp_path):
    plain, damaged = tmp_path / "plain.png", tmp_path / "damaged.png"
    Image.new("RGB", (8, 8)).save(plain)
    for text in ("{", "[]", '{"prompt": "x"}', json.dumps({"prompt": "x", "width": -1, "height": 2, "styles": [1]})):
        info = PngImagePlugin.PngInfo()
        info.add_itxt(KEY, text)
        Image.new("RGB", (8, 8)).save(damaged, pnginfo=info)
        with pytest.raises(RequestError, match="damaged"):
            read_recipe(damaged)
    for path, words in ((plain, "no recipe"), (tmp_path / "none.png", "not a readable picture")):
        with pytest.raises(RequestError, match=words):
            read_recipe(path)


def test_a_style_in_a_recipe_keeps_its_words():
    recipe = Recipe(prompt='a "cat" \\ ünï', width=8, height=8, styles=(Style("ink", -0.5, "x", "y"),))
    from difflora.drawing.recipe import parse_recipe

    assert parse_recipe(recipe.text()) == recipe


def test_a_sheet_shows_every_picture_once():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    cells = [Image.new("RGB", (8, 8), colour) for colour in colours]
    sheet = grid([cells[:2], cells[2:]], ["one", "two"], ["upper", "lower"], cell=32)
    found = {colour for _, colour in sheet.getcolors(10**6)}
    assert set(colours) <= found
