"""Where the styles of a blend agree, undo each other, or paint over each other: by part of the network, by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from ..errors import AdapterFileError, RequestError
from ..strength import PRESETS, pattern
from .adapter import Adapter
from .conflict_advice import Suggestion, advice
from .conflict_words import MATTERS, WHOLE, Finding, Part, Seen, finding
from .gram import Weights, part_of
from .header import shown
from .norms import by_block
from .overlap import Mask, Meeting, Overlaps, overlaps

FLAGS = {"middle": "mid", "entry": "in", "exit": "out", "time": "time", "text encoder 2": "text2"}


@dataclass(frozen=True)
class Pair:
    """Two styles of a blend."""

    names: tuple[str, str]
    conflict: float
    """0 to 1, see `Overlaps.conflict`, of these two alone."""
    findings: tuple[Finding, ...]
    """By part: presets first, then blocks in the network's order, the whole last."""
    modules: tuple[tuple[str, Meeting], ...] = ()
    """By path, the worst first, where they were asked for."""

    @property
    def whole(self) -> Finding:
        """What is to be said of them altogether."""
        return self.findings[-1]

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        rows = [{"module": path} | meeting.row() for path, meeting in self.modules]
        parts = [found.row() for found in self.findings]
        return {"styles": list(self.names), "conflict": self.conflict, "parts": parts, "modules": rows}


@dataclass(frozen=True)
class Conflict:
    """All of a blend; names are printable, one line each, and no two the same."""

    names: tuple[str, ...]
    level: float
    """0 to 1, see `Overlaps.conflict`, of all styles together."""
    strengths: tuple[float, ...]
    """The Frobenius norm of each style at its weight."""
    together: float
    """And of their sum."""
    pairs: tuple[Pair, ...]
    """Each two of them, the worst first."""
    suggestions: tuple[Suggestion, ...]
    """What lowers the conflict, by how much, and what it costs."""

    @property
    def remark(self) -> str:
        """What stands above the suggestions, or in their place."""
        if self.suggestions:
            return "What helps"
        found = [row for pair in self.pairs for row in pair.findings]
        if any(row.verdict in ("cancel", "collide", "opposite") for row in found):
            return "No change that was tried helps; draw less of one of them."
        if any(row.seen and not row.seen.faint and row.seen.cosine <= -MATTERS for row in found):
            return "The weights hold nothing to mend; where pictures pull apart, draw less of one of them."
        return "There is nothing to mend: draw them together as they are."

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return {
            "styles": list(self.names), "conflict": self.level, "strengths": list(self.strengths),
            "together": self.together, "pairs": [pair.row() for pair in self.pairs],
            "suggestions": [suggestion.row() for suggestion in self.suggestions],
        }  # fmt: skip


def conflict(
    adapters: Sequence[Adapter],
    weights: Weights,
    names: Sequence[str] | None = None,
    *,
    typed: Sequence[str] | None = None,
    answers: Mapping[str, Tensor] | None = None,
    modules: bool = False,
) -> Conflict:
    """How two or more styles lie to each other at their weights, -10 to 10 each or a Strength, at whatever step.

    names: what to call them; their own names unless given. typed: how each is named on a command line. answers: by the
    name of a part, (n, n) inner products of what the styles change of a base's answers there, see `drawing.clash`; it
    is a statement about weights alone without them. modules: whether to tell every module apart. The order of the
    styles does not matter. Raises RequestError for fewer than two styles, AdapterFileError for different bases.
    """
    if len(adapters) < 2:
        raise RequestError(f"{len(adapters)} style: expected two or more, such as ink gouache; name another")
    called = distinct([shown(n) for n in (names or [adapter.info.name or "style" for adapter in adapters])])
    check_same_base(adapters, called)
    found = overlaps(adapters)
    table, places = found.table(weights), parts_of(found.paths)
    pairs = [
        pair_of(found, table, places, (i, j), called, modules, answers or {})
        for i, j in combinations(range(len(adapters)), 2)
    ]
    norms = found.norms() * table
    total = torch.einsum("mi,mij,mj->", table, found.inner, table).clamp_min(0).sqrt()
    pairs.sort(key=lambda pair: (-pair.conflict, pair.names))
    worst = [(row, places[row.part], [called.index(n) for n in pair.names]) for pair in pairs for row in pair.findings]
    return Conflict(
        names=tuple(called),
        level=found.conflict(table),
        strengths=tuple(norms.norm(dim=0).tolist()),
        together=float(total),
        pairs=tuple(pairs),
        suggestions=tuple(advice(adapters, weights, found, worst, called, typed or called)),
    )


def pair_of(
    found: Overlaps,
    table: Tensor,
    places: Mapping[Part, Mask],
    who: tuple[int, int],
    names: Sequence[str],
    each: bool,
    answers: Mapping[str, Tensor],
) -> Pair:
    """Two of the styles; `each` tells whether modules are listed too."""
    two = tuple(names[i] for i in who)
    findings = tuple(
        finding(part, two, found.meeting(*who, table, where), seen_of(answers, part.name, who))
        for part, where in places.items()
    )
    alone = torch.zeros_like(table)
    alone[:, list(who)] = table[:, list(who)]
    modules = []
    for m, path in enumerate(found.paths if each else ()):
        where = torch.zeros(len(found.paths), dtype=torch.bool)
        where[m] = True
        modules.append((path, found.meeting(*who, table, where)))
    modules.sort(key=lambda row: -(row[1].cancel.value + row[1].collide.excess))
    # Of two alone: with others at 0 the mean energy would be spread over pairs that are none.
    return Pair(two, found.conflict(alone) * (len(names) - 1), findings, tuple(modules))


def seen_of(answers: Mapping[str, Tensor], part: str, who: tuple[int, int]) -> Seen | None:
    """What the base's answers say of two styles in a part, if it was asked."""
    if part not in answers:
        return None
    own, whole = (answers[name][list(who)][:, list(who)].double() for name in (part, WHOLE))
    sizes, wholes = (gram.diagonal().clamp_min(0).sqrt() for gram in (own, whole))
    both = float(sizes.prod())
    shares = torch.where(wholes > 0, sizes / wholes.clamp_min(1e-300), 0.0)
    return Seen(tuple(shares.tolist()), max(-1.0, min(1.0, float(own[0, 1]) / both)) if both else 0.0)


def parts_of(paths: Sequence[str]) -> dict[Part, Mask]:
    """The modules of each part: presets, the network's blocks in order unless one is a preset, the whole."""
    blocks = {name: [part_of(path) == name for path in paths] for name in by_block(dict.fromkeys(paths, 0.0))}
    places: dict[Part, Mask] = {}
    for name in PRESETS:
        where = [bool(pattern(name).match(path)) for path in paths]
        inside = tuple(
            block for block, rows in blocks.items() if any(a and b for a, b in zip(rows, where, strict=True))
        )
        if any(where):
            places[Part(name, name, "preset", inside)] = torch.tensor(where)
    known = {tuple(where.tolist()) for where in places.values()}
    for name, where in blocks.items():
        if tuple(where) not in known:
            places[Part(name, flag_of(name, blocks), "block")] = torch.tensor(where)
    places[Part(WHOLE, "", "whole")] = torch.ones(len(paths), dtype=torch.bool)
    return places


def flag_of(block: str, blocks: Mapping[str, object]) -> str:
    """A block's name as `Strength` has it: "up 1" is up1; nothing where it has none."""
    if block == "text encoder":
        return "text1" if "text encoder 2" in blocks else "text"
    plain = block.replace(" ", "")
    return FLAGS.get(block, plain if plain.rstrip("0123456789") in ("down", "up") else "")


def distinct(names: Sequence[str]) -> list[str]:
    """Numbers behind names that are there already."""
    found: list[str] = []
    for name in names:
        number = 1
        while (one := name if number == 1 else f"{name} ({number})") in found:
            number += 1
        found.append(one)
    return found


def check_same_base(adapters: Sequence[Adapter], names: Sequence[str]) -> None:
    """AdapterFileError for styles that change one module as if it had two shapes."""
    first: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, adapter in zip(names, adapters, strict=True):
        for path, update in adapter.layers.items():
            other, shape = first.setdefault(path, (name, tuple(update.shape)))
            if shape[0] != update.shape[0] or shape[1:] != tuple(update.shape)[1:]:
                sizes = " and ".join("x".join(map(str, s)) for s in (shape, update.shape))
                raise AdapterFileError(
                    f"{other} and {name} are made for different bases: {shown(path)} is {sizes}; expected "
                    "styles of one base; name others"
                )
