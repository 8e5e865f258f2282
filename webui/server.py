"""The studio's server: one address, one sign-in, one private working folder, and an orderly end."""

from __future__ import annotations

import errno
import html
import os
import secrets
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from difflora.config_ui import UiConfig, parse_account
from difflora.errors import RequestError
from difflora.models.bases import EMBEDDED

from .gate import Gate
from .safety import Door, SignInError, hash_password, workplace

if TYPE_CHECKING:  # gradio looks around as it is imported: not before quiet() and workplace()
    from gradio import Blocks

Studio = tuple[FastAPI, Callable[[], None]]
User = Callable[[Request], str]
Routes = Callable[[FastAPI, User], None]
PORTS = range(7860, 7960)
LOGIN = Path(__file__).with_name("assets") / "login.html"
SECONDS_TO_END = 2
FOLDERS = ("loras", "runs", "out", "datasets", "merged", "bases")
OURS = "YES"
"""HF_HUB_OFFLINE as it is set here; any other value is the person's own, who wants no look-ups at all."""


def serve(config: UiConfig, opened: Callable[[UiConfig], Studio] | None = None) -> None:
    """Open the studio until Ctrl+C; raises DiffloraError for a folder, a port or a base that is not there.

    `opened` makes the app and says how to close what stands behind it: the studio's pages unless given.
    """
    config = settled(config)
    listener = bound(config)
    config = replace(config, port=listener.getsockname()[1])
    # Whoever stops a service sends SIGTERM; both ends are the same end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with listener, workplace():
        quiet(config)
        app, close = (opened or studio)(config)
        stay_here()
        try:
            run(app, listener, config)
        except KeyboardInterrupt:
            pass
        finally:
            print("closing the studio", flush=True)
            close()


def studio(config: UiConfig) -> Studio:
    """The studio's own pages and routes over one desk, and the desk's way to close."""
    from .app import pages
    from .desk import Desk
    from .look import LOOK
    from .routes import add_routes

    desk = Desk(config)
    desk.user, desk.online = who, online
    try:
        return build(config, pages(desk), lambda app, user: add_routes(app, user, desk), LOOK), desk.close
    except BaseException:
        desk.close()
        raise


def build(config: UiConfig, blocks: Blocks, routes: Routes | None = None, look: Mapping | None = None) -> FastAPI:
    """One app: the sign-in, `routes`, and the Gradio pages at /, all behind the same gate.

    Folders in `config` are absolute; `look` is what else mount_gradio_app takes, such as the theme. Raises RequestError
    for an account that is no account.
    """
    import gradio

    door = Door(config.auth)
    cookie = f"studio-{config.port}"
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    local = not (config.listen or config.share)
    app.add_middleware(Gate, door=door, cookie=cookie, local=local, relayed=config.share, uploads=config.uploads)
    add_sign_in(app, door, cookie)

    if routes is not None:
        routes(app, who)
    gradio.mount_gradio_app(
        app, blocks, path="/", auth_dependency=who, max_file_size=config.upload_mb * 2**20, footer_links=[],
        run_history=False, ssr_mode=False, mcp_server=False, enable_monitoring=False, show_error=False,
        **(look or {}),
    )  # fmt: skip
    # A mounted page never "launches", and until then Gradio hands out any file of the machine that an event names.
    blocks.has_launched = True
    return app


def who(request: Request) -> str:
    """The user whose request the gate let in."""
    return request.scope["user"]


def add_sign_in(app: FastAPI, door: Door, cookie: str) -> None:
    """The routes /login and /logout: a page for people, JSON for gradio_client."""

    @app.get("/login")
    def page() -> Response:
        return RedirectResponse("/", 303) if door.is_open else HTMLResponse(login_page())

    @app.post("/login")
    def sign_in(request: Request, username: str = Form(""), password: str = Form("")) -> Response:
        person = "text/html" in request.headers.get("accept", "")
        user = username.strip()
        if door.is_open:
            return page()
        try:
            token = door.sign_in(user, password, request.client.host if request.client else "")
        except SignInError as error:
            status = 429 if error.wait else 401
            wait = {"Retry-After": f"{error.wait:.0f}"} if error.wait else None
            if person:
                return HTMLResponse(login_page(user, str(error)), status, headers=wait)
            return JSONResponse({"detail": str(error)}, status, headers=wait)
        answer = RedirectResponse("/", 303) if person else JSONResponse({"success": True})
        answer.set_cookie(cookie, token, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer

    @app.get("/logout")
    def sign_out(request: Request) -> Response:
        door.sign_out(request.cookies.get(cookie, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie)
        return answer


def login_page(user: str = "", message: str = "") -> str:
    """The sign-in page, with what was typed and what was wrong."""
    text = LOGIN.read_text(encoding="utf-8")
    said = message[:1].upper() + message[1:] + "." if message else ""
    return text.replace("{message}", html.escape(said)).replace("{user}", html.escape(user[:80]))


def settled(config: UiConfig) -> UiConfig:
    """The config with absolute folders, before the working folder changes; raises RequestError for a missing one."""
    named = config.images or (() if config.listen or config.share else (Path.cwd(),))
    for folder in named:
        if not folder.is_dir():
            raise RequestError(f"--images {folder}: no such folder; expected one with pictures, or no --images")
    places = {name: getattr(config, name).resolve() for name in FOLDERS}
    images = tuple(folder.resolve() for folder in named)
    return replace(config, base=whole(config.base), vae=config.vae and whole(config.vae), images=images, **places)


def whole(name: str) -> str:
    """A model's name as it means the same from any working folder: the whole path of what is one here."""
    return str(Path(name).resolve()) if name not in EMBEDDED and Path(name).exists() else name


def bound(config: UiConfig) -> socket.socket:
    """A socket at the wanted port, or at the next free one where none is wanted; raises RequestError."""
    host = "0.0.0.0" if config.listen else "127.0.0.1"
    for port in PORTS if config.port is None else [config.port]:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
            why = "is in use" if error.errno == errno.EADDRINUSE else "is not yours to use"
            continue
        return listener
    if config.port is None:
        raise RequestError(f"ports {PORTS[0]} to {PORTS[-1]} are all in use: expected a free one; name it with --port")
    raise RequestError(f"--port {config.port} {why}: expected a free one, or no --port for the next that is free")


def quiet(config: UiConfig) -> None:
    """No look-ups, before gradio and the hub's library are imported; only a base that is not here may be fetched."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if not any(may_be_fetched(name, config.bases) for name in (config.base, config.vae) if name):
        os.environ.setdefault("HF_HUB_OFFLINE", OURS)


def may_be_fetched(name: str, bases: Path) -> bool:
    """Whether a model may have to be downloaded: a short name, or a hub id, that is nothing on this machine."""
    here = (name, bases / name, bases / f"{name}.safetensors")
    return name not in EMBEDDED and not any(Path(place).exists() for place in here)


def stay_here() -> None:
    """From now on nothing is fetched: the base is open, and a page may not send the server to other addresses."""
    import huggingface_hub.constants
    import safehttpx
    from gradio import processing_utils

    os.environ.setdefault("HF_HUB_OFFLINE", OURS)
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    # Gradio downloads a file's address when an event holds one instead of an uploaded file.
    safehttpx.async_validate_url = nowhere
    processing_utils.PUBLIC_HOSTNAME_WHITELIST.clear()


@contextmanager
def online() -> Iterator[None]:
    """The hub may be asked inside: for a base that the person of this machine wants, unless they forbade look-ups."""
    import huggingface_hub.constants

    if os.environ.get("HF_HUB_OFFLINE", OURS) != OURS:
        yield
        return
    huggingface_hub.constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = True


async def nowhere(host: str) -> str:
    """Gradio's question which address a host has, answered with none."""
    raise ValueError("the studio fetches nothing from other hosts")


def run(app: FastAPI, listener: socket.socket, config: UiConfig) -> None:
    """Answer requests until Ctrl+C."""
    settings = uvicorn.Config(
        app, log_level="warning", proxy_headers=False, server_header=False, timeout_graceful_shutdown=SECONDS_TO_END
    )
    address = f"http://127.0.0.1:{config.port}"
    say(config, address)
    if config.share:
        # The relay takes its time, and the studio is open to this machine meanwhile.
        threading.Thread(target=share, args=(config.port,), daemon=True).start()
    if config.browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    uvicorn.Server(settings).run(sockets=[listener])


def say(config: UiConfig, address: str) -> None:
    """Where the studio is, who may use it, and where its folders are."""
    where = f"{address}, and port {config.port} of every address of this machine" if config.listen else address
    users = [parse_account(text)[0] for text in config.auth]
    print(f"studio    {where}")
    print(f"sign in   {', '.join(users) or 'not needed: only this machine is answered'}")
    for name in FOLDERS:
        print(f"{name:<9} {getattr(config, name)}")
    print(f"images    {', '.join(map(str, config.images)) or 'only what is dropped on a page'}")
    if any(not parse_account(text)[1].startswith("scrypt$") for text in config.auth):
        print("note      a plain password after --auth is seen by everyone who lists this machine's processes;")
        print(f"          `difflora ui --hash {users[0]}` prints one that may be seen")
    print("Ctrl+C ends the studio", flush=True)


def share(port: int) -> None:
    """Ask gradio's relay for a public link, and say what it opens; one line if there is none."""
    from gradio.networking import setup_tunnel

    try:
        link = setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # whatever the relay, its download or the network does, the studio goes on
        print(f"share     no public link: {str(error).splitlines()[0][:200]}; the studio goes on without", flush=True)
        return
    print(f"share     {link}  for a week at most, while this studio runs")
    print("          whoever has the link and signs in may draw, train, and read, change and delete every style, run")
    print("          and picture folder named above; all of it passes through gradio's relay", flush=True)


def print_account(user: str) -> None:
    """Ask for a password twice and print what --auth takes; raises RequestError."""
    first = getpass(f"password for {user}: ")
    parse_account(f"{user}:{first}")
    if getpass("again: ") != first:
        raise RequestError("the two passwords differ: expected the same one twice; start again")
    print(f"--auth '{user}:{hash_password(first)}'")
