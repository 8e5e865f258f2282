"""A style file for a person: what it is, where it acts, what is wrong with it, who loads it. A part of render.py."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from .adapters.header import shown_path

if TYPE_CHECKING:
    from rich.console import Console

    from .adapters.convert import Converted
    from .adapters.inspection import Inspection, Module
    from .adapters.programs import Verdict
    from .drawing.export import Exported

BAR = 32
LONGEST = 400
COLOURS = {"yes": "green", "partly": "yellow", "unsure": "yellow", "no": "red"}


def show_header(console: Console, found: Inspection) -> None:
    """What the header says."""
    rows = {
        "style": found.name,
        "format": ", ".join(found.dialects) or "none that is known",
        "family": found.family or "not known",
        "layers": f"{len(found.modules)}: " + ", ".join(f"{name} {n}" for name, n in found.networks().items()),
        "kinds": ", ".join(f"{kind} {n}" for kind, n in found.kinds().items()),
        "rank": spread(sorted({module.rank for module in found.modules if module.rank})),
        "stored": ", ".join(f"{n} {dtype}" for dtype, n in found.dtypes.items()) + f", {found.size / 1e6:.1f} MB",
        "trigger": found.words["trigger"] or "none",
        "weight": found.words["weight"],
        **{key: found.words[key] for key in ("base", "pictures", "made") if found.words[key]},
    }
    console.print(two_columns(rows))
    for name, value in found.recipe.items():
        console.print(two_columns({name: recipe_line(value)}))


def show_rest(console: Console, found: Inspection, modules: bool) -> None:
    """Alphas, norms, what is wrong, which programs load it."""
    alphas = sorted({module.alpha for module in found.modules if module.alpha is not None})
    if found.sha256:
        console.print(two_columns({"alpha": spread(alphas), "sha256": found.sha256}))
    if found.norms:
        console.print(Text("\nHow strongly it acts (norm of the update)", style="bold"))
        console.print(chart(found.norms))
    console.print(Text("\nPrograms, by their source", style="bold"))
    console.print(program_table(found.programs))
    if modules:
        console.print(module_table(found.modules))
    console.print(Text("\nProblems" if found.troubles else "\nNothing is wrong with it.", style="bold"))
    for trouble in found.troubles:
        mark = ("refused: " if trouble.grave else "") + trouble.text
        console.print(Text(f"• {mark}", style="red" if trouble.grave else ""))
    if any(trouble.mends for trouble in found.troubles):
        console.print(Text(f"a sound copy: difflora inspect {shown_path(found.path)} --repair"))


def show_converted(console: Console, made: Converted) -> None:
    """What was written and what it cost."""
    for line in converted_lines(made):
        console.print(Text(line))


def show_blended(console: Console, made: Exported) -> None:
    """A blend that was written, and how far it is from the plain sum."""
    for line in blended_lines(made):
        console.print(Text(line))


def blended_lines(made: Exported) -> Iterator[str]:
    """The sentences of it."""
    yield f"saved {made.path}: rank {made.rank}, {made.layers} layers, {made.size / 1e6:.2f} MB"
    yield "made of " + ", ".join(f"{s.name}:{s.asked} (times {s.gain:.2f})" for s in made.styles)
    if made.distance:
        yield f"the method changes the plain sum by {made.distance:.1%}"
    if made.error:
        yield f"the smaller rank costs {made.error:.2%}"
    yield f"read back, it is {made.measured:.2%} from the plain sum"


def converted_lines(made: Converted) -> Iterator[str]:
    """The sentences of it."""
    yield f"saved {made.path}: {made.modules} layers, {made.dialect}, relative error {made.error:.2g} read back"
    if made.approximation:
        module, worst = made.worst
        yield f"of that {made.approximation:.2g} from making plain what was not; at worst {worst:.2g} in {module}"
    for text in made.lost[:10]:
        yield f"left out: {text}"
    if len(made.lost) > 10:
        yield f"left out: … and {len(made.lost) - 10} more"


def chart(norms: Mapping[str, float]) -> Table:
    """A bar for each block."""
    # Finite factors may still have a product that is not.
    most = max(filter(math.isfinite, norms.values()), default=0) or 1
    table = Table(show_header=False, box=None, pad_edge=False)
    for block, norm in norms.items():
        length = max(1, round(norm / most * BAR)) if norm and math.isfinite(norm) else 0
        table.add_row(Text(block), Text("█" * length, style="red"), f"{norm:.3g}")
    return table


def program_table(verdicts: tuple[Verdict, ...]) -> Table:
    """A row for each program."""
    table = Table(box=None, pad_edge=False)
    for head in ("program", "loads", "strength", ""):
        table.add_column(head)
    for verdict in verdicts:
        loads = Text(verdict.loads, style=COLOURS[verdict.loads])
        table.add_row(verdict.program, loads, Text(verdict.strength), Text(verdict.why))
    return table


def module_table(modules: tuple[Module, ...]) -> Table:
    """A row for each module."""
    table = Table(box=None, pad_edge=False)
    for head in ("module", "kind", "rank", "alpha", "norm"):
        table.add_column(head)
    for module in modules:
        alpha = "" if module.alpha is None else f"{module.alpha:g}"
        norm = "" if module.norm is None else f"{module.norm:.3g}"
        table.add_row(Text(module.path), module.kind, str(module.rank or ""), alpha, norm)
    return table


def two_columns(rows: Mapping[str, str]) -> Table:
    """Names and values; text from files is shown as it is, never as markup."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(min_width=8)
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def spread(values: list) -> str:
    """ "16", or "4 to 20"."""
    if not values:
        return "none"
    low, high = f"{values[0]:g}", f"{values[-1]:g}"
    return low if low == high else f"{low} to {high}"


def recipe_line(value: object) -> str:
    """A recipe in one printable line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
    return "".join(c if c.isprintable() else " " for c in text)[:LONGEST]
