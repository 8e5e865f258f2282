"""Where the styles of a mix clash, and what would help, as a mixer takes it. Knows no page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from difflora.adapters.conflict import conflict
from difflora.adapters.conflict_advice import Suggestion
from difflora.config import parse_lora
from difflora.drawing.mixing import acting
from difflora.drawing.recipe import Style
from difflora.errors import RequestError
from difflora.events import Report

from .desk import Desk, mix_row
from .jobs import Job
from .mixing import mix_of, way_of


def look(desk: Desk, user: str, value: object) -> Job:
    """How the styles of a mixer's value lie to each other, in the background; RequestError for fewer than two."""
    way = way_of(value)
    styles = [style for style in desk.styles(mix_of(value)) if not style.asked.nothing]
    if len(styles) < 2:
        raise RequestError(f"{len(styles)} styles act: expected two or more; mix another one in")

    def work(report: Report) -> dict:
        adapters = {style.name: desk.batcher.shelf.get(style) for style in styles}
        amount = float(way.get("orthogonal", 0.0))  # type: ignore[arg-type]
        names = [style.name for style in styles]
        own = acting(styles, adapters, amount)
        found = conflict(own, [style.asked for style in styles], names, typed=names)
        row = found.row()
        return row | {"suggestions": [suggestion_row(one, styles, amount) for one in found.suggestions]}

    return desk.jobs.start(user, "conflict", "", work)


def suggestion_row(one: Suggestion, styles: Sequence[Style], amount: float) -> dict:
    """A suggestion with the mix that it means; none where that cannot be read, or is kept apart already."""
    row = one.row()
    try:
        change = mix_from(one.flags, styles)
    except (RequestError, ValueError, KeyError):
        return row | {"mix": None}
    return row | {"mix": None if amount and "orthogonal" in change else change}


def mix_from(flags: str, styles: Sequence[Style]) -> dict[str, object]:
    """--lora NAME:WEIGHT … as a mixer's value, with what else stands there; ValueError or KeyError for what is none."""
    known = {style.name: style for style in styles}
    words = shlex.split(flags)
    rows, rest = [], {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag == "--lora":
            name, strength = parse_lora(value)
            rows.append(mix_row(known[name].at(strength)))
        else:
            rest[flag.removeprefix("--")] = float(value) if flag == "--orthogonal" else value
    if sorted(row["name"] for row in rows) != sorted(known) or set(rest) - {"orthogonal", "budget"}:
        raise ValueError(flags)
    return {"styles": rows} | rest
