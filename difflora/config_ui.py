"""What a person decides about the studio; as in config.py, one field is the flag and its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .config import BaseConfig, check_name, demand, in_range

SHORTEST_PASSWORD = 8


@dataclass(frozen=True, kw_only=True)
class UiConfig(BaseConfig):
    """Open the studio: mix, draw, train and export in a browser."""

    loras: Path = Path("loras")
    """Folder of the styles."""
    runs: Path = Path("runs")
    """Folder for run folders: config, events, previews, resume state."""
    out: Path = Path("pictures")
    """Folder for the pictures; with --auth each person has one of their own in it."""
    datasets: Path = Path("datasets")
    """Folder where pictures dropped on a page are kept to learn from."""
    merged: Path = Path("merged")
    """Folder for copies of the base with styles in their weights."""
    images: tuple[Path, ...] = ()
    """Folder whose pictures a page may name to learn from; repeat for more. The current one, or with --listen none."""
    port: int | None = None
    """Port of the page; 7860 or the next free one unless given."""
    listen: bool = False
    """Answer every machine that can reach this one, not only this one; demands --auth."""
    share: bool = False
    """Ask gradio's relay for a public link to the studio; demands --auth."""
    auth: tuple[str, ...] = ()
    """Who may sign in: USER:PASSWORD, or what --hash USER prints; repeat for more."""
    browser: bool = False
    """Open the page in a browser."""
    upload_mb: int = 512
    """Size of the largest file a page may send, in MB."""
    uploads: int = 1000
    """Most files one person may send in a minute."""

    def __post_init__(self) -> None:
        in_range("upload_mb", self.upload_mb, 1, 100_000)
        in_range("uploads", self.uploads, 1, 100_000)
        if self.port is not None:
            in_range("port", self.port, 0, 65535)
        users = [parse_account(text)[0] for text in self.auth]
        demand(len(set(users)) == len(users), f"--auth {', '.join(users)}", "each user once")
        for flag in ("listen", "share"):
            demand(bool(users) or not getattr(self, flag), f"--{flag} without --auth", "--auth USER:PASSWORD beside it")


def parse_account(text: str) -> tuple[str, str]:
    """USER:PASSWORD or USER:scrypt$… -> (user, secret); raises RequestError, which never shows the secret."""
    user, colon, secret = text.partition(":")
    demand(bool(colon), "--auth without a colon", "USER:PASSWORD, or what --hash USER prints")
    check_name(user)
    fits = len(secret) >= SHORTEST_PASSWORD
    demand(fits, f"--auth {user}: a password of {len(secret)} characters", f"at least {SHORTEST_PASSWORD}")
    return user, secret
