"""What PEFT keeps beside its numbers: rank and alpha, by module where they differ. Knows no tensors.

A folder has them in adapter_config.json, a diffusers file in the header under lora_adapter_metadata, the network before
each key. Without them the scale of a file in PEFT's names is 1 (peft utils/save_and_load.py, diffusers lora_base.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import AdapterFileError
from .header import shown

HEADER_KEY = "lora_adapter_metadata"
PLAIN = re.compile(r"\^?[\w.\\]+\$?")
READ = ("LORA", "LOHA", "LOKR")
MOVED = "its base was changed at the start; save it with path_initial_model_for_weight_conversion"
# Values with which the numbers would mean something else than a sum on the base.
REFUSED = {
    "fan_in_fan_out": (True, "its weights are stored turned round"),
    "use_qalora": (True, "it is QALoRA"),
    "lora_bias": (True, "it has learnt biases"),
    "layer_replication": (None, "it repeats layers of the base"),
    "alora_invocation_tokens": (None, "it acts on some tokens only"),
}
STARTS = ("pissa", "olora", "corda", "lora_ga", "eva", "loftq")


@dataclass(frozen=True)
class Settings:
    """Rank and alpha of one network's modules, as PEFT writes them."""

    rank: int
    alpha: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def rank_of(self, module: str) -> int:
        """The rank that is told for a module."""
        return self.ranks.get(_pattern(self.ranks, module), self.rank)

    def scale(self, module: str, rank: int = 0) -> float:
        """What the product of a module's factors is multiplied with (Kalajdzievski 2023, arXiv 2312.03732, for rsLoRA).

        module: its path within the network; rank: of its own factors, the one told for it where that is 0.
        """
        alpha = self.alphas.get(_pattern(self.alphas, module), self.alpha)
        inner = rank or self.rank_of(module)
        return alpha / (math.sqrt(inner) if self.rank_stabilised else inner)


def read_settings(metadata: Mapping[str, str]) -> dict[str, Settings]:
    """Settings by network from a diffusers file's header, none if it has none; raises AdapterFileError."""
    if HEADER_KEY not in metadata:
        return {}
    rows = _object(metadata[HEADER_KEY], HEADER_KEY)
    networks: dict[str, dict[str, object]] = {}
    for key, value in rows.items():
        network, dot, rest = key.partition(".")
        networks.setdefault(network if dot else "", {})[rest if dot else key] = value
    return {network: settings_of(values, HEADER_KEY) for network, values in networks.items()}


def parse_settings(text: str, name: str = "adapter_config.json") -> Settings:
    """Settings from the text of a PEFT folder's config; raises AdapterFileError."""
    return settings_of(_object(text, name), name)


def settings_of(values: Mapping[str, object], name: str) -> Settings:
    """Settings from one network's values; raises AdapterFileError for another method than those that can be read."""
    method = values.get("peft_type") or "LORA"
    _demand(str(method).upper() in READ, f"{name}: it is {shown(method)}; expected one of {', '.join(READ)}")
    for key, (wrong, why) in REFUSED.items():
        value = values.get(key)
        refused = value is True if wrong else bool(value)
        _demand(not refused, f"{name}: {why} ({key}); expected a plain one; merge it into its base instead")
    start = values.get("init_lora_weights")
    _demand(
        not (isinstance(start, str) and start.lower().startswith(STARTS)),
        f"{name}: init_lora_weights is {shown(start)}; {MOVED}",
    )
    rank = _number(values.get("r", 8), f"{name}: r", whole=True)
    alpha = values.get("lora_alpha", values.get("alpha"))
    return Settings(
        int(rank),
        rank if alpha is None else _number(alpha, f"{name}: lora_alpha"),
        {key: int(n) for key, n in _patterns(values, "rank_pattern", name, whole=True).items()},
        _patterns(values, "alpha_pattern", name),
        values.get("use_rslora") is True,
    )


def settings_rows(ranks: Mapping[str, int], magnitudes: bool = False) -> dict[str, object]:
    """The settings of a network whose alpha is the rank in each module, as PEFT reads them.

    ranks: by path within the network, as the file names it.
    """
    counts = list(ranks.values())
    usual = max(set(counts), key=lambda rank: (counts.count(rank), rank))
    differing = {path: rank for path, rank in ranks.items() if rank != usual}
    rows = {
        "r": usual, "lora_alpha": usual, "rank_pattern": differing, "alpha_pattern": dict(differing),
        "target_modules": sorted(ranks), "lora_bias": False, "use_dora": magnitudes, "use_rslora": False,
    }  # fmt: skip
    return rows | {"lora_dropout": 0.0, "bias": "none"}


def _pattern(patterns: Mapping[str, object], module: str) -> str:
    """The first pattern that the module's path ends in, as PEFT chooses; the path itself if none does."""
    parts = module.split(".")
    ends = {".".join(parts[i:]) for i in range(len(parts))} & patterns.keys()
    if len(ends) < 2:
        return next(iter(ends), module)
    return next(pattern for pattern in patterns if pattern in ends)


def _patterns(values: Mapping[str, object], key: str, name: str, whole: bool = False) -> dict[str, float]:
    rows = values.get(key) or {}
    _demand(isinstance(rows, dict), f"{name}: {key} is no object; expected numbers by module")
    found: dict[str, float] = {}
    for pattern, value in rows.items():
        # PEFT takes them for regular expressions; what a stranger wrote is not run as one.
        _demand(
            PLAIN.fullmatch(pattern) is not None,
            f"{name}: {key} has {shown(pattern)!r}; expected a module's plain name",
        )
        plain = pattern.lstrip("^").rstrip("$").replace("\\.", ".")
        found[plain] = _number(value, f"{name}: {key} of {shown(pattern)}", whole)
    return found


def _number(value: object, what: str, whole: bool = False) -> float:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 and value == value
    fine = fine and (not whole or (value > 0 and value == int(value)))
    _demand(fine, f"{what} is {shown(value)}; expected a {'whole ' if whole else ''}number")
    return float(value)  # type: ignore[arg-type]


def _object(text: str, name: str) -> dict[str, object]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        rows = None
    _demand(isinstance(rows, dict), f"{name} is no JSON object; expected the settings of an adapter; save it again")
    return rows


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise AdapterFileError(sentence)
