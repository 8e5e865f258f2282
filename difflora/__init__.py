"""difflora: learn an image style as a small adapter, blend styles by weight, draw with the blend."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .version import __version__

# Public name -> its room; loaded when first used, so that `import difflora` costs nothing.
_ROOMS = {
    "Adapter": "adapters.adapter",
    "Factors": "adapters.adapter",
    "blend": "adapters.blend",
    "load_adapter": "adapters.files",
    "save_adapter": "adapters.files",
    "DiffloraError": "errors",
    "TrainConfig": "config",
    "DrawConfig": "config",
    "open_model": "models.family",
    "attached": "models.attach",
    "generate": "drawing.generate",
    "Recipe": "drawing.recipe",
    "StyleDataset": "training.data",
    "read_folder": "training.data",
    "prepare": "training.train",
    "train": "training.train",
    "score": "training.score",
}
__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
