"""What the tensors of one module make together, from their shapes alone. Knows no tensors.

| kind | its tensors | the update |
|---|---|---|
| LoRA | lora_down, lora_up | up @ down |
| LoCon | the same with a kernel, or with lora_mid | up @ mid @ down |
| LoHa | hada_w1_a, _b, hada_w2_a, _b, with a kernel hada_t1, _t2 | (w1_a @ w1_b) * (w2_a @ w2_b) |
| LoKr | lokr_w1 or _w1_a, _w1_b; lokr_w2 or _w2_a, _w2_b, _t2 | kron(w1, w2) |
| full | diff | diff |

times alpha / rank (Hu et al. 2021; Yeh et al. 2023, arXiv 2309.14859). With dora_scale or lora_magnitude_vector the
weight it is added to is normalised too (DoRA, Liu et al. 2024, arXiv 2402.09353).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .names import ALPHA, COLUMNS, DIFF, DOWN, MID, ROWS, UP, Shapes, split_key

PLAIN = ("LoRA", "LoCon")
"""Kinds that are one product of two factors."""
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
MOST_RANK = 4096
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """One module's update as it will be."""

    kind: str
    """LoRA, LoCon, LoHa, LoKr or full, with DoRA before it where the weight is normalised."""
    rank: int
    """The inner size; 0 for what has none."""
    shape: Shape
    """Of the update; (out, rest) where a kernel is folded into the rest."""
    trouble: str = ""
    """What is wrong with it by itself, or nothing; shape and rank mean nothing then."""
    plain: int = 0
    """The rank of the same update as plain factors; 0 where there are none."""


def form_of(parts: Mapping[str, Shape]) -> Form:
    """The form of a module from the shapes of its parts."""
    try:
        form = _form(parts)
    except (_Wrong, IndexError) as wrong:
        return Form("", 0, (), str(wrong) if isinstance(wrong, _Wrong) else "has tensors with too few axes")
    if form.rank > MOST_RANK:
        return Form("", 0, (), f"has rank {form.rank:,}; expected at most {MOST_RANK:,}")
    if ALPHA in parts and math.prod(parts[ALPHA]) != 1:
        return Form("", 0, (), f"has an alpha of shape {parts[ALPHA]}")
    return form


def fits(form: Form, base: Shape) -> bool:
    """Whether the update can be added to a weight of that shape; 1x1 convolutions and linear layers are one thing."""
    made, wanted = core(form.shape), core(base)
    if made == wanted:
        return True
    folded = form.kind.endswith(("LoHa", "LoKr", "full")) and len(made) == 2
    return folded and made[0] == wanted[0] and made[1] == math.prod(wanted[1:])


def magnitude_fits(parts: Mapping[str, Shape], base: Shape) -> str:
    """What is wrong with the magnitudes of a module, or nothing.

    dora_scale has a number for each input, (1, in), or for each output, (out, 1); PEFT's vector one for each output.
    """
    ones = (1,) * (len(core(base)) - 2)
    if COLUMNS in parts:
        found = core(parts[COLUMNS]) if len(parts[COLUMNS]) > 1 else parts[COLUMNS]
        flat = found if len(found) == 2 else (found[0], 1) if len(found) == 1 else ()
        if flat in ((1, base[1]), (base[0], 1)):
            return ""
        return f"has a dora_scale of shape {parts[COLUMNS]}; expected {(1, base[1], *ones)} or {(base[0], 1, *ones)}"
    if ROWS in parts and (max(parts[ROWS], default=0) != base[0] or math.prod(parts[ROWS]) != base[0]):
        return f"has a lora_magnitude_vector of shape {parts[ROWS]}; expected {base[0]} numbers, one for each output"
    return ""


class _Wrong(Exception):
    pass


def _form(parts: Mapping[str, Shape]) -> Form:
    kinds = [("LoRA", (DOWN, UP, MID)), ("LoHa", ("hada",)), ("LoKr", ("lokr",)), ("full", (DIFF,))]
    there = [kind for kind, marks in kinds if any(part.startswith(marks) for part in parts)]
    if len(there) > 1:
        raise _Wrong(f"is both {' and '.join(there)}")
    if not there:
        raise _Wrong(f"has {', '.join(sorted(parts))} and nothing to go with it")
    if 0 in (size for shape in parts.values() for size in shape):
        raise _Wrong("has an empty tensor")
    form = {"LoRA": _lora, "LoHa": _loha, "LoKr": _lokr, "full": _full}[there[0]](parts)
    if COLUMNS in parts and ROWS in parts:
        raise _Wrong("has both dora_scale and lora_magnitude_vector")
    return Form(f"DoRA {form.kind}", form.rank, form.shape) if COLUMNS in parts or ROWS in parts else form


def _need(parts: Mapping[str, Shape], *names: str) -> list[Shape]:
    missing = [name for name in names if name not in parts]
    if missing:
        raise _Wrong(f"lacks {' and '.join(missing)}")
    return [parts[name] for name in names]


def _same(what: str, *sizes: int) -> int:
    if len(set(sizes)) > 1:
        raise _Wrong(f"has rank {' and '.join(map(str, sizes))} in {what}")
    return sizes[0]


def _flat(*shapes: Shape) -> None:
    for shape in shapes:
        if len(shape) != 2:
            raise _Wrong(f"has a factor of shape {shape}")


def _lora(parts: Mapping[str, Shape]) -> Form:
    down, up = _need(parts, DOWN, UP)
    if len(down) < 2 or len(up) < 2 or math.prod(up[2:]) != 1:
        raise _Wrong(f"has factors of shape {down} and {up}")
    if MID in parts:
        mid = parts[MID]
        if len(mid) < 3 or math.prod(down[2:]) != 1:
            raise _Wrong(f"has factors of shape {down}, {mid} and {up}")
        rank = _same("lora_up, lora_mid and lora_down", up[1], mid[0], mid[1], down[0])
        return Form("LoCon", rank, (up[0], down[1], *mid[2:]), plain=rank)
    rank = _same("lora_down and lora_up", down[0], up[1])
    return Form("LoCon" if math.prod(down[2:]) > 1 else "LoRA", rank, (up[0], *down[1:]), plain=rank)


def _loha(parts: Mapping[str, Shape]) -> Form:
    a1, b1, a2, b2 = _need(parts, *LOHA)
    _flat(a1, a2)
    if "hada_t1" in parts or "hada_t2" in parts:
        t1, t2 = _need(parts, "hada_t1", "hada_t2")
        _flat(b1, b2)
        rank = _same("hada_w1", a1[0], b1[0], t1[0], t1[1])
        _same("hada_w2", a2[0], b2[0], t2[0], t2[1])
        if (a1[1], b1[1], t1[2:]) != (a2[1], b2[1], t2[2:]):
            raise _Wrong("has halves of two sizes")
        return Form("LoHa", rank, (a1[1], b1[1], *t1[2:]))
    rank = _same("hada_w1", a1[1], b1[0])
    other = _same("hada_w2", a2[1], b2[0])
    if (a1[0], b1[1:]) != (a2[0], b2[1:]):
        raise _Wrong("has halves of two sizes")
    return Form("LoHa", rank, (a1[0], math.prod(b1[1:])), plain=rank * other)


def _lokr(parts: Mapping[str, Shape]) -> Form:
    rank, plain, sides = 0, 1, []
    for side in ("lokr_w1", "lokr_w2"):
        if side in parts:
            if f"{side}_a" in parts or f"{side}_b" in parts:
                raise _Wrong(f"has {side} twice")
            sides.append(parts[side])
            plain *= min(parts[side][0], math.prod(parts[side][1:]))
            continue
        a, b = _need(parts, f"{side}_a", f"{side}_b")
        _flat(a)
        if side == "lokr_w2" and "lokr_t2" in parts:
            middle = parts["lokr_t2"]
            _flat(b)
            rank, plain = _same("lokr_t2 and lokr_w2", middle[0], middle[1], a[0], b[0]), 0
            sides.append((a[1], b[1], *middle[2:]))
        else:
            rank = _same(side, a[1], b[0])
            plain *= rank
            sides.append((a[0], math.prod(b[1:])))
    if len(sides[0]) != 2 or len(sides[1]) < 2:
        raise _Wrong(f"has factors of shape {sides[0]} and {sides[1]}")
    (o1, i1), (o2, i2, *kernel) = sides
    return Form("LoKr", rank, (o1 * o2, i1 * i2, *kernel), plain=plain)


def _full(parts: Mapping[str, Shape]) -> Form:
    shape = parts[DIFF]
    if len(shape) < 2:
        raise _Wrong(f"has a difference of shape {shape}")
    return Form("full", 0, shape)


def core(shape: Shape) -> Shape:
    """The shape without the kernel of a 1x1 convolution."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def arrow(shape: Shape) -> str:
    """A weight's shape for a person: (in→out), with its kernel if it has one."""
    kernel = "x".join(str(n) for n in core(shape)[2:])
    return f"({shape[1] if len(shape) > 1 else 1}→{shape[0]}{f', {kernel}' if kernel else ''})"


def forms_by_name(found: Shapes) -> dict[str, Form]:
    """The form of each module by its name in the file, without a base; what is no part of an adapter is left out."""
    groups: dict[str, dict[str, Shape]] = {}
    for key, shape in found.items():
        name = split_key(key)
        if name.part:
            groups.setdefault(name.module, {})[name.part] = shape
    return {name: form_of(parts) for name, parts in groups.items()}


def forms(modules: Mapping[str, Mapping[str, str]], found: Shapes) -> dict[str, Form]:
    """The form of each module by path, of what `resolve` gives."""
    return {path: form_of({part: found[key] for part, key in keys.items()}) for path, keys in modules.items()}
