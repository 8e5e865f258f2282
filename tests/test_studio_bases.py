"""The base picker in a real browser: what is here, opening another one, two people, and what happens when it fails."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator

import httpx
import pytest
from bases import make_base
from browser import DESKTOP, SECONDS, Studio, Visits, lines, loaded, running, tab_to, turn_to, write_styles
from conftest import random_adapter
from safetensors.torch import load_file, save_file
from test_studio import ask, drawn, open_picture, pick, slider
from test_studio_everyone import CONTRAST, OUTSIDE, PHONE, unnamed

from difflora.adapters.files import save_adapter
from difflora.drawing.recipe import read_recipe
from difflora.models.family import EMBEDDED, open_model
from webui.words import text

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect  # noqa: E402

PASSWORD = "one-for-all-of-them"
BOTH = "--auth", f"ann:{PASSWORD}", "--auth", f"bob:{PASSWORD}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio of two people with four bases: two of the embedded family, one of another, one that lacks a weight."""
    place = tmp_path_factory.mktemp("bases")
    write_styles(place / "loras")
    shutil.copytree(EMBEDDED["tiny"], place / "bases" / "pictograms")
    make_base("sd1", place / "bases" / "painterly")
    shutil.copytree(place / "bases" / "painterly", place / "bases" / "lacking")
    file = next((place / "bases" / "lacking" / "vae").glob("*.safetensors"))
    tensors = load_file(file)
    tensors.popitem()
    save_file(tensors, file)
    (place / "bases" / "nothing").mkdir()
    (place / "bases" / "nothing" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (place / "images").mkdir()
    model = open_model(str(place / "bases" / "painterly"))
    adapter = random_adapter(model, 2, 3.0, 5, paths=model.targets("attention", False))
    save_adapter(place / "loras" / "watercolour.safetensors", adapter, {})
    with running(place, *BOTH) as opened:
        yield opened


@pytest.fixture
def enter(browser, shared: Studio, visits: Visits) -> Iterator[Callable]:
    """enter(user, **context) -> the studio as that person sees it, with the embedded base open."""
    contexts = []

    def enter(user: str, **settings):
        settings = {"viewport": DESKTOP, "reduced_motion": "reduce", "base_url": shared.url} | settings
        context = browser.new_context(**settings)
        contexts.append(context)
        context.request.post("/login", form={"username": user, "password": PASSWORD})
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        visits.watch(page)
        page.goto("/")
        return loaded(page)

    yield enter
    page = contexts[-1].pages[0]
    page.goto("/")
    loaded(page)
    if chip(page).inner_text() != text("bases.chip").format(name="tiny"):
        change(page, "tiny")
    for context in contexts:
        context.close()


def chip(page: Page):
    return page.locator(".frame-head button.base")


def dialog(page: Page):
    return page.get_by_role("dialog", name=text("bases.title"), exact=True)


def show(page: Page):
    """The dialog with its list."""
    if not dialog(page).is_visible():
        chip(page).click()
    expect(row(page, "tiny")).to_be_visible()
    return dialog(page)


def row(page: Page, name: str):
    return dialog(page).locator(f'[data-base="{name}"]')


def press(page: Page, name: str) -> None:
    show(page).get_by_role("button", name=text("bases.openone").format(name=name), exact=True).click()


def change(page: Page, name: str) -> None:
    """Open another base and wait for it."""
    press(page, name)
    expect(dialog(page)).to_be_hidden()
    expect(chip(page)).to_have_text(text("bases.chip").format(name=name))


def cards(page: Page) -> set[str]:
    return {card.get_attribute("data-card") for card in page.locator("#cards [data-card]").all()}


def test_the_dialog_lists_what_is_here_what_fits_and_what_may_be_downloaded(enter, shared):
    page = enter("ann")
    expect(chip(page)).to_have_text(text("bases.chip").format(name="tiny"))
    box = show(page)
    expect(row(page, "tiny")).to_contain_text(text("doctor.family.tiny"))
    expect(row(page, "tiny")).to_contain_text(text("bases.side").format(side=64))
    expect(row(page, "tiny")).to_contain_text(text("bases.fits.many").format(count=3))
    expect(row(page, "tiny")).to_contain_text(text("bases.open"))
    expect(row(page, "painterly")).to_contain_text(text("bases.fits.one"))
    expect(row(page, "nothing")).to_have_class(re.compile("unfit"))
    expect(row(page, "nothing").locator(".base-problem")).to_contain_text("expected")
    expect(row(page, "nothing").get_by_role("button")).to_have_count(0)
    assert str(shared.place) not in box.inner_text()
    offer = row(page, "sd15")
    expect(offer).to_contain_text(text("doctor.family.sd1"))
    expect(offer).to_contain_text("2.1 GB")
    offer.get_by_role("button").click()
    expect(offer).to_contain_text(re.compile(r"2\.1 GB .* kept in .*hub"))
    offer.get_by_role("button", name=text("bases.no")).click()
    expect(offer.get_by_role("button", name=text("bases.getone").format(name="sd15"))).to_be_visible()


def test_opening_a_base_changes_styles_sizes_and_mix_and_gives_them_back(enter, shared):
    page = enter("ann")
    pick(page, "ink", "gouache")
    change(page, "painterly")
    expect(lines(page, text("bases.opened").format(name="painterly"))).to_be_visible()
    expect(page.locator("#mixer .fader")).to_have_count(0)
    assert cards(page) == {"watercolour"}
    page.get_by_label(text("cards.fits")).set_checked(False)
    unfit = page.locator('#cards [data-card="ink"]')
    expect(unfit).to_be_disabled()
    expect(unfit).to_contain_text(text("cards.madefor").format(family=text("doctor.family.tiny")))
    page.get_by_label(text("cards.fits")).set_checked(True)
    page.locator("#drawconfig-size input").click()
    expect(page.get_by_role("option", name="32x48")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#settings-more > button").click()
    expect(page.locator("#drawconfig-guidance input[type=number]")).to_have_value("7.5")
    pick(page, "watercolour")
    ask(page, "a red apple")
    recipe = read_recipe(drawn(page, Person(shared, "ann")))
    assert (recipe.base, recipe.width, [style.name for style in recipe.styles]) == ("painterly", 32, ["watercolour"])
    page.reload()
    loaded(page)
    expect(chip(page)).to_have_text(text("bases.chip").format(name="painterly"))
    expect(slider(page, "watercolour")).to_be_visible()
    change(page, "tiny")
    expect(slider(page, "ink")).to_be_visible()
    expect(slider(page, "gouache")).to_be_visible()
    assert cards(page) == {"ink", "gouache", "pastel"}


class Person:
    """A studio as one who signed in has it."""

    def __init__(self, studio: Studio, user: str) -> None:
        self.pictures = studio.pictures / user


def test_a_base_of_the_same_family_keeps_the_mix(enter):
    page = enter("ann")
    pick(page, "ink")
    change(page, "pictograms")
    expect(slider(page, "ink")).to_be_visible()


def test_a_base_that_cannot_be_opened_says_why_and_the_old_one_goes_on(enter, shared):
    page = enter("ann")
    press(page, "lacking")
    alert = dialog(page).get_by_role("alert")
    expect(alert).to_contain_text(text("bases.failed").format(name="lacking"))
    expect(alert).to_contain_text("weights")
    expect(alert).to_contain_text(text("bases.still").format(name="tiny"))
    expect(row(page, "tiny")).to_contain_text(text("bases.open"))
    page.keyboard.press("Escape")
    ask(page, "a cat")
    assert read_recipe(drawn(page, Person(shared, "ann"))).base == "tiny"


def test_a_picture_offers_to_open_the_base_it_was_drawn_on(enter, shared):
    page = enter("ann")
    change(page, "painterly")
    ask(page, "a fish")
    picture = drawn(page, Person(shared, "ann"))
    change(page, "pictograms")
    viewer = open_picture(page, picture)
    expect(viewer.get_by_role("button", name=text("viewer.redraw"))).to_have_count(0)
    viewer.get_by_role("button", name=text("viewer.base").format(base="painterly")).click()
    expect(viewer.get_by_role("button", name=text("viewer.redraw"))).to_be_visible()
    expect(chip(page)).to_have_text(text("bases.chip").format(name="painterly"))
    viewer.get_by_role("button", name=text("viewer.redraw")).click()
    expect(page.get_by_role("dialog")).to_contain_text(text("compare.same"))


def test_the_library_judges_by_the_base_that_is_open(enter):
    page = enter("ann")
    turn_to(page, "styles")
    page.locator("#library .card").filter(has_text="ink").click()
    verdict = page.get_by_role("region", name=text("doctor.title"))
    expect(verdict).to_contain_text(text("doctor.verdict.fine"))
    change(page, "painterly")
    expect(verdict).to_contain_text(text("doctor.verdict.elsewhere").format(family=text("doctor.family.tiny")))


# Two people


def test_the_drawing_of_another_is_finished_first_and_every_page_follows(enter, shared):
    ann, bob = enter("ann"), enter("bob")
    ask(bob, "a slow one", steps=60, count=3)
    bob.locator("#draw").click()
    expect(bob.locator("#stage .bar")).to_be_visible()
    expect(bob.locator("#stage .bar-words")).to_contain_text("%")
    show(ann)
    expect(dialog(ann)).to_contain_text(text("bases.queue"))
    press(ann, "painterly")
    expect(dialog(ann)).to_contain_text(text("bases.phase.wait").format(name="painterly"))
    expect(dialog(ann).get_by_role("progressbar")).to_be_visible()
    expect(chip(bob)).to_have_text(text("bases.chip.wait").format(name="painterly"))
    show(bob)
    expect(row(bob, "painterly")).to_contain_text(text("bases.opening"))
    expect(row(bob, "pictograms").get_by_role("button")).to_be_disabled()
    expect(dialog(bob).get_by_role("button", name=text("stage.cancel"))).to_have_count(0)
    bob.keyboard.press("Escape")
    bob.locator("#draw").click()
    expect(lines(bob, "painterly is being opened")).to_be_visible()
    expect(dialog(ann)).to_be_hidden(timeout=2 * SECONDS * 1000)
    expect(chip(bob)).to_have_text(text("bases.chip").format(name="painterly"))
    expect(lines(bob, text("bases.changed").format(name="painterly"))).to_be_visible()
    bob.wait_for_function("difflora.styles.get().filter((s) => !s.problem).length === 1")
    assert len(list((shared.pictures / "bob").glob("a-slow-one-*.png"))) == 3


def test_who_cancels_while_it_waits_keeps_the_base(enter):
    ann, bob = enter("ann"), enter("bob")
    ask(bob, "a long one", steps=100, count=8)
    bob.locator("#draw").click()
    expect(bob.locator("#stage .bar-words")).to_contain_text("%")
    press(ann, "painterly")
    dialog(ann).get_by_role("button", name=text("stage.cancel"), exact=True).click()
    expect(dialog(ann).locator(".base-progress")).to_have_count(0)
    expect(chip(ann)).to_have_text(text("bases.chip").format(name="tiny"))
    expect(row(ann, "tiny")).to_contain_text(text("bases.open"))


# For everyone


def test_it_works_by_keyboard_alone(enter):
    page = enter("ann")
    tab_to(page, ".frame-head button.base")
    page.keyboard.press("Enter")
    expect(row(page, "pictograms")).to_be_visible()
    tab_to(page, f'[aria-label="{text("bases.openone").format(name="pictograms")}"]')
    page.keyboard.press("Enter")
    expect(chip(page)).to_have_text(text("bases.chip").format(name="pictograms"))
    expect(dialog(page)).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dialog_is_readable_and_named_and_fits_a_phone(scheme, enter):
    page = enter("ann", color_scheme=scheme, **PHONE)
    press(page, "lacking")
    expect(dialog(page).get_by_role("alert")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(OUTSIDE) == []
    assert unnamed(page) == []


# Programs


def test_a_program_lists_bases_and_opens_one_by_its_name_alone(enter, shared):
    gradio_client = pytest.importorskip("gradio_client")
    enter("ann")
    client = gradio_client.Client(shared.url, auth=("ann", PASSWORD), verbose=False, analytics_enabled=False)
    found = {row["name"]: row for row in client.predict(api_name="/bases")}
    assert found["tiny"]["open"] and found["painterly"]["fits"] == 1 and found["nothing"]["problem"]
    assert client.predict("painterly", api_name="/open_base") == {"name": "painterly"}
    status = client.predict(api_name="/status")
    assert (status["base"], status["opening"]) == ("painterly", None)
    assert [style["name"] for style in status["styles"] if style["fits"]] == ["watercolour"]
    drawn = client.predict("a cat", steps=2, api_name="/draw")
    assert drawn[0]["recipe"]["base"] == "painterly"
    for name in ("owner/name", "sd15", "../bases", "lacking", "painterly"):
        with pytest.raises(gradio_client.exceptions.AppError) as error:
            client.predict(name, api_name="/open_base")
        assert "expected" in str(error.value) and "\n" not in str(error.value)
    client.close()


def test_the_list_is_for_those_who_signed_in(shared):
    for path in ("/studio/base", "/studio/bases"):
        assert httpx.get(shared.url + path).status_code == 401
