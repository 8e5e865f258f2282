"""How a style was made, for a person. Whatever a stranger's header holds, short lines of text come out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from difflora.adapters.header import shown

MOST = 40
"""Sources, and settings, of one file."""
# Where a row's value stands: in the training's own config or plan, else in the words of sd-scripts.
TRAINED = {
    "images": ("images",),
    "pictures": ("pictures", "ss_num_train_images"),
    "base": ("base", "ss_sd_model_name"),
    "steps": ("steps", "ss_steps", "ss_max_train_steps"),
    "batch": ("batch", "ss_total_batch_size"),
    "rate": ("learning_rate", "ss_learning_rate"),
    "size": ("rank", "ss_network_dim"),
    "alpha": ("alpha", "ss_network_alpha"),
    "resolution": ("resolution", "ss_resolution"),
    "seed": ("seed", "ss_seed"),
}


def how_made(recipe: Mapping[str, object], metadata: Mapping[str, str]) -> list[dict]:
    """What was done, the last first: {"what": converted, repaired, blended, merged or trained, and its facts}."""
    return [*made(recipe.get("converted")), *blended(recipe), *trained(recipe, metadata)]


def made(row: object) -> Iterator[dict]:
    """A conversion or a repair."""
    if isinstance(row, Mapping):
        to = line(row.get("to"))
        yield {
            "what": "repaired" if to == "repaired" else "converted", "to": to, "precision": line(row.get("precision")),
            "sources": parts(row.get("sources")),
        }  # fmt: skip


def blended(recipe: Mapping[str, object]) -> Iterator[dict]:
    """A blend of ours with its weights, or another program's merge by name."""
    if sources := parts(recipe.get("blend")):
        yield {"what": "blended", "sources": sources}
    elif recipe.get("merged from"):
        yield {"what": "merged", "sources": [{"name": line(recipe["merged from"], 400), "weight": "", "sha": ""}]}


def trained(recipe: Mapping[str, object], metadata: Mapping[str, str]) -> Iterator[dict]:
    """A training: what matters first, and every setting."""
    ours = {**mapping(recipe.get("training")), **mapping(recipe.get("plan"))}
    # A blend's and a conversion's own header may repeat what was learnt: with settings of ours theirs add nothing.
    known = ours or ({} if recipe.get("blend") else metadata)
    rows = [[name, line(value)] for name, keys in TRAINED.items() if (value := first(known, keys)) not in ("", None)]
    if len(rows) > 1:
        settings = [[line(key), line(value)] for key, value in list(ours.items())[:MOST] if value not in ("", None, [])]
        scores = mapping(recipe.get("scores"))
        if "step" in scores:
            rows.append(["step", line(scores["step"])])
        yield {"what": "trained", "rows": rows, "settings": settings}


def parts(rows: object) -> list[dict]:
    """Sources by name, with weight and short hash where they are said."""
    found = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    return [
        {"name": line(row.get("name")), "weight": line(row.get("weight")), "sha": line(row.get("sha256"))[:12]}
        for row in found[:MOST]
    ]


def first(known: Mapping[str, object], keys: tuple[str, ...]) -> object:
    """The value of the first of the keys that is there."""
    return next((known[key] for key in keys if key in known), None)


def mapping(value: object) -> Mapping[str, object]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def line(value: object, limit: int = 120) -> str:
    """One printable line, nothing for None; numbers as a person writes them."""
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else shown(value, limit)
