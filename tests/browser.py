"""A studio in a process of its own, and a real browser that looks at it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import random_adapter, random_model

from difflora.adapters.files import save_adapter
from difflora.adapters.metadata import TRIGGER, WEIGHT
from difflora.models.family import open_model
from webui.words import text

CHROMIUMS = "chromium", "chromium-browser", "google-chrome"
FLAGS = "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"
DESKTOP = {"width": 1280, "height": 900}
SECONDS = 30
# (rank, alpha, trigger, preferred weight): alpha is never the rank.
STYLES = {"ink": (4, 2.0, "inkstyle", "0.8"), "gouache": (2, 5.0, "", "1"), "pastel": (3, 1.0, "", "1")}
UNFIT = "foreign"


def chromium() -> str:
    """The browser: $CHROMIUM, or the first of the usual names on the path."""
    named = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [named] if named else CHROMIUMS)), None)
    if found is None:
        what = f"CHROMIUM={named} is no program" if named else f"none of {', '.join(CHROMIUMS)} is installed"
        pytest.fail(f"no browser: {what}; install chromium, or set CHROMIUM to its path", pytrace=False)
    return found


@dataclass
class Studio:
    """A running `difflora ui` and its folders."""

    place: Path
    process: subprocess.Popen
    url: str = ""

    def __getattr__(self, name: str) -> Path:
        if name not in {"loras", "runs", "pictures", "datasets", "images", "merged", "bases"}:
            raise AttributeError(name)
        return self.place / name

    def said(self) -> str:
        """All that it printed."""
        return (self.place / "log.txt").read_text()


def write_styles(folder: Path) -> None:
    """Three styles of the embedded base, and one of another."""
    folder.mkdir()
    tiny = open_model("tiny")
    for seed, (name, (rank, alpha, trigger, weight)) in enumerate(STYLES.items(), 1):
        adapter = random_adapter(tiny, rank, alpha, seed, size=0.06, paths=tiny.targets("attention+mlp", True))
        words = {TRIGGER: trigger} if trigger else {}
        save_adapter(folder / f"{name}.safetensors", adapter, words | {WEIGHT: weight})
    save_adapter(folder / f"{UNFIT}.safetensors", random_adapter(random_model(), 2, 1.0, 9), {})


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory, pictures_folder: Path) -> Iterator[Studio]:
    """One studio for the whole session, on the embedded base; it ends as with Ctrl+C."""
    place = tmp_path_factory.mktemp("studio")
    write_styles(place / "loras")
    shutil.copytree(pictures_folder, place / "images" / "blobs")
    with running(place) as opened:
        yield opened


@contextmanager
def running(place: Path, *more: str) -> Iterator[Studio]:
    """A studio on the folders of a place, with more flags."""
    log = (place / "log.txt").open("w")
    folders = {name: name for name in ("loras", "runs", "datasets", "images", "merged", "bases")} | {"out": "pictures"}
    flags = [part for flag, name in folders.items() for part in (f"--{flag}", str(place / name))]
    root = Path(__file__).parents[1]
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    # What somebody downloaded is none of the tests' bases.
    env["HF_HUB_CACHE"] = str(place / "hub")
    env.pop("PYTHONWARNINGS", None)
    command = [sys.executable, "-m", "difflora.cli", "ui", "--port", "0", *flags, *more]
    process = subprocess.Popen(command, cwd=place, env=env, stdout=log, stderr=subprocess.STDOUT)
    opened = Studio(place, process)
    try:
        opened.url = address(opened)
        yield opened
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0, opened.said()
        assert "Traceback" not in opened.said(), opened.said()
    finally:
        process.kill()
        log.close()


def address(studio: Studio) -> str:
    """Where it answers, once it does."""
    until = time.monotonic() + 4 * SECONDS
    while time.monotonic() < until and studio.process.poll() is None:
        if "Ctrl+C ends" in studio.said():
            return re.search(r"http://127\.0\.0\.1:\d+", studio.said())[0]
        time.sleep(0.1)
    raise AssertionError(studio.said())


@pytest.fixture(scope="session")
def browser():
    """One Chromium for the whole session."""
    program = chromium()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Visits:
    """The pages of one test, with what went wrong in them."""

    folder: Path
    """For what a failure leaves behind."""
    pages: list = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    allowed: str = r"(?!)"
    """What a page may complain of, as a regular expression: nothing unless a test says so."""

    def watch(self, page) -> None:
        """Keep the page's console; its errors are the test's."""
        self.pages.append(page)
        page.on("console", lambda line: self.note(line.text, line.type == "error", line.location))
        page.on("pageerror", lambda error: self.note(str(error), True, {}))

    def note(self, words: str, is_wrong: bool, where: dict) -> None:
        """One line of a console."""
        line = f"{words} {where.get('url', '')}".strip()
        self.console.append(line)
        if is_wrong and not re.search(self.allowed, line):
            self.wrong.append(line)

    def keep(self) -> str:
        """Screenshots and the console, for whoever looks into a failure."""
        for i, page in enumerate(self.pages):
            if not page.is_closed():
                page.screenshot(path=self.folder / f"page-{i}.png", full_page=True)
        (self.folder / "console.txt").write_text("\n".join(self.console))
        return f"screenshots and console.txt: {self.folder}"


@pytest.fixture
def visits(tmp_path: Path) -> Visits:
    """What this test's pages said."""
    return Visits(tmp_path)


@pytest.fixture(scope="session")
def desktop(browser, studio: Studio):
    """One desktop context for the whole session: what it has loaded once it need not load again."""
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce", base_url=studio.url)
    yield context
    context.close()


@pytest.fixture
def page(desktop, visits: Visits):
    """The studio in a desktop browser that has never seen it."""
    page = opened(desktop, visits)
    yield page
    page.evaluate("localStorage.clear()")
    page.close()


@pytest.fixture
def visit(browser, studio: Studio, visits: Visits) -> Iterator[Callable]:
    """visit(**context) -> the studio in one more browser, of its own settings."""
    contexts = []

    def visit(**settings):
        settings = {"viewport": DESKTOP, "reduced_motion": "reduce", "base_url": studio.url} | settings
        contexts.append(browser.new_context(**settings))
        return opened(contexts[-1], visits)

    yield visit
    for context in contexts:
        context.close()


def opened(context, visits: Visits):
    """A new page of the studio, watched and loaded."""
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    visits.watch(page)
    page.goto("/")
    return loaded(page)


def loaded(page) -> None:
    """Wait until the pages' own scripts have filled the widgets."""
    page.locator("#cards [data-card]").first.wait_for()
    page.locator("#mixer .shelf-head").wait_for()
    return page


def turn_to(page, name: str) -> None:
    """One of the three pages, by its tab."""
    tab = page.get_by_role("tab", name=text(f"page.{name}"), exact=True)
    tab.click()
    page.locator(f'#pages [role=tab][aria-selected=true][data-tab-id="{name}"]').wait_for()


def lines(page, words: str | re.Pattern[str]):
    """The short lines that a page says at its foot, those with these words."""
    return page.locator(".say p").filter(has_text=words)


def tab_to(page, selector: str, key: str = "Tab") -> None:
    """Press Tab until the element has the focus."""
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"{selector} is not reached with {key}")


def wording(key: str) -> re.Pattern[str]:
    """A text of the pages, with anything in its places."""
    return re.compile("^" + re.sub(r"\\\{\w+\\\}", "(.+?)", re.escape(text(key))) + "$")


def values_in(key: str, words: str) -> dict[str, str]:
    """What stands in the places of a text of the pages."""
    return dict(zip(re.findall(r"{(\w+)}", text(key)), wording(key).match(words).groups(), strict=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """A test whose pages complained has failed."""
    result = yield
    visits = getattr(item, "funcargs", {}).get("visits")
    assert not (visits and visits.wrong), "the page complained:\n" + "\n".join(visits.wrong)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call):
    """Keep what the browser showed when a test failed."""
    report = yield
    visits = getattr(item, "funcargs", {}).get("visits")
    if report.when == "call" and report.failed and visits:
        try:
            report.sections.append(("browser", visits.keep()))
        except Exception as error:  # the failure itself matters more than its picture
            report.sections.append(("browser", f"no screenshot: {error}"))
    return report
