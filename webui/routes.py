"""What a page reads: plain GET routes behind the same sign-in. Everything a page changes is a Gradio event."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse

from difflora.adapters.disk import stamp
from difflora.drawing.batcher import Ticket
from difflora.errors import DiffloraError

from . import choices
from .answers import NEVER, Plain, picture, sent, told
from .blends import facts_of
from .desk import Desk
from .easel import as_webp, picture_file
from .history import History, recipe_row, small, strange_small
from .mixing import acts, base_facts
from .runs import run_row
from .styles import detail, numbers, rows
from .trainings import picture_of, verdicts, wall

ASSETS = Path(__file__).with_name("assets")
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
# A name is not one picture for ever: another studio at this address, or another user of this browser, has the same.
ASKING = {"Cache-Control": "private, no-cache"}
LATELY_SECONDS = 0.5
User = Callable[[Request], str]


def add_routes(app: FastAPI, user: User, desk: Desk) -> None:
    """Add every route of the studio; `user` names who asks or refuses with 401."""
    desk.user = user
    app.get("/studio/assets/{name}")(asset)
    add_bases(app, user, desk)
    add_drawing(app, user, desk)
    add_library(app, user, desk)
    add_mixing(app, user, desk)
    add_doctor(app, user, desk)
    add_training(app, user, desk)


class Lately:
    """A value that many pages ask for at once, worked out at most twice a second."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work, self.kept, self.when = work, None, 0.0
        self.lock = threading.Lock()

    def value(self) -> object:
        """The value of now, or of half a second ago."""
        with self.lock:
            if time.monotonic() - self.when > LATELY_SECONDS:
                self.kept, self.when = self.work(), time.monotonic()
            return self.kept


def asset(name: str) -> Response:
    """A file of the page itself."""
    known = {path.name: path for path in ASSETS.iterdir()}
    if name not in known:
        raise HTTPException(404)
    return FileResponse(known[name], headers={"Cache-Control": "no-cache"})


def add_bases(app: FastAPI, user: User, desk: Desk) -> None:
    """The open base, and those that may be opened."""

    @app.get("/studio/base")
    def base(request: Request) -> Response:
        user(request)
        return told(lambda: base_facts(desk))

    @app.get("/studio/bases")
    def bases(request: Request) -> Response:
        user(request)
        return told(lambda: choices.rows(desk))


def add_drawing(app: FastAPI, user: User, desk: Desk) -> None:
    """What is drawn now, the looks at it, the history."""
    history = History(desk)
    version = Lately(lambda: library_version(desk))
    runs = Lately(lambda: [{"name": run.name, "state": run.state} for run in desk.runs.list()])

    @app.get("/studio/now")
    def now(request: Request) -> Response:
        who = user(request)
        mine = [t for t in desk.tickets(who) if t.id in desk.drawings]
        extra = [desk.ticket(id) for id in request.query_params.get("also", "").split(",") if id]
        mine += [t for t in extra if t is not None and t.user == who and t not in mine and t.id in desk.drawings]
        body = {
            "tickets": [ticket_row(desk, t) for t in mine],
            "queue": desk.status(),
            "base": desk.bases.row(),
            "history": len(history.names(who)),
            "newest": (history.names(who) or [""])[0],
            "styles": version.value(),
            "runs": runs.value(),
            "jobs": desk.jobs.rows(who),
        }
        return Plain(body, headers=NEVER)

    @app.get("/studio/look/{id}/{place}")
    def look(request: Request, id: str, place: int) -> Response:
        ticket = desk.ticket(id)
        if ticket is None or ticket.user != user(request) or not 0 <= place < len(ticket.previews):
            raise HTTPException(404)
        seen = ticket.previews[place]
        if seen is None:  # finished since the page asked
            return Response(status_code=204, headers=NEVER)
        return Response(as_webp(seen), media_type="image/webp", headers=NEVER)

    @app.get("/studio/history")
    def listing(request: Request, start: int = 0) -> Response:
        who = user(request)
        return told(lambda: history.page(who, max(0, start)))

    @app.get("/studio/recipe/{name:path}")
    def recipe(request: Request, name: str) -> Response:
        who = user(request)
        return told(lambda: recipe_row(desk, who, name))

    @app.get("/studio/pictures/{name:path}")
    async def drawn(request: Request, name: str, thumb: bool = False) -> Response:
        who = user(request)
        return await picture(request, lambda: picture_file(desk, who, name), ASKING, small if thumb else None)


def add_library(app: FastAPI, user: User, desk: Desk) -> None:
    """The styles: cards, thumbnails, one in detail, the file itself."""

    @app.get("/studio/styles")
    def styles(request: Request) -> Response:
        user(request)
        return told(lambda: {"version": library_version(desk), "rows": rows(desk)})

    @app.get("/studio/styles/{name}/thumb")
    def thumb(request: Request, name: str) -> Response:
        user(request)
        try:
            data = desk.card(name).thumbnail
        except DiffloraError:
            data = b""
        if not data:  # gone since the list was read
            return Response(status_code=204, headers=NEVER)
        return Response(data, media_type="image/webp", headers={"Cache-Control": "private, max-age=60"})

    @app.get("/studio/styles/{name}/detail")
    def about(request: Request, name: str) -> Response:
        user(request)
        return told(lambda: detail(desk, name))

    @app.get("/studio/styles/{name}/file")
    def download(request: Request, name: str) -> Response:
        user(request)
        return sent(lambda: desk.card(name).path)


def add_mixing(app: FastAPI, user: User, desk: Desk) -> None:
    """What a mix makes: its size as a file, the weights at which its styles act, the work that was asked for."""
    # One at a time; who waits holds no thread, and who has left is not answered.
    weighing = asyncio.Lock()

    @app.get("/studio/facts")
    def facts(request: Request, mix: str = "{}") -> Response:
        user(request)
        return told(lambda: facts_of(desk, read(mix)))

    @app.get("/studio/acts")
    async def weights(request: Request, mix: str = "{}") -> Response:
        user(request)
        asked = read(mix)
        async with weighing:
            if await request.is_disconnected():
                return Response(status_code=204)
            return await asyncio.to_thread(told, lambda: acts(desk, asked))

    @app.get("/studio/jobs/{id}")
    def job(request: Request, id: str) -> Response:
        who = user(request)

        def found() -> dict:
            one = desk.jobs.find(who, id)
            return one.row() | {"result": one.result}

        return told(found)


def read(mix: str) -> object:
    """A mixer's value from an address; 400 for what is no JSON."""
    try:
        return json.loads(mix)
    except (ValueError, RecursionError):
        raise HTTPException(400) from None


def add_doctor(app: FastAPI, user: User, desk: Desk) -> None:
    """What takes a whole file: its numbers, a copy of it in another format."""
    # One at a time; who waits holds no thread, and who has left is not answered.
    reading = asyncio.Lock()

    @app.get("/studio/styles/{name}/numbers")
    async def measured(request: Request, name: str) -> Response:
        user(request)
        async with reading:
            if await request.is_disconnected():
                return Response(status_code=204)
            return await asyncio.to_thread(told, lambda: numbers(desk, name))

    @app.get("/studio/converted/{key}")
    def converted(request: Request, key: str) -> Response:
        who = user(request)
        return sent(lambda: desk.pending.file(who, key))


def add_training(app: FastAPI, user: User, desk: Desk) -> None:
    """Runs and the pictures they learn from."""
    rows = Lately(lambda: [run_row(desk, view) for view in desk.runs.list()])

    @app.get("/studio/runs")
    def listing(request: Request) -> Response:
        user(request)
        return told(lambda: {"rows": rows.value()})

    @app.get("/studio/previews/{name}/{file}")
    async def preview(request: Request, name: str, file: str) -> Response:
        user(request)

        def found() -> Path:
            view = desk.runs.view(name)
            shown = {path.name: path for _, paths in view.previews for path in paths}
            if file not in shown:
                raise HTTPException(404)
            return shown[file]

        return await picture(request, found, FOREVER, small)

    @app.get("/studio/wall/{key}")
    def pictures(request: Request, key: str) -> Response:
        user(request)
        return told(lambda: wall(desk, key))

    # One at a time: what one page had looked at, the next one knows. Who waits holds no thread.
    looking = asyncio.Lock()

    @app.get("/studio/verdicts/{key}")
    async def looked(request: Request, key: str, trigger: str = "") -> Response:
        user(request)
        async with looking:
            if await request.is_disconnected():
                return Response(status_code=204)
            return await asyncio.to_thread(told, lambda: verdicts(desk, key, trigger))

    @app.get("/studio/wall/{key}/{name:path}")
    async def one(request: Request, key: str, name: str) -> Response:
        user(request)
        return await picture(request, lambda: picture_of(desk, key, name), ASKING, strange_small)


def ticket_row(desk: Desk, ticket: Ticket) -> dict:
    """A ticket for a page."""
    drawing = desk.drawings[ticket.id]
    return {
        "id": ticket.id, "kind": drawing.kind, "state": ticket.state, "position": ticket.position,
        "progress": round(ticket.progress, 4), "eta": ticket.eta, "error": ticket.error, "version": ticket.version,
        "files": list(drawing.files), "looks": [seen is not None for seen in ticket.previews], "facts": drawing.facts,
        "prompt": ticket.recipes[0].prompt, "shape": [ticket.recipes[0].width, ticket.recipes[0].height],
    }  # fmt: skip


def library_version(desk: Desk) -> str:
    """Changes whenever the library does."""
    found = []
    for path in desk.config.loras.glob("[!.]*.safetensors"):
        # A link that leads nowhere, or a file that goes away just now, is no style.
        with suppress(OSError):
            found.append((path.name, *stamp(path)))
    return f"{len(found)}-{zlib.crc32(repr(sorted(found)).encode(errors='replace')):08x}"
