"""Where styles clash, for a person or a script. Beside render.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from .adapters.conflict_words import percent
from .adapters.header import shown
from .render import Person, Script

if TYPE_CHECKING:
    from .adapters.conflict import Conflict, Pair
    from .adapters.conflict_words import Finding
    from .adapters.overlap import Share

BAR = 6
COLOURS = {"agree": "green", "cancel": "red", "collide": "yellow"}
LEAST = 0.25
"""What a full bar stands for, unless something is larger."""
MODULES = 40


def show_conflict(screen: Person | Script, found: Conflict) -> None:
    """One object for a script; a table for each pair, what it means, and what would help, for a person."""
    if isinstance(screen, Script):
        return screen.line({"event": "conflict"} | found.row())
    show = screen.console.print
    for pair in found.pairs:
        show(Text(f"{pair.names[0]} and {pair.names[1]}: {percent(pair.conflict)} in conflict", style="bold"))
        show(pair_table(pair))
        if any(said.seen for said in pair.findings):
            show(seen_table(pair))
        for said in said_of(pair):
            show(Text(f"• {said.sentence}"))
        if pair.modules:
            show(module_table(pair))
        show("")
    if len(found.pairs) > 1:
        show(Text(f"all of them together: {percent(found.level)} in conflict", style="bold"))
    show(Text(found.remark, style="bold"))
    for suggestion in found.suggestions:
        show(Text(suggestion.flags))
        show(Text(f"  {suggestion.sentence}"))
    return None


def said_of(pair: Pair) -> list[Finding]:
    """What is worth saying: presets, text encoders, the whole; blocks where they do anything to each other."""
    return [
        found
        for found in pair.findings
        if found.part.kind != "block" or found.verdict not in ("alone", "absent") or "text" in found.part.name
    ]


def pair_table(pair: Pair) -> Table:
    """A row for each part: strengths, and bars whose mark is what chance would do."""
    table = columns(["", *(shown(name, 9) for name in pair.names), *COLOURS])
    shares = [getattr(found.meeting, name) for found in pair.findings for name in COLOURS]
    most = max(LEAST, *(share.value for share in shares))
    for found in pair.findings:
        meeting = found.meeting
        bars = [bar(getattr(meeting, kind), most, colour) for kind, colour in COLOURS.items()]
        table.add_row(Text(found.part.name), *(f"{norm:.3g}" for norm in meeting.strengths), *bars)
    return table


def seen_table(pair: Pair) -> Table:
    """What a base makes of each part: how much of either style shows there, and how the two lie to each other."""
    table = columns(["in pictures", *(shown(name, 9) for name in pair.names), "pull together"])
    for found in pair.findings:
        if found.seen is not None:
            cosine, style = found.seen.cosine, "dim" if found.seen.faint else ""
            length = round(abs(cosine) * BAR)
            pull = Text.assemble(("█" * length, style or ("green" if cosine > 0 else "red")), f" {100 * cosine:+.0f}%")
            shares = [Text(percent(share), style=style) for share in found.seen.shares]
            table.add_row(Text(found.part.name, style=style), *shares, pull)
    return table


def columns(heads: list[str]) -> Table:
    """Names first, numbers to the right, then whatever follows; nothing is broken over lines."""
    table = Table(box=None, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if place in (1, 2) else "left", no_wrap=True)
    return table


def bar(share: Share, most: float, colour: str) -> Text:
    """A bar, dim where it may be chance, with a mark where chance stands."""
    length, chance = (round(x / most * BAR) for x in (share.value, share.chance))
    cells = ["█" if place < length else " " for place in range(BAR)]
    if length <= chance < BAR:
        cells[chance] = "|"
    return Text.assemble(("".join(cells), colour if share.clear else "dim"), f" {percent(share.value):>4}")


def module_table(pair: Pair) -> Table:
    """The worst modules."""
    table = Table(box=None, pad_edge=False)
    for head in ("module", *COLOURS, "strokes shared", "by chance"):
        table.add_column(head)
    for path, meeting in pair.modules[:MODULES]:
        shares: Mapping[str, Share] = {name: getattr(meeting, name) for name in COLOURS}
        cells = [Text(percent(share.value), style="" if share.clear else "dim") for share in shares.values()]
        table.add_row(Text(shown(path)), *cells, percent(meeting.strokes.value), percent(meeting.strokes.chance))
    if len(pair.modules) > MODULES:
        table.add_row(f"… and {len(pair.modules) - MODULES} more, all of them with --json")
    return table
