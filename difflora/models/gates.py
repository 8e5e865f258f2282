"""Adapters that act while a base draws, with weights that change at any time.

A stack of adapters is one pair of wide factors per module; the weights are a gate between them:
    y = W x + up_cat (gate * (down_cat x)),   gate of shape (rows, sum of ranks)
so every picture of a batch has its own blend, every module its own weights, and a weight changes by writing into a
buffer that never moves: no weight of the base is touched, and graphs that were compiled or captured stay valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..adapters.adapter import Adapter, Update
from ..errors import AdapterFileError, RequestError
from ..strength import Strength
from .resident import Ready, Resident, home

Parts = Mapping[str, nn.Module]
Blend = Sequence[float | Strength]
STRENGTHS_KEPT = 1024
LARGEST = torch.finfo(torch.float32).max


def module_at(parts: Parts, path: str) -> nn.Module:
    """The module of a path such as "unet.mid_block.attentions.0.proj_in"; AdapterFileError if there is none."""
    part, _, rest = path.partition(".")
    try:
        return parts[part].get_submodule(rest)
    except (KeyError, AttributeError) as error:
        raise AdapterFileError(f"{path} is not a layer of this base: the adapter was made for another one") from error


def check_shapes(path: str, module: nn.Module, entries: Sequence[tuple[int, Update]]) -> None:
    """AdapterFileError when an update does not fit the module's weight."""
    for _, update in entries:
        if update.shape != tuple(module.weight.shape):
            found, wanted = "x".join(map(str, update.shape)), "x".join(map(str, module.weight.shape))
            raise AdapterFileError(f"{path}: the update is {found}, the layer {wanted}: made for another family")


class Gated:
    """The stacked update of one module, added to its output by a forward hook.

    slots: the table's column of each inner channel, then of each dense update. gate: (rows, slots), a view of the
    stack's buffer.
    """

    def __init__(self, module: nn.Module, entries: Sequence[tuple[int, Ready]]) -> None:
        self.module = module
        plain = [(slot, ready) for slot, ready in entries if ready.dense is None]
        dense = [(slot, ready) for slot, ready in entries if ready.dense is not None]
        self.down = _joined([ready.down for _, ready in plain], 0)
        self.up = _joined([ready.up for _, ready in plain], 1)
        self.dense = [ready.dense for _, ready in dense]
        self.slots = [slot for slot, ready in plain for _ in range(len(ready.down))] + [slot for slot, _ in dense]
        self.gate = module.weight.new_zeros(0)
        self.asleep = False
        self.original: Tensor | None = None
        self.hook = module.register_forward_hook(self.forward)

    def forward(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """output, in place, + up (gate * (down input)) + gate * (dense input)."""
        if self.original is not None or (not torch.compiler.is_compiling() and self.asleep):
            return output
        x = inputs[0]
        apply = partial(_conv, around=module) if isinstance(module, nn.Conv2d) else F.linear
        inner, *rest = self.gate.split([self.gate.shape[1] - len(self.dense), *[1] * len(self.dense)], 1)
        if self.down is not None:
            _add_product(output, _times(apply(x, self.down), inner, module), self.up)
        for own, delta in zip(rest, self.dense, strict=True):
            output += _times(apply(x, delta), own, module)
        return output

    def fold(self, row: Tensor) -> None:
        """Put the updates times a row of the table into the weight itself, keeping the original aside."""
        weight, own = self.module.weight, row[self.slots]
        self.original = weight.data
        if not own.any():
            return
        # Where the update is: the weight may wait in main memory.
        place = home(self.module)
        total, own = weight.data.to(place, torch.float32).flatten(1), own.to(place)
        inner, rest = own[: len(own) - len(self.dense)], own[len(own) - len(self.dense) :]
        if self.down is not None:
            total = torch.addmm(total, self.up.float().flatten(1) * inner, self.down.float().flatten(1))
        for amount, delta in zip(rest, self.dense, strict=True):
            total = total + amount * delta.float().flatten(1)
        weight.data = total.view(weight.shape).to(weight)

    def unfold(self) -> None:
        """Put the original weight back: the same tensor, bit for bit."""
        if self.original is not None:
            self.module.weight.data = self.original
            self.original = None


def _joined(halves: Sequence[Tensor], axis: int) -> Tensor | None:
    # One adapter's halves are used where they lie.
    return halves[0] if len(halves) == 1 else torch.cat(halves, axis) if halves else None


def _conv(x: Tensor, weight: Tensor, around: nn.Conv2d) -> Tensor:
    return F.conv2d(x, weight, None, around.stride, around.padding, around.dilation, around.groups)


def _times(inner: Tensor, gate: Tensor, module: nn.Module) -> Tensor:
    """inner, in place, with the gate of its picture on its channels."""
    # With guidance the networks see several rows a picture: all negatives, then all prompts.
    rows = inner.view(-1, len(gate), *inner.shape[1:])
    axis = 2 if isinstance(module, nn.Conv2d) else -1
    shape = [1] * rows.dim()
    shape[1], shape[axis] = gate.shape
    rows.mul_(gate.view(shape))
    return inner


def _add_product(output: Tensor, inner: Tensor, up: Tensor) -> None:
    """output += up inner; a new tensor of that size would cost more than the product."""
    if up.dim() == 2 and output.is_contiguous():
        output.view(-1, len(up)).addmm_(inner.reshape(-1, up.shape[1]), up.T)
    else:
        output += F.linear(inner, up) if up.dim() == 2 else F.conv2d(inner, up)


class Flat:
    """The gates of all modules of one device and precision: one buffer (rows, inner channels), a view for each."""

    def __init__(self, device: torch.device, dtype: torch.dtype, gated: Sequence[Gated]) -> None:
        self.gated = gated
        self.here = device, dtype
        self.slots = torch.tensor([slot for g in gated for slot in g.slots], device=device)
        self.stages: list[Tensor] = []
        self.gate = torch.zeros(0, device=device, dtype=dtype)

    def resize(self, table: Tensor) -> None:
        """Make room for as many rows as the table (rows, slots) has."""
        # In steps that need no memory of their own: cast first, then carry over.
        places = dict.fromkeys([(table.device, self.here[1]), self.here])
        self.stages = [
            torch.empty(table.shape, device=device, dtype=dtype)
            for device, dtype in places
            if (device, dtype) != (table.device, table.dtype)
        ]
        self.gate = torch.zeros(len(table), len(self.slots), device=self.here[0], dtype=self.here[1])
        for gated, own in zip(self.gated, self.gate.split([len(g.slots) for g in self.gated], 1), strict=True):
            gated.gate = own

    def fill(self, table: Tensor) -> None:
        """Take the table's numbers, in place."""
        for stage in self.stages:
            table = stage.copy_(table)
        torch.index_select(table, 1, self.slots, out=self.gate)


class Stack:
    """Attached adapters; the handle that `attached` gives."""

    def __init__(self, parts: Parts, adapters: Sequence[Adapter], resident: Resident | None = None) -> None:
        self.updates: dict[str, list[tuple[int, Update]]] = {}
        for i, adapter in enumerate(adapters):
            for path, update in adapter.layers.items():
                self.updates.setdefault(path, []).append((i, update))
        modules = {path: module_at(parts, path) for path in self.updates}
        for path, entries in self.updates.items():
            check_shapes(path, modules[path], entries)
        ready = (resident or Resident(0)).take(adapters, modules)
        # The table of weights has a column, a slot, for each module of each adapter, adapter after adapter.
        paths = [tuple(adapter.layers) for adapter in adapters]
        slots = {place: slot for slot, place in enumerate((i, path) for i, own in enumerate(paths) for path in own)}
        self.factors = [np.array([r.factor for r in own.values()], np.float32) for own in ready]
        self.spread = lru_cache(STRENGTHS_KEPT)(partial(_spread, paths))
        # Each is let go of once it is joined to the others: there are never two copies of a whole stack.
        self.gated = [
            Gated(modules[path], [(slots[i, path], ready[i].pop(path)) for i, _ in entries])
            for path, entries in self.updates.items()
        ]
        places: dict[tuple, list[Gated]] = {}
        for gated in self.gated:
            places.setdefault((home(gated.module), gated.module.weight.dtype), []).append(gated)
        self.flats = [Flat(*place, own) for place, own in places.items()]
        # Elsewhere than on a CPU a captured graph would keep what was asleep when it was captured.
        self.may_sleep = all(device.type == "cpu" for device, _ in places)
        self.by_module = np.array([slots[i, path] for path, entries in self.updates.items() for i, _ in entries], int)
        self.starts = np.cumsum([0, *map(len, self.updates.values())])[:-1]
        self.table = np.zeros((0, len(slots)), np.float32)
        self.weights([1.0] * len(adapters))

    def weights(self, table: Blend | Sequence[Blend] | Tensor) -> None:
        """Set the blend: a weight for each adapter for all pictures alike, or a row of them for each picture.

        Raises RequestError for what is no finite number. While the number of rows stays, no tensor is made and none
        moves.
        """
        table = table if isinstance(table, Sequence) else table.tolist()
        blends = table if len(table) and isinstance(table[0], Sequence) else [table]
        rows = [self._numbers(blend) for blend in blends]
        if not self.gated:
            return
        if len(rows) != len(self.table):
            self._resize(len(rows))
        for row, numbers in zip(self.table, rows, strict=True):
            self._write(row, numbers)
        for flat in self.flats:
            flat.fill(self.shared)
        if self.may_sleep:
            awake = np.logical_or.reduceat(self.table.any(axis=0)[self.by_module], self.starts)
            for gated, needed in zip(self.gated, awake.tolist(), strict=True):
                gated.asleep = not needed

    def fold(self, weights: Blend) -> None:
        """Write one constant blend into the model: no cost per picture. `unfold` restores every bit."""
        numbers = self._numbers(weights)
        self.unfold()
        row = torch.zeros(self.table.shape[1])
        self._write(row.numpy(), numbers)
        for gated in self.gated:
            gated.fold(row)

    def unfold(self) -> None:
        """Put the original weights back; the gates act again."""
        for gated in self.gated:
            gated.unfold()

    def detach(self) -> None:
        """Leave the model as it was before."""
        self.unfold()
        for gated in self.gated:
            gated.hook.remove()

    def _numbers(self, blend: Blend) -> list[float | np.ndarray]:
        """Each adapter's weight on all of its modules, or on each of them."""
        if len(blend) != len(self.factors):
            raise ValueError(f"{len(blend)} weights for {len(self.factors)} adapters")
        for weight in blend:
            if not isinstance(weight, Strength) and not abs(weight) <= LARGEST:
                raise RequestError(f"weight {weight}: weights must be finite numbers, expected -10 to 10")
        return [self.spread(i, w) if isinstance(w, Strength) else w for i, w in enumerate(blend)]

    def _write(self, row: np.ndarray, numbers: Sequence[float | np.ndarray]) -> None:
        """A row of the table: what the gates multiply with."""
        start = 0
        for factors, weight in zip(self.factors, numbers, strict=True):
            np.multiply(factors, weight, out=row[start : start + len(factors)])
            start += len(factors)

    def _resize(self, rows: int) -> None:
        self.table = np.zeros((rows, self.table.shape[1]), np.float32)
        # A drawing changes weights in inference mode, whoever keeps the stack changes them outside of it.
        with torch.inference_mode(False):
            self.shared = torch.from_numpy(self.table)
            for flat in self.flats:
                flat.resize(self.shared)


def _spread(paths: Sequence[Sequence[str]], i: int, strength: Strength) -> np.ndarray:
    return np.array([strength.at(path) for path in paths[i]], np.float32)


@contextmanager
def attached(parts: Parts, adapters: Sequence[Adapter], resident: Resident | None = None) -> Iterator[Stack]:
    """The adapters act inside the block, each at weight 1 until told otherwise; after it no trace is left.

    resident: keeps what was made ready for these parts, for the next time.
    """
    stack = Stack(parts, adapters, resident)
    try:
        yield stack
    finally:
        stack.detach()
