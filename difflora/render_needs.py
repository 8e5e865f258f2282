"""What a training or a drawing will need, as rows for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .machine import in_bytes
from .render_training import spell as spell_minutes

if TYPE_CHECKING:
    from .models.needs import Need


def need_rows(need: Need) -> dict[str, str]:
    """Memory by what takes it, against what is free."""
    weights = ", ".join(f"{name} {in_bytes(size)}" for name, size in need.weights.items())
    parts = {
        f"weights ({weights})": sum(need.weights.values()) - need.waiting,
        "adapters": need.adapters,
        "activations" if need.activations > need.pictures else "pictures": max(need.activations, need.pictures),
        "the program": need.program,
    }
    there = "" if need.free is None else f" of {in_bytes(need.free)} free on {need.device}"
    return {
        "memory": f"{in_bytes(need.total)}{there}" + ("" if need.fits else ": more than there is"),
        "of that": "; ".join(f"{name}: {in_bytes(size)}" for name, size in parts.items() if size),
    }


def drawing_rows(pictures: int, need: Need, about: Mapping[str, str]) -> dict[str, str]:
    """A drawing's plan."""
    seconds = f"about {spell(need.seconds)} a picture, {spell(need.seconds * pictures)} for {pictures}"
    return {**about, "takes": f"{seconds}; foretold from the configs"} | need_rows(need)


def spell(seconds: float) -> str:
    """A time in the unit that a person would choose."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return spell_minutes(seconds / 60)
