"""Bases of the hub: what is in its cache, what a download would take, and the download. The only door to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.header import shown
from ..errors import BaseModelError
from ..events import Note, Progress, Report, ignore
from ..locks import Lock
from ..machine import disk_of, in_bytes, short_path
from .blobs import PIECE, UNFINISHED, Remote, begun, fetch
from .picking import Wanted, no_pipeline, select
from .whole import INDEX, PIPELINES, missing, read_table_of

if TYPE_CHECKING:
    from .bases import Located

TIMEOUT = 20.0
"""Seconds until a silent hub is given up."""
WAIT = 1.0
"""Seconds between two reports of one that waits."""
SPARE = 2**28
"""Bytes that a download leaves free."""
OFFLINE = "HF_HUB_OFFLINE"


def cache_folder() -> Path:
    """Where downloads are kept: HF_HUB_CACHE."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return Path("~/.cache/huggingface/hub").expanduser()
    return Path(constants.HF_HUB_CACHE).expanduser()


def offline() -> bool:
    """Whether nothing may be looked up on the hub: HF_HUB_OFFLINE."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return False
    return bool(constants.is_offline_mode())


def repo_folder(repo: str) -> Path:
    """Where the cache keeps a repository."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def snapshots(folder: Path) -> list[Path]:
    """The states of a repository in the cache, the one that is current first, then the newest."""
    try:
        found = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
        found.sort(key=lambda path: -path.stat().st_mtime)
        main = (folder / "refs" / "main").read_text().strip() if (folder / "refs" / "main").is_file() else ""
    except (OSError, ValueError):
        return []
    return sorted(found, key=lambda path: path.name != main)


def cached(repo: str) -> Path | None:
    """The folder of a repository in the cache that is a whole base; None where there is none."""
    return next((path for path in snapshots(repo_folder(repo)) if not missing(path)), None)


def kept() -> Iterator[tuple[str, Path]]:
    """(repository, folder) of all whole bases of Stable Diffusion in the cache, by name."""
    for folder in sorted(cache_folder().glob("models--*--*")):
        for path in snapshots(folder):
            try:
                kind = read_table_of(path / INDEX).get("_class_name")
            except ValueError:
                continue
            if kind in PIPELINES and not missing(path):
                yield folder.name.removeprefix("models--").replace("--", "/", 1), path
                break


def unfinished() -> int:
    """Bytes of downloads in the cache that were broken off."""
    return sum(path.stat().st_size for path in cache_folder().glob(f"models--*/blobs/*{UNFINISHED}"))


def wanted(repo: str, variant: str | None) -> Wanted:
    """Asks the hub which files of a repository make up the base, with their sizes; raises BaseModelError.

    The weights (.safetensors) of the networks that model_index.json names, of the variant where it has them, and the
    settings beside them; no pickles, no safety checker, no single-file checkpoints.
    """
    from huggingface_hub import HfApi, hf_hub_download

    with one_line(repo):
        info = HfApi().model_info(repo, files_metadata=True, timeout=TIMEOUT)
        rows = {row.rfilename: row for row in info.siblings or ()}
        if INDEX not in rows:
            raise BaseModelError(no_pipeline(repo, sorted(rows)))
        with open(hf_hub_download(repo, INDEX, revision=info.sha, tqdm_class=_quiet()), encoding="utf-8") as file:
            index = json.load(file)
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if kind not in PIPELINES:
        raise BaseModelError(f"base {repo} holds a {shown(kind)}: expected one of {', '.join(PIPELINES)}")
    names = select(repo, sorted(rows), index, variant)
    files = [
        Remote(name, row.size or 0, row.lfs.sha256 if row.lfs else "") for name, row in rows.items() if name in names
    ]
    return Wanted(repo, info.sha, tuple(sorted(files, key=lambda file: file.size)))


def download(located: Located, report: Report = ignore) -> Path:
    """Download a base unless it is here, and return its folder; raises BaseModelError.

    Says first what comes, how much, and where it is kept. A download that was broken off goes on where it ended; each
    file of weights is checked against the hash that the hub has of it.
    """
    if (path := cached(located.repo)) is not None:
        return path
    if offline():
        raise BaseModelError(
            f"base {located.name} is not on this machine, and {OFFLINE} forbids to look for it: expected it in "
            f"{short_path(cache_folder())}; unset {OFFLINE}, or choose another base"
        )
    need, name = wanted(located.repo, located.variant), located.name
    folder = repo_folder(located.repo)
    with one_line(located.repo), _alone(located, report):
        there = sum(_done(folder, file) for file in need.files)
        _check_room(name, need.size - there, folder)
        goes_on = f", {in_bytes(there)} of it are here" if there > PIECE else ""
        report(
            Note(
                f"{name} is downloaded once: {in_bytes(need.size)} from {located.repo}{goes_on}; kept in "
                f"{short_path(folder)}; Ctrl+C breaks off, the same command goes on"
            )
        )
        path = _fetch(need, name, there, report)
    if lacks := missing(path):
        raise BaseModelError(f"base {name} was downloaded, but is not whole: {lacks}; choose another repository")
    return path


def _fetch(need: Wanted, name: str, there: int, report: Report) -> Path:
    """The weights by ourselves, as the library forgets what it had of a file when it is broken off; the rest by it."""
    from huggingface_hub import hf_hub_url, snapshot_download

    from ..adapters.stream import Meter

    blobs = repo_folder(need.repo) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    meter = Meter(f"downloading {name}", need.size, report, there)
    meter.add(0)
    for file in need.files:
        if file.sha256 and not (blobs / file.sha256).exists():
            url = hf_hub_url(need.repo, file.path, revision=need.commit)
            fetch(blobs / file.sha256, file, partial(_pieces, url), _may_pass, meter.add)
    names = [file.path for file in need.files]
    path = Path(snapshot_download(need.repo, allow_patterns=names, etag_timeout=TIMEOUT, tqdm_class=_quiet()))
    meter.add(need.size - meter.done)
    return path


def _pieces(url: str, start: int) -> Iterator[bytes]:
    """The content behind an address from a byte on."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as answer:
        hf_raise_for_status(answer)
        # A server that knows no ranges begins anew.
        skip = start if answer.status_code == 200 else 0
        for piece in answer.iter_bytes(PIECE):
            yield piece[skip:]
            skip = max(0, skip - len(piece))


def _may_pass(error: Exception) -> bool:
    """Whether an error is of the connection, or of a hub that is busy, so that it helps to ask again."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, HTTPError)


def _done(folder: Path, file: Remote) -> int:
    """Bytes of a file that are here."""
    if not file.sha256:
        return 0
    blob = folder / "blobs" / file.sha256
    return file.size if blob.exists() else min(begun(blob), file.size)


def _check_room(name: str, size: int, folder: Path) -> None:
    """BaseModelError unless the disk has room for so many bytes."""
    disk = disk_of(folder)
    if size + SPARE > disk.free:
        raise BaseModelError(
            f"base {name} takes {in_bytes(size)} more in {short_path(folder)}, and {in_bytes(disk.free)} are free "
            "there: expected room for it; make some, or set HF_HUB_CACHE to a folder on another disk"
        )


@contextmanager
def _alone(located: Located, report: Report) -> Iterator[None]:
    """One download of a repository at a time; who comes second waits, and then finds what is there."""
    folder = cache_folder() / ".locks" / repo_folder(located.repo).name
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / "difflora.lock")
    while not lock.take(WAIT):
        report(Progress(f"waiting for another download of {located.name}", 0, 0))
    try:
        yield
    finally:
        lock.free()


@contextmanager
def one_line(repo: str) -> Iterator[None]:
    """What the hub's library raises becomes a BaseModelError that says what to do next."""
    from huggingface_hub import constants, errors

    start = f"base {repo}:"
    try:
        yield
    except errors.GatedRepoError:
        said = (
            f"{start} its owner wants its terms accepted first: expected an account that did; open "
            f"{constants.ENDPOINT}/{repo} in a browser, accept them, run 'hf auth login', then give this command again"
        )
    except errors.RepositoryNotFoundError:
        said = (
            f"{start} no such folder here, and no such repository on the hub, or a private one: expected owner/name; "
            "check the name, or run 'hf auth login' for a private one"
        )
    except errors.OfflineModeIsEnabled:
        said = f"{start} {OFFLINE} forbids to ask the hub: expected leave to; unset {OFFLINE}, or choose another base"
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        said = f"{start} the hub answers with error {code}: expected the file; try again later, what is here is kept"
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.FileMetadataError) as error:
        why = shown(str(error.__cause__ or error).splitlines()[0] if str(error) else type(error).__name__)
        said = (
            f"{start} the hub at {constants.ENDPOINT} is not reached ({why}): expected a connection; check it and give "
            "the same command again: it goes on where it ended"
        )
    except errors.HFValidationError as error:
        said = f"{start} {shown(str(error).splitlines()[0])}: expected owner/name; check the name"
    except (OSError, ValueError) as error:
        why = shown(getattr(error, "strerror", None) or error)
        said = (
            f"{start} cannot be kept in {short_path(repo_folder(repo))} ({why}): expected a folder to write in; mend it"
        )
    else:
        return
    raise BaseModelError(said)


def _quiet() -> type:
    """The library's bar, which is not shown: progress is told by events."""
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options | {"disable": True})

    return Quiet
