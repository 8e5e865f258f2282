"""Pictures and captions encoded once; captions can still vary, and crops move, while training."""

from __future__ import annotations

from collections.abc import Sequence
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
from .encoded import Encoded, Framing
from .pictures import open_picture
from .reading import open_file, shown
from .store import Store
from .wording import features, tokens, variants

CHUNK = 16
DEVICE_SHARE = 0.25


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
    latents, windows, framings = encode_pictures(model, data, px, config, mirrored or config.flip, store, report)
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
        framings=framings,
        place=model.place,
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
) -> tuple[list[Tensor], list[Size], list[Framing]]:
    """(latents, window, framing) of each picture."""
    latents, windows, framings, precision = [], [], [], model.vae.dtype
    for done, item in enumerate(data.items, 1):
        own = item.size if min(item.size) else data[done - 1][0].size
        bucket = bucket_of(own, px, model.unit)
        windows.append((bucket[1] // model.factor, bucket[0] // model.factor))
        size = roomy(own, bucket, config.crops, model.factor)
        framings.append(framed(own, size, model.factor))
        sides = (False, True) if mirrored else (False,)
        latents.append(picture_latents(model, item.path, size, sides, store, report))
        if model.vae.dtype != precision:
            # What came before in half precision again, so that the pictures' order decides nothing.
            return encode_pictures(model, data, px, config, mirrored, store, report)
        report(Progress("encoding pictures", done, len(data)))
    return latents, windows, framings


def framed(picture: Size, size: Size, cell: int) -> Framing:
    """How a (width, height) picture is cut to cover `size`, as `buckets.fit` does it."""
    scale = max(size[0] / picture[0], size[1] / picture[1])
    left, top = (round((own * scale - side) / 2) for own, side in zip(picture, size, strict=True))
    return Framing((picture[1], picture[0]), (top, left), cell)


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
