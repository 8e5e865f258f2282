"""What every request passes before anything else: from where, to which name, by whom, how much. Knows no page."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .safety import Door

NOBODY = "artist"
"""The user's name where nobody signs in."""
UPLOAD = "/gradio_api/upload"
MOST_BYTES = 20 * 2**20
MOST_UPLOAD_BYTES = 2 * 2**30
"""Of one request, whatever the number of its files."""
MINUTE = 60.0
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
POLICY = (
    # Gradio's page is built by inline scripts and styles; nothing may come from, or go to, another host.
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Gate:
    """ASGI middleware in front of the pages, their routes and gradio's."""

    def __init__(self, app: ASGIApp, *, door: Door, cookie: str, local: bool, relayed: bool, uploads: int) -> None:
        """`local`: answer to this machine's own names only; `relayed`: a relay in front says which host was asked."""
        self.app = app
        self.door, self.cookie, self.local, self.relayed = door, cookie, local, relayed
        self.sent = Sent(uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = Headers(scope=scope)
        user = NOBODY if self.door.is_open else self.door.who(token(headers, self.cookie))
        body = Body(receive, scope, headers, lambda: self.sent.one_more(user or ""))

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["status"] = body.refused or message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.refusal(scope, headers, user, body)
        if refusal is not None:
            return await refusal(scope, receive, guarded)
        scope["user"] = user
        if not self.relayed:
            # Gradio builds its own address from these; only a relay of ours has business to set them.
            forged = {b"x-forwarded-host", b"x-gradio-server"}
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in forged]
        return await self.app(scope, body.receive, guarded)

    def refusal(self, scope: Scope, headers: Headers, user: str | None, body: Body) -> Response | None:
        """The answer to a request that may not pass; None lets it in."""
        host = headers.get("host", "")
        if self.local and (address(host) or ("", 0))[0] not in LOOPBACK:
            return told(403, "the studio answers to 127.0.0.1 and localhost only")
        hosts = [host, headers.get("x-forwarded-host", "")] if self.relayed else [host]
        changes = scope["method"] not in {"GET", "HEAD"}
        source = headers.get("origin") or (headers.get("referer") if changes else None)
        if source is not None and not any(same_place(source, host) for host in hosts):
            return told(403, "another page sent this request")
        if user is None and scope["path"] != "/login":
            if not changes and "text/html" in headers.get("accept", ""):
                return RedirectResponse("/login", status_code=303)
            return told(401, "not signed in")
        if body.declared > body.limit:
            return told(413, f"larger than {body.limit // 2**20} MB")
        return None


class Body:
    """One request's body, counted while it comes in and refused when it is too much."""

    def __init__(self, receive: Receive, scope: Scope, headers: Headers, one_more: Callable[[], bool]) -> None:
        self.inner, self.one_more = receive, one_more
        self.upload = scope["path"].rstrip("/") == UPLOAD
        self.limit = MOST_UPLOAD_BYTES if self.upload else MOST_BYTES
        length = headers.get("content-length", "0")
        self.declared = int(length) if length.isdecimal() else 0
        kind, options = parse_options_header(headers.get("content-type", ""))
        # What a part begins with; the mark that ends the body goes on with two hyphens instead.
        self.mark = b"--" + options.get(b"boundary", b"") + b"\r\n" if kind.startswith(b"multipart/") else b""
        self.tail = b""
        self.size = 0
        self.refused = 0
        self.whole = scope["method"] in {"GET", "HEAD"}

    async def receive(self) -> Message:
        """The next piece; raises what the parsers behind turn into an answer and a clean folder."""
        message = await self.inner()
        if message["type"] == "http.disconnect" and not self.whole:
            self.whole = True
            if self.upload:
                raise MultiPartException("the upload broke off")
        if message["type"] == "http.request":
            self.whole = not message.get("more_body", False)
            self.count(message.get("body", b""))
        return message

    def count(self, piece: bytes) -> None:
        """Add a piece; raises when the body is too long or one file too many has begun."""
        self.size += len(piece)
        if self.size > self.limit:
            self.refuse(413, f"larger than {self.limit // 2**20} MB, the maximum allowed size")
        if self.mark:
            seen = self.tail + piece
            if not all(self.one_more() for _ in range(seen.count(self.mark))):
                self.refuse(429, "too many files in a minute: wait a little, then send the rest")
            self.tail = seen[max(0, len(seen) - len(self.mark) + 1) :]

    def refuse(self, status: int, text: str) -> None:
        """Break the body off; gradio's upload then deletes what it had written."""
        self.refused = status
        raise MultiPartException(text) if self.upload else HTTPException(status, text)


class Sent:
    """How many files each user sent in the last minute."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.times: dict[str, deque[float]] = {}

    def one_more(self, user: str) -> bool:
        """Count one more file; False when it is one too many."""
        now = time.monotonic()
        times = self.times.setdefault(user, deque())
        while times and now - times[0] > MINUTE:
            times.popleft()
        if len(times) >= self.limit:
            return False
        times.append(now)
        return True


def token(headers: Headers, cookie: str) -> str:
    """The session's token that a browser sends along."""
    return cookie_parser(headers.get("cookie", "")).get(cookie, "")


def address(netloc: str, scheme: str = "http") -> tuple[str, int] | None:
    """HOST or HOST:PORT -> (host in lower case, port); None for what is neither."""
    try:
        parts = urlsplit(f"//{netloc}")
        return (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)
    except ValueError:
        return None


def same_place(source: str, host: str) -> bool:
    """Whether a page at `source` was served by `host`: same name, same port."""
    try:
        parts = urlsplit(source)
    except ValueError:
        return False
    here = address(host, parts.scheme)
    return bool(here and here[0]) and address(parts.netloc, parts.scheme) == here


def told(status: int, text: str) -> Response:
    """A refusal in one line."""
    return JSONResponse({"detail": text}, status_code=status)
