"""The endpoints for programs: the same work as the pages, through gradio_client."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from io import BytesIO

import httpx
import pytest
from browser import Studio
from PIL import Image

pytest.importorskip("gradio_client")
from gradio_client import Client  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from difflora.adapters.cards import card  # noqa: E402
from difflora.drawing.recipe import read_recipe  # noqa: E402

PUBLIC = {"/draw", "/blend", "/train", "/status", "/bases", "/open_base"}


@pytest.fixture(scope="module")
def client(studio: Studio) -> Iterator[Client]:
    """A program that speaks to the studio."""
    client = Client(studio.url, verbose=False, analytics_enabled=False)
    yield client
    client.close()


def status(client: Client) -> dict:
    return client.predict(api_name="/status")


def test_only_six_endpoints_are_public_and_each_says_what_it_does(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == PUBLIC
    said = {"/draw": "Draw a prompt", "/blend": "exact sum", "/train": "queue", "/status": "doing"}
    said |= {"/bases": "are here", "/open_base": "for everyone"}
    for name, words in said.items():
        assert words in named[name]["description"], name
    assert [p["parameter_name"] for p in named["/draw"]["parameters"]][:2] == ["prompt", "styles"]
    assert client.view_api(return_format="dict")["unnamed_endpoints"] == {}


def test_draw_returns_pictures_that_carry_the_recipe_it_names(client, studio):
    asked = {"prompt": "a red apple\na cat", "styles": ["ink:0.7", "gouache:-0.4"], "seed": 9, "count": 2, "steps": 3}
    drawn = client.predict(**asked, api_name="/draw")
    assert [row["recipe"]["prompt"] for row in drawn] == ["a red apple", "a red apple", "a cat", "a cat"]
    for row in drawn:
        data = httpx.get(studio.url + row["url"]).content
        path = studio.pictures / row["name"]
        assert path.read_bytes() == data
        recipe = read_recipe(path)
        # Where a style lies on the server is nobody's business; gradio_client would also try to fetch it.
        styles = [{k: v for k, v in style.items() if k != "path"} for style in json.loads(recipe.text())["styles"]]
        assert json.loads(recipe.text()) | {"styles": styles} == row["recipe"]
        assert {style.name: style.weight for style in recipe.styles} == {"ink": 0.7, "gouache": -0.4}
        assert (recipe.steps, recipe.seed in (9, 10)) == (3, True)
        with Image.open(BytesIO(data)) as picture:
            assert picture.size == (recipe.width, recipe.height)


def test_blend_writes_a_style_that_draws_at_once(client, studio):
    made = client.predict(["ink:0.7", "pastel:-0.4"], "from a program", api_name="/blend")
    path = studio.loras / "from a program.safetensors"
    assert (made["name"], made["size"]) == ("from a program", path.stat().st_size)
    assert httpx.get(studio.url + made["url"]).content == path.read_bytes()
    assert card(path).rank == "7"
    drawn = client.predict("a cat", ["from a program"], steps=2, api_name="/draw")
    assert drawn[0]["recipe"]["styles"][0]["name"] == "from a program"
    path.unlink()


def test_a_program_says_how_styles_act_together_and_how_small_their_file_is(client, studio):
    how = {"budget": "normalised", "orthogonal": 0.5, "switch": 1}
    styles = ["gouache:0.9/0.2@up=0.4", "ink:0.9@steps=0-0.5"]
    [drawn] = client.predict("a cat", styles, steps=2, **how, api_name="/draw")
    recipe = read_recipe(studio.pictures / drawn["name"])
    assert {name: getattr(recipe, name) for name in how} == how
    assert [f"{style.name}:{style.asked}" for style in recipe.styles] == styles
    made = client.predict(styles[:1], "small", {"max_error": 0.3, "budget": "sum"}, api_name="/blend")
    path = studio.loras / "small.safetensors"
    assert (made["rank"], made["size"]) == (card(path).rank, path.stat().st_size)
    assert 0 < made["error"] <= 0.3 and made["measured"] == pytest.approx(made["error"], abs=1e-3)
    path.unlink()


def test_a_training_is_queued_and_its_end_is_seen_in_status(client, studio):
    settings = {"name": "polled", "steps": 2, "rank": 2, "batch": 2, "preview_every": 0, "trigger": "polledstyle"}
    # What a checkpoint draws and reads takes longer than two steps; of small pictures it takes a quarter.
    settings["resolution"] = 32
    begun = client.predict(str(studio.images / "blobs"), settings, api_name="/train")
    assert begun["name"] == "polled"
    assert (begun["plan"]["steps"], begun["plan"]["pictures"]) == (2, 9)
    until = time.monotonic() + 120
    while (run := next(r for r in status(client)["runs"] if r["name"] == "polled"))["state"] != "finished":
        assert run["state"] in ("queued", "starting", "running") and time.monotonic() < until, run
        time.sleep(0.2)
    assert run["step"] == run["steps"] == 2
    known = {"name": "polled", "trigger": "polledstyle", "fits": True}
    assert known in status(client)["styles"]
    (studio.loras / "polled.safetensors").unlink()


def test_status_says_which_styles_fit_and_what_is_drawn(client):
    found = status(client)
    assert found["base"] == "tiny"
    fits = {style["name"]: style["fits"] for style in found["styles"]}
    assert (fits["ink"], fits["foreign"]) == (True, False)
    job = client.submit("a long one", steps=100, count=4, api_name="/draw")
    until = time.monotonic() + 20
    while not (drawings := status(client)["drawings"]):
        assert time.monotonic() < until
    assert drawings[0]["state"] in ("waiting", "drawing")
    # A program that gives up takes its drawing along.
    job.cancel()
    while status(client)["drawings"]:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("/draw", {"prompt": "a cat", "styles": ["nothing:1"]}, "nothing"),
        ("/draw", {"prompt": "a cat", "styles": ["ink:99"]}, "-10 to 10"),
        ("/draw", {"prompt": " "}, "prompt"),
        ("/draw", {"prompt": "a cat", "budget": "much"}, "'much'"),
        ("/draw", {"prompt": "a cat", "orthogonal": 2}, "orthogonal 2"),
        ("/draw", {"prompt": "a cat", "styles": ["ink:1@sky=2"]}, "sky"),
        ("/draw", {"prompt": "a cat", "steps": 0}, "steps 0: expected a number from 1 to 1000"),
        ("/draw", {"prompt": "a cat", "styles": ["../loras/ink"]}, "ink"),
        ("/draw", {"prompt": "a cat", "styles": ["foreign"]}, "foreign"),
        ("/blend", {"styles": ["ink"], "name": "../up"}, "'../up'"),
        ("/blend", {"styles": ["ink"], "name": "gouache"}, "gouache"),
        ("/blend", {"styles": ["ink"], "name": "x", "settings": {"force": True}}, "'force'"),
        (
            "/blend",
            {"styles": ["ink"], "name": "x", "settings": {"rank": 2, "max_error": 0.1}},
            "rank beside max error",
        ),
        ("/train", {"folder": "/etc"}, "not in the folders of this studio"),
        ("/train", {"folder": "blobs", "settings": {"out": "/tmp"}}, "'out'"),
        ("/train", {"folder": "blobs", "settings": {"rank": 0}}, "rank 0"),
    ],
)
def test_a_wrong_request_gets_the_one_line_that_a_person_gets(name, given, said, client):
    with pytest.raises(AppError) as error:
        client.predict(**given, api_name=name)
    line = str(error.value)
    assert said in line and re.search("expected|write|choose", line) and "\n" not in line, line


def test_settings_of_a_wrong_kind_are_refused_in_one_line(client):
    wrong = {"rank": "many"}, {"steps": [1]}, {"rank": 2.5}, {"text_encoder": "no"}, {"targets": "everything"}
    for settings in wrong:
        with pytest.raises(AppError) as error:
            client.predict("blobs", settings, api_name="/train")
        assert next(iter(settings)) in str(error.value).lower().replace(" ", "_"), error.value
