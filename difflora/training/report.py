"""A checkup as one HTML page that needs nothing but itself; words from files are text, never markup."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import ImageOps

from ..adapters.files import write_atomic
from ..errors import ImageFolderError
from ..events import Progress, Report, ignore
from .data import open_picture, shown
from .doctor import WORST, Checkup, Verdict
from .report_page import PAGE

THUMB = 220
SAID = {"exclude": "leave out", "look": "look", "keep": "keep"}


def write_report(checkup: Checkup, path: Path, report: Report = ignore) -> Path:
    """Write a checkup with small copies of the pictures as an HTML file, and return its path; raises OutputError."""
    pictures = {}
    for done, verdict in enumerate(checkup.verdicts, 1):
        pictures[verdict.path] = thumbnail(checkup.folder / verdict.path)
        report(Progress("drawing the report", done, len(checkup.verdicts)))
    path = Path(path)
    write_atomic(path, page(checkup, pictures).encode("utf-8", "replace"))
    return path


def thumbnail(path: Path) -> str:
    """A small copy of a picture as a data: address, empty for one that cannot be read."""
    try:
        small = ImageOps.contain(open_picture(path, shown(path)), (THUMB, THUMB))
    except ImageFolderError:
        return ""
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def page(checkup: Checkup, pictures: Mapping[str, str]) -> str:
    """The whole page; pictures: path -> address of its small copy."""
    by_path = {verdict.path: verdict for verdict in checkup.verdicts}
    faults = Counter(name for verdict in checkup.verdicts for name in {fault.name for fault in verdict.faults})
    folder = text(checkup.folder.resolve().name or str(checkup.folder))
    names = list(faults)
    groups = [[by_path[path] for path in group] for group in checkup.groups]
    parts = {
        "title": folder,
        "summary": _summary(checkup),
        "notes": "".join(f"<li>{text(note)}</li>" for note in checkup.notes),
        "filters": _filters(checkup, faults, names),
        "groups": "".join(_group(group, pictures) for group in groups),
        "no_groups": "" if groups else "hidden",
        "cards": "".join(_card(verdict, pictures, names) for verdict in checkup.worst_first()),
        "rules": "".join(_rule(f"f{i}") for i in range(len(names))) + "".join(_rule(kind) for kind in WORST),
    }
    whole = PAGE
    for name, part in parts.items():
        head, _, tail = whole.partition(f"<!--{name}-->")
        whole = head + part + tail
    return whole


def text(words: str) -> str:
    """Words as they may stand in markup, control characters and all."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words))


def _summary(checkup: Checkup) -> str:
    spread = checkup.spread
    shapes = ", ".join(f"{n} {name}" for name, n in dict(spread["shapes"]).items())
    sides = f"shorter sides {spread['smallest']} to {spread['largest']} px, half of them {spread['median']:g} or more"
    numbers = "".join(
        f'<div class="number {kind}"><b>{checkup.count(kind)}</b><span>{SAID[kind]}</span></div>' for kind in WORST
    )
    out = sum(verdict.excluded for verdict in checkup.verdicts)
    left = f"; {out} left out already" if out else ""
    words = f"{len(checkup.verdicts)} pictures{left}; {sides}; {shapes}" if shapes else "no picture can be read"
    return f'<div class="numbers">{numbers}</div><p class="soft">{text(words)}</p>'


def _filters(checkup: Checkup, faults: Counter, names: Sequence[str]) -> str:
    """Radio buttons and their labels: the page filters with them alone, without a script."""
    choices = [("all", "all", len(checkup.verdicts))]
    counts = Counter(verdict.kind for verdict in checkup.verdicts)
    choices += [(kind, SAID[kind], counts[kind]) for kind in WORST if counts[kind]]
    choices += [(f"f{names.index(name)}", name, n) for name, n in faults.most_common()]
    return "".join(
        f'<label><input type="radio" name="only" value="{key}"{" checked" * (key == "all")}>'
        f"<span>{text(label)} <i>{n}</i></span></label>"
        for key, label, n in choices
    )


def _rule(key: str) -> str:
    """Hides what the filter `key` does not name."""
    return f'body:has([name=only][value="{key}"]:checked) .card:not(.{key}) {{ display: none }}\n'


def _picture(verdict: Verdict, pictures: Mapping[str, str]) -> str:
    address = pictures.get(verdict.path, "")
    return f'<img src="{address}" alt="" loading="lazy">' if address else '<div class="none">cannot be shown</div>'


def _badge(verdict: Verdict) -> str:
    return f'<span class="badge {verdict.kind}">{SAID[verdict.kind]}</span>'


def _size(verdict: Verdict) -> str:
    return f"{verdict.width} × {verdict.height}" if verdict.width else ""


def _group(group: Sequence[Verdict], pictures: Mapping[str, str]) -> str:
    """Pictures that show the same, side by side."""
    figures = []
    for i, verdict in enumerate(group):
        said = "the best of them" if i == 0 else SAID[verdict.kind]
        name = f"<b>{text(verdict.path)}</b><small>{_size(verdict)} · {said}</small>"
        figures.append(
            f'<figure class="{"best" * (i == 0)}">{_picture(verdict, pictures)}<figcaption>{name}</figcaption></figure>'
        )
    return f'<div class="group">{"".join(figures)}</div>'


def _card(verdict: Verdict, pictures: Mapping[str, str], names: Sequence[str]) -> str:
    kinds = " ".join([verdict.kind, *(f"f{names.index(name)}" for name in {fault.name for fault in verdict.faults})])
    faults = "".join(f"<li><b>{text(fault.name)}</b> {text(fault.text)}</li>" for fault in verdict.faults)
    listed = f"<ul>{faults}</ul>" if faults else ""
    out = " · left out already" if verdict.excluded else ""
    caption = (
        f'<p class="caption">{text(verdict.caption)}</p>' if verdict.caption else '<p class="caption">no caption</p>'
    )
    shot = f'<div class="shot">{_picture(verdict, pictures)}{_badge(verdict)}</div>'
    words = f'<h3>{text(verdict.path)}</h3><p class="soft">{_size(verdict)}{out}</p>{listed}{caption}'
    return f'<article class="card {kinds}">{shot}<div class="words">{words}</div></article>\n'
