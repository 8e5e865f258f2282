"""What is wrong with an adapter file, and whether it can be mended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from .families import KNOWN, Match
from .fitting import fault_of
from .forms import forms
from .header import shown
from .metadata import SPOKEN
from .names import ALPHA, split_key
from .places import Source
from .programs import BARE_TEXT

SHOWN = 3


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong."""

    text: str
    grave: bool = False
    """Whether the file is refused because of it."""
    mends: bool = True
    """Whether a repaired copy is without it; what cannot be read is left out of that copy."""
    items: tuple[str, ...] = ()
    """All that it is about, of which the text shows the first few."""

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return asdict(self)


def header_troubles(found: Sequence[Source], base: Match) -> Iterator[Trouble]:
    """What shows in the headers, the gravest first."""
    if not base.shapes:
        yield Trouble("no family that is known here has modules of these names and sizes: give --base", True, False)
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
    if any(name.startswith(BARE_TEXT) for name in modules):
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
    made = forms(placed.modules, shapes)
    wrong = [f for path, keys in placed.modules.items() if (f := fault_of(keys, made[path], shapes, base.shapes[path]))]
    for misfit, what in ((False, "damaged"), (True, "of another size")):
        if texts := [f"{fault.name} {fault.text}" for fault in wrong if fault.misfit is misfit]:
            yield trouble(texts, "module", what, grave=True)
    if placed.unknown:
        yield trouble(placed.unknown, "module", "without a place", grave=True)
    if placed.foreign:
        yield trouble(placed.foreign, "key", "of no kind of LoRA that can be drawn", grave=True)


def word_troubles(metadata: Mapping[str, str], base: Match) -> Iterator[Trouble]:
    """What the header says of the family, against what the shapes say."""
    if base.family not in SPOKEN:
        return
    said = metadata.get("ss_base_model_version", "")
    if said and not said.startswith(SPOKEN[base.family].version):
        yield Trouble(f"it says ss_base_model_version {shown(said)!r}, its shapes are {base.family}: A1111 hides it")
    spoken = metadata.get("modelspec.architecture", "")
    if spoken and not spoken.startswith(SPOKEN[base.family].architecture):
        yield Trouble(f"it says modelspec.architecture {shown(spoken)!r}, its shapes are {base.family}: Forge hides it")
    own = metadata.get(KNOWN, "")
    if own and own != base.family:
        yield Trouble(f"it says {KNOWN} {shown(own)!r}, its shapes are {base.family}: it is refused there", grave=True)
    if not spoken and base.family == "sd1":
        yield Trouble("no modelspec.architecture: Forge lists it as Unknown")


def trouble(items: Sequence[str], noun: str, what: str, grave: bool = False, mends: bool = True) -> Trouble:
    """A trouble with several things, the first few of them shown."""
    return Trouble(f"{counted(items, noun)} {what}: {listed(items)}", grave, mends, tuple(items))


def counted(things: Sequence[object], noun: str) -> str:
    """ "1 module", "2 modules"."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def listed(texts: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = f"; … and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
