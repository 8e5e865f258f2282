"""What two styles do to each other in a part of the network, in words that a painter can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .overlap import Meeting, Share

WHOLE = "whole"
MATTERS = 0.1
"""Shares below this are not worth a word, however certain."""
MILD = 0.05
"""And below this they are not there."""
HARDLY = 0.02
"""A part that changes less of an answer than this is not seen."""
SAME = 1e-4
Verdict = Literal["same", "opposite", "agree", "cancel", "collide", "alone", "absent"]


@dataclass(frozen=True)
class Part:
    """Some modules of the network under one name."""

    name: str
    flag: str
    """As it is typed after a style's @; nothing for the whole, and for what cannot be typed."""
    kind: Literal["preset", "block", "whole"]
    blocks: tuple[str, ...] = ()
    """The blocks that a preset is made of."""

    @property
    def phrase(self) -> str:
        """How a sentence about it begins."""
        if self.kind == "whole":
            return "On the whole"
        wanted = self.kind == "block" and not self.name[-1].isdigit()
        return f"In the {self.name}" if wanted else f"In {self.name}"


@dataclass(frozen=True)
class Seen:
    """What a base makes of two styles, each acting in one part alone."""

    shares: tuple[float, float]
    """How much its answer changes, in proportion to the change by the whole style."""
    cosine: float
    """-1 to 1, of the two changes."""

    @property
    def faint(self) -> bool:
        """Whether pictures hardly show it."""
        return max(self.shares) < HARDLY


@dataclass(frozen=True)
class Finding:
    """Two styles in one part."""

    part: Part
    meeting: Meeting
    verdict: Verdict
    sentence: str
    seen: Seen | None = None
    """Where a base was asked."""

    @property
    def clash(self) -> bool:
        """Whether they are in each other's way, and pictures may show it."""
        faint = self.seen is not None and self.seen.faint
        return self.verdict in ("cancel", "collide") and not faint

    @property
    def weight(self) -> float:
        """How much they are in each other's way, 0 to 1."""
        return max(self.meeting.cancel.excess, self.meeting.collide.excess)

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        about = {
            "part": self.part.name,
            "flag": self.part.flag,
            "kind": self.part.kind,
            "blocks": list(self.part.blocks),
        }
        seen = None if self.seen is None else {"shares": list(self.seen.shares), "cosine": self.seen.cosine}
        said = {"verdict": self.verdict, "seen": seen, "sentence": self.sentence}
        return about | self.meeting.row() | said


def finding(part: Part, names: tuple[str, str], meeting: Meeting, seen: Seen | None = None) -> Finding:
    """What is to be said of two styles in a part."""
    said = verdict(meeting)
    more = f", {in_pictures(names, said, seen)}" if seen and all(meeting.strengths) else ""
    return Finding(part, meeting, said, f"{part.phrase} {sentence(said, names, meeting)}{more}.", seen)


def in_pictures(names: tuple[str, str], said: Verdict, seen: Seen) -> str:
    """What of it pictures show."""
    if seen.faint:
        shares = " and ".join(f"{percent(share)} of {name}" for name, share in zip(names, seen.shares, strict=True))
        return f"{'and' if said == 'alone' else 'but'} it hardly shows in pictures: {shares}"
    lie = 0 if abs(seen.cosine) < MATTERS else 1 if seen.cosine > 0 else -1
    expected = {"agree": 1, "same": 1, "cancel": -1, "opposite": -1}.get(said, 0)
    how = {0: "leave each other alone", 1: "pull the same way", -1: "pull against each other"}[lie]
    much = f" ({percent(abs(seen.cosine))})" if lie else ""
    return f"{'and' if lie == expected else 'but'} in pictures they {how}{much}"


def verdict(meeting: Meeting) -> Verdict:
    """What they do most, if it matters: `MATTERS` above chance, and no accident."""
    if not all(meeting.strengths):
        return "absent"
    if abs(meeting.cosine) > 1 - SAME:
        return "same" if meeting.cosine > 0 else "opposite"
    shares: dict[Verdict, Share] = {"cancel": meeting.cancel, "collide": meeting.collide, "agree": meeting.agree}
    found = {name: share.excess for name, share in shares.items() if share.clear and share.excess >= MATTERS}
    return max(found, key=lambda name: found[name], default="alone")


def sentence(said: Verdict, names: tuple[str, str], meeting: Meeting) -> str:
    """The rest of a sentence that begins with the part; every number in it is one of the meeting's."""
    a, b = names
    first, second = meeting.taken
    match said:
        case "absent":
            acting = [name for name, norm in zip(names, meeting.strengths, strict=True) if norm]
            return f"only {acting[0]} acts" if acting else "neither acts"
        case "same":
            return "the two are one and the same"
        case "opposite":
            return f"each is the other's negative: {lost(a, b, first, second)}"
        case "agree":
            return f"the two pull the same way: {percent(meeting.agree.value)} of what they do is the same"
        case "cancel":
            return f"they undo each other: {lost(a, b, first, second)}"
        case "collide":
            overlap, chance = percent(meeting.strokes.value), percent(meeting.strokes.chance)
            return (
                f"they paint with the same brush strokes but different intent: "
                f"{overlap} of their strokes are shared, {chance} by chance"
            )
    mostly = "mostly " if max(meeting.agree.excess, meeting.cancel.excess, meeting.collide.excess) >= MILD else ""
    return f"they {mostly}leave each other alone"


def lost(a: str, b: str, first: float, second: float) -> str:
    """Who takes what from whom: of the one that loses more."""
    loser, taker, share = (a, b, first) if first >= second else (b, a, second)
    much = "all" if share > 1 - SAME else f"about {percent(share)}"
    return f"{much} of what {loser} adds, {taker} takes away"


def percent(share: float) -> str:
    """A share as a person says it."""
    return f"{100 * share:.0f}%" if share >= 0.0995 or not share else f"{100 * share:.1f}%"
