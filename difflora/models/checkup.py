"""What `difflora doctor` says of bases: downloads and what they would take, and an installation that lacks files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..machine import Fault, folder_bytes
from .bases import EMBEDDED, not_here
from .hub import cache_folder, offline, unfinished
from .whole import missing

CONFIGS = Path(__file__).with_name("configs")
AGAIN = "pip install --force-reinstall --no-deps difflora"


@dataclass(frozen=True)
class Outlook:
    """What may be downloaded."""

    offline: bool
    """Whether nothing may be looked up on the hub."""
    sizes: Mapping[str, int]
    """Bytes that each short name takes which is not here."""

    def row(self) -> dict:
        """For a script."""
        return {"offline": self.offline, "downloads": dict(self.sizes)}


def outlook() -> Outlook:
    """What may be downloaded, foretold without asking for it."""
    return Outlook(offline(), {short.name: short.size for short in not_here()})


def caches(runs: Path) -> dict[str, tuple[Path, int]]:
    """(folder, bytes) of what is kept to save time, by what it holds."""
    return {
        "downloads": (cache_folder(), folder_bytes(cache_folder())),
        "of them unfinished": (cache_folder(), unfinished()),
        "encoded pictures": (Path(runs) / ".cache", folder_bytes(Path(runs) / ".cache")),
    }


def damage() -> list[Fault]:
    """Files that belong to difflora itself and are not there."""
    faults = [
        Fault(f"the embedded base {name} is not whole: {lacks}", AGAIN)
        for name, path in EMBEDDED.items()
        if (lacks := missing(path))
    ]
    names = ("sd1", "sd2", "sdxl", "merges.txt.gz")
    left = [name for name in names if not (CONFIGS / name).exists()]
    return faults + ([Fault(f"difflora's own settings for {', '.join(left)} are missing", AGAIN)] if left else [])
