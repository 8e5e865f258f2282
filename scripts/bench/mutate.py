"""Adapter files of every dialect, and the many ways to spoil them. For fuzz.py and tests/test_fuzz.py.

A `Style` is what lies on the disk: bytes by relative path, one file or a folder. A mutation takes a random generator
and styles and gives a spoilt one; the same generator gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from difflora.adapters import networks
from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.files import save_adapter

Shapes = Mapping[str, tuple[int, ...]]
Row = tuple[str, str, tuple[int, ...], bytes]
"""A tensor: key, dtype, shape, numbers."""
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "F64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
FILE, FOLDER = "style.safetensors", "style"
MODEL, CONFIG, BUNDLE = "adapter_model.safetensors", "adapter_config.json", "pytorch_lora_weights.safetensors"
WORDS = (
    "difflora.made", "difflora.blend", "difflora.config", "difflora.plan", "difflora.scores", "difflora.segments",
    "difflora.weight", "difflora.family", "difflora.base", "difflora.base_sha256", "difflora.pictures", "difflora.data",
    "difflora.version", "modelspec.trigger_phrase", "modelspec.thumbnail", "modelspec.date", "modelspec.merged_from",
    "modelspec.architecture", "modelspec.title", "modelspec.description", "modelspec.usage_hint", "ss_output_name",
    "ss_base_model_version", "ss_v2", "ss_network_dim", "ss_network_alpha", "ss_num_train_images", "sshs_model_hash",
    "lora_adapter_metadata", "format", "", "__metadata__",
)  # fmt: skip
JSON_WORDS = ("difflora.made", "difflora.blend", "difflora.config", "difflora.plan", "difflora.segments")
PARTS = (
    "lora_down.weight", "lora_up.weight", "lora_mid.weight", "lora_A.weight", "lora_B.weight", "lora_A.default.weight",
    "lora.down.weight", "lora.up.weight", "lora_linear_layer.down.weight", "alpha", "dora_scale", "diff", "diff_b",
    "lora_magnitude_vector", "lora_magnitude_vector.weight", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
    "hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    "oft_blocks", "on_input", "lora_embedding_A", "bias", "w_norm", "scale", "reshape_weight", "lora_down", "alpha\n",
)  # fmt: skip
TEXTS = (
    "", " ", "\n", "a\nb\tc", "\x1b[2J\x1b]0;x\x07", "\u2028\u202e", "日本 🦊", "\ud800", "../../etc/passwd", "/", "\0",
    "[bold]x[/bold]", "%s{0}$HOME", "<b>", "\\" * 200, "'" * 300, "x" * 3000, "-0", "1e999", "NaN", "0x10", "true", "[",
    "{}", "null", "[1, 2]", "owner/name", "base_model.model." * 3, "🦊" * 500,
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 3, 7, 4096, 4097, 2**31, 2**48, 2**63, 10**30, 10**400, 0.5, -0.0, 1.5, 1e-300, 5e-324, 1e300, -1e9,
    999_999_999, math.nan, math.inf, -math.inf, True, False, None, "8", "@deep:120@", "@deep:700@", "@deep:960@",
    "@digits:5000@",
)  # fmt: skip
FLOATS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 6e-8, 6e-5, 65504.0, 3.4028234663852886e38, 1e30, -1e-30)


@dataclass(frozen=True)
class Style:
    """An adapter on the disk."""

    dialect: str
    network: str
    """In NETWORKS, whose shapes it was made for."""
    files: Mapping[str, bytes]
    links: Mapping[str, str] = field(default_factory=dict)
    """Symbolic links, or special files, by relative path: their target, or "fifo", "folder", "socket"."""

    @property
    def main(self) -> str:
        """Where its numbers are, or most of them."""
        tensors = [name for name in self.files if name.endswith(".safetensors")]
        return max(tensors or self.files, key=lambda name: len(self.files[name]))

    @property
    def data(self) -> bytes:
        """The bytes of that file."""
        return self.files[self.main]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))

    def given(self, data: bytes) -> Style:
        """The same with other bytes there."""
        return replace(self, files=dict(self.files) | {self.main: data})

    def rows(self) -> tuple[dict[str, str], list[Row]]:
        """Metadata and tensors of that file."""
        return taken_apart(self.data)

    def joined(self, metadata: Mapping[str, object], rows: Sequence[Row]) -> Style:
        """The same with another header and other numbers, laid out soundly."""
        return self.given(joined(metadata, rows))

    def write(self, folder: Path) -> Path:
        """Everything below the folder; the path to open: the file, or the folder of it."""
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        for name, target in self.links.items():
            special(folder / name, target)
        first = next(iter([*self.files, *self.links])).split("/")[0]
        return folder / first


def special(place: Path, target: str) -> None:
    """A link, or what is no ordinary file."""
    import os
    import socket

    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() or place.is_symlink():
        place.unlink()
    if target == "fifo":
        os.mkfifo(place)
    elif target == "folder":
        place.mkdir()
    elif target == "socket" and len(str(place)) < 100:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(place))
    else:
        place.symlink_to(target)


def taken_apart(data: bytes) -> tuple[dict[str, str], list[Row]]:
    """Metadata and tensors of a sound file."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})
    numbers = data[start:]
    return metadata, [
        (name, row["dtype"], tuple(row["shape"]), numbers[slice(*row["data_offsets"])]) for name, row in header.items()
    ]


def joined(metadata: Mapping[str, object] | None, rows: Sequence[Row]) -> bytes:
    """A file with these tensors one after the other; later ones of a name count."""
    header, numbers = {} if metadata is None else {"__metadata__": dict(metadata)}, bytearray()
    for name, dtype, shape, part in {row[0]: row for row in rows}.values():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(numbers), len(numbers) + len(part)]}
        numbers += part
    return packed(header, bytes(numbers))


def packed(header: object, numbers: bytes = b"") -> bytes:
    """Header and numbers, whatever they are."""
    text = header if isinstance(header, bytes) else dumped(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def dumped(value: object) -> str:
    """JSON, with "@deep:N@" as N brackets and "@digits:N@" as a number of N digits."""
    text = json.dumps(value)
    for mark, made in (("deep", lambda n: "[" * n + "]" * n), ("digits", lambda n: "9" * n)):
        while (at := text.find(f'"@{mark}:')) >= 0:
            end = text.index('@"', at)
            text = text[:at] + made(int(text[at + len(mark) + 3 : end])) + text[end + 2 :]
    return text


def row(name: str, shape: Sequence[int], rng: Random, dtype: str = "F32", size: float = 0.15) -> Row:
    """A tensor of small random numbers."""
    count = math.prod(shape)
    values = torch.randn(count, generator=torch.Generator().manual_seed(rng.getrandbits(32))) * size
    kind = {"F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}.get(dtype, torch.float32)
    return name, dtype, tuple(shape), values.to(kind).view(torch.uint8).numpy().tobytes() if count else b""


# --- sound files

TOY = networks.Network((32, 64), 1, (1, 1), 32, (networks.Text(32, 2, 64),))


def shapes_of(network: networks.Network) -> dict[str, tuple[int, ...]]:
    """The shape of each module by path."""
    found = {f"unet.{path}": shape for path, shape in networks.unet(network)}
    return found | {f"text_encoder.{path}": shape for path, shape in networks.text_encoder(network.text_encoders[0])}


NETWORKS: dict[str, Shapes] = {"toy": shapes_of(TOY), "tiny": networks.modules("tiny")}
FEW = (
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "unet.down_blocks.0.downsamplers.0.conv",
    "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.2", "text_encoder.encoder.layers.0.self_attn.q_proj",
)  # fmt: skip


def random_weights(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Weights of a base that was never trained."""
    rng = torch.Generator().manual_seed(seed)
    return {path: torch.randn(shape, generator=rng) * 0.1 for path, shape in shapes.items()}


def own_styles(network: str, folder: Path) -> list[Style]:
    """What difflora writes itself."""
    shapes, rng, made = NETWORKS[network], torch.Generator().manual_seed(3), []
    layers = {}
    for number, path in enumerate(FEW):
        out, *rest = shapes[path]
        down, up = torch.randn(2 + number, *rest, generator=rng), torch.randn(out, 2 + number, generator=rng)
        layers[path] = Factors(down, up.reshape(out, -1, *[1] * (len(rest) - 1)), 2.5)
    adapter = Adapter(layers, Info("ink", network, network, "inkish"))
    for dialect in ("kohya", "diffusers", "peft"):
        target = folder / "own" / network / dialect / (FOLDER if dialect == "peft" else FILE)
        target.parent.mkdir(parents=True)
        save_adapter(target, adapter, {"ss_output_name": "ink", "modelspec.trigger_phrase": "inkish"}, dialect=dialect)
        made.append(Style(f"own {dialect}", network, read_files(target)))
    return made


def read_files(path: Path) -> dict[str, bytes]:
    """The files of an adapter by relative path; the name is always the same."""
    if path.is_file():
        return {FILE: path.read_bytes()}
    return {f"{FOLDER}/{p.relative_to(path)}": p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def foreign_styles(network: str, folder: Path) -> list[Style]:
    """What the independent writers of tests/dialect_files.py write, where they are."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    try:
        from dialect_files import OTHERS, PLAIN
    except ImportError:
        return []
    shapes, made = NETWORKS[network], []
    weights = random_weights(shapes, 0)
    for name, writer in (PLAIN | OTHERS).items():
        place = folder / "foreign" / network / name
        if name.startswith("real-") or (network == "tiny" and name not in TINY):
            continue
        place.mkdir(parents=True)
        path = writer(place, shapes, weights, 1)[0]
        files = read_files(path)
        if path.name == BUNDLE:
            files = {f"{FOLDER}/{BUNDLE}": files[FILE]} if name.endswith("patterns") else files
        made.append(Style(name, network, files))
    return made


TINY = ("kohya", "loha", "lokr", "dora-by-input", "diffusers", "peft")


def styles() -> list[Style]:
    """Sound files of every dialect."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        return [
            style for network in NETWORKS for make in (own_styles, foreign_styles) for style in make(network, folder)
        ]


# --- bytes


def flip(rng: Random, data: bytes, low: int, high: int, most: int = 8) -> bytes:
    """Some bytes changed."""
    new = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(low, max(low + 1, min(high, len(new))))
        new[at] = rng.choice((rng.randrange(256), new[at] ^ (1 << rng.randrange(8)), *b'0"{}[],:\\'))
    return bytes(new)


def flipped_header(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    start = 8 + int.from_bytes(style.data[:8], "little")
    return style.given(flip(rng, style.data, rng.choice((0, 8, 8, 8)), start))


def flipped_numbers(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    start = 8 + int.from_bytes(style.data[:8], "little")
    return style.given(flip(rng, style.data, start, len(style.data), 64))


def truncated(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    start = 8 + int.from_bytes(style.data[:8], "little")
    return style.given(style.data[: rng.choice((rng.randrange(len(style.data)), rng.randrange(start + 9)))])


def appended(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    return style.given(style.data + rng.randbytes(rng.choice((1, 4, 100, 70_000))))


def spliced(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    other, data = rng.choice(every).data, style.data
    a, b, size = rng.randrange(len(data)), rng.randrange(len(other)), rng.choice((1, 7, 64, 1000))
    return style.given(data[:a] + other[b : b + size] + data[a + rng.choice((0, size)) :])


# --- headers


def header_edited(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    """JSON of the header changed, with the numbers left where they are."""
    start = 8 + int.from_bytes(style.data[:8], "little")
    header = json.loads(style.data[8:start])
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.5:
            names = list(header)
            name, other = rng.choice(names), rng.choice(names)
            what = rng.choice(("dtype", "shape", "data_offsets"))
            if isinstance(header[name], dict) and isinstance(header[other], dict) and what in header[other]:
                header[name] = dict(header[name]) | {what: header[other][what]}
        else:
            header = edited(rng, header)
            header = header if isinstance(header, dict) and header else {"a": header}
    return style.given(packed(header, style.data[start:]))


def edited(rng: Random, value: object, depth: int = 0) -> object:
    """JSON with one thing changed somewhere inside."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        new, key = dict(value), rng.choice(list(value))
        how = rng.random()
        if how < 0.1:
            del new[key]
        elif how < 0.2:
            new[rng.choice((*TEXTS, "r", f"{key}x"))] = new.pop(key)
        elif how < 0.3:
            new[rng.choice((*TEXTS, "shape"))] = anything(rng)
        else:
            new[key] = edited(rng, value[key], depth + 1)
        return new
    if isinstance(value, list) and value and rng.random() < 0.8:
        new, at = list(value), rng.randrange(len(value))
        how = rng.random()
        if how < 0.15:
            del new[at]
        elif how < 0.3:
            new.insert(at, rng.choice((0, 1, anything(rng))))
        else:
            new[at] = edited(rng, value[at], depth + 1)
        return new
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**70 and rng.random() < 0.5:
        return rng.choice((value + 1, value - 1, value * 2, -value, value * 1.0, str(value)))
    return anything(rng)


def anything(rng: Random, depth: int = 0) -> object:
    """Any JSON."""
    how = rng.random()
    if how < 0.4 or depth > 2:
        return rng.choice(NUMBERS)
    if how < 0.65:
        return rng.choice(TEXTS)
    if how < 0.8:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(rng.choice((*TEXTS, "r", "name", "sha256"))): anything(rng, depth + 1) for _ in range(rng.randrange(4))}


# --- tensors


def tensors_edited(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    """Names, shapes and numbers changed, in a file that is sound as a file."""
    metadata, rows = style.rows()
    for _ in range(rng.choice((1, 1, 2, 4))):
        how = rng.choice(EDITS)
        rows = how(rng, rows, every)
        if not rows:
            break
    return style.joined(metadata, rows)


def one(rng: Random, rows: list[Row], change: Callable[[Row], Row]) -> list[Row]:
    at = rng.randrange(len(rows))
    return [*rows[:at], change(rows[at]), *rows[at + 1 :]]


def parts_renamed(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    part = rng.choice(PARTS)
    if rng.random() < 0.3:
        old, new = rng.sample(("hada", "lokr", "lora", "w1", "w2", "_a", "_b", "down", "up", "t1", "alpha"), 2)
        return [(name.replace(old, new), *rest) for name, *rest in rows]
    return one(rng, rows, lambda r: (f"{module(r[0])}.{part}", *r[1:]))


def module(key: str) -> str:
    """The name before the part, roughly."""
    for mark in (".lora_", ".lora.", ".hada_", ".lokr_", ".alpha", ".dora_scale", ".diff"):
        if mark in key:
            return key[: key.index(mark)]
    return key


def modules_renamed(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    prefixes = (
        "lora_unet_",
        "lora_te_",
        "lora_te1_",
        "lora_te2_",
        "lycoris_",
        "unet.",
        "text_encoder.",
        "diffusion_model.",
    )
    prefixes += (
        "base_model.model.",
        "base_model.model." * rng.choice((2, 400, 1200)),
        "text_encoders.clip_l.transformer.",
        "",
    )
    mine = rng.choice(rows)[0]
    other = rng.choice(rng.choice(every).rows()[1])[0]
    old, new = rng.choice(prefixes), rng.choice(prefixes)
    if rng.random() < 0.4:
        new = rng.choice((*TEXTS, module(other), "a" * 2000, "a." * 500, "lora_" * 300))
        return [(name.replace(module(mine), new), *rest) for name, *rest in rows]
    return [(new + name.removeprefix(old), *rest) for name, *rest in rows]


def removed(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    gone = {rng.randrange(len(rows)) for _ in range(rng.choice((1, 1, 3)))}
    return [r for at, r in enumerate(rows) if at not in gone]


def only_one(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    kept = module(rng.choice(rows)[0])
    return [r for r in rows if module(r[0]) == kept]


def shapes_swapped(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    a, b = rng.choice(rows), rng.choice(rows)
    names = {a[0]: (a[0], *b[1:]), b[0]: (b[0], *a[1:])}
    return [names.get(r[0], r) for r in rows]


def reshaped(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    """The same numbers in another shape, or another number of them."""

    def change(r: Row) -> Row:
        name, dtype, shape, part = r
        count = math.prod(shape)
        how = rng.randrange(10)
        new = {
            0: shape[::-1], 1: (*shape, 1), 2: (1, *shape), 3: (count,), 4: (count, 1), 5: (1, count),
            6: (*shape, 1, 1), 7: (), 8: tuple(shape[:1]), 9: tuple(rng.choice((0, 1, 2, 3, 4, n)) for n in shape),
        }[how]  # fmt: skip
        if rng.random() < 0.2:
            divisor = rng.choice((2, 3, 4, 9))
            new = (*shape[:-1], shape[-1] // divisor, divisor) if shape and shape[-1] % divisor == 0 else (*shape, 2)
        if rng.random() < 0.05:
            new = rng.choice(((0, 2**47), (2**40, 0, 2**40), (0, 2**47, 2**47, 2**47), (0,), (0, 0, 0, 0)))
        size = math.prod(new) * SIZES.get(dtype, 4)
        return name, dtype, new, (part * (1 + size // max(1, len(part))))[:size]

    return one(rng, rows, change)


def alpha_changed(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    name = module(rng.choice(rows)[0]) + ".alpha"
    shape = rng.choice(((), (), (1,), (1, 1), (1, 1, 1, 1), (2,), (0,), (3, 3)))
    dtype = rng.choice(("F32", "F16", "BF16", "I64", "I32"))
    value = rng.choice((*FLOATS, 1.0, -3.0, 2.0**62))
    if dtype == "F32":
        part = struct.pack("<f", value)
    else:
        part = rng.choice((rng.randbytes(8), b"\xff" * 8, bytes(7) + b"\x80", bytes(8)))[: SIZES[dtype]]
    return [r for r in rows if r[0] != name] + [(name, dtype, shape, part * math.prod(shape))]


def numbers_changed(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    """Everything, or one number, not finite, tiny or huge."""
    value, whole = rng.choice(FLOATS), rng.random() < 0.6

    def change(r: Row) -> Row:
        name, dtype, shape, part = r
        if dtype not in ("F32", "F16", "BF16") or not part:
            return r
        kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
        number = torch.tensor([value], dtype=torch.float64).to(kind).view(torch.uint8).numpy().tobytes()
        if whole:
            return name, dtype, shape, number * (len(part) // len(number))
        at = rng.randrange(len(part) // len(number)) * len(number)
        return name, dtype, shape, part[:at] + number + part[at + len(number) :]

    return [change(r) for r in rows] if rng.random() < 0.4 else one(rng, rows, change)


def dtype_changed(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    dtype = rng.choice((*SIZES, "F16", "BF16"))

    def change(r: Row) -> Row:
        size = math.prod(r[2]) * SIZES[dtype]
        return r[0], dtype, r[2], (r[3] * (1 + size // max(1, len(r[3]))))[:size]

    return [change(r) for r in rows] if rng.random() < 0.2 else one(rng, rows, change)


def mixed(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    """Modules in two dialects, in any order."""
    other = rng.choice(every).rows()[1]
    both = [*rows, *rng.sample(other, rng.randint(1, len(other)))]
    rng.shuffle(both)
    return both


def magnitudes(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    name = module(rng.choice(rows)[0])
    n = rng.choice((1, 2, 32, 64, 96, 256))
    shape = rng.choice(((n,), (1, n), (n, 1), (1, n, 1, 1), (n, 1, 1, 1), (1, 1, n), (n, n), (), (0,), (n, 1, 2)))
    part = rng.choice(("dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.default.weight"))
    return [*rows, row(f"{name}.{part}", shape, rng)]


def invented(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    """Parts of any kind for one module, of shapes that nearly fit together."""
    name, shape = module(rng.choice(rows)[0]), rng.choice(rows)[2]
    pool = [*shape, 1, 1, 2, 3, 4, 8, 16, 32, 64]
    family = rng.choice(("hada", "lokr", "lora", "diff", "d"))
    wanted = [part for part in PARTS if part.startswith(family)]
    rest = [r for r in rows if module(r[0]) != name]
    for part in rng.sample(wanted, rng.randint(1, len(wanted))):
        axes = [rng.choice(pool) for _ in range(rng.choice((1, 2, 2, 2, 3, 4)))]
        while math.prod(axes) > 2**16:
            axes.pop()
        if rng.random() < 0.8:
            rest.append(row(f"{name}.{part}", axes, rng))
    return rest


def padded(rng: Random, rows: list[Row], every: Sequence[Style]) -> list[Row]:
    """One axis of the same size as before, and ones about it."""

    def change(r: Row) -> Row:
        name, dtype, shape, part = r
        new = [*shape]
        for _ in range(rng.randint(1, 2)):
            new.insert(rng.randint(0, len(new)), 1)
        return name, dtype, tuple(new[:4]), part

    return one(rng, rows, lambda r: change(r) if len(r[2]) < 3 else r)


EDITS = (
    parts_renamed, parts_renamed, modules_renamed, removed, only_one, shapes_swapped, reshaped, reshaped, alpha_changed,
    numbers_changed, dtype_changed, mixed, magnitudes, invented, padded, padded,
)  # fmt: skip


# --- words

RECIPES: dict[str, object] = {
    "difflora.made": {
        "verb": "convert", "name": "good", "sources": [{"name": "good", "sha256": "@sha@"}], "to": "kohya",
        "precision": "fp32", "rank": None, "max_error": None, "version": "1",
    },
    "difflora.blend": [
        {"name": "good", "weight": 0.5, "sha256": "@sha@"}, {"name": "other", "weight": -1.0, "sha256": "@sha2@"},
    ],
    "difflora.config": {
        "images": ".", "rank": 4, "base": "tiny", "trigger": "x", "preview_prompts": ["a"], "steps": 10, "seed": 1,
    },
    "difflora.plan": {"rank": 4, "alpha": 4.0, "steps": 10, "learning_rate": 1e-3, "batch": 1},
    "difflora.segments": [[10, 20], [20, 40]],
    "difflora.scores": {"style": 0.1},
    "lora_adapter_metadata": {
        "unet.r": 4, "unet.lora_alpha": 2.0, "unet.rank_pattern": {"to_q": 4, "attn1.to_q": 2}, "text_encoder.r": 3,
        "unet.alpha_pattern": {"to_q": 2.0, "^down.*": 1}, "unet.init_lora_weights": True, "unet.use_rslora": False,
    },
}  # fmt: skip


def words_edited(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    """Any rows of the header, JSON inside them nearly right."""
    metadata, rows = style.rows()
    for _ in range(rng.choice((1, 1, 2, 5))):
        key = rng.choice((*WORDS, *JSON_WORDS))
        if key in RECIPES and rng.random() < 0.85:
            value = parsed(metadata.get(key, "")) if rng.random() < 0.6 else None
            value = value or RECIPES[key]
            for _ in range(rng.choice((0, 1, 1, 2))):
                value = edited(rng, value)
            metadata[key] = dumped(value)
        else:
            metadata[key] = whole(rng.choice((*TEXTS, str(rng.choice(NUMBERS[:12])), dumped(anything(rng)))))
    return style.joined(metadata, rows)


def parsed(text: str) -> object:
    """JSON, or nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def whole(text: str) -> str:
    """Text that can stand in a file."""
    return text.encode(errors="replace").decode()


def thumbnail(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    """A picture in the header, spoilt."""
    metadata, rows = style.rows()
    mode = rng.choice(("RGB", "RGBA", "P", "L", "1", "I;16", "CMYK", "LA"))
    kind = rng.choice(("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"))
    side = rng.choice((1, 8, 1024, 1025))
    buffer = io.BytesIO()
    try:
        Image.new(mode, (side, rng.choice((1, 8)))).save(
            buffer, kind, **({"transparency": b"\0"} if mode == "P" else {})
        )
    except (OSError, ValueError, KeyError, TypeError):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data = buffer.getvalue()
    if rng.random() < 0.3 and data.startswith(b"\x89PNG"):
        size = struct.pack(">II", rng.choice((10_000, 30_000, 2**31 - 1, 0)), rng.choice((10_000, 30_000, 1)))
        data = data[:16] + size + data[24:]
        import zlib

        data = data[:29] + zlib.crc32(data[12:29]).to_bytes(4, "big") + data[33:]
    elif rng.random() < 0.7:
        data = flip(rng, data, 0, len(data), 12)
    text = base64.b64encode(data).decode()
    metadata["modelspec.thumbnail"] = rng.choice(
        (f"data:image/webp;base64,{text}",) * 6
        + (text, f"data:text/html;base64,{text}", f"data:image/png;base64,{text}=é")
    )
    return style.joined(metadata, rows)


def config_edited(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    """A PEFT folder whose adapter_config.json says odd things."""
    folders = [s for s in every if any(name.endswith(CONFIG) for name in s.files)]
    style = rng.choice([s for s in folders if s.network == style.network] or folders or [style])
    name = next((name for name in style.files if name.endswith(CONFIG)), f"{FOLDER}/{CONFIG}")
    value = json.loads(style.files.get(name, b"{}"))
    if rng.random() < 0.15:
        kinds = (b"", b"\xff\xfe", b"[]", b"\xef\xbb\xbf{}", b"[" * 5000, b"9" * 5000, rng.randbytes(50), b"{" * 800)
        return replace(style, files=dict(style.files) | {name: rng.choice(kinds)})
    more = {
        "peft_type": ("LORA", "LOHA", "LOKR", "OFT", "IA3", 3),
        "init_lora_weights": ("pissa", "PiSSA_niter_4", [], "@deep:700@"),
        "fan_in_fan_out": (True, "yes", 1), "use_rslora": (True, 1, "x"), "layer_replication": ([[0, 1]], [], 0),
        "rank_pattern": ({"to_q": 0}, {"": 3}, {"(a+)+$": 3}, {"\\": 2}, []),
        "alpha_pattern": ({"to_q": -1}, {"^to_q$": 1e-300}, 7),
        "r": (0, 1, 4096, 10**8, 2.5), "lora_alpha": (0, -1, 1e-300, 999_999_999, 10**400),
    }  # fmt: skip
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.5:
            key = rng.choice(list(more))
            value = (value if isinstance(value, dict) else {}) | {key: rng.choice((*more[key], anything(rng)))}
        else:
            value = edited(rng, value)
    return replace(style, files=dict(style.files) | {name: dumped(value).encode()})


def sidecar(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    """What A1111 keeps beside a file, spoilt."""
    value: object = {"preferred weight": 0.7, "activation text": "ink", "description": "", "sd version": "SD1"}
    for _ in range(rng.randint(1, 3)):
        value = edited(rng, value)
    kinds = (dumped(value).encode(), b"", b"\xff" * 9, b"[" * 3000, b'{"preferred weight": ' + b"9" * 5000 + b"}")
    files = {FILE: style.data, "style.json": rng.choice((kinds[0], kinds[0], kinds[0], *kinds))}
    links = {"style.json": rng.choice(("fifo", "folder", "style.json", "/dev/zero", "/proc/self/mem"))}
    return replace(style, files=files, links=links if rng.random() < 0.1 else {})


# --- the disk


STEMS = (
    "a\nb", "\x1b[2J", "\udcff\udcfe", " ", ".", "..", ".hidden", "x" * 240, "🦊" * 60, "[b]", "a:1", "-x", "a.b.c",
    "\u202e", "%s",
)  # fmt: skip
TARGETS = (
    "fifo", "folder", "socket", "loop", "nowhere", "..", "/", "/dev/zero", "/dev/null", "/dev/random",
    "/proc/self/mem", "/proc/self/status",
)  # fmt: skip


def file_named(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    """A name that nobody should have chosen."""
    stem = rng.choice(STEMS)
    if FILE in style.files:
        ending = rng.choice((".safetensors", ".safetensors", ".SafeTensors", ".bin", ""))
        name = f"{stem}{ending}" if stem + ending not in (".", "..") else "...safetensors"
        return replace(style, files={name: style.data})
    name = stem if stem not in (".", "..") else "a"
    inner = rng.choice((MODEL, BUNDLE, "unet/" + MODEL, "\udcffa\n.bin", "a\x1b[2J.ckpt", "x.safetensors"))
    return replace(style, files={f"{name}/{inner}": style.data, f"{name}/{CONFIG}": b"{}"})


def disk(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    """Links and what is no ordinary file, in the place of the adapter or of a part of it."""
    target = rng.choice(TARGETS)
    place = rng.choice(
        (
            FILE,
            f"{FOLDER}/{MODEL}",
            f"{FOLDER}/{CONFIG}",
            f"{FOLDER}/{BUNDLE}",
            f"{FOLDER}/unet/{MODEL}",
            f"{FOLDER}/unet",
        )
    )
    target = Path(place).name if target == "loop" else target
    files = {} if place == FILE else {f"{FOLDER}/{MODEL}": style.data} if rng.random() < 0.6 else {}
    files = {name: data for name, data in files.items() if name != place}
    return replace(style, files=files, links={place: target})


# --- much from little


def ranked(rng: Random) -> Sequence[Row]:
    """The largest rank there may be, or one more, of a few numbers a row."""
    rank, out = rng.choice((4096, 4097, 3000)), "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    return [
        row(f"{out}.lora_down.weight", (rank, 32), rng, "F16"),
        row(f"{out}.lora_up.weight", (32, rank), rng, "F16"),
    ]


def many_tensors(rng: Random) -> Sequence[Row]:
    """As many tensors as there may be, of names of any sort."""
    count, name = (
        rng.choice((2000, 5000, 20_000)),
        rng.choice(("lora_unet_{}.alpha", "unet.a.{}.lora_A.weight", "{}", "x.{}.diff")),
    )
    return [(name.format(n), "F32", (), bytes(4)) for n in range(count)]


def many_spellings(rng: Random) -> Sequence[Row]:
    """One module under thousands of names."""
    path = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    names = [path.replace("_", ".", n % 9).replace("attn1", rng.choice(("attn1", "attn2"))) for n in range(9)]
    return [(f"{'base_model.model.' * (n // 9)}unet.{names[n % 9]}.alpha", "F32", (), bytes(4)) for n in range(150)]


def long_names(rng: Random) -> Sequence[Row]:
    """Names of many thousand letters, made of what names are made of."""
    piece = rng.choice(
        ("base_model.model.", "a.", "_", ".lora_", "text_model_", ".to_out", ".processor.to_q_lora", "x", ".a")
    )
    piece = piece * (rng.choice((3000, 100_000)) // len(piece))
    heads, ends = (
        ("", "unet.", "lora_unet_", "lycoris_", "base_model.model."),
        (".alpha", "", ".lora_A.weight", ".processor.to_q_lora.down.weight"),
    )
    return [(f"{rng.choice(heads)}{piece}{n}{rng.choice(ends)}", "F32", (), bytes(4)) for n in range(3)]


def products(rng: Random) -> Sequence[Row]:
    """Updates of a few numbers for the widest layers of the largest family, many of them."""
    shapes, rows = networks.modules("sdxl"), []
    paths = [path for path, shape in shapes.items() if math.prod(shape) > 5_000_000]
    how = rng.choice(("loha", "loha t", "lokr", "lokr t", "lora", "dora"))
    for path in rng.sample(paths, rng.choice((1, 1, 12))):
        (out, inner, *kernel), name = shapes[path], path.removeprefix("unet.").replace(".", "_")
        name = f"lora_unet_{name}" if path.startswith("unet.") else path
        half = {"a": (out, 1), "b": (1, inner * math.prod(kernel))}
        if how == "loha":
            rows += [row(f"{name}.hada_w{n}_{side}", half[side], rng, "F16") for n in (1, 2) for side in "ab"]
        elif how == "loha t":
            rows += [row(f"{name}.hada_t{n}", (1, 1, *kernel), rng, "F16") for n in (1, 2)]
            rows += [
                row(f"{name}.hada_w{n}_{side}", (1, size), rng, "F16")
                for n in (1, 2)
                for side, size in (("a", out), ("b", inner))
            ]
        elif how == "lokr":
            rows += [
                row(f"{name}.lokr_w1", (out // 4, 1), rng),
                row(f"{name}.lokr_w2", (4, inner, *kernel), rng, "F16"),
            ]
        elif how == "lokr t":
            rows += [
                row(f"{name}.lokr_w1", (out // 4, inner // 4), rng, "F16"),
                row(f"{name}.lokr_t2", (1, 1, *kernel), rng),
            ]
            rows += [row(f"{name}.lokr_w2_a", (1, 4), rng), row(f"{name}.lokr_w2_b", (1, 4), rng)]
        else:
            rows += [
                row(f"{name}.lora_down.weight", (1, inner, *kernel), rng, "F16"),
                row(f"{name}.lora_up.weight", (out, 1), rng, "F16"),
            ]
            rows += [row(f"{name}.dora_scale", (out, 1), rng, "F16")] if how == "dora" else []
    return rows


def empty_giants(rng: Random) -> Sequence[Row]:
    """Tensors without numbers whose axes are huge."""
    shape = rng.choice(((0, 2**47), (2**47, 0), (0, 2**47, 2**47, 2**47), (2**40, 2**40, 0)))
    return [(f"lora_unet_conv_in.{part}", "F16", shape, b"") for part in rng.sample(PARTS, 4)]


def plain_rows(rng: Random) -> Sequence[Row]:
    """Sound factors in PEFT's names, whose scale is in the header."""
    paths = [path for path, shape in NETWORKS["toy"].items() if len(shape) == 2]
    rows = []
    for path in paths:
        out, inner = NETWORKS["toy"][path]
        rows += [
            row(f"{path}.lora_A.weight", (2, inner), rng, "F16"),
            row(f"{path}.lora_B.weight", (out, 2), rng, "F16"),
        ]
    return rows


def patterns(rng: Random) -> dict[str, str]:
    """Thousands of patterns, those that fit at the end."""
    values = {f"a{n}": 1 for n in range(rng.choice((3000, 30_000)))} | {
        "to_q": 2,
        "attn1.to_q": 2,
        "to_k": 1,
        "attn1.to_k": 3,
    }
    networks_ = {f"n{n}.r": 1 for n in range(rng.choice((0, 3000, 20_000)))}
    whole_ = networks_ | {"unet.r": 2, "unet.alpha_pattern": values, "unet.rank_pattern": values}
    return {"lora_adapter_metadata": json.dumps(whole_, separators=(",", ":"))}


def bulky(rng: Random) -> dict[str, str]:
    """JSON that is larger in memory than on the disk."""
    text = rng.choice(
        (
            "[" + "[]," * 90_000 + "[]]",
            "[" + "{}," * 90_000 + "{}]",
            '{"sources":[' + "[]," * 90_000 + "[]]}",
            "[" * 900 + "]" * 900,
            "1" * 4000,
        )
    )
    return {
        rng.choice(JSON_WORDS): text,
        "modelspec.thumbnail": "data:image/png;base64," + "A" * rng.choice((0, 300_000)),
    }


def monster(rng: Random, style: Style, every: Sequence[Style]) -> Style:
    """A few hundred kilobytes that ask for much more."""
    make = rng.choice(MONSTERS)
    if make in (patterns, bulky):
        rows, words = (plain_rows(rng), make(rng)) if make is patterns else (style.rows()[1], make(rng))
    else:
        rows, words = make(rng), {}
    return Style(f"monster {make.__name__}", "toy", {FILE: joined(words, rows)})


MONSTERS = (ranked, many_tensors, many_spellings, long_names, products, empty_giants, patterns, bulky)


KINDS: dict[str, Callable[[Random, Style, Sequence[Style]], Style]] = {
    "sound": lambda rng, style, every: style,
    "header bytes": flipped_header,
    "number bytes": flipped_numbers,
    "truncated": truncated,
    "appended": appended,
    "spliced": spliced,
    "header JSON": header_edited,
    "tensors": tensors_edited,
    "words": words_edited,
    "thumbnail": thumbnail,
    "adapter_config": config_edited,
    "sidecar": sidecar,
    "file name": file_named,
    "disk": disk,
    "monster": monster,
}
