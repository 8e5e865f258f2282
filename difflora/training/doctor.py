"""A folder of pictures looked over before it is learnt: what to keep, what to look at, what to leave out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from weakref import WeakKeyDictionary

import torch
from PIL import Image

from ..events import Event, Note, Progress, Report, ignore
from ..models.family import BaseModel
from . import faults, wordcheck
from .cache import as_pixels
from .data import ENDINGS, Captions, StyleDataset, bad, list_files, noted, one_line, read_excluded, shown
from .excluded import exclude, include
from .faults import Fault, Kind
from .score import style_features
from .sight import Sight, look_at
from .twins import grouped, twins

__all__ = ["Checkup", "Fault", "Verdict", "brief", "check", "exclude", "fix", "include"]

WORST = ("exclude", "look", "keep")
FEATURES: WeakKeyDictionary[BaseModel, WeakKeyDictionary[Sight, torch.Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Verdict:
    """What is said of one picture."""

    path: str
    """Relative to the folder, with forward slashes."""
    kind: Kind
    faults: tuple[Fault, ...]
    width: int
    height: int
    """In pixels, upright; 0 for a picture that cannot be read."""
    caption: str
    """As it stands in the folder, without a trigger put in front."""
    excluded: bool = False
    """Whether excluded.txt names it already."""

    @property
    def reason(self) -> str:
        """All that is wrong with it, the worst first; empty if nothing is."""
        return "; ".join(fault.text for fault in self.faults)

    def row(self) -> dict:
        """JSON-ready values."""
        return asdict(self) | {"reason": self.reason}


@dataclass(frozen=True)
class Checkup:
    """What is said of a folder."""

    folder: Path
    verdicts: tuple[Verdict, ...]
    """One a picture, in the folder's order."""
    groups: tuple[tuple[str, ...], ...]
    """Paths of pictures that show the same, the best one first."""
    spread: dict[str, object]
    """Sizes and shapes: "smallest", "median", "largest" (shorter side in px), "shapes" (shape -> pictures)."""
    notes: tuple[str, ...]
    """What is said of the folder as a whole."""

    def count(self, kind: Kind) -> int:
        """Pictures of one kind, those that are left out already not counted."""
        return sum(verdict.kind == kind and not verdict.excluded for verdict in self.verdicts)

    def worst_first(self) -> list[Verdict]:
        """The verdicts, those to be left out first, each kind in the folder's order."""
        return sorted(self.verdicts, key=lambda verdict: (WORST.index(verdict.kind), -len(verdict.faults)))

    def row(self) -> dict:
        """JSON-ready values."""
        counts = {kind: self.count(kind) for kind in WORST}
        groups, verdicts = [list(group) for group in self.groups], [verdict.row() for verdict in self.verdicts]
        known = {"folder": str(self.folder), "pictures": len(self.verdicts), **counts, "groups": groups}
        return known | {"spread": self.spread, "notes": list(self.notes), "verdicts": verdicts}


def check(
    folder: Path,
    *,
    trigger: str | None = None,
    model: BaseModel | None = None,
    side: int | None = None,
    report: Report = ignore,
) -> Checkup:
    """Look every picture and caption of a folder over; nothing is changed, and no picture's fault stops it.

    model: with one, pictures unlike the rest are found with its eyes. side: px of the shorter side at learning, the
    model's own unless given; without either, nothing is called too small. Pictures that excluded.txt names are judged
    too, but not counted. Raises ImageFolderError when there is no such folder or no picture in it.
    """
    folder, trigger = Path(folder), one_line(trigger or "")
    side = side or (model.side if model else None)
    notes: list[str] = []

    def keep(event: Event) -> None:
        notes.extend([event.text] if isinstance(event, Note) else [])

    files = list_files(folder, keep)
    paths = [file for file in files if file.suffix.lower() in ENDINGS]
    if not paths:
        bad(shown(folder), "no pictures", f"{', '.join(ENDINGS)} files; name another folder")
    texts, named = _captions(folder, files, paths, notes)
    sights = _look([folder / path for path in paths], report)
    out = read_excluded(folder)
    names = [path.as_posix() for path in paths]
    found, groups = judge(names, sights, [name in out for name in names], side, model)
    captions_noted = faults.judge_captions(found, texts, named, trigger)
    verdicts = tuple(
        _verdict(name, sight, own, text, name in out)
        for name, sight, own, text in zip(names, sights, found, texts, strict=True)
    )
    spread, said = _spread([s for s, v in zip(sights, verdicts, strict=True) if s.width and not v.excluded], side)
    named_groups = tuple(tuple(names[i] for i in group) for group in groups)
    return Checkup(folder, verdicts, named_groups, spread, (*notes, *captions_noted, *said))


def brief(dataset: StyleDataset, report: Report = ignore) -> None:
    """One Note on what `check` would say of the pictures and captions of a training; none when all is well.

    Nothing is opened but the pictures, and those looked at before are remembered.
    """
    names = [item.path.name for item in dataset.items]
    sights = _look([item.path for item in dataset.items], report)
    found, _ = judge(names, sights, [False] * len(sights), None, None)
    for own, item in zip(found, dataset.items, strict=True):
        if words := wordcheck.style_words(" | ".join(item.captions)):
            own.append(faults.styled(words))
    counts = Counter(fault.name for own in found for fault in own)
    if counts:
        listed = ", ".join(f"{name} ({n})" for name, n in counts.most_common())
        command = f"difflora check {shown(dataset.folder)} --report check.html"
        report(
            Note(f"{sum(map(bool, found))} of {len(found)} pictures deserve a look: {listed}; see them with: {command}")
        )


def fix(checkup: Checkup) -> int:
    """Write the pictures to be left out into excluded.txt and return how many are new; originals stay as they are.

    Raises OutputError.
    """
    chosen = {v.path: v.faults[0].text for v in checkup.verdicts if v.kind == "exclude" and not v.excluded}
    return exclude(checkup.folder, chosen) if chosen else 0


def _look(paths: Sequence[Path], report: Report) -> list[Sight]:
    sights = []
    for sight in look_at(paths):
        sights.append(sight)
        report(Progress("looking closely", len(sights), len(paths)))
    return sights


def judge(
    names: Sequence[str], sights: Sequence[Sight], out: Sequence[bool], side: int | None, model: BaseModel | None
) -> tuple[list[list[Fault]], list[list[int]]]:
    """(faults of each picture, groups of those that show the same, the best first); `out`: already left out."""
    seen = [i for i, sight in enumerate(sights) if not sight.problem]
    good = [sights[i] for i in seen]
    usual = faults.usual_edge([sights[i] for i in seen if not out[i]])
    traces = median([sight.blocks for sight in good] or [0.0])
    found = [faults.unreadable(sight) if sight.problem else [] for sight in sights]
    together = zip(seen, faults.marked(good), _unlike(good, model), strict=True)
    for i, marks, strange in together:
        sight = sights[i]
        poor, frame = faults.compressed(sight, traces), faults.framed(sight)
        soft = faults.soft(sight, usual, side, bool(poor))
        # Blur or a frame alone makes a picture unlike the rest.
        odd = [] if frame or soft else strange
        for more in (faults.blank(sight), faults.tiny(sight, side), soft, poor, frame, marks, odd):
            found[i].extend(more)
    pairs = twins([s.hashes for s in good], [s.thumb for s in good], [s.width / s.height for s in good])
    groups = []
    for group, mirrored in grouped([(seen[i], seen[j], m) for i, j, m in pairs]):
        best = min(group, key=lambda i: (out[i], i in mirrored, *_badness(found[i], sights[i]), i))
        rest = [i for i in group if i != best]
        groups.append([best, *rest])
        for i in rest:
            found[i].insert(0, _twin(names[best], i in mirrored or best in mirrored))
    return found, groups


def _twin(best: str, mirrored: bool) -> Fault:
    """The fault of a picture that another one shows as well or better."""
    if mirrored:
        return Fault("twin", f"shows {shown(Path(best))} in the mirror: is it meant?")
    return Fault("twin", f"shows the same as {shown(Path(best))}, which is better or as good", kind="exclude")


def _badness(found: Sequence[Fault], sight: Sight) -> tuple[float, ...]:
    """What decides between twins: faults, size (a tenth more counts), then whether it went through JPEG."""
    worst = sum(fault.kind == "exclude" for fault in found)
    return worst, len(found), -round(math.log(sight.side, 1.1)), sight.quality is not None, -sight.bytes


def _unlike(sights: Sequence[Sight], model: BaseModel | None) -> list[list[Fault]]:
    """Pictures far from the middle of the folder in the features of the base's autoencoder."""
    if model is None or len(sights) < 16:
        return [[] for _ in sights]
    known = FEATURES.setdefault(model, WeakKeyDictionary())
    for sight in sights:
        # Sights are remembered as long as their files stay as they are, and so are their features.
        if sight not in known:
            small = Image.fromarray(sight.small)
            side = min(model.side, small.width)
            known[sight] = style_features(model.vae, as_pixels([small.resize((side, side), Image.Resampling.LANCZOS)]))[
                0
            ]
    return faults.unlike(torch.stack([known[sight] for sight in sights]).numpy())


def _captions(
    folder: Path, files: Sequence[Path], paths: Sequence[Path], notes: list[str]
) -> tuple[list[str], list[bool]]:
    """(caption of each picture, whether it is only its name); what is wrong with the files goes to `notes`."""
    captions = Captions(folder, files, paths, notes)
    texts, named = [], []
    for path in paths:
        found: tuple[tuple[str, ...], str] = ((), "")
        with noted(notes):
            found = captions.of(path)
        texts.append(" | ".join(found[0]))
        named.append(found[1] == "file name")
    notes.extend(captions.unused())
    return texts, named


def _verdict(name: str, sight: Sight, found: Sequence[Fault], text: str, excluded: bool) -> Verdict:
    ordered = sorted(found, key=lambda fault: WORST.index(fault.kind))
    kind: Kind = ordered[0].kind if ordered else "keep"
    return Verdict(name, kind, tuple(ordered), sight.width, sight.height, text, excluded)


def _spread(sights: Sequence[Sight], side: int | None) -> tuple[dict[str, object], list[str]]:
    """Sizes and shapes, and what is to be said of them."""
    if not sights:
        return {"smallest": 0, "median": 0, "largest": 0, "shapes": {}}, []
    sides = sorted(sight.side for sight in sights)
    shapes = Counter(
        "square" if 0.8 < s.width / s.height < 1.25 else "tall" if s.width < s.height else "wide" for s in sights
    )
    notes = []
    if side and median(sides) < side:
        notes.append(
            f"sizes: half of the pictures are under {side} px; learn at less (--resolution) or find larger ones"
        )
    narrow = sum(max(s.width, s.height) > 2.2 * s.side for s in sights)
    if narrow:
        notes.append(f"shapes: {narrow} more than twice as long as wide; much of them is cut off at learning")
    usual = faults.usual_edge(sights)
    if usual > faults.SOFT:
        notes.append(f"sharpness: the whole folder is soft, its edges {usual:.1f} px wide; were all of them blown up?")
    return {"smallest": sides[0], "median": median(sides), "largest": sides[-1], "shapes": dict(shapes)}, notes
