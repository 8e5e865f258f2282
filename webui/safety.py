"""Who may come in, what a typed path may reach, and a working folder with nothing in it to find."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from difflora.config_ui import parse_account
from difflora.errors import DiffloraError, RequestError

COST, BLOCK, LANES = 2**14, 8, 5
"""scrypt as OWASP lists it: 16 MB and a fifth of a second a try."""
FREE_TRIES = 5
LONGEST_WAIT = 60.0
FORGOTTEN_AFTER = 900.0
IDLE = 12 * 3600.0
MOST_KEPT = 10_000
LONGEST_PASSWORD = 1000


class SignInError(DiffloraError):
    """A sign-in was refused; `wait` is how many seconds until the next try is looked at."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


def hash_password(password: str) -> str:
    """scrypt$N$r$p$salt$hash, the last two in hex, with a fresh salt."""
    salt = secrets.token_bytes(16)
    return f"scrypt${COST}${BLOCK}${LANES}${salt.hex()}${stretched(password, COST, BLOCK, LANES, salt).hex()}"


def same_password(password: str, kept: str) -> bool:
    """Whether this is the password of a kept hash, in the same time for either answer."""
    cost, block, lanes, salt, key = read_hash(kept)
    return hmac.compare_digest(stretched(password, cost, block, lanes, salt), key)


def stretched(password: str, cost: int, block: int, lanes: int, salt: bytes) -> bytes:
    """The 32 bytes that scrypt makes of a password."""
    memory = 128 * block * (cost + lanes) + 2**20
    return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=block, p=lanes, maxmem=memory, dklen=32)


def read_hash(kept: str) -> tuple[int, int, int, bytes, bytes]:
    """scrypt$N$r$p$salt$hash -> (N, r, p, salt, hash); raises RequestError for a broken, weak or far too slow one."""
    try:
        name, *numbers, salt, key = kept.split("$")
        cost, block, lanes = map(int, numbers)
        sound = name == "scrypt" and 2**14 <= cost <= 2**20 and cost & (cost - 1) == 0
        sound = sound and 8 <= block <= 32 and 1 <= lanes <= 16 and len(key) == 64 and len(salt) >= 16
        if sound:
            return cost, block, lanes, bytes.fromhex(salt), bytes.fromhex(key)
    except ValueError:
        pass
    raise RequestError("--auth USER:scrypt$… is not a hash of ours: expected what --hash USER prints, in single quotes")


class Door:
    """Who may sign in, who is in, and who has to wait before the next try."""

    def __init__(self, accounts: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """`accounts` are USER:PASSWORD or USER:scrypt$…; none: everyone is in. Raises RequestError."""
        self.clock = clock
        self.kept: dict[str, str] = {}
        for user, secret in map(parse_account, accounts):
            hashed = secret.startswith("scrypt$")
            self.kept[user] = secret if hashed and read_hash(secret) else hash_password(secret)
        # What strangers' passwords are compared with, so that a user name costs as long to try as a password.
        self.stranger = hash_password(secrets.token_hex()) if self.kept else ""
        self.inside: dict[str, tuple[str, float]] = {}
        self.failures: dict[str, tuple[int, float]] = {}
        self.lock = Lock()

    @property
    def is_open(self) -> bool:
        """Whether nobody needs to sign in."""
        return not self.kept

    def sign_in(self, user: str, password: str, address: str) -> str:
        """The token of a new session; raises SignInError, after five failures without looking at the password."""
        keys = (f"user {user[:80]}", f"address {address}")
        # One at a time: tries sent all at once would be judged before any of them counted.
        with self.lock:
            wait = max(self.wait(key) for key in keys)
            if wait > 0:
                raise SignInError(f"too many tries: wait {wait:.0f} seconds", wait)
            fits = same_password(password[:LONGEST_PASSWORD], self.kept.get(user, self.stranger))
            if not fits or user not in self.kept:
                for key in keys:
                    self.failures[key] = self.failures.pop(key, (0, 0.0))[0] + 1, self.clock()
                trim(self.failures)
                raise SignInError("this name and password do not belong together: try again")
            for key in keys:
                self.failures.pop(key, None)
            token = secrets.token_urlsafe(32)
            self.inside[token] = user, self.clock()
            trim(self.inside)
            return token

    def wait(self, key: str) -> float:
        """Seconds until the next try of a user or from an address; doubles with every failure after the fifth."""
        count, last = self.failures.get(key, (0, 0.0))
        past = self.clock() - last
        if past > FORGOTTEN_AFTER:
            self.failures.pop(key, None)
            return 0.0
        return 0.0 if count < FREE_TRIES else min(2.0 ** min(count - FREE_TRIES + 1, 10), LONGEST_WAIT) - past

    def who(self, token: str) -> str | None:
        """The user of a session, which lives on for another twelve hours; None if there is no such session."""
        user, last = self.inside.get(token, ("", 0.0))
        if not user:
            return None
        if self.clock() - last > IDLE:
            self.inside.pop(token, None)
            return None
        self.inside[token] = user, self.clock()
        return user

    def sign_out(self, token: str) -> None:
        """End a session."""
        self.inside.pop(token, None)


def trim(kept: dict) -> None:
    """Forget the oldest, so that strangers cannot fill the memory."""
    while len(kept) > MOST_KEPT:
        kept.pop(next(iter(kept)))


def inside(text: str, roots: Sequence[Path]) -> Path:
    """The real path that a typed one means, links followed, if it lies in one of `roots`.

    A relative one is looked for in each root. Raises the same RequestError whether anything is there or not.
    """
    found: list[tuple[bool, Path]] = []
    for root in roots:
        try:
            path = (root / text).resolve()
            if path.is_relative_to(root.resolve()):
                found.append((path.exists(), path))
        except (OSError, ValueError, RuntimeError):
            continue
    if not found:
        raise RequestError(f"{text[:200]!r} is not in the folders of this studio: expected a path inside one of them")
    return next((path for there, path in found if there), found[0][1])


@contextmanager
def workplace() -> Iterator[Path]:
    """A private folder (0700) with an empty working folder, gradio's cache and temporary files; removed at the end.

    Gradio hands any file of the working folder and of the temporary folder to whoever names it, so these have to be
    folders of our own. Changes both for the whole process, so settings must hold absolute paths by then.
    """
    before = os.getcwd(), tempfile.tempdir, os.environ.get("GRADIO_TEMP_DIR")
    place = Path(tempfile.mkdtemp(prefix="difflora-")).resolve()
    try:
        for name in ("empty", "temp", "cache"):
            (place / name).mkdir(mode=0o700)
        os.environ["GRADIO_TEMP_DIR"] = str(place / "cache")
        tempfile.tempdir = str(place / "temp")
        os.chdir(place / "empty")
        yield place
    finally:
        os.chdir(before[0])
        tempfile.tempdir = before[1]
        os.environ.pop("GRADIO_TEMP_DIR", None)
        if before[2] is not None:
            os.environ["GRADIO_TEMP_DIR"] = before[2]
        shutil.rmtree(place, ignore_errors=True)
