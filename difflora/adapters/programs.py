"""Which programs load a file, and at which strength, by what their source says. Knows no tensors.

Read in A1111 (extensions-builtin/Lora), Forge (extensions-builtin/sd_forge_lora, backend/patcher/lora), ComfyUI
(comfy/lora.py, comfy/weight_adapter), InvokeAI (backend/patches), diffusers 0.42 (loaders/lora_conversion_utils.py,
utils/peft_utils.py). Nothing here runs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from .settings import Settings

PROGRAMS = ("A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers")
KOHYA = ("kohya", "kohya (original blocks)")
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
Alphas = Mapping[str, tuple[float | None, int]]


@dataclass(frozen=True)
class Facts:
    """What decides how a file is read."""

    dialects: tuple[str, ...]
    family: str
    kinds: frozenset[str]
    names: frozenset[str]
    """Of the modules, as the file has them."""
    middle: bool
    """Whether there are Tucker factors."""
    foreign: tuple[str, ...]
    """Keys that are no part of an adapter, as what they are."""
    alphas: Alphas
    """(alpha, rank) by module path; None where no number was read."""
    without: bool
    """Whether some module has no alpha of its own."""
    metadata: Mapping[str, str]
    settings: Mapping[str, Settings]
    folder: bool


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
    """Each program's, in a fixed order."""
    for program in PROGRAMS:
        loads, reasons = "yes", []
        for worse, why in REASONS[program](facts):
            loads = max(loads, worse, key=("yes", "partly", "unsure", "no").index)
            reasons.append(why)
        ratios = {} if loads == "no" else strengths(program, facts)
        yield Verdict(program, loads, "" if loads == "no" else in_words(ratios), "; ".join(dict.fromkeys(reasons)))


def strengths(program: str, facts: Facts) -> dict[str, float]:
    """How strongly the program draws each module, of what was meant, where that is not 1."""
    if program == "diffusers":
        return diffusers_strengths(facts)
    if set(facts.dialects) <= {*KOHYA, "LyCORIS", "ComfyUI"} or not facts.settings:
        return {}
    # They know no lora_adapter_metadata and no adapter_config.json: a file without alphas is drawn at scale 1.
    found = {}
    for path, (alpha, rank) in facts.alphas.items():
        network, _, rest = path.partition(".")
        told = facts.settings.get(network) or facts.settings.get("")
        scale = told.scale(rest, rank) if told and rank else 1.0
        if alpha is None and abs(scale - 1) > 1e-6 and scale:
            found[path] = 1 / scale
    return found


def diffusers_strengths(facts: Facts) -> dict[str, float]:
    """diffusers keeps one alpha for the attention of the UNet, the commonest: its patterns miss those modules."""
    if not set(facts.dialects) & set(KOHYA):
        return {}
    found = {}
    for network in ("unet", "text_encoder", "text_encoder_2"):
        own = {p: ar for p, ar in facts.alphas.items() if p.startswith(f"{network}.") and ar[0] is not None}
        if not own:
            continue
        usual = Counter(alpha for alpha, _ in own.values()).most_common(1)[0][0]
        for path, (alpha, _) in own.items():
            missed = network != "unet" or path.endswith(ATTENTION)
            if missed and alpha and usual != alpha:
                found[path] = usual / alpha
    return found


def in_words(ratios: Mapping[str, float]) -> str:
    """ "1", or the range over the modules that are not drawn as they were made, with their number."""
    if not ratios:
        return "1"
    low, high = min(ratios.values()), max(ratios.values())
    size = f"{low:.3g}" if abs(high - low) <= 1e-6 * abs(high) else f"{low:.3g} to {high:.3g}"
    return f"{size} in {len(ratios)} modules"


def a1111(facts: Facts) -> Iterator[tuple[str, str]]:
    """A1111 1.10."""
    if facts.folder:
        yield "no", "it reads single files"
    if not set(facts.dialects) <= {*KOHYA}:
        yield "unsure", f"names of {' and '.join(facts.dialects)} depend on its version"
    yield from all_ui(facts)


def forge(facts: Facts) -> Iterator[tuple[str, str]]:
    """Forge."""
    if facts.folder:
        yield "no", "it reads single files"
    yield from all_ui(facts)
    if facts.family == "sd1" and "modelspec.architecture" not in facts.metadata:
        yield "yes", "listed under Unknown: no modelspec.architecture"


def comfyui(facts: Facts) -> Iterator[tuple[str, str]]:
    """ComfyUI."""
    if facts.folder:
        yield "no", "it reads single files"
    yield from all_ui(facts)


def invokeai(facts: Facts) -> Iterator[tuple[str, str]]:
    """InvokeAI."""
    if facts.folder:
        yield "no", "it reads single files"
    if facts.family != "sdxl" and any(name.startswith("lora_te1_") for name in facts.names):
        yield "partly", "it leaves out a text encoder called lora_te1_ in an SD 1 or 2 file"
    if facts.family == "sdxl" and "diffusers" in facts.dialects:
        yield "no", "it fails on PEFT names for SDXL while drawing"
    yield from all_ui(facts)


def all_ui(facts: Facts) -> Iterator[tuple[str, str]]:
    """What holds for every program with a page."""
    if facts.family not in ("sd1", "sd2", "sdxl"):
        yield "no", "it knows no base of this family"
    if any(name.startswith(("lora_te1_encoder", "lora_te2_encoder", "lora_te_encoder")) for name in facts.names):
        yield "partly", "text encoder names without text_model are left out"
    if facts.foreign:
        yield "partly", "keys it does not know are left out"


def diffusers(facts: Facts) -> Iterator[tuple[str, str]]:
    """diffusers' load_lora_weights, and PEFT for folders."""
    others = {kind.removeprefix("DoRA ") for kind in facts.kinds} - {"LoRA", "LoCon"}
    if others:
        yield "no", f"it raises on {' and '.join(sorted(others))}"
    if facts.middle:
        yield "no", "it raises on lora_mid"
    if facts.foreign:
        yield "no", "it raises on any key it does not know"
    decomposed = any(kind.startswith("DoRA") for kind in facts.kinds)
    if decomposed and set(facts.dialects) & {*KOHYA, "LyCORIS"}:
        yield "partly", "it drops dora_scale and draws plain LoRA"
    if set(KOHYA) <= set(facts.dialects):
        yield "partly", "it drops the original block names of a file with both"
    if "LyCORIS" in facts.dialects or "ComfyUI" in facts.dialects:
        yield "no", f"it does not know names of {' and '.join(facts.dialects)}"
    if facts.without and set(facts.dialects) & set(KOHYA) and any(alpha for alpha, _ in facts.alphas.values()):
        yield "partly", "where an alpha is missing it takes the commonest one"
    if diffusers_strengths(facts):
        yield "partly", "it takes the commonest alpha for attention and text layers"


REASONS = {"A1111": a1111, "Forge": forge, "ComfyUI": comfyui, "InvokeAI": invokeai, "diffusers": diffusers}
