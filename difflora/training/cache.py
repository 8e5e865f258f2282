"""Pictures and captions encoded once; captions can still vary, and crops move, while training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import TrainConfig
from ..errors import ImageFolderError
from ..events import Note, Progress, Report, ignore
from ..models.family import BaseModel
from .buckets import Size, bucket_of, fit
from .data import StyleDataset
from .pictures import open_picture
from .reading import open_file, shown
from .store import Store
from .wording import features, tokens, variants

CHUNK = 16
DEVICE_SHARE = 0.25


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
        shown, texts = [], []
        for row in rows:
            texts.append(pick(self.wordings[row], rng))
            side = int(torch.randint(2, (1,), generator=rng)) if self.flip else 0
            (high, wide), (h, w) = self.latents[row].shape[2:], self.windows[row]
            top, left = pick(range(high - h + 1), rng), pick(range(wide - w + 1), rng)
            shown.append(self.latents[row][side, :, top : top + h, left : left + w])
        return self.grouped(shown, texts, dropped)

    def plain(self, rows: Sequence[int], mirrored: bool = False) -> list[Group]:
        """The middle of each row's picture with its first caption; `mirrored` only where that was encoded."""
        shown, texts = [], []
        for row in rows:
            (high, wide), (h, w) = self.latents[row].shape[2:], self.windows[row]
            top, left = (high - h) // 2, (wide - w) // 2
            shown.append(self.latents[row][int(mirrored), :, top : top + h, left : left + w])
            texts.append(self.firsts[row])
        return self.grouped(shown, texts, [False] * len(shown))

    def grouped(self, shown: Sequence[Tensor], texts: Sequence[int], dropped: Sequence[bool]) -> list[Group]:
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
            latents = torch.stack([shown[place] for place in places])
            moved = {key: value.to(self.device) for key, value in cond.items()}
            groups.append(Group(places, latents.to(self.device), moved))
        return groups


def pick(choices: Sequence[int], rng: torch.Generator) -> int:
    """One of them by chance; no number is drawn where there is no choice."""
    return choices[int(torch.randint(len(choices), (1,), generator=rng)) if len(choices) > 1 else 0]


def as_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size -> (B, 3, H, W) float32 in -1..1."""
    stacked = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2) / 127.5 - 1


def encode(
    model: BaseModel,
    data: StyleDataset,
    px: int,
    *,
    config: TrainConfig,
    folder: Path | None = None,
    mirrored: bool = False,
    report: Report = ignore,
) -> Encoded:
    """Encode every picture at about px² pixels in its own shape, and every wording of its captions.

    folder: where latents and text features are kept for the next time, by the content of what they were made from.
    mirrored: also encode mirrored pictures. Captions stay token ids when the text encoder learns. Raises
    ImageFolderError for a picture that can be read no more, or that the autoencoder makes no numbers of.
    """
    store = Store(folder, model) if folder is not None else None
    latents, windows = encode_pictures(model, data, px, config, mirrored or config.flip, store, report)
    own = [variants(item, config) for item in data.items]
    every = ["", *(text for item, some in zip(data.items, own, strict=True) for text in (item.caption, *some))]
    places = {text: place for place, text in enumerate(dict.fromkeys(every))}
    texts = encode_texts(model, list(places), config.text_encoder, store, report)
    if store is not None:
        store.tidy()
    if fits(model.device, [*latents, *texts.values()]):
        latents = [value.to(model.device) for value in latents]
        texts = {key: value.to(model.device) for key, value in texts.items()}
    return Encoded(
        latents,
        windows,
        texts,
        wordings=[tuple(places[text] for text in some) for some in own],
        firsts=[places[item.caption] for item in data.items],
        empty={key: value[:1] for key, value in texts.items()},
        repeats=[item.repeats for item in data.items],
        device=model.device,
        flip=config.flip,
    )


def fits(device: torch.device, tensors: Sequence[Tensor]) -> bool:
    """Whether a quarter of the device's free memory holds them all."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return sum(value.nbytes for value in tensors) < DEVICE_SHARE * free


def encode_pictures(
    model: BaseModel,
    data: StyleDataset,
    px: int,
    config: TrainConfig,
    mirrored: bool,
    store: Store | None,
    report: Report,
) -> tuple[list[Tensor], list[Size]]:
    """(latents, window) of each picture."""
    latents, windows, precision = [], [], model.vae.dtype
    for done, item in enumerate(data.items, 1):
        own = item.size if min(item.size) else data[done - 1][0].size
        bucket = bucket_of(own, px, model.unit)
        windows.append((bucket[1] // model.factor, bucket[0] // model.factor))
        size = roomy(own, bucket, config.crops, model.factor)
        sides = (False, True) if mirrored else (False,)
        latents.append(picture_latents(model, item.path, size, sides, store, report))
        if model.vae.dtype != precision:
            # What came before in half precision again, so that the pictures' order decides nothing.
            return encode_pictures(model, data, px, config, mirrored, store, report)
        report(Progress("encoding pictures", done, len(data)))
    return latents, windows


def roomy(picture: Size, bucket: Size, crops: float, cell: int) -> Size:
    """The (width, height) to encode at, so that windows of `bucket` leave out up to `crops` of each side.

    Never more than the picture has.
    """
    if not crops:
        return bucket
    sides = []
    for own, side in zip(picture, bucket, strict=True):
        sides.append(max(side, min(round(side / (1 - crops) / cell) * cell, own // cell * cell)))
    return sides[0], sides[1]


def picture_latents(
    model: BaseModel, path: Path, size: Size, sides: Sequence[bool], store: Store | None, report: Report
) -> Tensor:
    """Latents on the CPU, (1, C, h, w) for each of `sides`, mirrored or not; what the store has is not decoded."""
    content = read_bytes(path) if store is not None else b""
    found = {side: store and store.get(store.key_of_picture(content, size, side)) for side in sides}
    if all(found.values()):
        return torch.cat([one["latents"] for one in found.values()])
    picture = fit(open_picture(path, shown(path)), size)
    made = {side: to_latents(model, picture, side, shown(path), report) for side, one in found.items() if one is None}
    # A file that was replaced meanwhile: these latents are not those of the bytes in the key.
    if store is not None and read_bytes(path) == content:
        for side, latents in made.items():
            # Asked for again: the autoencoder may have gone to float32.
            store.put(store.key_of_picture(content, size, side), {"latents": latents})
    return torch.cat([made[side] if side in made else found[side]["latents"] for side in sides])


def read_bytes(path: Path) -> bytes:
    """The whole file; ImageFolderError when it can be read no more."""
    with open_file(path, shown(path)) as file:
        return file.read()


def to_latents(model: BaseModel, picture: Image.Image, mirrored: bool, name: str, report: Report) -> Tensor:
    """Latents (1, C, h, w) of one picture on the CPU; ImageFolderError when they are no numbers."""
    pixels = as_pixels([picture])
    if mirrored:
        pixels = pixels.flip(-1)
    # One at a time: in a batch the last bits depend on what else is in it, and so on what the store still has.
    latents = model.encode_images(pixels)
    if not torch.isfinite(latents).all() and model.vae.dtype != torch.float32:
        report(Note(f"the autoencoder makes no numbers in {model.vae.dtype}; it works in float32 from now on"))
        model.vae.float()
        latents = model.encode_images(pixels)
    if not torch.isfinite(latents).all():
        raise ImageFolderError(
            f"{name}: found numbers that are not finite where the base's autoencoder encodes it: expected finite ones; "
            "leave it out, or give another --base"
        )
    return latents.cpu().clone()


def encode_texts(
    model: BaseModel, captions: Sequence[str], learning: bool, store: Store | None, report: Report
) -> dict[str, Tensor]:
    """Conditioning of all captions, (N, …), on the CPU: token ids where the text encoder learns, else features."""
    if learning:
        return {key: value.cpu() for key, value in tokens(model, captions).items()}
    keys = [store.key_of_words(tokens(model, [text])) if store is not None else "" for text in captions]
    found = [store.get(key) if store is not None else None for key in keys]
    missing = [place for place, kept in enumerate(found) if kept is None]
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        # Always as many: in a smaller batch the last bits may differ.
        texts = [captions[part[min(i, len(part) - 1)]] for i in range(CHUNK)]
        made = features(model, texts)
        for i, place in enumerate(part):
            found[place] = {key: value[i : i + 1].cpu().clone() for key, value in made.items()}
            if store is not None:
                store.put(keys[place], found[place])
        report(Progress("encoding captions", start + len(part), len(missing)))
    return {key: torch.cat([row[key] for row in found]) for key in found[0]}
