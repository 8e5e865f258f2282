"""Which programs load a file, and at which strength. Knows no tensors.

By running each one's own loading code on files of every dialect, outside this project: A1111 1.10.1, Forge dfdcbab,
ComfyUI a125cd8, InvokeAI 8e71a8a, diffusers 0.42.1 with PEFT 0.21.2; docs/formats.md has the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from .forms import PLAIN
from .names import ALPHA, COLUMNS, MID, ROWS, module_of
from .settings import Settings

PROGRAMS = ("A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers")
KOHYA = ("kohya", "kohya (original blocks)")
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
BARE_TEXT = ("lora_te1_encoder", "lora_te2_encoder", "lora_te_encoder")
UPSAMPLER = "lora_unet_up_blocks_0_upsamplers_0_conv"
Alphas = Mapping[str, tuple[float | None, int]]
Reasons = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Facts:
    """What decides how a file is read."""

    dialects: tuple[str, ...]
    family: str
    kinds: frozenset[str]
    names: frozenset[str]
    """Of the modules, as the file has them."""
    parts: frozenset[str]
    """Which parts some module has, such as lora_mid."""
    by_output: bool
    """Whether some dora_scale has a number for each output."""
    foreign: tuple[str, ...]
    """Keys that are no part of an adapter, as what they are."""
    alphas: Alphas
    """(alpha, rank) by module path; None where no number was read."""
    without: bool
    """Whether some module has no alpha of its own."""
    metadata: Mapping[str, str]
    settings: Mapping[str, Settings]
    folder: bool

    def measured(self) -> bool:
        """Whether some alpha was read."""
        return any(alpha is not None for alpha, _ in self.alphas.values())

    def named(self, *dialects: str) -> bool:
        """Whether some names are of one of these dialects."""
        return bool(set(dialects) & set(self.dialects))


@dataclass(frozen=True)
class Verdict:
    """What one program makes of a file."""

    program: str
    loads: str
    """yes, partly, no or unsure."""
    strength: str
    """1 as it was made; a number or a range of what was meant; nothing where it is not loaded."""
    why: str = ""

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return asdict(self)


def verdicts(facts: Facts) -> Iterator[Verdict]:
    """Each program's, in a fixed order; none where the family is not known: they may know more."""
    if not facts.family:
        return
    for program in PROGRAMS:
        loads, reasons = "yes", []
        for worse, why in REASONS[program](facts):
            loads = max(loads, worse, key=("yes", "partly", "unsure", "no").index)
            reasons.append(why)
        unread = program == "diffusers" and facts.named(*KOHYA) and ALPHA in facts.parts and not facts.measured()
        if unread and loads != "no":
            reasons.append("the strength hangs on alphas, which are not read")
        strength = "" if loads == "no" or unread else in_words(strengths(program, facts))
        yield Verdict(program, loads, strength, "; ".join(dict.fromkeys(reasons)))


def strengths(program: str, facts: Facts) -> dict[str, float]:
    """How strongly the program draws each module, of what was meant, where that is not 1."""
    if program == "diffusers":
        return diffusers_strengths(facts)
    if not facts.named("diffusers", "old diffusers", "PEFT"):
        return {}
    # They know no lora_adapter_metadata: a file without alphas is drawn at scale 1.
    found = {}
    for path, (alpha, rank) in facts.alphas.items():
        told = facts.settings.get(path.partition(".")[0]) or facts.settings.get("")
        scale = told.scale(module_of(path), rank) if told and rank else 1.0
        if abs(scale - 1) > 1e-6 and scale and not (facts.named(*KOHYA) and alpha):
            found[path] = 1 / scale
    return found


def diffusers_strengths(facts: Facts) -> dict[str, float]:
    """diffusers keeps one alpha a network for the modules that its patterns miss, the commonest.

    They miss the attention of the UNet and of a second text encoder, and all of the first one.
    """
    found: dict[str, float] = {}
    if not facts.named(*KOHYA):
        return found
    for network in ("unet", "text_encoder", "text_encoder_2"):
        own = {p: ar for p, ar in facts.alphas.items() if p.startswith(f"{network}.") and ar[0] is not None}
        if not own:
            continue
        usual = Counter(alpha for alpha, _ in own.values()).most_common(1)[0][0]
        for path, (alpha, _) in own.items():
            missed = path.endswith(ATTENTION) or network == "text_encoder" or ".self_attn." in path
            if missed and alpha and usual != alpha:
                found[path] = usual / alpha
    return found


def in_words(ratios: Mapping[str, float]) -> str:
    """ "1", or the range over the modules that are not drawn as they were made, with their number."""
    if not ratios:
        return "1"
    low, high = min(ratios.values()), max(ratios.values())
    size = f"{low:.3g}" if abs(high - low) <= 1e-6 * abs(high) else f"{low:.3g} to {high:.3g}"
    return f"{size} in {len(ratios)} module{'s' * (len(ratios) != 1)}"


def a1111(facts: Facts) -> Reasons:
    """A1111."""
    yield from any_page(facts)
    if facts.named("diffusers", "old diffusers", "PEFT", "ComfyUI"):
        yield "no" if not facts.named(*KOHYA) else "partly", "it knows kohya names only"
    if facts.named("LyCORIS"):
        yield "unsure", "names that begin with lycoris_ were not tried"
    if facts.family == "sd2" and any(name.startswith("lora_te1_") for name in facts.names):
        yield "partly", "it leaves out a text encoder called lora_te1_ in an SD 2 file"
    if facts.family == "sdxl" and UPSAMPLER in facts.names:
        yield "partly", "it leaves out the first upsampler under this name"
    if facts.family in ("sd2", "sdxl") and split_attention(facts.names):
        yield "partly", "it leaves out text attention without all of q, k, v and out"
    if facts.by_output:
        yield "partly", "it takes a magnitude for each output as one for each input: another picture"


def forge(facts: Facts) -> Reasons:
    """Forge."""
    yield from any_page(facts)
    attention = sum(name.endswith(ATTENTION) for name in facts.names)
    # It counts keys, two a module, and gives up at 13 that it does not know.
    loads, why = ("no", "; it refuses files with many such keys") if attention > 6 else ("partly", "")
    yield from comfy_like(facts, loads, f"it leaves out the UNet's attention in PEFT names{why}")
    if facts.family == "sd1" and "modelspec.architecture" not in facts.metadata:
        yield "yes", "listed under Unknown: no modelspec.architecture"


def comfyui(facts: Facts) -> Reasons:
    """ComfyUI."""
    yield from any_page(facts)
    yield from comfy_like(facts, "partly", "it leaves out the UNet's attention in PEFT names")


def comfy_like(facts: Facts, loads: str, why: str) -> Reasons:
    """What Forge took over from ComfyUI."""
    if facts.named("diffusers", "PEFT"):
        yield loads, why
    if facts.by_output:
        yield "partly", "it divides by the base's norm, not the changed weight's: nearly the same picture"
    if ROWS in facts.parts:
        yield "partly", "it draws plain LoRA without lora_magnitude_vector"


def invokeai(facts: Facts) -> Reasons:
    """InvokeAI."""
    yield from any_page(facts)
    if facts.named("diffusers", "old diffusers", "PEFT", "ComfyUI"):
        yield "no", "it fails on names that are not kohya's"
    if facts.named("LyCORIS"):
        yield "unsure", "names that begin with lycoris_ were not tried"
    if set(KOHYA) <= set(facts.dialects):
        yield "no", "it fails on a file with both kinds of block names"
    if facts.family != "sdxl" and any(name.startswith("lora_te1_") for name in facts.names):
        yield "partly", "it leaves out a text encoder called lora_te1_ in an SD 1 or 2 file"
    if any(kind in ("DoRA LoHa", "DoRA LoKr") for kind in facts.kinds):
        yield "no", "it fails on dora_scale beside LoHa or LoKr"
    if facts.by_output:
        yield "partly", "it takes a magnitude for each output as one for each input: another picture"


def any_page(facts: Facts) -> Reasons:
    """What holds for every program with a page."""
    if facts.folder:
        yield "no", "it reads single files"
    if facts.family not in ("sd1", "sd2", "sdxl"):
        yield "no", "it knows no base of this family"
    if any(name.startswith(BARE_TEXT) for name in facts.names):
        yield "partly", "text encoder names without text_model are left out"
    if facts.foreign:
        yield "partly", "keys it does not know are left out"


def split_attention(names: frozenset[str]) -> bool:
    """Whether some text layer has updates for a part of q, k, v and out only."""
    layers = Counter(name.rpartition("_self_attn_")[0] for name in names if "_self_attn_" in name)
    return any(count < 4 for count in layers.values())


def diffusers(facts: Facts) -> Reasons:
    """diffusers' load_lora_weights, and PEFT for folders."""
    others = {kind.removeprefix("DoRA ") for kind in facts.kinds} - set(PLAIN)
    if others:
        yield "no", f"it raises on {' and '.join(sorted(others))}"
    if MID in facts.parts:
        yield "no", "it raises on lora_mid"
    if facts.foreign:
        yield "no", "it raises on any key it does not know"
    if facts.named("LyCORIS", "ComfyUI"):
        yield "no", f"it does not know names of {' and '.join(facts.dialects)}"
    if any(name.startswith("lora_te2_encoder") for name in facts.names):
        yield "no", "it raises on names of the second text encoder without text_model"
    if ALPHA in facts.parts and facts.named("diffusers", "old diffusers", "PEFT"):
        yield "no", "it raises on alphas beside PEFT names"
    if COLUMNS in facts.parts:
        yield "partly", "it drops dora_scale and draws plain LoRA"
    if ROWS in facts.parts and any(name.startswith("text_encoder") for name in facts.names):
        yield "partly", "it leaves out the text encoder's magnitudes"
    if set(KOHYA) <= set(facts.dialects):
        yield "partly", "it drops the original block names of a file with both"
    if facts.without and facts.named(*KOHYA) and ALPHA in facts.parts:
        yield "partly", "where an alpha is missing it takes the commonest one"
    if diffusers_strengths(facts):
        yield "partly", "it takes the commonest alpha for attention and text layers"


REASONS = {"A1111": a1111, "Forge": forge, "ComfyUI": comfyui, "InvokeAI": invokeai, "diffusers": diffusers}
