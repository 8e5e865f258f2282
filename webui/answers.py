"""How a route answers: JSON that any browser reads, a file, a picture or nothing new. Knows no page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from fastapi import HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from difflora.errors import DiffloraError
from difflora.events import finite

NEVER = {"Cache-Control": "no-store"}


class Plain(JSONResponse):
    """JSON that any browser reads: files of strangers hold halves of characters, and numbers that are none."""

    def render(self, content: object) -> bytes:
        """The body."""
        try:
            return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        except ValueError:
            return json.dumps(finite(content), separators=(",", ":")).encode()


def told(work: Callable[[], object]) -> Response:
    """The work's result as JSON, or its one line of what went wrong: that what a page shows is gone is an answer."""
    try:
        return Plain(work(), headers=NEVER)
    except DiffloraError as error:
        return Plain({"error": str(error)}, headers=NEVER)


def sent(work: Callable[[], Path]) -> Response:
    """The file that the work finds, to be kept by the browser; 404 with one line for none."""
    try:
        path = work()
    except DiffloraError as error:
        return Plain({"error": str(error)}, status_code=404, headers=NEVER)
    return FileResponse(path, filename=path.name, media_type="application/octet-stream", headers=NEVER)


async def picture(
    request: Request, path: Callable[[], Path], headers: dict[str, str], thumb: Callable[[Path], bytes] | None = None
) -> Response:
    """A PNG as it is, or the WebP that `thumb` makes of it; nothing for a browser that has this very file already."""

    def work() -> tuple[str, bytes | None]:
        file = path()
        facts = file.stat()
        mark = f'"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}"'
        if request.headers.get("if-none-match") == mark:
            return mark, None
        return mark, thumb(file) if thumb else file.read_bytes()

    try:
        mark, data = await asyncio.to_thread(work)
    except DiffloraError as error:
        return Plain({"error": str(error)}, status_code=404, headers=NEVER)
    except OSError:  # gone since it was found
        raise HTTPException(404) from None
    headers = headers | {"ETag": mark}
    if data is None:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/webp" if thumb else "image/png", headers=headers)
