"""A hub on this machine: repositories out of folders, over HTTP, with the faults that a real one has."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".ckpt", ".msgpack", ".onnx")


@dataclass
class Hub:
    """What is served, and how it misbehaves."""

    address: str = ""
    repos: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: dict[str, list[int]] = field(default_factory=dict)
    """By a file's path: after how many bytes its next answers break off, one number an answer."""
    lies: dict[str, int] = field(default_factory=dict)
    """By a file's path: bytes that its size is said to be too large."""
    spoilt: set[str] = field(default_factory=set)
    """Files whose content comes with one byte changed."""
    busy: dict[str, list[int]] = field(default_factory=dict)
    """By a file's path: status codes that the next requests for its content are answered with."""
    ranges: bool = True
    log: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, Range) of every request."""

    def asked(self, name: str, method: str = "GET") -> list[str]:
        """The ranges that were asked for of a file, "" for all of it."""
        return [given for kind, path, given in self.log if kind == method and path.endswith(name)]

    def sent(self) -> set[str]:
        """The files whose content was asked for."""
        parts = [path.partition(f"/resolve/{COMMIT}/") for kind, path, _ in self.log if kind == "GET"]
        return {name for _, mark, name in parts if mark}


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def log_message(self, *words: object) -> None:
        """Nothing is printed."""

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append((self.command, path, self.headers.get("Range", "")))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.described("/".join(parts[2:4]), parts[4:])
        if len(parts) > 4 and parts[2] == "resolve":
            return self.content("/".join(parts[:2]), "/".join(parts[4:]), body)
        return self.refuse(404, "EntryNotFound")

    def described(self, repo: str, rest: list[str]) -> None:
        if repo not in self.hub.repos:
            return self.refuse(401, "RepoNotFound")
        folder = self.hub.repos[repo]
        files = [(file, file.relative_to(folder).as_posix()) for file in sorted(folder.rglob("*")) if file.is_file()]
        if rest[:1] == ["tree"]:
            return self.send([self.leaf(file, name) for file, name in files])
        rows = [self.sibling(file, name) for file, name in files]
        about = {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": rows}
        return self.send(about | {"gated": "manual" if repo in self.hub.gated else False})

    def leaf(self, file: Path, name: str) -> dict:
        row = self.sibling(file, name)
        lfs = {"lfs": {"oid": row["lfs"]["sha256"], "size": row["size"], "pointerSize": 130}} if "lfs" in row else {}
        return {"type": "file", "path": name, "size": row["size"], "oid": row["blobId"]} | lfs

    def sibling(self, file: Path, name: str) -> dict:
        size = file.stat().st_size + self.hub.lies.get(name, 0)
        row = {"rfilename": name, "size": size, "blobId": hashlib.sha1(file.read_bytes()).hexdigest()}
        large = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": size, "pointerSize": 130}
        return row | ({"lfs": large} if name.endswith(LARGE) else {})

    def content(self, repo: str, name: str, body: bool) -> None:
        file = self.hub.repos.get(repo, Path("nowhere")) / name
        if repo in self.hub.gated:
            return self.refuse(403, "GatedRepo")
        if not file.is_file():
            return self.refuse(404, "EntryNotFound")
        if body and (codes := self.hub.busy.get(name)):
            return self.refuse(codes.pop(0), "")
        data = file.read_bytes()
        etag = self.sibling(file, name).get("lfs", {}).get("sha256") or hashlib.sha1(data).hexdigest()
        data = bytes([data[0] ^ 1]) + data[1:] if name in self.hub.spoilt else data
        given = self.headers.get("Range", "") if self.hub.ranges else ""
        start = int(given.removeprefix("bytes=").partition("-")[0]) if given else 0
        if start >= len(data) > 0:
            return self.refuse(416, "")
        self.send_response(206 if given else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if given:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if not body:
            return None
        cuts = self.hub.cut.get(name, [])
        if cuts:
            self.wfile.write(data[start : start + cuts.pop(0)])
            self.close_connection = True
            return None
        self.wfile.write(data[start:])
        return None

    def refuse(self, code: int, word: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        if word:
            self.send_header("X-Error-Code", word)
        self.end_headers()

    def send(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub that huggingface_hub asks instead of the real one, and an empty cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    served = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Answer,), {"hub": served}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_port}"
    template = served.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": served.address, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": True,
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    # Telemetry and notices of new versions would go to the real one.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    close_session()
    yield served
    close_session()
    server.shutdown()
    server.server_close()
    thread.join()
