"""Adapters as a base takes them: cast, carried to its device, kept there while there is room. Knows no weights."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adapters.adapter import Adapter, Update


@dataclass(frozen=True, eq=False)
class Ready:
    """One update in the precision and the place of the weight it is added to: factor · up @ down, or dense as it is.

    down: (rank, in) or (rank, in, k, k); up: (out, rank) or (out, rank, 1, 1).
    """

    down: Tensor | None = None
    up: Tensor | None = None
    dense: Tensor | None = None
    factor: float = 1.0

    def nbytes(self) -> int:
        """Memory of its tensors."""
        return sum(tensor.nbytes for tensor in (self.down, self.up, self.dense) if tensor is not None)


def home(module: nn.Module) -> torch.device:
    """Where a module computes; its weight may wait elsewhere, see `opening.offload`."""
    return getattr(module, "computes_on", module.weight.device)


def made_ready(update: Update, module: nn.Module) -> Ready:
    """The update for a module, where it computes."""
    ready, place = make_ready(update, module.weight), home(module)
    if place == module.weight.device:
        return ready
    return Ready(
        *(part if part is None else part.to(place) for part in (ready.down, ready.up, ready.dense)), ready.factor
    )


def make_ready(update: Update, weight: Tensor) -> Ready:
    """The update for that weight; nothing is copied of plain factors that have its precision and place already."""
    # A drawing may begin in inference mode; what stays after it must be of use outside.
    with torch.inference_mode(False):
        factors = update.factors()
        if factors is None:
            # What is no product of smaller factors acts as one dense update, DoRA as it is on this weight.
            return Ready(dense=update.delta(weight).to(weight))
        if weight.dtype == torch.float32:
            return Ready(factors.down.to(weight), factors.up.to(weight), factor=factors.scale)
        # Lopsided factors overflow in float16 though their product does not.
        down, up = (factors.balanced() if weight.dtype == torch.float16 else factors).halves()
        return Ready(down.to(weight), up.to(weight))


class Resident:
    """Adapters of one model made ready for it, least lately used ones leaving first; for any number of threads.

    limit_bytes: how much stays when a stack has been made; 0 keeps nothing. One Resident serves one model, which
    stays where it is and in its precision, and adapters are the same while they are the same object.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._kept: OrderedDict[int, tuple[weakref.ref[Adapter], dict[str, Ready], int]] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Size of all that is kept."""
        with self._lock:
            return sum(size for _, _, size in self._kept.values())

    def take(self, adapters: Sequence[Adapter], modules: Mapping[str, nn.Module]) -> list[dict[str, Ready]]:
        """Each adapter's updates by path, made ready unless they are at hand.

        modules: by path, all that the adapters touch. None of these adapters leaves before the last one is ready.
        """
        with self._lock:
            for key in [key for key, (adapter, *_) in self._kept.items() if adapter() is None]:
                del self._kept[key]
            taken = []
            for adapter in adapters:
                taken.append(dict(self._get(adapter, modules)))
                self._shrink({id(adapter) for adapter in adapters})
            self._shrink()
            return taken

    def __contains__(self, adapter: Adapter) -> bool:
        """Whether it is at hand."""
        with self._lock:
            return id(adapter) in self._kept and self._kept[id(adapter)][0]() is adapter

    def _get(self, adapter: Adapter, modules: Mapping[str, nn.Module]) -> dict[str, Ready]:
        key = id(adapter)
        if key not in self._kept:
            layers = {path: made_ready(update, modules[path]) for path, update in adapter.layers.items()}
            # Whoever let go of the adapter itself has no more use for this either.
            self._kept[key] = weakref.ref(adapter), layers, sum(ready.nbytes() for ready in layers.values())
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def _shrink(self, needed: set[int] = frozenset()) -> None:
        leaving = [key for key in self._kept if key not in needed]
        while leaving and self.bytes > self.limit_bytes:
            del self._kept[leaving.pop(0)]


def resident_on(device: torch.device) -> Resident:
    """What a base on that device keeps: 1 GiB, or 256 MiB on a CPU, which has its adapters at hand uncast anyway."""
    return Resident(2**28 if device.type == "cpu" else 2**30)
