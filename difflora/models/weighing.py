"""One window of a weighted prompt through compel, and where compel cuts a prompt that needs several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from compel import DownweightMode, EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode
from torch import Tensor

Encode = Callable[[Tensor, Tensor | None], Tensor]


class Encoder:
    """A family's own encoding as compel takes text encoders."""

    # compel divides by sums of weights up to 2 · 63,661, more than half precision holds.
    dtype = torch.float32

    def __init__(self, encode: Encode, device: torch.device) -> None:
        self.encode = encode
        self.device = device
        self.own = self.dtype

    def __call__(self, ids: Tensor, mask: Tensor | None = None, **_: object) -> SimpleNamespace:
        """(1, T) ids -> features of the layer that the family reads."""
        # Networks take another path where there is a mask, and round differently; one of ones says nothing.
        features = self.encode(ids.long(), None if mask is None or mask.all() else mask)
        self.own = features.dtype
        return SimpleNamespace(last_hidden_state=features.to(self.dtype))


class Weigher(EmbeddingsProvider):
    """compel's weighting of fragments that are token ids already.

    compel makes tokens of each fragment by itself and then looks for them in the whole, which fails where they come out
    otherwise there or are the padding's; of ids it is plain where they lie.
    """

    def __init__(self, tokenizer: Callable, encode: Encode | None, device: torch.device) -> None:
        super().__init__(
            tokenizer,
            Encoder(encode, device),
            truncate=False,
            downweight_mode=DownweightMode.MASK,
            returned_embeddings_type=ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED,
            device=device,
            split_long_text_mode=SplitLongTextMode.SENTENCES,
        )

    def first_cut(self, ids: Sequence[int], room: int) -> int:
        """How many of the ids go into a window that has room for so many: whole sentences, else phrases, else words."""
        return min(self._find_next_best_split_point(list(ids), room), len(ids))

    def window(self, fragments: Sequence[Sequence[int]], weights: Sequence[float]) -> Tensor:
        """Features of one window, (1, T, D): fragments that fit into it together, each with its weight."""
        features = self.get_embeddings_for_weighted_prompt_fragments([fragments], [weights], device=self.device)
        return features.to(self.text_encoder.own)

    def empty(self) -> Tensor:
        """Features of a window without words, (1, T, D)."""
        return self.empty_z.to(self.text_encoder.own)

    def get_token_ids(self, texts: Sequence[Sequence[int]], *_: object, **__: object) -> list[list[int]]:
        """Fragments are ids already."""
        return [list(fragment) for fragment in texts]

    def _get_token_ranges_for_fragments(self, whole: list[int], fragments: Sequence[Sequence[int]]) -> list[tuple]:
        """(first, last) place of each fragment in its window."""
        ranges, start = [], len(self.bos_sequence)
        for fragment in fragments:
            ranges.append((start, start + len(fragment) - 1))
            start += len(fragment)
        return ranges
