"""Merged, resized and extracted files for a person or a script. Beside render.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from .adapters.header import shown, shown_path
from .render import Person, Script

if TYPE_CHECKING:
    from .adapters.extract import Extracted
    from .adapters.merge import Merged
    from .adapters.resize import Resized

MUCH = 0.05
"""From which share of the update on its rounding is worth a word."""


def show_made(screen: Person | Script, event: str, row: Mapping, lines: Iterable[str]) -> None:
    """One object for a script, the sentences for a person."""
    if isinstance(screen, Script):
        return screen.line({"event": event} | row)
    for line in lines:
        screen.console.print(line, markup=False)
    return None


def merged_lines(made: Merged) -> Iterator[str]:
    """What a checkpoint is, and what its precision costs."""
    yield (
        f"saved {shown_path(made.path)}: {made.modules} layers changed, {made.family}, {made.precision}, "
        f"{size(made.bytes)}; rounding costs {made.rounding:.2%} of the styles"
    )
    if made.rounding > MUCH:
        yield f"{made.precision} keeps little of so small a change; --precision fp32 keeps all of it"
    yield from (f"left out, as it holds the old weights: {shown(name)}" for name in made.left)


def resized_lines(made: Resized) -> Iterator[str]:
    """What a smaller copy is, and what it costs."""
    low, high = made.ranks
    ranks = f"rank {low}" if low == high else f"ranks {low} to {high}"
    yield (
        f"saved {shown_path(made.path)}: {made.modules} layers, {ranks}, {made.dialect}, "
        f"{size(made.before)} -> {size(made.after)}"
    )
    if made.dropped:
        yield dropped_line(made.dropped)
    name, worst = made.worst
    yield f"relative error {made.told:.2g} foretold, {made.error:.2g} read back; at worst {worst:.2g} in {shown(name)}"


def extracted_lines(made: Extracted) -> Iterator[str]:
    """What a style from two models is, and what it cannot be."""
    low, high = made.ranks
    ranks = f"rank {low}" if low == high else f"ranks {low} to {high}"
    yield (
        f"saved {shown_path(made.path)}: {made.modules} layers, {ranks}, {made.family}, {size(made.bytes)}, "
        f"relative error {made.error:.2g} read back; {made.same} layers are the same in both"
    )
    if made.dropped:
        yield dropped_line(made.dropped)
    if made.modules:
        yield f"at worst {made.worst[1]:.2g} in {shown(made.worst[0])}"
    for one in made.outside:
        yield f"not in it, as no LoRA holds that: {one.text()}"


def dropped_line(count: int) -> str:
    """That some layers are not in it."""
    return f"{count} more layers change so little that within this error they are left out"


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
