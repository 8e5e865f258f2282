"""What a blend will be as one file at every rank and every error, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..adapters.adapter import Adapter
from ..adapters.compress import Spectra, spectra
from ..adapters.metadata import ranks_in_words
from ..adapters.precision import DTYPES
from ..config import BlendConfig
from ..events import Report, ignore
from .balance import Balance
from .blending import blended
from .export import ALPHA, ENDINGS, METADATA_WORDS, PREFIX, ROW_WORDS, STYLE_WORDS
from .recipe import Style

ERRORS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Prospect:
    """One file that may be written."""

    rank: str
    """ "12", or "4 to 20" when layers differ."""
    layers: int
    size: int
    """Bytes, foretold within a few parts in a hundred; a layer that half precision cannot hold takes more."""
    error: float
    """What cutting costs, relative to the blend, in the Frobenius norm over all layers."""


@dataclass(frozen=True, eq=False)
class Prospects:
    """Every file that a blend, or one style, may become."""

    styles: tuple[Style, ...]
    """What it is made of, with what the budget makes of their weights."""
    spectra: Spectra
    distance: float = 0.0
    """Of what the method makes from the plain sum; 0 for sum."""
    missed: float = 0.0
    """What the blend has lost before it is cut: dense methods keep the rank of all styles together."""

    def whole(self, precision: str = "fp16") -> Prospect:
        """The file that nothing is cut from."""
        ranks = {path: one.left.shape[0] for path, one in self.spectra.modules.items()}
        return self._file(ranks, self.missed, precision)

    def at(self, rank: int | None = None, max_error: float | None = None, precision: str = "fp16") -> Prospect:
        """The file at a rank, or within an error; the whole one at neither. RequestError as for `compress`."""
        if rank is None and max_error is None:
            return self.whole(precision)
        found = self.spectra.foretold(rank=rank, max_error=max_error)
        # What is cut is a part of what was kept: squares add up.
        error = math.sqrt(self.missed**2 + (1 - self.missed**2) * found.error**2)
        return self._file({path: rank for path, rank in found.ranks.items() if rank}, error, precision)

    def by_rank(self, precision: str = "fp16") -> list[tuple[int, Prospect]]:
        """Ranks 1, 2, 4 … below the one at which nothing is lost."""
        most = max(len(one.values) for one in self.spectra.modules.values())
        ranks = [2**power for power in range(most.bit_length()) if 2**power < most]
        return [(rank, self.at(rank=rank, precision=precision)) for rank in ranks]

    def by_error(self, precision: str = "fp16", errors: Sequence[float] = ERRORS) -> list[tuple[float, Prospect]]:
        """A few errors that one may allow."""
        return [(error, self.at(max_error=error, precision=precision)) for error in errors]

    def _file(self, ranks: Mapping[str, int], error: float, precision: str) -> Prospect:
        numbers = sum(rank * self.spectra.modules[path].numbers for path, rank in ranks.items())
        networks = {(path.partition(".")[0], rank) for path, rank in ranks.items()}
        # A file whose ranks differ within a network has no alphas.
        endings = ENDINGS if len(networks) == len(dict(networks)) else ENDINGS[:2]
        words = sum(len(path) + PREFIX + len(ending) + ROW_WORDS for path in ranks for ending in endings)
        words += METADATA_WORDS + STYLE_WORDS * len(self.styles) + ALPHA * len(ranks) * (len(endings) - 2)
        size = numbers * DTYPES[precision].itemsize + words
        return Prospect(ranks_in_words(ranks.values()), len(ranks), size, error)


def prospects(
    styles: Sequence[Style],
    adapters: Mapping[str, Adapter],
    balance: Balance,
    asked: BlendConfig,
    report: Report = ignore,
) -> Prospects:
    """What the blend may become; its method and budget are those asked for, its rank and error are left open.

    adapters: by the styles' names. Raises what `blended` raises.
    """
    whole = replace(asked, rank=None, max_error=None)
    found, made, _ = blended(styles, adapters, balance, whole, report)
    return Prospects(tuple(found), spectra(made.adapter, report), made.distance, made.error)
