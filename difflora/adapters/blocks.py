"""Block names of the original Stable Diffusion layout (ldm, sgm) for the modules of a diffusers UNet.

There a UNet is one list of input blocks, a middle, and one list of output blocks; a resnet is the first module of its
block and an attention the second. diffusers groups the same modules by level and kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SINGLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
PLACE = re.compile(
    r"(?:(?P<side>down|up)_blocks\.(?P<level>\d+)|mid_block)"
    r"\.(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<number>\d+)\.(?P<rest>.+)"
)


def sgm_paths(paths: Iterable[str]) -> dict[str, str]:
    """The original path, without `unet.`, of each `unet.` path that has one.

    paths: all modules of one UNet at once, because the number of a block depends on how many come before it. All levels
    have the same number of resnets, as in every published UNet. Norms have no place, as they have no low-rank update.
    Source: convert_ldm_unet_checkpoint in diffusers' single_file_utils.
    """
    inner = {path: path.removeprefix("unet.") for path in paths if path.startswith("unet.")}
    places = {path: found for path, name in inner.items() if (found := PLACE.fullmatch(name))}
    # An input level is its resnets and the downsampler; an output level is one resnet more, and as many blocks.
    outputs = [place for place in places.values() if place["side"] == "up"]
    length = 1 + max((int(place["number"]) for place in outputs), default=0)
    attended = {place["level"] for place in outputs if place["kind"] == "attentions"}
    originals = {}
    for path, name in inner.items():
        place = places.get(path)
        original = in_block(place, length, place["level"] in attended) if place else SINGLE.get(name)
        if original:
            originals[path] = original
    return originals


def in_block(place: re.Match[str], length: int, attended: bool) -> str | None:
    """The original path of a module in a level or the middle; length: blocks a level; attended: it has attention."""
    kind, number = place["kind"], int(place["number"])
    rest = RESNET.get(place["rest"]) if kind == "resnets" else place["rest"]
    if rest is None:
        return None
    second = int(kind == "attentions")
    if place["side"] is None:
        return f"middle_block.{2 * number + second}.{rest}"
    first = int(place["level"]) * length
    if kind == "downsamplers":
        return f"input_blocks.{first + length}.0.op"
    if kind == "upsamplers":
        # It ends the level's last block, behind the resnet and the attention.
        return f"output_blocks.{first + length - 1}.{1 + attended}.conv"
    if place["side"] == "down":
        return f"input_blocks.{1 + first + number}.{second}.{rest}"
    return f"output_blocks.{first + number}.{second}.{rest}"
