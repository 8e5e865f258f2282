"""Curves and previews for TensorBoard: its only door."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import RequestError
from ..events import Event, Preview, Scored, Step


class Board:
    """Writes what a training tells into a folder that `tensorboard --logdir` shows."""

    def __init__(self, folder: Path) -> None:
        self.check()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own, of names that it stops using
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder))

    @staticmethod
    def check() -> None:
        """RequestError unless the package is there."""
        if find_spec("tensorboard") is None:
            raise RequestError(
                "--tensorboard needs tensorboard, which is not installed: pip install 'difflora[tensorboard]'"
            )

    def take(self, event: Event) -> None:
        """Write one event's figures or pictures."""
        match event:
            case Step():
                figures = {"loss": event.loss, "learning rate": event.rate, "pictures per second": event.speed}
                for name, value in (figures | {"memory GB": event.memory}).items():
                    self.writer.add_scalar(f"training/{name}", value, event.step)
            case Scored():
                for name, value in asdict(event).items():
                    if name != "step":
                        self.writer.add_scalar(f"checkpoint/{name}", value, event.step)
            case Preview(step, path):
                with Image.open(path) as sheet:
                    self.writer.add_image("previews", np.asarray(sheet.convert("RGB")), step, dataformats="HWC")
                self.writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
