"""Which family a file was made for, by the shapes of its tensors. Loads no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .forms import fits, form_of
from .metadata import SPOKEN
from .names import Found, Shapes, resolve
from .networks import FAMILIES, modules
from .places import Source

KNOWN = "difflora.family"


@dataclass(frozen=True)
class Match:
    """A family, or a base that is open, and its modules."""

    family: str
    shapes: Shapes

    def found(self, source: Source) -> Found:
        """Where the keys of a file belong in it."""
        return resolve(source.header.shapes(), self.shapes, source.part)


NOTHING = Match("", {})


def match(found: Sequence[Source]) -> Match:
    """The family in which most modules of the files have their place; `NOTHING` when they have none in any.

    Of several that fit alike (self-attention is the same in SD 1 and 2) the one that the header names.
    """
    scores = {family: score(found, Match(family, modules(family))) for family in FAMILIES}
    said = found[0].header.metadata
    own = (said.get(KNOWN, ""), said.get("ss_base_model_version", ""))
    best = max(
        scores, key=lambda family: (scores[family], own[0] == family or own[1].startswith(SPOKEN[family].version))
    )
    return Match(best, modules(best)) if scores[best] > 0 else NOTHING


def score(found: Sequence[Source], base: Match) -> int:
    """How many modules fit the base, less those that do not, and those that it lacks."""
    total = 0
    for source in found:
        shapes, placed = source.header.shapes(), base.found(source)
        for path, keys in placed.modules.items():
            form = form_of({part: shapes[key] for part, key in keys.items()})
            total += 1 if not form.trouble and fits(form, base.shapes[path]) else -1
        total -= len(placed.unknown)
    return total
