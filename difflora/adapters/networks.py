"""The linear layers and convolutions of each family, from its published configuration. Loads no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

Module = tuple[str, tuple[int, ...]]
"""A module's path and the shape of its weight."""


@dataclass(frozen=True)
class Text:
    """The numbers of a CLIPTextConfig."""

    hidden_size: int
    num_layers: int
    mlp_size: int
    projection_dim: int = 0
    """Width of text_projection; 0 for a model without one."""


@dataclass(frozen=True)
class Network:
    """The numbers of a UNet2DConditionModel and its text encoders; what all of them share is in the functions."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    transformer_layers: tuple[int, ...]
    """Transformer blocks in each attention of a level; 0 for a level without attention."""
    cross_attention_dim: int
    text_encoders: tuple[Text, ...]
    mid_layers: int = 1
    """Transformer blocks in the middle's attention."""
    linear_projection: bool = False
    """Whether proj_in and proj_out are linear layers; else they are 1x1 convolutions."""
    addition_dim: int = 0
    """Inputs of add_embedding; 0 for a UNet without one."""


CLIP_L, OPEN_CLIP_H, OPEN_CLIP_G = Text(768, 12, 3072), Text(1024, 23, 4096), Text(1280, 32, 5120, 1280)
CONFIGS = {
    "tiny": Network((96, 192, 256), 1, (1, 1, 1), 192, (Text(192, 4, 768),)),
    "sd1": Network((320, 640, 1280, 1280), 2, (1, 1, 1, 0), 768, (CLIP_L,)),
    "sd2": Network((320, 640, 1280, 1280), 2, (1, 1, 1, 0), 1024, (OPEN_CLIP_H,), linear_projection=True),
    "sdxl": Network((320, 640, 1280), 2, (0, 2, 10), 2048, (CLIP_L, OPEN_CLIP_G), 10, True, addition_dim=2816),
}
"""By family: the embedded base, Stable Diffusion 1.x, 2.x and XL."""
FAMILIES: tuple[str, ...] = tuple(CONFIGS)
LATENT_CHANNELS = 4


@cache
def modules(family: str) -> Mapping[str, tuple[int, ...]]:
    """Weight shape of every Linear and Conv2d of a family by path, in the order of named_modules().

    Paths begin with unet., text_encoder. or text_encoder_2.; text encoders have no text_model., as in transformers 5.6.
    Raises KeyError for what is not in FAMILIES.
    """
    network = CONFIGS[family]
    found = {f"unet.{path}": shape for path, shape in unet(network)}
    for number, text in enumerate(network.text_encoders, 1):
        part = "text_encoder" if number == 1 else f"text_encoder_{number}"
        found |= {f"{part}.{path}": shape for path, shape in text_encoder(text)}
    # One table for all who ask: nobody may write in it.
    return MappingProxyType(found)


def unet(network: Network) -> Iterator[Module]:
    """The modules of a UNet2DConditionModel."""
    widths, layers = network.block_out_channels, network.layers_per_block
    depths, last = network.transformer_layers, len(widths) - 1
    width = widths[0]
    yield "conv_in", (width, LATENT_CHANNELS, 3, 3)
    yield from embedding("time_embedding", width, 4 * width)
    if network.addition_dim:
        yield from embedding("add_embedding", network.addition_dim, 4 * width)
    skips = [width]
    for level, (out, depth) in enumerate(zip(widths, depths, strict=True)):
        sampler = "downsamplers" if level < last else ""
        inputs = [width] + [out] * (layers - 1)
        yield from block(network, f"down_blocks.{level}", inputs, out, [depth] * layers, sampler)
        skips += [out] * (layers + bool(sampler))
        width = out
    for level, (out, depth) in enumerate(zip(widths[::-1], depths[::-1], strict=True)):
        sampler = "upsamplers" if level < last else ""
        inputs = [before + skips.pop() for before in [width] + [out] * layers]
        yield from block(network, f"up_blocks.{level}", inputs, out, [depth] * (layers + 1), sampler)
        width = out
    # Last though it is used in the middle: the constructor makes it after the lists.
    yield from block(network, "mid_block", [widths[-1]] * 2, widths[-1], [network.mid_layers])
    yield "conv_out", (LATENT_CHANNELS, width, 3, 3)


def embedding(path: str, inputs: int, width: int) -> Iterator[Module]:
    """A TimestepEmbedding."""
    yield f"{path}.linear_1", (width, inputs)
    yield f"{path}.linear_2", (width, width)


def block(
    network: Network, path: str, inputs: Sequence[int], width: int, depths: Sequence[int], sampler: str = ""
) -> Iterator[Module]:
    """One level, or the middle: attentions first, then resnets, then what changes the size.

    inputs: channels into each resnet; depths: transformer blocks of each attention.
    """
    for number, depth in enumerate(depths):
        if depth:
            yield from attention(network, f"{path}.attentions.{number}", width, depth)
    for number, channels in enumerate(inputs):
        yield from resnet(f"{path}.resnets.{number}", channels, width, 4 * network.block_out_channels[0])
    if sampler:
        yield f"{path}.{sampler}.0.conv", (width, width, 3, 3)


def attention(network: Network, path: str, width: int, depth: int) -> Iterator[Module]:
    """A Transformer2DModel of that many blocks: self-attention, attention to the text, feed-forward (GEGLU)."""
    projection = (width, width) if network.linear_projection else (width, width, 1, 1)
    yield f"{path}.proj_in", projection
    for number in range(depth):
        inner = f"{path}.transformer_blocks.{number}"
        for name, context in (("attn1", width), ("attn2", network.cross_attention_dim)):
            yield f"{inner}.{name}.to_q", (width, width)
            yield f"{inner}.{name}.to_k", (width, context)
            yield f"{inner}.{name}.to_v", (width, context)
            yield f"{inner}.{name}.to_out.0", (width, width)
        yield f"{inner}.ff.net.0.proj", (8 * width, width)
        yield f"{inner}.ff.net.2", (width, 4 * width)
    yield f"{path}.proj_out", projection


def resnet(path: str, channels: int, width: int, time: int) -> Iterator[Module]:
    """A ResnetBlock2D."""
    yield f"{path}.conv1", (width, channels, 3, 3)
    yield f"{path}.time_emb_proj", (width, time)
    yield f"{path}.conv2", (width, width, 3, 3)
    if channels != width:
        yield f"{path}.conv_shortcut", (width, channels, 1, 1)


def text_encoder(text: Text) -> Iterator[Module]:
    """The modules of a CLIPTextModel, or of a CLIPTextModelWithProjection."""
    width = text.hidden_size
    for number in range(text.num_layers):
        layer = f"encoder.layers.{number}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"{layer}.self_attn.{name}", (width, width)
        yield f"{layer}.mlp.fc1", (text.mlp_size, width)
        yield f"{layer}.mlp.fc2", (width, text.mlp_size)
    if text.projection_dim:
        yield "text_projection", (text.projection_dim, width)
