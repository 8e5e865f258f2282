"""What this machine has, and what on it keeps difflora from working, with the command that mends it.

Needs no torch: it is asked of in a process of its own, so that one that breaks, or hangs, can be told of.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .packages import Package, packages, python_wanted, version_of

PATIENCE = 60
"""Seconds until a torch that says nothing is given up."""
SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits")
LEAST_DISK = 10**9
"""Bytes below which a disk counts as full."""
MEBI = 2**20


@dataclass(frozen=True)
class Device:
    """What computes."""

    kind: str
    """cuda, mps or cpu."""
    name: str
    total: int
    """Bytes of its memory."""
    free: int | None = None
    """Bytes of it that nobody uses; None where that is not known."""
    capability: str = ""
    """Of an NVIDIA GPU, such as 9.0."""
    precisions: tuple[str, ...] = ("fp32",)
    """What it computes in at full speed."""
    cores: int = 0
    """Of a CPU, those that this process may use."""


@dataclass(frozen=True)
class Disk:
    """Where something is kept."""

    path: Path
    free: int
    total: int
    writable: bool


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, and the command that mends it."""

    what: str
    mend: str


@dataclass(frozen=True)
class Machine:
    """All of it."""

    system: str
    python: str
    devices: tuple[Device, ...]
    packages: tuple[Package, ...]
    disks: Mapping[str, Disk]
    """By what is kept there."""
    faults: tuple[Fault, ...]

    def row(self) -> dict:
        """For a script."""
        return asdict(self) | {
            "packages": [package.row() for package in self.packages],
            "disks": {what: asdict(disk) | {"path": str(disk.path)} for what, disk in self.disks.items()},
        }


def look_over(places: Mapping[str, Path], known: Sequence[Fault] = ()) -> Machine:
    """Everything of this machine; places: folders by what is kept in them, there or not; known: faults found before."""
    torch, cards = ask_torch(), gpus()
    found = tuple(packages())
    disks = {what: disk_of(path) for what, path in places.items()}
    devices = (*(Device(**row | {"precisions": tuple(row["precisions"])}) for row in torch.get("devices", [])), cpu())
    faults = [*python_faults(), *package_faults(found), *torch_faults(torch, cards), *disk_faults(disks), *known]
    system = f"{platform.system()} {platform.release()}"
    return Machine(system, platform.python_version(), devices, found, disks, tuple(faults))


def ask_torch() -> dict:
    """What torch sees, from a process of its own; `problem` where it does not answer."""
    # Where this difflora lies, whatever the folder is that we are in.
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    asked = [sys.executable, "-m", "difflora.torch_probe"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, env=settings)
    except subprocess.TimeoutExpired:
        return {"problem": f"it says nothing for {PATIENCE} s"}
    except OSError as error:
        return {"problem": f"it cannot be asked ({error.strerror})"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        # Nothing was said: it crashed.
        lines = done.stderr.strip().splitlines() or [f"it ends with code {done.returncode}"]
        return {"problem": lines[-1][:160]}


def gpus() -> list[tuple[str, str]]:
    """(name, driver) of the NVIDIA GPUs that their own program lists."""
    try:
        done = subprocess.run(SMI, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [(row[0], row[3]) for row in rows if len(row) == 4]


def cpu() -> Device:
    """The processor, and the main memory."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    total, free = memory()
    return Device("cpu", cpu_name(), total, free, cores=cores)


def cpu_name() -> str:
    """The processor's name, or its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return said_by("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def memory() -> tuple[int, int | None]:
    """(total, free) bytes of main memory that may be used; free is None where that is not known."""
    try:
        lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
        rows = {line[0]: int(line[1]) * 1024 for line in lines if len(line) > 1}
        total, free = rows["MemTotal:"], rows["MemAvailable:"]
    except (OSError, ValueError, KeyError):
        said = said_by("sysctl", "-n", "hw.memsize")
        return (int(said) if said.isdecimal() else 0), None
    try:
        # A container may have less than the machine.
        most = int(Path("/sys/fs/cgroup/memory.max").read_text())
        return min(total, most), min(free, most - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        return total, free


def said_by(*command: str) -> str:
    """What a program of the system answers; nothing where there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def disk_of(path: Path) -> Disk:
    """The disk that a folder is on, or will be."""
    path = Path(path).expanduser().absolute()
    place = next(folder for folder in (path, *path.parents) if folder.exists())
    usage = shutil.disk_usage(place)
    return Disk(path, usage.free, usage.total, os.access(place, os.W_OK))


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder, links aside; 0 where there is none."""
    count = 0
    for here, _, names in os.walk(path):
        for name in names:
            try:
                stat = os.lstat(os.path.join(here, name))
            except OSError:
                continue
            count += 0 if os.path.islink(os.path.join(here, name)) else stat.st_size
    return count


def python_faults() -> list[Fault]:
    """A Python that is too old."""
    if python_wanted().contains(platform.python_version(), prereleases=True):
        return []
    found, asked = platform.python_version(), python_wanted()
    return [Fault(f"Python {found}: expected {asked}", f"install Python {str(asked).lstrip('>=')}")]


def package_faults(found: tuple[Package, ...]) -> list[Fault]:
    """Packages that are needed and missing, or of another version than is worked with."""
    return [
        Fault(f"{package.name} {package.found or 'is missing'}: expected {package.name}{package.wanted}", package.mend)
        for package in found
        if not package.fits and (package.found or not package.extra)
    ]


def torch_faults(torch: Mapping, cards: list[tuple[str, str]]) -> list[Fault]:
    """A torch that cannot be used, or does not use the GPU that is there; a torchvision that breaks others."""
    version = version_of("torch")
    if not version:
        return []
    again = "pip install --force-reinstall torch"
    if problem := torch.get("problem"):
        return [Fault(f"torch {version} cannot be imported: {problem}", again)]
    faults = []
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    if cards and not torch["available"] and not hidden:
        name, driver = cards[0]
        if torch["cuda"] is None:
            with_cuda = again if sys.platform == "linux" else "choose CUDA on pytorch.org/get-started/locally"
            faults.append(Fault(f"torch {version} is built without CUDA, and {name} stands idle", with_cuda))
        else:
            what = f"torch {version} (CUDA {torch['cuda']}) does not reach {name}, whose driver is {driver}"
            faults.append(Fault(what, "update the NVIDIA driver, then see whether nvidia-smi still lists the GPU"))
    for name in torch.get("too_old", []):
        what = f"torch {version} has no code for {name}"
        faults.append(Fault(what, "choose an older CUDA on pytorch.org/get-started/locally, for the same torch"))
    if said := torch.get("torchvision"):
        what = f"torchvision {version_of('torchvision')} cannot be imported, and breaks those that look for it: {said}"
        faults.append(Fault(what, "pip uninstall -y torchvision"))
    return faults


def disk_faults(disks: Mapping[str, Disk]) -> list[Fault]:
    """Folders that cannot be written to, and disks that are full."""
    faults = []
    for what, disk in disks.items():
        place = short_path(disk.path)
        if not disk.writable:
            faults.append(Fault(f"{what}: {place} cannot be written to", f"chmod -R u+w {place}, or choose another"))
        if disk.free < LEAST_DISK:
            said = f"{what}: {in_bytes(disk.free)} are free in {place}: expected at least {in_bytes(LEAST_DISK)}"
            faults.append(Fault(said, f"du -h {place} shows what takes room there"))
    return faults


def in_bytes(count: int) -> str:
    """A count of bytes as people say it: 512 bytes, 3.4 MB, 2.13 GB."""
    if count >= 10**9:
        return f"{count / 1e9:.2f} GB" if count < 10**11 else f"{count / 1e9:,.0f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 10**6 else f"{count:,} bytes"


def short_path(path: Path) -> str:
    """A path as one line, the own home as ~."""
    text, home = str(path), os.path.expanduser("~")
    text = f"~{text[len(home) :]}" if text.startswith(home + os.sep) else text
    return text if text.isprintable() else ascii(text)[1:-1]
