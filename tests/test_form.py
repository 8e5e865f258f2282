"""Every setting has its control, made from the config itself: its words, its bounds, its default."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

pytest.importorskip("gradio")
import gradio as gr  # noqa: E402

from difflora.config import DrawConfig, PictureConfig, TrainConfig  # noqa: E402
from difflora.errors import RequestError  # noqa: E402
from difflora.models.sd import Recommended  # noqa: E402
from webui import studio, training  # noqa: E402
from webui.form import Form, help_of, label_of  # noqa: E402
from webui.words import words  # noqa: E402

PAGES = {DrawConfig: studio, TrainConfig: training}
GIVEN = {DrawConfig: {"prompts": ("a cat",)}, TrainConfig: {"images": Path("pictures")}}
BOTH = pytest.mark.parametrize("config", PAGES)


@pytest.fixture(scope="module")
def forms() -> dict[type, Form]:
    """The forms of the two pages."""
    desk = SimpleNamespace(model=SimpleNamespace(side=128, recommended=Recommended(1e-3, 8, 32, guidance=3.0)))

    async def made() -> dict[type, Form]:
        with gr.Blocks(analytics_enabled=False):
            return {DrawConfig: studio.settings(desk), TrainConfig: training.settings()}

    # Where no event loop runs, Gradio makes two and leaves them open.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, made()).result()


def untouched(form: Form) -> dict[str, object]:
    """What a page sends when nobody has touched it."""
    return {name: control.value for name, control in form.controls.items()}


def read(form: Form, **changed: object) -> object:
    values = untouched(form) | changed
    assert len(values) == len(form.controls), f"no control of {set(changed) - set(form.controls)}"
    return form.read(list(values.values()), **GIVEN[form.config])


@BOTH
def test_every_field_has_one_control_or_is_named_as_standing_elsewhere(config, forms):
    names = {field.name for field in fields(config)}
    controls, elsewhere = set(forms[config].controls), set(PAGES[config].ELSEWHERE)
    assert controls | elsewhere == names
    assert not controls & elsewhere


@BOTH
def test_the_help_of_a_control_is_the_fields_own_sentence(config, forms):
    for name, control in forms[config].controls.items():
        own = next(own for kind in config.__mro__ if (own := help_of(kind).get(name)))
        assert control.info == words().get(f"help.{config.__name__}.{name}", own), name
        assert control.label == label_of(config, name)
        assert control.label and control.info.endswith("."), name


def test_help_is_read_for_every_field_of_a_config_and_of_what_it_is_made_from():
    for config in (DrawConfig, TrainConfig, PictureConfig):
        assert set(help_of(config)) == {field.name for field in fields(config)}
    assert help_of(DrawConfig)["seed"] == "Seed of the first picture; the next ones count up."


@BOTH
def test_an_untouched_form_is_the_config_as_it_is_by_default(config, forms):
    # Guidance is shown as the open base recommends it.
    shown = {"guidance": 3.0} if config is DrawConfig else {}
    assert read(forms[config]) == config(**GIVEN[config], **shown)


@BOTH
def test_a_control_has_the_kind_of_its_field(config, forms):
    for name, control in forms[config].controls.items():
        hint = get_type_hints(config)[name]
        if get_origin(hint) is Literal:
            assert [value for _, value in control.choices] == list(get_args(hint))
        elif hint is bool:
            assert isinstance(control, gr.Checkbox)
        elif hint in (int, float):
            assert isinstance(control, (gr.Slider, gr.Number)), name


@BOTH
def test_the_bounds_of_a_slider_hold_its_default_and_are_taken_by_the_config(config, forms):
    sliders = {name: c for name, c in forms[config].controls.items() if isinstance(c, gr.Slider)}
    assert sliders
    for name, control in sliders.items():
        assert control.minimum <= control.value <= control.maximum
        for end in (control.minimum, control.maximum):
            assert getattr(read(forms[config], **{name: end}), name) == end


def test_what_is_typed_reaches_the_config(forms):
    asked = {"seed": 7, "count": 3, "size": "96x64", "sampler": "euler", "guidance": 2, "negative": "blur", "batch": 2}
    assert read(forms[DrawConfig], **asked) == DrawConfig(prompts=("a cat",), **asked)
    rows = {"name": "ink", "steps": "40", "alpha": "2.5", "learning_rate": "1e-4", "text_encoder": False}
    learnt = read(forms[TrainConfig], **rows, targets="attention", preview_prompts=" a cat \n\n a dog\n")
    assert (learnt.steps, learnt.alpha, learnt.learning_rate) == (40, 2.5, 1e-4)
    assert (learnt.targets, learnt.text_encoder, learnt.preview_prompts) == ("attention", False, ("a cat", "a dog"))
    # A field that is emptied is left to difflora again.
    assert read(forms[TrainConfig], name="", steps="", alpha="", trigger="") == TrainConfig(images=Path("pictures"))


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        (DrawConfig, "seed", -1), (DrawConfig, "count", 0), (DrawConfig, "steps", float("nan")),
        (DrawConfig, "guidance", "much"), (DrawConfig, "batch", 10**6), (TrainConfig, "steps", "many"),
        (TrainConfig, "steps", "0"), (TrainConfig, "alpha", "inf"), (TrainConfig, "learning_rate", "-1"),
        (TrainConfig, "rank", 0), (TrainConfig, "name", "../ink"), (TrainConfig, "batch", "2.5"),
        (TrainConfig, "resolution", "1e999"), (TrainConfig, "rank", [16]),
        (TrainConfig, "rank", 2.5), (TrainConfig, "targets", "everything"), (TrainConfig, "text_encoder", "no"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_in_one_line_that_names_its_field(config, name, value, forms):
    with pytest.raises(RequestError) as error:
        read(forms[config], **{name: value})
    line = str(error.value)
    assert name.replace("_", "-") in line.lower().replace(" ", "-") and "\n" not in line
    assert "expected" in line
