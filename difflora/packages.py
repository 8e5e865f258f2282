"""The packages that difflora works with: which versions it wants, and which are here. Imports none of them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
USES = {
    "gradio": "the studio in the browser (difflora ui)",
    "xformers": "attention in less memory on NVIDIA GPUs (--attention xformers)",
    "bitsandbytes": "optimizers and bases in 8 and 4 bits",
    "tensorboard": "curves of a training in TensorBoard (--tensorboard)",
}
"""What the optional ones are for; others are for those who work on difflora itself."""
EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")


@dataclass(frozen=True)
class Package:
    """One package."""

    name: str
    wanted: str
    """Versions, such as >=2.6."""
    found: str
    """The version that is here; nothing where it is missing."""
    extra: str = ""
    """The option of an installation that brings it; nothing for what is needed."""

    @property
    def use(self) -> str:
        """What an optional package is for."""
        return USES.get(self.name, "")

    @property
    def fits(self) -> bool:
        """Whether it is here in a version that is wanted."""
        return bool(self.found) and SpecifierSet(self.wanted).contains(self.found, prereleases=True)

    @property
    def mend(self) -> str:
        """The command that brings it."""
        return f'pip install "{self.name}{self.wanted}"'

    def row(self) -> dict:
        """For a script."""
        return asdict(self) | {"fits": self.fits, "use": self.use, "mend": "" if self.fits else self.mend}


def packages() -> Iterator[Package]:
    """What is needed, then what is optional."""
    for line, extra in sorted(requirements(), key=lambda row: bool(row[1])):
        asked = Requirement(line)
        if not extra or asked.name in USES:
            yield Package(asked.name, str(asked.specifier), version_of(asked.name), extra)


def requirements() -> list[tuple[str, str]]:
    """(requirement, option that brings it) as this difflora states them: a checkout newer than its installation."""
    if table := project():
        rows = [(line, "") for line in table.get("dependencies", [])]
        extras = table.get("optional-dependencies", {})
        more = {line: extra for extra, lines in extras.items() if extra != "dev" for line in lines}
        return rows + list(more.items())
    lines = _installed().get_all("Requires-Dist") or []
    found = [(line.partition(";")[0].strip(), EXTRA.search(line)) for line in lines]
    return [(line, mark[1] if mark else "") for line, mark in found if not mark or mark[1] != "dev"]


def python_wanted() -> SpecifierSet:
    """The versions of Python that difflora runs on."""
    said = project().get("requires-python") or _installed().get("Requires-Python") or ">=3.11"
    return SpecifierSet(said)


def project() -> dict:
    """The project's table of a checkout; nothing for an installed difflora."""
    try:
        table = tomllib.loads(PROJECT.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return {}
    return table if table.get("name") == "difflora" else {}


def _installed() -> object:
    try:
        return metadata.metadata("difflora")
    except metadata.PackageNotFoundError:
        from email.message import Message

        return Message()


def version_of(name: str) -> str:
    """The version of a package that is here, "" for none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
