"""Base models and the machine, for a person or a script. Beside render.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from .adapters.header import shown
from .machine import in_bytes, short_path
from .render import Person, Script

if TYPE_CHECKING:
    from .machine import Device, Disk, Machine
    from .models.bases import Found, Short
    from .models.checkup import Outlook
    from .packages import Package

KINDS = {"embedded": "with difflora", "folder": "folder", "file": "file", "hub": "downloaded"}


def show_bases(screen: Person | Script, found: Sequence[Found], offered: Sequence[Short], bases: Path) -> None:
    """A line for each base for a script; two tables, and how to use one, for a person."""
    if isinstance(screen, Script):
        for base in found:
            screen.line({"event": "base"} | base.row())
        for short in offered:
            screen.line({"event": "offer", "name": short.name, "repo": short.repo, "family": short.family,
                         "size": short.size, "side": short.side, "about": short.about})  # fmt: skip
        return
    show = screen.console.print
    table = _columns("base", "family", "kind", "size", "where")
    for base in found:
        style = "red" if base.problem else ""
        where = "" if base.kind == "embedded" else short_path(base.path)
        cells = (base.name, base.family or "?", KINDS[base.kind], in_bytes(base.size), where)
        table.add_row(*(Text(shown(cell, 1000), style=style) for cell in cells))
    show(table)
    for base in found:
        if base.problem:
            show(Text(f"! {base.problem}", style="red"))
    if offered:
        show("")
        table = _columns("to download", "family", "pixels", "size", "what it is")
        for short in offered:
            table.add_row(*map(Text, (short.name, short.family, str(short.side), in_bytes(short.size), short.about)))
        show(table)
    best = next((base.name for base in reversed(found) if not base.problem), "tiny")
    show("")
    show(Text(f'draw with one: difflora generate "a red apple" --base {shown(best)}; your own go into {bases}'))


def show_machine(
    screen: Person | Script, machine: Machine, caches: Mapping[str, tuple[Path, int]], outlook: Outlook
) -> None:
    """One object for a script; tables, and at the end what is wrong, for a person."""
    if isinstance(screen, Script):
        kept = {what: {"path": str(path), "size": size} for what, (path, size) in caches.items()}
        return screen.line({"event": "doctor"} | machine.row() | {"caches": kept} | outlook.row())
    show = screen.console.print
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in [*_device_rows(machine), *_package_rows(machine.packages), *_place_rows(machine.disks, caches)]:
        table.add_row(Text(name, style="bold"), Text(text))
    may = "off: HF_HUB_OFFLINE forbids them" if outlook.offline else "when a base is asked for that is not here"
    table.add_row(Text("downloads", style="bold"), Text(may))
    for name, size in outlook.sizes.items():
        table.add_row("", Text(f"{name} would take {in_bytes(size)}"))
    show(table)
    show("")
    for fault in machine.faults:
        show(Text(f"wrong: {fault.what}", style="red"))
        show(Text(f"  mend: {fault.mend}"))
    if not machine.faults:
        show(Text("nothing is wrong", style="green"))
    return None


def _device_rows(machine: Machine) -> Iterator[tuple[str, str]]:
    """What computes, the quickest first."""
    yield "system", f"{machine.system}, Python {machine.python}"
    for device in machine.devices:
        yield {"cuda": "GPU", "mps": "GPU"}.get(device.kind, "CPU"), _device(device)


def _device(device: Device) -> str:
    memory = f"{in_bytes(device.total)} of memory" + (
        "" if device.free is None else f", {in_bytes(device.free)} of it free"
    )
    cores = f", {device.cores} cores" if device.cores else ""
    kind = f", capability {device.capability}" if device.capability else ""
    return f"{shown(device.name)}{cores}{kind}: {memory}; computes in {', '.join(device.precisions)}"


def _package_rows(packages: Sequence[Package]) -> Iterator[tuple[str, str]]:
    """What is needed in one line, what is optional in one each."""
    needed = [f"{package.name} {package.found or '(missing)'}" for package in packages if not package.extra]
    yield "packages", ", ".join(needed)
    for number, package in enumerate(package for package in packages if package.extra):
        said = package.found if package.found else f"not here; {package.mend}"
        yield "" if number else "optional", f"{package.name}, for {package.use}: {said}"


def _place_rows(disks: Mapping[str, Disk], caches: Mapping[str, tuple[Path, int]]) -> Iterator[tuple[str, str]]:
    """Where things are kept, and how much of them there is."""
    for number, (what, disk) in enumerate(disks.items()):
        free = f"{in_bytes(disk.free)} of {in_bytes(disk.total)} free"
        yield "" if number else "kept in", f"{what}: {short_path(disk.path)}, {free}"
    rows = [(what, path, size) for what, (path, size) in caches.items() if size]
    for number, (what, path, size) in enumerate(rows):
        yield "" if number else "caches", f"{what}: {in_bytes(size)} in {short_path(path)}"


def _columns(*heads: str) -> Table:
    """A table where only cells of the last column are broken over lines."""
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(
            Text(head),
            justify="right" if head in ("size", "pixels") else "left",
            no_wrap=head != heads[-1],
            overflow="fold",
        )
    return table
