"""Styles of a recipe as one adapter, by the methods that make one. Knows no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..adapters.adapter import Adapter, Info
from ..adapters.blend import blend
from ..adapters.compress import true_error
from ..adapters.knobs import Knobs
from ..adapters.methods import Blended, blend_by
from ..config import BlendConfig, demand
from ..events import Report, ignore
from .balance import Balance
from .mixing import acting
from .recipe import Style


def blended(
    styles: Sequence[Style],
    adapters: Mapping[str, Adapter],
    balance: Balance,
    asked: BlendConfig,
    report: Report = ignore,
) -> tuple[list[Style], Blended, Adapter]:
    """The styles with what the budget made of their weights, their blend, and their plain sum, which is exact.

    adapters: by the styles' names. Gains that are known are kept. Raises RequestError for a style that acts in some of
    the steps only, which no blend does, and AdapterFileError for what does not add up.
    """
    for style in styles:
        whole = (style.start, style.end) == (0.0, 1.0)
        demand(whole, f"{style.name}:{style.asked}", "no steps: a file acts at each of them; draw with it instead")
    amount = 1.0 if asked.method == "orthogonal" and not asked.orthogonal else asked.orthogonal
    own = acting(styles, adapters, amount)
    if any(style.gain is None for style in styles):
        gains = balance.gains(own, [style.asked for style in styles], asked.budget)
        styles = [replace(style, gain=gain) for style, gain in zip(styles, gains, strict=True)]
    knobs = Knobs(density=asked.density, seed=asked.seed)
    strengths = [style.strength for style in styles]
    method = "sum" if asked.method == "orthogonal" else asked.method
    made = blend_by(own, strengths, method, knobs, rank=asked.rank, max_error=asked.max_error, report=report)
    sources = [adapters[style.name] for style in styles]
    summed = blend(sources, strengths)
    if amount:
        made = replace(made, distance=true_error(blend(own, strengths), summed))
    triggers = ", ".join(dict.fromkeys(a.info.trigger for a in sources if a.info.trigger))
    return styles, replace(made, adapter=replace(made.adapter, info=Info(trigger=triggers))), summed
