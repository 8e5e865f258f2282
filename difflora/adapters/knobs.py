"""Ways to put styles together by their names, and what can be set about them. Knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import demand

HELP = {
    "sum": "the exact weighted sum",
    "ties": "each style's largest changes; where styles pull apart, only the stronger side (TIES)",
    "dare": "changes dropped at random and the rest enlarged, the same on average (DARE)",
    "magnitude": "each style's largest changes, added up",
    "knots": "TIES after the styles are turned into one common basis (KnOTS)",
    "orthogonal": "each later style without what it has in common with the earlier ones",
    "switch": "one style at a time, in turn over the steps (LoRA Switch); for drawing, no file can hold it",
}
"""One line for each method."""


@dataclass(frozen=True)
class Knobs:
    """What the methods can be told; each takes what concerns it. Raises RequestError for values out of range."""

    density: float = 0.5
    """Share of each style's numbers that is kept, above 0 and up to 1; for ties, dare, magnitude and knots."""
    seed: int = 0
    """Of what dare drops."""
    amount: float = 1.0
    """How much of what is in common goes, 0 to 1; for orthogonal."""
    turns: int = 10
    """How many turns the whole drawing has, of all styles together, 1 and more; for switch."""
    share: float = 0.0
    """Share of the drawing that is done, 0 to 1; for switch."""
    path: str = ""
    """The module, so that dare drops other numbers in each."""

    def __post_init__(self) -> None:
        demand(0 < self.density <= 1, f"density {self.density:g}", "above 0 and up to 1")
        demand(0 <= self.amount <= 1, f"amount {self.amount:g}", "0 to 1")
        demand(self.turns >= 1, f"turns {self.turns}", "1 and more")
        demand(0 <= self.share <= 1, f"share {self.share:g}", "0 to 1")


DEFAULT = Knobs()


def turn(share: float, turns: int, styles: int) -> int:
    """Which of the styles acts after that share of the drawing: each has a turn, then the first again.

    A turn lasts 1 / turns of the drawing (Zhong et al. 2024, arXiv 2402.16843, who count it in steps).
    """
    return min(int(share * turns), turns - 1) % styles
