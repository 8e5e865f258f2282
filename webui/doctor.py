"""What is known of a style file, judged by the base it belongs to, as rows for a page. Knows no page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from difflora.adapters.disk import stamp
from difflora.adapters.families import Match, match, score
from difflora.adapters.header import unreadable
from difflora.adapters.inspection import Inspection, inspect_header
from difflora.adapters.measure import inspect_numbers
from difflora.adapters.metadata import ranks_in_words
from difflora.adapters.places import sources

from .recipes import how_made
from .words import in_words

MOST_KEPT = 64


class Doctor:
    """Inspections of files as they are now, kept until the file changes; numbers are read for one file at a time."""

    def __init__(self, opened: Match) -> None:
        self.opened = opened
        """The base that is open."""
        self.reading = threading.Lock()
        """Held while a whole file is in memory."""
        self.kept: OrderedDict[tuple, Inspection] = OrderedDict()

    def base(self, path: Path) -> Match:
        """What a file is judged by: the open base or the known family in which most of it has its place.

        A file that has its place nowhere is judged by the open base's shapes under no family's name. Raises
        AdapterFileError.
        """
        found = sources(path)
        own, best = score(found, self.opened), match(found)
        if best.shapes and score(found, best) > own:
            return best
        return self.opened if own > 0 else Match("", self.opened.shapes)

    def header(self, path: Path) -> Inspection:
        """What the header says; raises AdapterFileError."""
        return self._known("header", path, lambda: inspect_header(path, self.base(path)))

    def numbers(self, path: Path) -> Inspection:
        """The same with what the numbers say; raises AdapterFileError."""
        found = self.header(path)
        with self.reading:
            return self._known("numbers", path, lambda: inspect_numbers(found, self.base(path)))

    def _known(self, what: str, path: Path, work: Callable[[], Inspection]) -> Inspection:
        try:
            key = what, path, stamp(path)
            found = self.kept[key] = self.kept.get(key) or work()
        except (OSError, ValueError) as error:  # gone since it was found
            raise unreadable(path, error) from None
        while len(self.kept) > MOST_KEPT:
            self.kept.popitem(last=False)
        return found

    def fits(self, found: Inspection) -> bool:
        """Whether a file belongs to the open base."""
        return bool(found.family) and found.family == self.opened.family


def verdict(doctor: Doctor, found: Inspection, problem: str) -> dict:
    """fine, look, elsewhere or refused, with every problem; problem: why the open base refuses it, or nothing."""
    rows = [trouble.row() | {"text": in_words(trouble.text)} for trouble in found.troubles]
    here = doctor.fits(found)
    if not here:
        # That it does not fit is said once, in words; of what is wrong only its own faults remain.
        rows = rows if found.family else []
    elif problem and found.loads:
        rows.insert(0, refusal(problem))
    grave = any(row["grave"] for row in rows)
    kind = "refused" if grave else "elsewhere" if not here else "look" if rows else "fine"
    return {"kind": kind, "problems": rows, "mends": any(row["mends"] for row in rows), "here": here}


def refusal(problem: str) -> dict:
    """The row of a problem that nothing here mends."""
    return {"text": in_words(problem), "grave": True, "mends": False}


def header_rows(found: Inspection, metadata: Mapping[str, str]) -> dict:
    """What a header says of the file."""
    return {
        "formats": list(found.dialects), "kind": found.family, "kinds": found.kinds(), "networks": found.networks(),
        "rank": ranks_in_words({module.rank for module in found.modules if module.rank}), "stored": dict(found.dtypes),
        "made_by": how_made(found.recipe, metadata), "programs": programs(found),
        "plain": found.plain,
    }  # fmt: skip


def number_rows(found: Inspection) -> dict:
    """What only the numbers say."""
    alphas = {module.alpha for module in found.modules if module.alpha is not None and module.rank}
    return {"alpha": spread(alphas), "norms": dict(found.norms), "programs": programs(found)}


def programs(found: Inspection) -> list[dict]:
    """How each program loads it; nothing where its family is not known: they may know more."""
    return [asdict(one) | {"why": in_words(one.why)} for one in found.programs] if found.family else []


def spread(values: Collection[float]) -> str:
    """ "16", or "4 to 20"; nothing for none."""
    if not values:
        return ""
    low, high = f"{min(values):g}", f"{max(values):g}"
    return low if low == high else f"{low} to {high}"
