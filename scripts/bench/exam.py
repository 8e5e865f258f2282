"""What a trained style is measured by in these scripts, and results that outlive a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from difflora.adapters.adapter import Adapter
from difflora.adapters.files import write_atomic
from difflora.config import TrainConfig
from difflora.drawing.recipe import Style
from difflora.events import Event, Step, ignore
from difflora.models.attach import attached
from difflora.models.family import BaseModel
from difflora.training.cache import as_pixels
from difflora.training.data import read_folder, square
from difflora.training.judge import copy_share, fixed_loss, followed
from difflora.training.score import draw_set, read_set, style_distance

DATA = Path("sample_data")
STYLES = ("fluent3d", "ink", "cartoon")
SEED, KNOWN_SEED, KNOWN = 0, 5000, 24
TIMES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)


@dataclass(frozen=True, eq=False)
class Exam:
    """One style's held-out concepts, always drawn from the same noise."""

    model: BaseModel
    style: str
    captions: tuple[str, ...]
    artist: Tensor
    """(N, 3, H, W) the artist's pictures of `captions`, never learnt from."""
    taught: Tensor
    """(M, 3, H, W) what is learnt from."""
    taught_captions: tuple[str, ...]

    def mark(self, adapter: Adapter | None) -> dict:
        """What `difflora score` measures, and copies; of the base alone without an adapter.

        copied: of the held-out concepts' pictures; copied_known: of pictures drawn from captions that were learnt.
        """
        style, adapters = (Style(self.style, 1.0), {self.style: adapter}) if adapter else (None, {})
        drawn = draw_set(self.model, self.captions, style, adapters, SEED, ignore)
        known = self.taught_captions[:: max(1, len(self.taught_captions) // KNOWN)][:KNOWN]
        again = draw_set(self.model, known, style, adapters, KNOWN_SEED, ignore)
        return asdict(read_set(self.model, drawn, self.artist, self.captions)) | {
            "copied": copy_share(self.model, drawn, self.taught),
            "copied_known": copy_share(self.model, again, self.taught),
        }

    @torch.inference_mode()
    def quick(self, adapter: Adapter | None) -> dict:
        """Style distance and prompts followed, in a third of the time: each picture is read against four captions."""
        style, adapters = (Style(self.style, 1.0), {self.style: adapter}) if adapter else (None, {})
        drawn = draw_set(self.model, self.captions, style, adapters, SEED, ignore)
        distance = style_distance(self.model, drawn, self.artist)
        return {"distance": distance, "followed": followed(self.model, drawn, self.captions)}

    @torch.inference_mode()
    def loss(self, adapter: Adapter) -> float:
        """Denoising loss of the artist's held-out pictures at fixed noise and times."""
        latents = self.model.encode_images(self.artist)
        with attached(self.model.parts, [adapter]):
            return fixed_loss(self.model, latents, self.captions, TIMES)


def make_exam(model: BaseModel, style: str) -> Exam:
    """Read both folders of a sample style."""
    held, taught = read_folder(DATA / "heldout" / style), read_folder(DATA / style)
    artist, own = (as_pixels([square(picture, model.side) for picture, _ in data]) for data in (held, taught))
    words = [tuple(item.caption for item in data.items) for data in (held, taught)]
    return Exam(model, style, words[0], artist, own, words[1])


class Results:
    """Rows of one file, JSON lines: what is there is not measured again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def once(self, key: Mapping, make: Callable[[], dict]) -> dict:
        """The row with these values, measured and kept now unless it is there."""
        for row in self.rows:
            if all(name in row and row[name] == value for name, value in key.items()):
                return row
        print(f"# {time.strftime('%H:%M:%S')} {' '.join(map(str, key.values()))}", flush=True)
        row = dict(key) | make()
        self.rows.append(row)
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        return row


def base_row(results: Results, exam: Exam) -> dict:
    """What the base alone reaches."""
    return results.once({"style": exam.style, "trainer": "base"}, lambda: exam.mark(None))


def train_difflora(style: str, seed: int, work: Path, steps: int | None) -> dict:
    """Make all steps of difflora's own plan, or go on; the file, the run's folder, pictures seen and seconds.

    seconds: all of it, from the folder read to the file written; step_seconds: the optimizer's steps alone.
    """
    from difflora.training.train import prepare, train

    start, speed = time.monotonic(), []

    def listen(event: Event) -> None:
        if isinstance(event, Step):
            speed[:] = [event.speed]

    places = {"out": work / "loras", "runs": work / "runs"}
    config = TrainConfig(
        images=DATA / style, name=f"{style}-{seed}", seed=seed, steps=steps, early_stop=False, **places
    )
    training = prepare(config)
    result = train(training, listen)
    pictures = result.step * training.plan.batch
    return {
        "file": str(result.file),
        "run": str(training.run.folder),
        "pictures": pictures,
        "seconds": round(time.monotonic() - start, 1),
        "step_seconds": round(pictures / speed[0], 1) if speed else None,
    }


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean ± standard deviation; the mean alone of one value."""
    return f"{mean(values):{form}}" + (f" ± {stdev(values):{form}}" if len(values) > 1 else "")
