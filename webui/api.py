"""Named endpoints for programs: the same work as the pages, as plain values."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import gradio as gr

from difflora.config import DrawConfig, TrainConfig, parse_lora
from difflora.drawing.batcher import Ticket
from difflora.drawing.recipe import Recipe, Style
from difflora.errors import RequestError
from difflora.events import ignore

from . import easel, runs, trainings
from .blends import acting, blend_config, write_blend
from .choices import rows
from .desk import Desk, mix_row
from .form import Form
from .jobs import Job
from .show import plainly, who
from .training import BASIC, MORE

POLL_SECONDS = 0.05


def endpoints(desk: Desk) -> None:
    """Add /draw, /blend, /train, /status, /bases and /open_base."""
    gr.api(draw_of(desk), api_name="draw", concurrency_limit=None)
    gr.api(blend_of(desk), api_name="blend", concurrency_limit=None)
    gr.api(train_of(desk), api_name="train", concurrency_limit=None)
    gr.api(status_of(desk), api_name="status", concurrency_limit=None, queue=False)
    gr.api(bases_of(desk), api_name="bases", concurrency_limit=None, queue=False)
    gr.api(open_base_of(desk), api_name="open_base", concurrency_limit=None)


def draw_of(desk: Desk):
    """The endpoint /draw."""

    async def draw(
        request: gr.Request,
        prompt: str,
        styles: list[str] | None = None,
        negative: str = "",
        seed: int = 0,
        count: int = 1,
        steps: int = 25,
        guidance: float | None = None,
        size: str | None = None,
        sampler: str | None = None,
        clip_skip: int | None = None,
        budget: str | None = None,
        orthogonal: float = 0.0,
        switch: int = 0,
    ) -> list[dict]:
        """Draw a prompt and return the pictures once they are done.

        prompt: one prompt a line. styles: such as ["ink:0.7", "gouache:0.7/0.3@up=0.4"]. seed: of the first picture;
        the next ones count up. count: pictures per prompt. size: a side in pixels or WIDTHxHEIGHT. The others: as for
        `difflora generate`. The result has one {"name", "url", "recipe"} per picture; GET the url on the same server
        for the PNG.
        """
        row = {
            "negative": negative, "seed": seed, "count": count, "steps": steps, "guidance": guidance, "size": size,
            "sampler": sampler, "clip_skip": clip_skip, "base": desk.config.base, "budget": budget,
            "orthogonal": orthogonal, "switch": switch,
        }  # fmt: skip
        return await finished(desk, await asyncio.to_thread(ask, request, prompt, styles, row))

    @plainly
    def ask(request: gr.Request, prompt: str, styles: list[str] | None, row: dict) -> Ticket:
        prompts = tuple(line.strip() for line in plain(prompt).splitlines() if line.strip())
        values = {name: Form(DrawConfig, {}).value(name, value) for name, value in row.items()}
        config = DrawConfig(prompts=prompts, **{name: value for name, value in values.items() if value is not None})
        return easel.draw(desk, who(desk, request), config, mix_of(styles))

    return draw


def mix_of(styles: list[str] | None) -> list[dict]:
    """["ink:0.7"] -> the mix of a page."""
    if not isinstance(styles, list | None):
        raise RequestError(f"styles {str(styles)[:40]!r}: expected a list such as ['ink:0.7']")
    asked = [parse_lora(plain(text)) for text in styles or []]
    return [mix_row(Style(name, 1.0).at(strength)) for name, strength in asked]


def plain(text: object) -> str:
    """A program's text; RequestError for anything else."""
    if not isinstance(text, str):
        raise RequestError(f"{str(text)[:40]!r}: expected text")
    return text


async def finished(desk: Desk, ticket: Ticket) -> list[dict]:
    """Wait for a ticket without holding a thread; its pictures, or its error."""
    try:
        while not ticket.over:
            await asyncio.sleep(POLL_SECONDS)
    except asyncio.CancelledError:
        ticket.cancel()
        raise
    if ticket.state != "done":
        raise gr.Error(ticket.error or "cancelled", print_exception=False)
    drawn = zip(desk.drawings[ticket.id].files, ticket.pictures, strict=True)
    return [{"name": name, "url": f"/studio/pictures/{name}", "recipe": row_of(done[0])} for name, done in drawn]


def row_of(recipe: Recipe) -> dict:
    """A recipe as plain values, without paths: gradio_client takes a dict with one for a file and tries to fetch it."""
    row = asdict(recipe)
    return row | {"styles": [{k: v for k, v in style.items() if k != "path"} for style in row["styles"]]}


def blend_of(desk: Desk):
    """The endpoint /blend."""

    @plainly
    def blend(request: gr.Request, styles: list[str], name: str, settings: dict | None = None) -> dict:
        """Write a blend of styles as one file of the library: their exact sum, unless settings say otherwise.

        styles: such as ["ink:0.7", "gouache:0.4@up=0.2"]. name: of the new style. settings: fields of `difflora blend`
        by name, such as {"max_error": 0.05, "budget": "sum"}. The result is {"name", "url", "size", "rank", "layers",
        "distance", "error", "measured"}.
        """
        asked = blend_config(settings or {})
        made = write_blend(desk, plain(name), acting(desk, {"styles": mix_of(styles)}), asked, ignore)
        row = made.row() | {"name": made.path.stem, "url": f"/studio/styles/{made.path.stem}/file"}
        return {key: value for key, value in row.items() if key not in ("path", "styles")}

    return blend


def train_of(desk: Desk):
    """The endpoint /train."""

    @plainly
    def train(request: gr.Request, folder: str, settings: dict | None = None) -> dict:
        """Put a training into the queue and return its name and plan at once; /status says how far it is.

        folder: one inside the folders that the studio was given. settings: fields of `difflora train` by name, such as
        {"name": "ink", "steps": 400, "trigger": "inkstyle"}.
        """
        key = trainings.open_folder(desk, plain(folder))
        config = training_config(desk.datasets[key], settings or {})
        name, made = runs.start(desk, config, key)
        return {"name": name, "plan": made}

    return train


def training_config(folder: Path, settings: dict) -> TrainConfig:
    """Settings of a program as a config: not the studio's own folders and base; RequestError for what does not fit."""
    for name in settings:
        if name not in (*BASIC, *MORE):
            raise RequestError(f"setting {str(name)[:40]!r}: expected one of {', '.join((*BASIC, *MORE))}")
    form = Form(TrainConfig, {})
    values = {name: form.value(name, value) for name, value in settings.items()}
    return TrainConfig(images=folder, **{name: value for name, value in values.items() if value is not None})


def status_of(desk: Desk):
    """The endpoint /status."""

    @plainly
    def status(request: gr.Request) -> dict:
        """What the studio is doing: its base, the one being opened if there is one, drawings, styles and runs."""
        user = who(desk, request)
        mine = [
            {"id": t.id, "state": t.state, "position": t.position, "progress": t.progress} for t in desk.tickets(user)
        ]
        trained = [
            {"name": r.name, "state": r.state, "step": r.step, "steps": r.steps, "loss": r.loss, "eta": r.eta}
            for r in desk.runs.list()
        ]
        cards = desk.cards() if desk.opened else []
        styles = [{"name": c.path.stem, "trigger": c.trigger, "fits": not c.problem} for c in cards]
        base = {"base": desk.config.base, "opening": desk.bases.row()["at"]}
        return base | {"queue": desk.status(), "drawings": mine, "styles": styles, "runs": trained}

    return status


def bases_of(desk: Desk):
    """The endpoint /bases."""

    @plainly
    def bases(request: gr.Request) -> list[dict]:
        """The bases that are here, each with its family, size, picture side, and how many styles fit it.

        Each is {"name", "family", "size", "side", "fits", "open", "problem"}; one with a problem cannot be opened.
        """
        who(desk, request)
        names = ("name", "family", "size", "side", "fits", "open", "problem")
        return [{name: row[name] for name in names} for row in rows(desk)["here"]]

    return bases


def open_base_of(desk: Desk):
    """The endpoint /open_base."""

    async def open_base(request: gr.Request, name: str) -> dict:
        """Open another base for everyone in this studio, and return once it is open.

        name: one of /bases. What is being drawn is finished, what waits is refused. The result is {"name"}.
        """
        job = await asyncio.to_thread(ask, request, name)
        try:
            while not job.over:
                await asyncio.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            job.wanted = False
            raise
        if job.state != "done":
            raise gr.Error(job.error or "stopped", print_exception=False)
        return job.result

    @plainly
    def ask(request: gr.Request, name: str) -> Job:
        if plain(name) not in [row["name"] for row in rows(desk)["here"]]:
            raise RequestError(f"base {name[:80]!r}: expected one of /bases")
        return desk.bases.open(who(desk, request), name)

    return open_base
