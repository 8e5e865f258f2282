"""What can be said of a weight after a style's name, and where in the network it then acts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difflora.adapters.networks import FAMILIES, modules
from difflora.config import parse_lora
from difflora.errors import RequestError
from difflora.strength import PRESETS, Strength, block_names, parse_strength, pattern

UP = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
MID = "unet.mid_block.resnets.0.conv1"
WORDS, WORDS_2 = "text_encoder.layers.0.q_proj", "text_encoder_2.layers.0.q_proj"
weights = st.floats(-10, 10).map(lambda x: round(x, 3))


@pytest.mark.parametrize(
    ("said", "path", "weight"),
    [
        ("0.7", UP, 0.7),
        ("0.7", WORDS, 0.7),
        ("-0.7/0.3", UP, -0.7),
        ("-0.7/0.3", WORDS, 0.3),
        ("0.7/0.3", WORDS_2, 0.3),
        ("0.7@up=0.4,mid=0", UP, 0.4),
        ("0.7@up=0.4,mid=0", MID, 0),
        ("0.7@up=0.4,mid=0", "unet.conv_in", 0.7),
        ("0.7@up=0.4,up2=-1", UP, -1),
        ("0.7@up2=-1,up=0.4", UP, 0.4),
        ("0.7@up1=2", UP, 0.7),
        ("0.7@resnet=2", MID, 2),
        ("0.7@conv=2", MID, 2),
        ("0.7@self=2", UP, 2),
        ("0.7@cross=2", UP, 0.7),
        ("0.7@text2=2", WORDS_2, 2),
        ("0.7@text2=2", WORDS, 0.7),
        ("0.7@text1=2", WORDS, 2),
        ("0.7@text1=2", WORDS_2, 0.7),
        ("@mid", MID, 1),
        ("0.4@mid", MID, 0.4),
        ("0.4@mid", UP, 0),
        ("0.4@mid", WORDS, 0),
        ("@mid,up=3", UP, 3),
    ],
)
def test_a_weight_acts_where_it_says(said, path, weight):
    assert parse_strength(said).at(path) == weight
    assert parse_strength(str(parse_strength(said))) == parse_strength(said)


@given(weights, st.none() | weights, st.lists(st.tuples(st.sampled_from(block_names()), weights), max_size=4))
def test_what_is_printed_is_read_back(image, text, blocks):
    strength = Strength(image, text, tuple(blocks), 0.25, 0.75)
    assert parse_strength(str(strength)) == strength


@given(weights, weights, weights, st.floats(-1, 1))
def test_a_gain_multiplies_every_weight(image, text, up, factor):
    strength = Strength(image, text, (("up", up),))
    for path in (UP, MID, WORDS):
        assert strength.scaled(factor).at(path) == pytest.approx(strength.at(path) * factor)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "'' in '' is no number"),
        ("x", "'x' in 'x' is no number"),
        ("nan", "no number"),
        ("11", "weight 11: expected a number from -10 to 10"),
        ("1/-11", "weight -11"),
        ("1@up=11", "weight 11"),
        ("1@upp=1", "no block 'upp': expected up"),
        ("1@texure=1", "expected texture"),
        ("1@zzz=1", "expected one of composition, colour, texture"),
        ("1@up0=1", "no block 'up0'"),
        ("1@mid2=1", "no block 'mid2': expected mid"),
        ("1@=1", "no block ''"),
        ("1@steps=0.5-0.2", "shares of the drawing that rise"),
        ("1@steps=0-2", "shares of the drawing that rise"),
        ("1@steps=a-1", "'a' in"),
    ],
)
def test_a_wrong_weight_is_one_line_with_what_was_expected(said, words):
    with pytest.raises(RequestError) as error:
        parse_strength(said)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "name", "image"),
    [
        ("ink", "ink", 1.0),
        ("ink:-0.5", "ink", -0.5),
        ("./styles/ink.safetensors:0.5/0.2", "./styles/ink.safetensors", 0.5),
        ("./a:b/ink", "./a:b/ink", 1.0),
        ("C:\\styles\\ink", "C:\\styles\\ink", 1.0),
        ("ink:0.5@up=1", "ink", 0.5),
        ("ink@up=0.2", "ink", 1.0),
        ("ink@up", "ink", 0.0),
        ("me@home.safetensors", "me@home.safetensors", 1.0),
    ],
)
def test_a_name_ends_where_its_weight_begins(said, name, image):
    found, strength = parse_lora(said)
    assert (found, strength.image) == (name, image)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_names_modules_of_every_family_and_every_module_has_a_block(family):
    paths = list(modules(family))
    for name in block_names():
        assert any(pattern(name).match(path) for path in paths), name
    places = [pattern(name) for name in ("text", "time", "in", "down", "mid", "up", "out")]
    assert all(any(place.match(path) for place in places) for path in paths)
    assert not [path for path in paths if sum(bool(pattern(f"up{n}").match(path)) for n in range(1, 5)) > 1]


def test_presets_are_made_of_blocks_that_there_are():
    assert set(PRESETS) == {"composition", "colour", "texture"}
    for parts in PRESETS.values():
        for part in parts:
            pattern(part)


def test_a_style_acts_from_its_first_step_to_before_its_last():
    strength = parse_strength("1@steps=0.2-0.6")
    assert [strength.during(share) for share in (0.0, 0.2, 0.5, 0.6, 0.99)] == [False, True, True, False, False]
