"""A training's plan, measured in a process of its own: whoever asks keeps its memory and its seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import tomli_w

from ..config import TrainConfig, as_row
from ..errors import RequestError
from .runs import placed

SECONDS = 600


def plan_apart(config: TrainConfig, seconds: float = SECONDS) -> dict:
    """The plan's values (see `Plan.row`) with minutes and memory measured by a few real steps; nothing is written.

    Raises RequestError with the one line that `difflora train --plan` ends with, or when it takes longer.
    """
    # The process works in an empty folder: python looks for modules where it works first.
    with TemporaryDirectory(prefix="difflora-") as place:
        file = Path(place) / "config.toml"
        file.write_bytes(tomli_w.dumps(placed(as_row(config))).encode())
        command = [sys.executable, "-m", "difflora.cli", "train", "--config", str(file), "--plan", "--json"]
        try:
            done = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise RequestError(f"no plan after {seconds:g} seconds: expected one by then; try again") from None
        except OSError as error:
            raise RequestError(
                f"the plan was not measured ({error.strerror}): free some memory and try again"
            ) from None
    return _plan(done)


def _plan(done: subprocess.CompletedProcess) -> dict:
    said = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode == 0 and said:
        return json.loads(said[-1])
    words = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if done.returncode == 2 and words:
        raise RequestError(words[-1].removeprefix("difflora: "))
    raise RequestError(f"the plan's process ended with code {done.returncode}: {words[-1] if words else 'no word why'}")
