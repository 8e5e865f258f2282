"""A blend as one file, or in a copy of the base: what it will be, writing it, the proof. Knows no page."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path

from PIL import Image

from difflora.adapters.edits import edit
from difflora.adapters.files import writable_folder
from difflora.config import BlendConfig, DrawConfig, check_name
from difflora.drawing.export import Exported, blend_facts, export
from difflora.drawing.merge import merge_files
from difflora.drawing.prospect import Prospects, prospects
from difflora.drawing.recipe import Style
from difflora.errors import AdapterFileError, RequestError
from difflora.events import Report
from difflora.models.family import on_disk
from difflora.strength import Strength

from .desk import Desk
from .easel import as_webp, first_recipe, submit
from .form import Form
from .jobs import Job
from .mixing import mix_of, settled, way_of

ASKED = tuple(field.name for field in fields(BlendConfig) if field.name != "force")
"""What a page or a program may say of a blend; nothing of the library is ever written over."""


def blend_config(settings: object, way: Mapping[str, object] | None = None) -> BlendConfig:
    """Settings of a page or a program as a config; way: of the mixer, unless they say more. Raises RequestError."""
    if not isinstance(settings, Mapping):
        raise RequestError(f"settings {str(settings)[:40]!r}: expected fields by name, such as {{'max_error': 0.05}}")
    for name in settings:
        if name not in ASKED:
            raise RequestError(f"setting {str(name)[:40]!r}: expected one of {', '.join(ASKED)}")
    form = Form(BlendConfig, {})
    given = {name: value for name, value in (way or {}).items() if name in ASKED} | dict(settings)
    values = {name: form.value(name, value) for name, value in given.items()}
    asked = BlendConfig(**{name: value for name, value in values.items() if value is not None})
    # That method alone means all of the way; said at once, since the budget depends on it.
    return replace(asked, orthogonal=1.0) if asked.method == "orthogonal" and not asked.orthogonal else asked


def acting(desk: Desk, value: object) -> list[Style]:
    """The styles of a mixer's value that do anything; RequestError for none."""
    styles = [style for style in desk.styles(mix_of(value)) if not style.asked.nothing]
    if not styles:
        raise RequestError("nothing to save: expected at least one style with a weight other than 0")
    return styles


def facts_of(desk: Desk, value: object) -> dict:
    """Rank and size of the exact blend as one file, from headers alone; nothing for an empty mix."""
    styles = [style for style in desk.styles(mix_of(value)) if not style.asked.nothing]
    return asdict(blend_facts(styles)) if styles else {}


def foretell(desk: Desk, user: str, value: object, settings: object) -> dict:
    """What the blend will be at every rank and error: {"ready": rows}, or {"job": id} whose result they will be."""
    asked = blend_config(settings, way_of(value))
    styles = acting(desk, value)
    open_ends = replace(asked, rank=None, max_error=None, precision="fp16")
    key = (*styles, open_ends)
    if known := desk.foreseen.get(key):
        return {"ready": prospect_rows(known, asked)}

    def work(report: Report) -> dict:
        own = settled(desk, styles, {"budget": asked.budget, "orthogonal": asked.orthogonal})
        adapters = {style.name: desk.batcher.shelf.get(style) for style in own}
        found = prospects(own, adapters, desk.balance, open_ends, report)
        return prospect_rows(desk.foreseen.keep(key, found), asked)

    return {"job": desk.jobs.start(user, "foretell", "", work).id}


def prospect_rows(found: Prospects, asked: BlendConfig) -> dict:
    """Prospects for a page: the whole file, a few ranks, a few errors, and what was asked for."""
    kind = asked.precision
    return {
        "whole": asdict(found.whole(kind)), "distance": found.distance,
        "ranks": [{"asked": rank} | asdict(one) for rank, one in found.by_rank(kind)],
        "errors": [{"asked": error} | asdict(one) for error, one in found.by_error(kind)],
        "own": asdict(found.at(asked.rank, asked.max_error, kind)),
    }  # fmt: skip


def save(desk: Desk, user: str, name: str, value: object, config: DrawConfig, settings: object) -> Job:
    """Write a blend as one style in the background, then draw one seed from the sliders and from the file."""
    asked = blend_config(settings, way_of(value))
    styles = acting(desk, value)
    free(desk, name)

    def work(report: Report) -> dict:
        made = write_blend(desk, name, styles, asked, report)
        stack, alone = proof(desk, user, styles, made.path, config)
        row = {key: part for key, part in made.row().items() if key not in ("path", "styles")}
        return row | {"name": made.path.stem, "tickets": [stack, alone], "exact": is_exact(asked)}

    return desk.jobs.start(user, "export", name, work)


def is_exact(asked: BlendConfig) -> bool:
    """Whether the file is to be the blend itself, apart from how it is stored."""
    return asked.rank is None and asked.max_error is None and asked.method in ("sum", "orthogonal")


def free(desk: Desk, name: str) -> Path:
    """The file of a new style; RequestError for a name that is none or is taken."""
    file = desk.config.loras / f"{check_name(name)}.safetensors"
    if file.exists():
        raise RequestError(f"a style is called {name} already: choose another name")
    return file


def write_blend(desk: Desk, name: str, styles: list[Style], asked: BlendConfig, report: Report) -> Exported:
    """Write the blend of styles as a new style of the library; raises DiffloraError."""
    own = settled(desk, styles, {"budget": asked.budget, "orthogonal": asked.orthogonal})
    return export(own, free(desk, name), desk.model, asked, base=desk.config.base, report=report)


def proof(desk: Desk, user: str, styles: list[Style], file: Path, config: DrawConfig) -> tuple[str, str]:
    """Ask for the same seed from the sliders and from the file, which gets its picture; the tickets' ids."""
    # A file holds no turns: both are drawn with all styles at every step.
    first = replace(first_recipe(desk, config, styles), switch=0)
    alone = replace(first, styles=(desk.style(file.stem, Strength()),), budget="sum", orthogonal=0.0)

    def put_on_card(picture: Image.Image) -> None:
        # The style may have been renamed or thrown away since: that is no fault of the drawing.
        with suppress(AdapterFileError):
            edit(file, thumbnail=as_webp(picture))

    stack = submit(desk, user, [first], "check")
    return stack.id, submit(desk, user, [alone], "check", then=put_on_card).id


def merge(desk: Desk, user: str, name: str, value: object, precision: str) -> Job:
    """Write a copy of the open base with the mix in its weights into the studio's folder for those."""
    way = way_of(value)
    styles = acting(desk, value)
    if way.get("orthogonal"):
        raise RequestError(
            "a whole model takes the styles as they are: expected nothing kept out of the way; save the blend as one "
            "style first, then merge that alone"
        )
    if precision not in ("", "fp32", "bf16", "fp16"):
        raise RequestError(f"precision {precision[:20]!r}: expected one that the page offers")
    # The base of now, whatever is open when its turn comes.
    base = desk.config.base
    place = on_disk(base, desk.config.bases)
    single = place.is_file()
    out = desk.config.merged / f"{check_name(name)}{'.safetensors' if single else ''}"
    if out.exists():
        raise RequestError(f"a model is called {name} already: choose another name")

    def work(report: Report) -> dict:
        writable_folder(out.parent)
        loras = [f"{style.path}:{style.asked}" for style in styles]
        budget = way.get("budget", DrawConfig().budget)
        made = merge_files(
            loras, base, out, folder=desk.config.loras, bases=desk.config.bases, budget=budget,
            precision=precision or None, report=report,
        )  # fmt: skip
        row = {key: part for key, part in made.row().items() if key != "file"}
        return row | {"name": out.name, "folder": out.parent.name}

    return desk.jobs.start(user, "merge", name, work)
