"""What is drawn, measured and kept on the way, and which of it becomes the style."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from .. import emphasis
from ..adapters.files import save_adapter, writable_folder, write_atomic
from ..drawing.generate import to_pictures
from ..errors import RequestError
from ..events import Best, Note, Preview, Report, Scored
from . import judge
from .cache import as_pixels
from .choose import checkpoint_file
from .data import square
from .encoded import Encoded
from .kept import record
from .loop import Loop, out_of_memory

if TYPE_CHECKING:
    from .train import Training

MOST_ARTIST = 200


class Checkpoints:
    """Takes checkpoints of one training; what is complete is in scores.json, so that a kill costs one at most."""

    def __init__(self, training: Training, loop: Loop, data: Encoded, unseen: Encoded | None, tell: Report) -> None:
        self.training, self.loop, self.tell = training, loop, tell
        self.model, self.plan, self.run = training.model, training.plan, training.run
        writable_folder(self.run.folder / "checkpoints")
        self.scores = self.read()
        self.yard = self.yardstick(data, unseen)

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs after this step: at the ends, and as often as planned."""
        every = self.plan.preview_every
        # An end that steps were added to was one when it was reached.
        ends = (0, self.loop.total, *(at for at, _ in self.run.segments() if at == self.loop.total_at(at - 1)))
        return step in ends or bool(every and step % every == 0)

    def make_up(self, step: int) -> None:
        """Take the checkpoint that an interruption cost."""
        if self.due(step) and step not in self.scores:
            self.take(step)

    def take(self, step: int) -> None:
        """Draw, measure and keep what was learnt after `step`."""
        if step:
            self.loop.save(step)
            self.loop.save(step, "good")
        with self.loop.average.shown():
            drawn = self.draw(self.yard.words)
            own = self.training.config.preview_prompts
            shown = to_pictures(self.draw(self.triggered(own)) if own else drawn[: len(self.training.prompts)])
            scores = judge.scored(self.model, self.yard, step, drawn, self.loop.layers.off)
        self.preview(step, shown)
        if drawn.std() <= 1 / 255:
            self.tell(Note(f"the pictures after step {step} are blank: lower --learning-rate if they stay so"))
        self.tell(scores)
        if step:
            adapter = self.loop.adapter()
            metadata = record(self.training, adapter, shown, step, scores)
            save_adapter(checkpoint_file(self.run.folder, step), adapter, metadata)
        before = self.best()
        self.scores[step] = scores
        rows = [asdict(self.scores[at]) for at in sorted(self.scores)]
        write_atomic(self.run.folder / "scores.json", json.dumps(rows, indent=1).encode())
        if self.best() != before:
            self.tell(Best(*self.best()))

    def look(self, step: int) -> list[Image.Image]:
        """Draw previews only."""
        with self.loop.average.shown():
            pictures = to_pictures(self.draw(self.triggered(self.training.prompts)))
        self.preview(step, pictures)
        return pictures

    def preview(self, step: int, pictures: Sequence[Image.Image]) -> None:
        """Add pictures to the growing sheet."""
        prompts = self.training.prompts
        self.tell(Preview(step, self.run.add_previews(step, pictures, prompts), tuple(prompts)))

    def best(self) -> tuple[int, str] | None:
        """The best checkpoint so far and why; None before the first."""
        return judge.choose(self.scores) if any(self.scores) else None

    def triggered(self, prompts: Sequence[str]) -> list[str]:
        """Prompts with the trigger in front."""
        front = f"{self.plan.trigger}, " if self.plan.trigger else ""
        return [prompt if prompt.startswith(front) else front + prompt for prompt in prompts]

    def draw(self, words: Sequence[str]) -> Tensor:
        """One picture a prompt at fixed seeds, (N, 3, H, W); as many at once as memory allows."""
        fit, start, found = self.loop.fit.micro, 0, []
        side = (self.plan.resolution, self.plan.resolution)
        while start < len(words):
            part = list(words[start : start + fit])
            seeds = [judge.SEED + start + i for i in range(len(part))]
            how = {"steps": judge.DRAW_STEPS, "guidance": self.model.recommended.guidance, "size": side}
            try:
                found.append(self.model.draw(part, [""] * len(part), seeds=seeds, **how))
                start += len(part)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if fit == 1:
                    raise RequestError(
                        f"memory is too small to draw one picture of {side[0]} px: lower --resolution, or close other "
                        "programs"
                    ) from None
                fit = (fit + 1) // 2
        # Numbers that failed are drawn as grey, and told of, rather than ending a training.
        return torch.nan_to_num(torch.cat(found))

    def yardstick(self, data: Encoded, unseen: Encoded | None) -> judge.Yardstick:
        """What checkpoints are held against, measured once a run."""
        path, key = self.run.folder / "judge.safetensors", self.run.key
        if (yard := judge.load_yardstick(path, key, self.model.device)) is not None:
            return yard
        training, side = self.training, self.plan.resolution
        spread = [i * len(training.data) // MOST_ARTIST for i in range(MOST_ARTIST)]
        rows = sorted(set(spread)) if len(training.data) > MOST_ARTIST else range(len(training.data))
        artist = as_pixels([square(training.data[i][0], side) for i in rows])
        captions = training.judged()
        latents, words = unseen_of(training, data, unseen)
        with self.loop.layers.off():
            drawn, neutral = self.draw(captions), self.draw(judge.NEUTRAL)
            yard = judge.make_yardstick(self.model, captions, self.plan.trigger, artist, latents, words, drawn, neutral)
        judge.save_yardstick(path, key, yard)
        return yard

    def read(self) -> dict[int, Scored]:
        """The scores of earlier checkpoints."""
        try:
            rows = json.loads((self.run.folder / "scores.json").read_text(encoding="utf-8"))
            return {row["step"]: Scored(**row) for row in rows}
        except (OSError, ValueError, TypeError):
            return {}


def unseen_of(training: Training, data: Encoded, unseen: Encoded | None) -> tuple[Tensor, list[str]]:
    """Latents (M, C, h, w) and captions of pictures not learnt from: those kept back, else mirrored ones.

    Of one size: the commonest among them.
    """
    if unseen is not None:
        items, groups = training.unseen.items, unseen.plain(range(len(unseen)))
    else:
        items, groups = training.data.items, data.plain(range(len(data)), mirrored=True)
    group = max(groups, key=lambda group: len(group.places))
    places = group.places[:: max(1, len(group.places) // judge.UNSEEN)][: judge.UNSEEN]
    index = [group.places.index(place) for place in places]
    return group.latents[index].clone(), [emphasis.parse(items[place].caption).text for place in places]
