"""Downloads: the right files and no others, foretold to the byte, gone on with, checked, and refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bases import base_folder, make_base  # noqa: F401
from hub_server import COMMIT, Hub, hub  # noqa: F401
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from difflora.adapters import stream
from difflora.config import BaseConfig
from difflora.errors import BaseModelError
from difflora.events import Event, Note, Progress
from difflora.machine import Disk
from difflora.models import blobs
from difflora.models import hub as door
from difflora.models.bases import SHORT, here, locate, not_here
from difflora.models.clip import CONFIGS
from difflora.models.family import open_model, read_index
from difflora.models.opening import Source
from difflora.models.skeleton import empty_networks
from difflora.models.whole import missing

REPO = "painter/small"
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
PIECE = 4096


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two tries; what comes is told piece by piece."""
    monkeypatch.setattr(blobs, "PAUSE", 0.0)
    monkeypatch.setattr(door, "PIECE", PIECE)
    monkeypatch.setattr(stream, "EVERY", 0.0)


@pytest.fixture(scope="session")
def uploaded(base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A repository as people upload them: each network three times over, and much that no base needs."""
    folder = tmp_path_factory.mktemp("repo") / "small"
    shutil.copytree(base_folder("sd1"), folder)
    for network, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        whole = load_file(folder / network / f"{stem}.safetensors")
        halves = {name: value.half() for name, value in whole.items()}
        save_file(halves, folder / network / f"{stem}.fp16.safetensors")
        (folder / network / f"{stem.replace('model', 'pytorch_model') if stem == 'model' else stem}.bin").write_bytes(
            b"\x80"
        )
    for place in ("v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "safety_checker/model.safetensors", "unet/model.onnx",
                  "safety_checker/config.json", "unet/flax_model.msgpack", "README.md"):  # fmt: skip
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(b"unwanted")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def small(hub: Hub, uploaded: Path) -> Hub:  # noqa: F811
    """The hub with that repository."""
    hub.repos[REPO] = uploaded
    return hub


def fetched(events: list[Event] | None = None) -> Path:
    """Download it as a person's command would."""
    return door.download(locate(REPO), (events if events is not None else []).append)


def refused() -> str:
    """The one line that a download ends with."""
    with pytest.raises(BaseModelError) as caught:
        fetched()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_fp16_weights_and_settings_come_and_nothing_else(small):
    folder = fetched()
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == small.sent()
    assert {name for name in files if name.endswith(".safetensors")} == {
        "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
    }  # fmt: skip
    assert {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json"} <= files
    assert not any(name.startswith("safety_checker") or name.endswith((".bin", ".ckpt", ".md")) for name in files)
    assert missing(folder) == ""


def test_what_comes_is_foretold_to_the_byte_before_it_begins(small):
    events: list[Event] = []
    sent = []
    folder = door.download(locate(REPO), lambda event: (events.append(event), sent.append(len(small.sent()))))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert door.wanted(REPO, "fp16").size == size
    assert isinstance(events[0], Note)
    # Only the index, which says what is needed.
    assert sent[0] == 1
    assert door.in_bytes(size) in events[0].text and str(door.cache_folder()) in events[0].text
    bars = [event for event in events if isinstance(event, Progress)]
    assert bars[0].what == f"downloading {REPO} (MB)"
    assert [bar.done for bar in bars] == sorted(bar.done for bar in bars) and bars[-1].done == bars[-1].total


def test_a_downloaded_base_opens_and_is_found_by_its_name_from_then_on(small, tmp_path):
    assert locate(REPO).path is None and locate(REPO).kind == "hub"
    folder = fetched()
    assert locate(REPO).path == folder
    assert [(base.name, base.kind, base.problem) for base in here(tmp_path / "bases")][1:] == [(REPO, "hub", "")]
    assert open_model(BaseConfig(base=REPO, precision="fp32"), "cpu").side == 32


def test_opening_a_name_downloads_it_first(small):
    events: list[Event] = []
    model = open_model(BaseConfig(base=REPO, precision="fp32"), "cpu", report=events.append)
    assert model.name == REPO and isinstance(events[0], Note)


def test_a_base_that_is_here_is_not_asked_for_again(small, monkeypatch):
    fetched()
    small.log.clear()
    located = locate(REPO)
    assert door.download(located) == located.path
    assert small.log == []


def test_a_broken_connection_goes_on_where_it_broke(small):
    small.cut[UNET] = [5 * PIECE, 2 * PIECE + 100]
    fetched()
    assert small.asked(UNET) == ["", f"bytes={5 * PIECE}-", f"bytes={7 * PIECE}-"]


def test_a_download_that_was_broken_off_goes_on_in_the_next_one(small):
    small.cut[UNET] = [8 * PIECE] + [0] * 9
    said = refused()
    assert "goes on where it ended" in said and "is not reached" in said
    assert locate(REPO).path is None
    small.cut.clear()
    small.log.clear()
    events: list[Event] = []
    folder = fetched(events)
    assert small.asked(UNET) == [f"bytes={8 * PIECE}-"]
    assert "of it are here" in events[0].text
    assert missing(folder) == "" and not list(door.cache_folder().rglob("*.incomplete"))


def test_ctrl_c_keeps_what_came(small):
    def stop(event: Event) -> None:
        if isinstance(event, Progress):
            stop.seen += 1
            if stop.seen == 2:
                raise KeyboardInterrupt

    stop.seen = 0
    with pytest.raises(KeyboardInterrupt):
        door.download(locate(REPO), stop)
    assert door.unfinished() > 0
    fetched()
    assert door.unfinished() == 0


def test_a_server_without_ranges_begins_anew_and_the_file_is_right_all_the_same(small, uploaded):
    small.ranges = False
    small.cut[UNET] = [5 * PIECE]
    folder = fetched()
    assert (folder / UNET).read_bytes() == (uploaded / UNET).read_bytes()


def test_a_busy_hub_is_asked_again(small):
    small.busy[UNET] = [503, 502]
    fetched()
    assert small.asked(UNET) == ["", "", ""]


def test_a_refusal_is_told_and_not_asked_again(small):
    small.busy[UNET] = [403]
    assert "error 403" in refused() and small.asked(UNET) == [""]


def test_content_with_another_hash_than_promised_is_refused_and_thrown_away(small):
    small.spoilt.add(UNET)
    said = refused()
    assert UNET in said and "hash" in said
    assert not list(door.cache_folder().rglob("*.incomplete"))
    assert locate(REPO).path is None


@pytest.mark.parametrize("more", [100, -100])
def test_another_size_than_promised_is_refused(small, more):
    small.lies[UNET] = more
    assert UNET in refused()


def test_an_unknown_repository_is_told_in_one_line(small):
    with pytest.raises(BaseModelError, match="no such repository on the hub, or a private one.*check the name"):
        door.download(locate("painter/nothing"))


def test_a_gated_repository_says_how_to_be_let_in(small):
    small.gated.add(REPO)
    said = refused()
    assert f"{small.address}/{REPO}" in said and "hf auth login" in said and "accept" in said


def test_offline_nothing_is_asked(small, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused() and "unset" in refused()
    assert small.log == []


def test_a_hub_that_is_away_is_told_in_one_line(small, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 is not reached" in refused()


def test_a_full_disk_is_told_before_anything_comes(small, monkeypatch):
    monkeypatch.setattr(door, "disk_of", lambda path: Disk(path, 10**6, 10**9, True))
    said = refused()
    assert "1.0 MB are free" in said and "HF_HUB_CACHE" in said
    assert small.sent() == {"model_index.json"}


def test_weights_that_are_there_as_pickles_only_are_refused(small, uploaded, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(uploaded, folder)
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    small.repos[REPO] = folder
    assert "weights of unet only as diffusion_pytorch_model.bin" in refused()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["ink_lora.safetensors"], "but a style (ink_lora.safetensors)"),
        (["v1-5-pruned.safetensors", "README.md"], "download that file and give --base FILE"),
        (["README.md"], "expected a diffusers model"),
    ],
)
def test_a_repository_that_is_no_pipeline_says_what_it_is(hub, tmp_path, files, words):  # noqa: F811
    hub.repos[REPO] = tmp_path / "other"
    hub.repos[REPO].mkdir()
    for name in files:
        (hub.repos[REPO] / name).write_bytes(b"x")
    assert words in refused()


def test_a_pipeline_of_another_kind_is_refused_before_it_is_downloaded(small, uploaded, tmp_path):
    folder = tmp_path / "flux"
    shutil.copytree(uploaded, folder)
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline", "transformer": ["diffusers", "F"]}')
    small.repos[REPO] = folder
    assert "holds a FluxPipeline" in refused()
    assert small.sent() == {"model_index.json"}


def test_two_downloads_at_once_take_the_files_once(small):
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetched())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 2 and paths[0] == paths[1]
    assert len(small.asked(UNET)) == 1


def test_the_commit_is_remembered_so_that_others_find_it_offline(small):
    folder = fetched()
    assert folder.name == COMMIT
    code = (
        "import sys; from huggingface_hub import snapshot_download as get; "
        "from difflora.models.hub import cached; print(cached(sys.argv[1])); print('torch' in sys.modules)"
    )
    cache = {"HF_HUB_CACHE": str(door.cache_folder()), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, REPO], env=os.environ | cache, capture_output=True, text=True)
    assert done.stdout.split() == [str(folder), "False"]


def test_a_snapshot_that_lacks_a_file_does_not_count(small):
    folder = fetched()
    (folder / "vae" / "config.json").unlink()
    assert door.cached(REPO) is None and locate(REPO).path is None
    assert here(folder / "bases")[1:] == []


def test_short_names_stand_for_their_repository(small, uploaded, tmp_path):
    short = SHORT["sd15"]
    assert short in not_here() and locate("sd15").repo == short.repo and locate("sd15").path is None
    small.repos[short.repo] = uploaded
    folder = door.download(locate("sd15"))
    assert locate("sd15").path == locate(short.repo).path == folder
    assert "sd15" in [base.name for base in here(tmp_path / "bases")] and short not in not_here()


@pytest.mark.parametrize("name", sorted(SHORT))
def test_the_size_that_a_short_name_takes_is_counted(name):
    folder = CONFIGS / SHORT[name].family
    with torch.device("meta"):
        networks = empty_networks(Source(name, folder, read_index(name, folder)), torch.float16)
    parts = [network for network in networks.values() if isinstance(network, torch.nn.Module)]
    assert sum(weight.numel() for part in parts for weight in part.parameters()) == SHORT[name].numbers
