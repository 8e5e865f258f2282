"""Many people at one studio: does everyone get pictures, how fast, and does its memory stay flat?

    .venv/bin/python scripts/bench/load.py
    .venv/bin/python scripts/bench/load.py --clients 8 --seconds 20 --json

Opens a studio with one account per client in a temporary folder, with the styles of demo/loras, or three random ones.
First one client alone for 30 seconds, then all: each draws one picture after the other through /draw, from random
blends of one to three styles, and fetches it; a quarter of them also ask for /studio/now and the looks twice a second,
as an open page does. Exit code 1 when a request failed, a client got less than half of the median, or the server's
memory grew by more than a tenth between 25% and 100% of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

PROMPTS = (
    "a red apple",
    "a house",
    "a cat",
    "a bicycle",
    "a sailing boat",
    "a mushroom",
    "an umbrella",
    "a cup of tea",
)
ALONE = 30.0
PASSWORD = "a password for the load"
MOST_GROWTH = 1.10


@dataclass
class Tally:
    """What the clients of one phase saw."""

    pictures: list[int]
    waits: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    polls: int = 0


@contextmanager
def studio(folder: Path, *flags: str | Path) -> Iterator[tuple[str, psutil.Process]]:
    """A studio in `folder` as `difflora ui` opens it: its address and its process."""
    command = [Path(sys.executable).with_name("difflora"), "ui", "--port", "0", *flags]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield address(folder / "log.txt", server), psutil.Process(server.pid)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def address(log: Path, server: subprocess.Popen) -> str:
    """Where the studio answers, once it does."""
    for _ in range(1200):
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            try:
                httpx.get(f"{found[0]}/login", timeout=5)
                return found[0]
            except httpx.TransportError:
                pass
        if server.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit(f"the studio did not open: {log.read_text()[-2000:]}")


def styles_for(folder: Path, loras: Path) -> list[str]:
    """Three styles in folder/loras: those of `loras`, else random ones."""
    place = folder / "loras"
    place.mkdir()
    found = sorted(loras.glob("*.safetensors"))[:3]
    for path in found or random_styles(place):
        if path.parent != place:
            shutil.copy(path, place)
    return sorted(path.stem for path in place.glob("*.safetensors"))


def random_styles(place: Path) -> list[Path]:
    """Styles that are noise, as large as trained ones."""
    import torch

    from difflora.adapters.adapter import Adapter, Factors
    from difflora.adapters.files import save_adapter
    from difflora.models.family import open_model

    model, rng = open_model("tiny"), torch.Generator().manual_seed(0)
    shapes = model.shapes()

    def factors(path: str) -> Factors:
        out, *rest = shapes[path]
        down = torch.randn(16, *rest, generator=rng) * 0.02
        return Factors(down, torch.randn((out, 16, *[1] * (len(rest) - 1)), generator=rng) * 0.02, 8.0)

    paths = model.targets("attention+mlp", False)
    return [
        save_adapter(place / f"noise-{i}.safetensors", Adapter({p: factors(p) for p in paths}), {}) for i in range(3)
    ]


async def entered(url: str, number: int) -> httpx.AsyncClient:
    """A signed-in client."""
    http = httpx.AsyncClient(base_url=url, timeout=300)
    answer = await http.post("/login", data={"username": f"client-{number}", "password": PASSWORD})
    answer.raise_for_status()
    return http


async def draw(http: httpx.AsyncClient, request: dict) -> str:
    """Ask /draw, wait, fetch the picture; what went wrong, or nothing."""
    answer = await http.post("/gradio_api/call/v2/draw", json=request)
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text[:200]}"
    event = ""
    async with http.stream("GET", f"/gradio_api/call/draw/{answer.json()['event_id']}") as lines:
        async for line in lines.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event == "complete":
                picture = await http.get(json.loads(line.removeprefix("data: "))[0][0]["url"])
                return "" if picture.content.startswith(b"\x89PNG") else f"{picture.status_code} instead of a picture"
            elif line.startswith("data: ") and event == "error":
                return line
    return "the answer broke off"


async def artist(http: httpx.AsyncClient, number: int, styles: list[str], steps: int, end: float, seen: Tally) -> None:
    """One client: one picture after the other until the time is over."""
    rng = random.Random(number)
    while time.monotonic() < end:
        chosen = rng.sample(styles, rng.randint(1, len(styles)))
        request = {
            "prompt": rng.choice(PROMPTS), "seed": rng.randrange(2**31), "steps": steps,
            "styles": [f"{name}:{rng.uniform(-0.5, 1.5):.2f}" for name in chosen],
        }  # fmt: skip
        start = time.monotonic()
        try:
            wrong = await draw(http, request)
        except (httpx.HTTPError, ValueError, LookupError) as error:
            wrong = f"{type(error).__name__}: {error}"
        seen.waits.append(time.monotonic() - start)
        if wrong:
            seen.failures.append(f"client {number}: {wrong}")
            await asyncio.sleep(0.2)
        elif time.monotonic() < end:
            seen.pictures[number] += 1


async def watcher(http: httpx.AsyncClient, end: float, seen: Tally) -> None:
    """What an open page does: twice a second, what is drawn now and how it looks."""
    while time.monotonic() < end:
        try:
            now = await http.get("/studio/now")
            for ticket in now.raise_for_status().json()["tickets"]:
                for place in [i for i, there in enumerate(ticket["looks"]) if there]:
                    (await http.get(f"/studio/look/{ticket['id']}/{place}")).raise_for_status()
        except httpx.HTTPError as error:
            seen.failures.append(f"a page: {error}")
        seen.polls += 1
        await asyncio.sleep(0.5)


async def measured(server: psutil.Process, seconds: float) -> list[float]:
    """Memory of the server in MB after each quarter of the time."""
    found = []
    for _ in range(4):
        await asyncio.sleep(seconds / 4)
        found.append(round(server.memory_info().rss / 1e6, 1))
    return found


async def phase(url: str, server: psutil.Process, styles: list[str], clients: int, steps: int, seconds: float) -> dict:
    """So many clients for so long, and what came of it."""
    people = await asyncio.gather(*(entered(url, i) for i in range(clients)))
    seen, end = Tally([0] * clients), time.monotonic() + seconds
    work = [artist(http, i, styles, steps, end, seen) for i, http in enumerate(people)]
    memory, *_ = await asyncio.gather(
        measured(server, seconds), *work, *(watcher(http, end, seen) for http in people[: clients // 4])
    )
    for http in people:
        await http.aclose()
    return {
        "clients": clients, "pictures_per_second": round(sum(seen.pictures) / seconds, 2), "failures": seen.failures,
        "least": min(seen.pictures), "median": statistics.median(seen.pictures), "most": max(seen.pictures),
        "longest_wait": round(max(seen.waits), 1), "median_wait": round(statistics.median(seen.waits), 1),
        "memory_mb": memory, "polls": seen.polls,
    }  # fmt: skip


async def bench(url: str, server: psutil.Process, styles: list[str], args: argparse.Namespace) -> dict:
    """One client, then all of them."""
    files = server.num_fds()
    alone = await phase(url, server, styles, 1, args.steps, min(ALONE, args.seconds))
    together = await phase(url, server, styles, args.clients, args.steps, args.seconds)
    await asyncio.sleep(2)  # closed connections are let go
    return {
        "steps": args.steps, "seconds": args.seconds, "alone": alone, "together": together,
        "gain": round(together["pictures_per_second"] / max(alone["pictures_per_second"], 1e-9), 2),
        "open_files": [files, server.num_fds()], "wrong": faults(alone, together),
    }  # fmt: skip


def faults(*phases: dict) -> list[str]:
    """What a load must not do."""
    wrong = [line for row in phases for line in row["failures"]]
    last = phases[-1]
    if last["least"] < last["median"] / 2:
        wrong.append(f"a client got {last['least']} pictures, the median is {last['median']}")
    start, *_, end = last["memory_mb"]
    if end > start * MOST_GROWTH:
        wrong.append(f"memory grew from {start} to {end} MB")
    return wrong


def show(found: dict) -> None:
    """The figures as text."""
    for row in (found["alone"], found["together"]):
        print(f"{row['clients']} clients: {row['pictures_per_second']} pictures/s, {len(row['failures'])} failures")
        print(f"  pictures per client  {row['least']} least, {row['median']} median, {row['most']} most")
        print(f"  wait for one         {row['median_wait']} s median, {row['longest_wait']} s longest")
        print(f"  memory at quarters   {', '.join(map(str, row['memory_mb']))} MB;  {row['polls']} polls of pages")
    print(f"{found['gain']} times the pictures of one client")
    print(f"open files: {found['open_files'][0]} at the start, {found['open_files'][1]} at the end")
    for line in found["wrong"][:20]:
        print(f"WRONG {line}")


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--loras", type=Path, default=Path("demo/loras"), help="styles to draw with")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with TemporaryDirectory() as place:
        styles = styles_for(Path(place), args.loras)
        accounts = [part for i in range(args.clients) for part in ("--auth", f"client-{i}:{PASSWORD}")]
        with studio(Path(place), *accounts) as (url, server):
            found = asyncio.run(bench(url, server, styles, args))
        said = (Path(place) / "log.txt").read_text()
    print(json.dumps(found, indent=1)) if args.json else show(found)
    if "Traceback" in said:
        print(f"the studio's log ends:\n{said[-3000:]}", file=sys.stderr)
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
