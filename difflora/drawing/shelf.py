"""Styles at hand: adapters that were read lately stay in memory. Knows no requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from ..adapters.adapter import Adapter
from ..adapters.files import load_adapter
from ..errors import AdapterFileError
from ..models.family import BaseModel
from .recipe import Style
from .styles import found_again


class Shelf:
    """Adapters of one base by what they hold, least lately used ones leaving first; for any number of threads.

    limit_bytes: how much may stay; the one asked for last always does.
    """

    def __init__(self, model: BaseModel, limit_bytes: int = 2**30) -> None:
        self.family = model.family
        self.shapes = model.shapes()
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[object, tuple[Adapter, int]] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Size of all that is kept."""
        return sum(size for _, size in self._kept.values())

    def get(self, style: Style) -> Adapter:
        """The style's adapter, read from its file unless it is at hand.

        A style with a sha256 is that content wherever it lies, and a style without one is whatever its file holds now.
        Raises AdapterFileError for a file that cannot be read, RequestError for one that holds something else.
        """
        with self._lock:
            key = style.sha256 or _stamp(Path(style.path))
            if key not in self._kept:
                self._keep(key, self._read(style))
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def _read(self, style: Style) -> Adapter:
        path = Path(style.path)
        if style.sha256:
            path = Path(found_again(style, path.parent).path)
        return load_adapter(path, self.shapes, self.family)

    def _keep(self, key: object, adapter: Adapter) -> None:
        self._kept[key] = (adapter, adapter.nbytes())
        while self.bytes > self.limit_bytes and len(self._kept) > 1:
            self._kept.popitem(last=False)


def _stamp(path: Path) -> tuple[str, int, int]:
    """What tells a file from a later one of the same name."""
    try:
        facts = path.stat()
    except OSError as error:
        reason = error.strerror
        raise AdapterFileError(f"{path} cannot be read ({reason}): expected a style file; choose another one") from None
    return str(path), facts.st_mtime_ns, facts.st_size
