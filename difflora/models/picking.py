"""Which files of a repository make up a base. Knows no hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..adapters.checkpoint import SAFE_WAY
from ..adapters.header import PICKLES
from ..errors import BaseModelError
from .blobs import Remote
from .whole import INDEX, NETWORKS, TOKENIZERS, chosen, named

SETTINGS = (".json", ".txt")


@dataclass(frozen=True)
class Wanted:
    """What a base takes of its repository."""

    repo: str
    commit: str
    files: tuple[Remote, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def select(repo: str, names: Sequence[str], index: dict, variant: str | None) -> set[str]:
    """The files that make up a base, of all of its repository; BaseModelError where weights are pickles only."""
    parts = named(index, (*NETWORKS, *TOKENIZERS, "scheduler"))
    inner = [(path.parts[0], path.name, path.suffix) for path in map(PurePosixPath, names) if len(path.parts) == 2]
    found = {INDEX} | {f"{part}/{name}" for part, name, kind in inner if part in parts and kind in SETTINGS}
    for part in named(index, NETWORKS):
        own = [name for place, name, _ in inner if place == part]
        weights = chosen(own, variant) or chosen(own, None) or chosen(own, "fp16")
        if not weights:
            pickles = [name for name in own if Path(name).suffix in PICKLES]
            what = f"only as {pickles[0]}, which can run code when it is opened" if pickles else "nowhere"
            raise BaseModelError(
                f"base {repo} has the weights of {part} {what}: expected .safetensors; choose another repository"
                + (f", or {SAFE_WAY}" if pickles else "")
            )
        found |= {f"{part}/{name}" for name in weights}
    return found


def no_pipeline(repo: str, names: Sequence[str]) -> str:
    """What to say of a repository that holds no pipeline."""
    files = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    start = f"base {repo}: no {INDEX} in this repository"
    if any(re.search("lora", name, re.IGNORECASE) or name.startswith("adapter_model") for name in files):
        return f"{start}, but a style ({files[0]}): expected a base; download that file and draw with it by --lora FILE"
    if files:
        return f"{start}, but {files[0]}: expected a diffusers model; download that file and give --base FILE"
    return f"{start}: expected a diffusers model of Stable Diffusion 1.x, 2.x or XL; choose another"
