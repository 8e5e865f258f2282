"""A whole style as the model takes it, shown anew each time: wording, window, side and dropped captions by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .buckets import Size


@dataclass(frozen=True, eq=False)
class Group:
    """Pictures of one size, ready for the model."""

    places: list[int]
    """Where each stands among the rows that were asked for."""
    latents: Tensor
    """(n, C, h, w) float32."""
    cond: dict[str, Tensor]
    """Conditioning, leading axis n."""

    def part(self, start: int, stop: int) -> Group:
        """Some of them."""
        cond = {key: value[start:stop] for key, value in self.cond.items()}
        return Group(self.places[start:stop], self.latents[start:stop], cond)


@dataclass(frozen=True)
class Framing:
    """How a picture was cut to what is encoded of it."""

    original: Size
    """(height, width) of the file's picture in pixels."""
    corner: Size
    """(top, left) of what is encoded, in pixels of the resized picture."""
    cell: int
    """Pixels of a latent cell."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A whole style in the model's own terms."""

    latents: list[Tensor]
    """Each picture, and where asked for its mirror image: (1 or 2, C, h, w); larger than its window for crops."""
    windows: list[Size]
    """(h, w) of latents that are shown of each picture."""
    texts: dict[str, Tensor]
    """Conditioning of all wordings, leading axis their number."""
    wordings: list[tuple[int, ...]]
    """Which of them each picture is shown with by chance."""
    firsts: list[int]
    """Which one is each picture's first caption as it stands."""
    empty: dict[str, Tensor]
    """Conditioning of the empty caption, leading axis 1."""
    repeats: list[int]
    framings: list[Framing]
    place: Callable[[Size, Size, Size], dict[str, Tensor]]
    """What the model is told of a picture's size, the corner of what is shown, and its size; all (height, width)."""
    device: torch.device
    flip: bool

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def sizes(self) -> list[Size]:
        """The size of each picture's latents as shown."""
        return self.windows

    def draw(self, rows: Sequence[int], rng: torch.Generator, dropout: float) -> list[Group]:
        """One showing of each row: caption dropped with probability `dropout`, wording, window and side by chance.

        Everything random is drawn from `rng` in the order of `rows`.
        """
        dropped = (torch.rand(len(rows), generator=rng) < dropout).tolist()
        shown, texts, told = [], [], []
        for row in rows:
            texts.append(pick(self.wordings[row], rng))
            side = int(torch.randint(2, (1,), generator=rng)) if self.flip else 0
            (high, wide), (h, w) = self.latents[row].shape[2:], self.windows[row]
            top, left = pick(range(high - h + 1), rng), pick(range(wide - w + 1), rng)
            shown.append(self.latents[row][side, :, top : top + h, left : left + w])
            told.append(self.told(row, top, left))
        return self.grouped(shown, texts, dropped, told)

    def plain(self, rows: Sequence[int], mirrored: bool = False) -> list[Group]:
        """The middle of each row's picture with its first caption; `mirrored` only where that was encoded."""
        shown, texts, told = [], [], []
        for row in rows:
            (high, wide), (h, w) = self.latents[row].shape[2:], self.windows[row]
            top, left = (high - h) // 2, (wide - w) // 2
            shown.append(self.latents[row][int(mirrored), :, top : top + h, left : left + w])
            texts.append(self.firsts[row])
            told.append(self.told(row, top, left))
        return self.grouped(shown, texts, [False] * len(shown), told)

    def told(self, row: int, top: int, left: int) -> dict[str, Tensor]:
        """What the model is told of a showing whose window begins there, in latents."""
        own, (h, w) = self.framings[row], self.windows[row]
        corner = own.corner[0] + top * own.cell, own.corner[1] + left * own.cell
        return self.place(own.original, corner, (h * own.cell, w * own.cell))

    def grouped(
        self, shown: Sequence[Tensor], texts: Sequence[int], dropped: Sequence[bool], told: Sequence[dict[str, Tensor]]
    ) -> list[Group]:
        """One group a size, each in the order of its rows."""
        by_size: dict[Size, list[int]] = {}
        for place, latents in enumerate(shown):
            by_size.setdefault(tuple(latents.shape[1:]), []).append(place)
        groups = []
        for places in by_size.values():
            cond = {
                key: torch.stack([self.empty[key][0] if dropped[p] else value[texts[p]] for p in places])
                for key, value in self.texts.items()
            }
            cond |= {key: torch.cat([told[p][key] for p in places]) for key in told[places[0]]}
            latents = torch.stack([shown[place] for place in places])
            moved = {key: value.to(self.device) for key, value in cond.items()}
            groups.append(Group(places, latents.to(self.device), moved))
        return groups


def pick(choices: Sequence[int], rng: torch.Generator) -> int:
    """One of them by chance; no number is drawn where there is no choice."""
    return choices[int(torch.randint(len(choices), (1,), generator=rng)) if len(choices) > 1 else 0]
