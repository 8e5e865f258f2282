"""What an adapter file is, what it says, and what is wrong with it. The header is enough for most of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .cards import card
from .families import Match, match
from .forms import PLAIN, forms_by_name
from .header import shown
from .library import style_name
from .names import ALPHA, COLUMNS, kind_of_foreign, split_key
from .places import Source, sources
from .programs import Facts, Verdict, verdicts
from .troubles import Trouble, header_troubles

RECIPES = {
    "difflora.made": "converted",
    "difflora.blend": "blend",
    "difflora.config": "training",
    "difflora.plan": "plan",
    "difflora.scores": "scores",
    "modelspec.merged_from": "merged from",
}
NETWORKS = {
    "unet": "UNet",
    "transformer": "transformer",
    "text_encoder": "text encoder",
    "text_encoder_2": "text encoder 2",
}


@dataclass(frozen=True)
class Module:
    """One module of the network and its update."""

    path: str
    """In the base, or the name in the file where the base is not known."""
    kind: str
    rank: int
    shape: tuple[int, ...]
    alpha: float | None = None
    """None until the numbers are read, and where there is none."""
    norm: float | None = None
    """Frobenius norm of the update, its scale in it; None until the numbers are read."""

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return {
            "module": self.path, "kind": self.kind, "rank": self.rank, "alpha": self.alpha, "shape": list(self.shape),
            "norm": self.norm,
        }  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """All that is known of an adapter; texts are one printable line each, whatever the file holds."""

    path: Path
    name: str
    dialects: tuple[str, ...]
    """Whose key names they are; more than one in a file of mixed names."""
    family: str
    """By the shapes of its tensors: tiny, sd1, sd2, sdxl, or nothing."""
    modules: tuple[Module, ...]
    dtypes: Mapping[str, int]
    """Tensors by how they are stored."""
    size: int
    """Bytes."""
    words: Mapping[str, str]
    """Trigger, preferred weight, date, pictures, base as the header says it."""
    recipe: Mapping[str, object]
    """How it was made, as far as the file says."""
    troubles: tuple[Trouble, ...]
    programs: tuple[Verdict, ...] = ()
    norms: Mapping[str, float] = field(default_factory=dict)
    """Of each block, in the network's order; nothing until the numbers are read."""
    sha256: str = ""
    """Of the numbers, as recipes name a file; nothing until they are read."""

    @property
    def loads(self) -> bool:
        """Whether difflora draws with it as it is."""
        return not any(trouble.grave for trouble in self.troubles)

    @property
    def plain(self) -> bool:
        """Whether every update is one product of two factors."""
        return all(module.kind in PLAIN for module in self.modules)

    def networks(self) -> dict[str, int]:
        """How many modules each network has updates for."""
        counts = Counter(NETWORKS.get(module.path.partition(".")[0], "other names") for module in self.modules)
        return {name: counts[name] for name in (*NETWORKS.values(), "other names") if counts[name]}

    def kinds(self) -> dict[str, int]:
        """How many modules there are of each kind."""
        return dict(Counter(module.kind for module in self.modules))

    def row(self) -> dict[str, object]:
        """As JSON-ready values."""
        return {
            "file": str(self.path), "name": self.name, "format": list(self.dialects), "family": self.family,
            "networks": self.networks(), "kinds": self.kinds(), "dtypes": dict(self.dtypes), "size": self.size,
            "sha256": self.sha256, **self.words, "recipe": dict(self.recipe), "loads": self.loads,
            "problems": [trouble.row() for trouble in self.troubles],
            "programs": [verdict.row() for verdict in self.programs], "norms": dict(self.norms),
            "modules": [module.row() for module in self.modules],
        }  # fmt: skip


def inspect_header(path: Path, base: Match | None = None) -> Inspection:
    """What the headers of an adapter's files say; raises AdapterFileError for what is no sound safetensors file.

    base: the family and module shapes to judge it by; the family that fits it best unless given.
    """
    path = Path(path)
    found = sources(path)
    base = base or match(found)
    modules = modules_of(found, base)
    about = card(found[0].file)
    dtypes = Counter(dtype for source in found for dtype, _ in source.header.tensors.values())
    words = {"trigger": about.trigger, "weight": f"{about.weight:g}", "base": about.base, "made": about.made}
    inspection = Inspection(
        path=path, name=about.name if path.is_file() else shown(style_name(path)),
        dialects=dialects_of(found, base), family=base.family, modules=modules,
        dtypes=dict(dtypes), size=sum(source.file.stat().st_size for source in found),
        words=words | {"pictures": about.pictures}, recipe=recipe_of(found[0].header.metadata),
        troubles=tuple(header_troubles(found, base)),
    )  # fmt: skip
    return replace(inspection, programs=tuple(verdicts(facts_of(inspection, found))))


def modules_of(found: Sequence[Source], base: Match) -> tuple[Module, ...]:
    """Every module of the files, by its path in the base where it has one."""
    modules: dict[str, Module] = {}
    for source in found:
        paths = {}
        for path, keys in base.found(source).modules.items():
            paths |= {split_key(key).module: path for key in keys.values()}
        for name, form in forms_by_name(source.header.shapes()).items():
            if not form.trouble:
                path = paths.get(name, shown(name))
                modules[path] = Module(path, form.kind, form.rank, form.shape)
    order = {path: place for place, path in enumerate(base.shapes)}
    return tuple(sorted(modules.values(), key=lambda module: order.get(module.path, len(order))))


def dialects_of(found: Sequence[Source], base: Match) -> tuple[str, ...]:
    """Whose names the files have."""
    return tuple(dict.fromkeys(name for source in found for name in base.found(source).dialects))


def recipe_of(metadata: Mapping[str, str]) -> dict[str, object]:
    """What a header says of how the file was made, JSON taken apart."""
    recipe: dict[str, object] = {}
    for key, name in RECIPES.items():
        if key not in metadata:
            continue
        try:
            value = json.loads(metadata[key]) if key.startswith("difflora.") else None
        except (ValueError, RecursionError):
            value = None
        recipe[name] = shown(metadata[key], 2000) if value is None or not shallow(value) else value
    return recipe


def shallow(value: object, most: int = 32) -> bool:
    """Whether JSON is nested no deeper than that, so that it can be written again wherever it is shown."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most > 0 and all(shallow(part, most - 1) for part in inner)


def facts_of(inspection: Inspection, found: Sequence[Source]) -> Facts:
    """What decides how other programs read the files."""
    keys = [key for source in found for key in source.header.tensors]
    names = [split_key(key) for key in keys]
    return Facts(
        dialects=inspection.dialects,
        family=inspection.family,
        kinds=frozenset(inspection.kinds()),
        names=frozenset(name.module for name in names),
        parts=frozenset(name.part for name in names if name.part),
        by_output=any(
            split_key(key).part == COLUMNS and shape[:1] != (1,)
            for source in found
            for key, shape in source.header.shapes().items()
        ),
        foreign=tuple(kind_of_foreign(key) for key, name in zip(keys, names, strict=True) if not name.part),
        alphas={module.path: (module.alpha, module.rank) for module in inspection.modules},
        without=sum(name.part == ALPHA for name in names) < len({name.module for name in names if name.part}),
        metadata={key: value for source in found for key, value in source.header.metadata.items()},
        settings={network: told for source in found for network, told in source.settings.items()},
        folder=inspection.path.is_dir(),
    )
