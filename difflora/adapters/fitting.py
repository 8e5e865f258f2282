"""Whether every tensor of a file has its place in a base, told from shapes alone. Knows no tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import AdapterFileError
from .forms import Form, arrow, fits, forms, magnitude_fits
from .header import Header, shown
from .names import Found, Shapes, resolve, split_key


def check_fit(header: Header, shapes: Shapes, family: str = "", part: str = "") -> None:
    """Raise AdapterFileError, naming no file, unless the file's tensors all have their place in the base."""
    made_for = header.metadata.get("difflora.family", "")
    if family and made_for and made_for != family:
        raise AdapterFileError(
            f"made for a base of family {shown(made_for)!r}; expected {family!r}; use the base it was made for"
        )
    sort_keys(header.shapes(), shapes, part)


@dataclass(frozen=True)
class Reading:
    """The keys of a file sorted for a base."""

    found: Found
    forms: Mapping[str, Form]


def sort_keys(found: Shapes, shapes: Shapes, part: str = "") -> Reading:
    """Where every tensor of a file belongs, and what it makes; raises AdapterFileError for what has no place.

    found: shapes by key; part: the network that unprefixed names are in. The sentence lists keys that are not
    understood, names that the base lacks, incomplete modules, and modules of another size: three of them, and how many
    more there are.
    """
    placed = resolve(found, shapes, part)
    made = forms(placed.modules, found)
    wrong = [
        fault for path, form in made.items() if (fault := fault_of(placed.modules[path], form, found, shapes[path]))
    ]
    broken, misfits = ([f"{f.name} {f.text}" for f in wrong if f.misfit is misfit] for misfit in (False, True))
    refuse(
        (placed.foreign, "such keys cannot be drawn rightly, so the file is not read; take a version without them"),
        (placed.unknown, "use the base it was made for"),
        (broken, "the file is damaged; get it again, or see difflora inspect"),
        (misfits, "made for another family; use the base it was made for"),
        ([] if found else ["no tensors in the file; expected a LoRA"], "choose another file"),
    )
    return Reading(placed, made)


@dataclass(frozen=True)
class Fault:
    """What is wrong with one module."""

    name: str
    """In the file."""
    text: str
    misfit: bool = False
    """Whether it is only of another size than the base's."""


def fault_of(keys: Mapping[str, str], form: Form, found: Shapes, shape: tuple[int, ...]) -> Fault | None:
    """What is wrong with a module for a weight of that shape; keys: by part."""
    name = shown(module_name(keys))
    if form.trouble:
        return Fault(name, form.trouble)
    if not fits(form, shape):
        return Fault(name, f"is {arrow(form.shape)} in the file, {arrow(shape)} in the base", misfit=True)
    wrong = magnitude_fits({part: found[key] for part, key in keys.items()}, shape)
    return Fault(name, wrong) if wrong else None


def module_name(keys: Mapping[str, str]) -> str:
    """The module's name in the file, of the keys of its parts."""
    return split_key(next(iter(keys.values()))).module


def refuse(*troubles: tuple[Sequence[str], str]) -> None:
    """Raise AdapterFileError if any list holds something, with the advice of the first that does."""
    listed = [text for texts, _ in troubles for text in texts]
    if listed:
        more = f"; … and {len(listed) - 3} more" if len(listed) > 3 else ""
        advice = next(advice for texts, advice in troubles if texts)
        raise AdapterFileError(f"{'; '.join(listed[:3])}{more}: {advice}")
