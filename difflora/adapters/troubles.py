"""What is wrong with an adapter file, and whether it can be mended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from .families import Match
from .forms import arrow, fits, forms, magnitude_fits
from .header import shown
from .metadata import FAMILIES
from .names import ALPHA, split_key
from .places import Source

SHOWN = 3


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong."""

    text: str
    grave: bool = False
    """Whether the file is refused because of it."""
    mends: bool = True
    """Whether a repaired copy is without it; what cannot be read is left out of that copy."""

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return asdict(self)


def header_troubles(found: Sequence[Source], base: Match) -> Iterator[Trouble]:
    """What shows in the headers, the gravest first."""
    if not base.shapes:
        yield Trouble("no family that is known here has modules of these names and sizes: give --base", False, False)
        return
    for source in found:
        yield from key_troubles(source, base)
    if not all(source.header.tensors for source in found):
        yield Trouble("there are no tensors in it", grave=True, mends=False)
    names = [split_key(key) for source in found for key in source.header.tensors]
    modules = {name.module for name in names if name.part}
    dialects = {dialect for source in found for dialect in base.found(source).dialects}
    if len(dialects) > 1:
        yield Trouble(f"names of {' and '.join(sorted(dialects))} in one file: diffusers drops one of them")
    if base.family != "sdxl" and any(name.startswith("lora_te1_") for name in modules):
        yield Trouble("the text encoder is called lora_te1_: InvokeAI leaves it out of an SD 1 or 2 file")
    if any(name.startswith(("lora_te1_encoder", "lora_te2_encoder", "lora_te_encoder")) for name in modules):
        yield Trouble("the text encoder's names lack text_model: most programs leave it out")
    with_alpha = {name.module for name in names if name.part == ALPHA}
    kohya = {name for name in modules if name.startswith(("lora_", "lycoris_"))}
    lacking = len(kohya - with_alpha)
    if lacking and with_alpha:
        some = "read as their rank, but by diffusers as the commonest of the others"
        yield Trouble(f"{lacking} of {len(kohya)} modules have no alpha: {some}")
    yield from word_troubles(found[0].header.metadata, base)


def key_troubles(source: Source, base: Match) -> Iterator[Trouble]:
    """Keys without a place, modules that are damaged or of another size."""
    shapes, placed = source.header.shapes(), base.found(source)
    broken, misfits = [], []
    for path, form in forms(placed.modules, shapes).items():
        name = shown(split_key(next(iter(placed.modules[path].values()))).module)
        if form.trouble:
            broken.append(f"{name} {form.trouble}")
        elif not fits(form, base.shapes[path]):
            misfits.append(f"{name} is {arrow(form.shape)}, in {base.family or 'the base'} {arrow(base.shapes[path])}")
        elif wrong := magnitude_fits({p: shapes[key] for p, key in placed.modules[path].items()}, base.shapes[path]):
            broken.append(f"{name} {wrong}")
    for texts, what in ((broken, "damaged"), (misfits, "of another size"), (placed.unknown, "without a place")):
        if texts:
            yield Trouble(f"{counted(texts, 'module')} {what}: {listed(texts)}", grave=True)
    if placed.foreign:
        keys = counted(placed.foreign, "key")
        yield Trouble(f"{keys} of no kind of LoRA that can be drawn: {listed(placed.foreign)}", grave=True)


def word_troubles(metadata: Mapping[str, str], base: Match) -> Iterator[Trouble]:
    """What the header says of the family, against what the shapes say."""
    if base.family not in FAMILIES:
        return
    version, architecture, _ = FAMILIES[base.family]
    said = metadata.get("ss_base_model_version", "")
    if said and not said.startswith(version):
        yield Trouble(f"it says ss_base_model_version {shown(said)!r}, its shapes are {base.family}: A1111 hides it")
    spoken = metadata.get("modelspec.architecture", "")
    if spoken and not spoken.startswith(architecture.partition("-768")[0].removesuffix("-base")):
        yield Trouble(f"it says modelspec.architecture {shown(spoken)!r}, its shapes are {base.family}: Forge hides it")
    if not spoken:
        yield Trouble("no modelspec.architecture: Forge lists an SD 1 file without it as Unknown")


def counted(things: Sequence[object], noun: str) -> str:
    """ "1 module", "2 modules"."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def listed(texts: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = f"; … and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
