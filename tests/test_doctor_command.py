"""The doctor says what this machine has, and of all that is wrong which command mends it, whatever is broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from difflora import cli, machine, packages
from difflora.machine import Disk, disk_of, folder_bytes, in_bytes, look_over, short_path
from difflora.models import checkup
from difflora.packages import Package
from difflora.torch_probe import has_code

GPU = {
    "kind": "cuda", "name": "NVIDIA H100", "total": 85 * 10**9, "free": 80 * 10**9, "capability": "9.0",
    "precisions": ["fp32", "bf16", "fp16"],
}  # fmt: skip
WELL = {"version": "2.13.0", "cuda": "13.0", "available": True, "devices": [GPU], "too_old": []}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where all is well, and an empty folder to stand in."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "ask_torch", lambda: dict(WELL))
    monkeypatch.setattr(machine, "gpus", lambda: [("NVIDIA H100", "580.10")])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(capsys: pytest.CaptureFixture) -> tuple[str, int]:
    """(what the command shows, its exit code)."""
    try:
        cli.main(["doctor"])
    except SystemExit as ended:
        return " ".join(capsys.readouterr().out.split()), ended.code
    return " ".join(capsys.readouterr().out.split()), 0


def test_a_machine_where_nothing_is_wrong(capsys):
    shown, code = asked(capsys)
    assert code == 0 and "nothing is wrong" in shown
    for words in ("NVIDIA H100, capability 9.0", "computes in fp32, bf16, fp16", "cores", "sdxl would take 6.94 GB"):
        assert words in shown
    assert "wrong:" not in shown


def test_all_of_it_is_one_object_for_a_script(place, capsys):
    cli.main(["doctor", "--json"])
    row = json.loads(capsys.readouterr().out)
    assert row["event"] == "doctor" and row["faults"] == []
    assert row["devices"][0]["name"] == "NVIDIA H100" and row["devices"][-1]["kind"] == "cpu"
    assert row["downloads"]["sd15"] == 2 * 1_066_235_307 and row["offline"] is True
    assert row["disks"]["downloads"]["path"] == str(place / "cache")
    assert {package["name"]: package["fits"] for package in row["packages"]}["torch"] is True


FAULTS = {
    "cannot": ({"problem": "ImportError: libcudart.so.13"}, "torch cannot be imported", "--force-reinstall torch"),
    "no cuda": (
        WELL | {"cuda": None, "available": False, "devices": []}, "is built without CUDA, and NVIDIA H100 stands idle",
        "mend: ",
    ),
    "driver": (WELL | {"available": False, "devices": []}, "whose driver is 580.10", "update the NVIDIA driver"),
    "old": (WELL | {"too_old": ["NVIDIA H100"]}, "has no code for NVIDIA H100", "choose an older CUDA"),
    "vision": (
        WELL | {"torchvision": "RuntimeError: operator torchvision::nms does not exist"}, "torchvision::nms",
        "pip uninstall -y torchvision",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_torch_that_does_not_do_is_told_with_what_mends_it(kind, monkeypatch, capsys):
    torch, words, mend = FAULTS[kind]
    monkeypatch.setattr(machine, "ask_torch", lambda: torch)
    monkeypatch.setattr(machine, "version_of", lambda name: "2.13.0")
    shown, code = asked(capsys)
    assert code == 1 and words in shown.replace("torch 2.13.0 ", "torch ") and mend in shown


def test_a_gpu_that_was_hidden_on_purpose_is_no_fault(monkeypatch, capsys):
    monkeypatch.setattr(machine, "ask_torch", lambda: WELL | {"available": False, "devices": []})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert asked(capsys)[1] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("import os; os.abort()", "Aborted|code -6"),
        ("raise SystemExit(3)", "code 3"),
        ("print('hello'); __version__ = '9'", "AttributeError"),
    ],
)
def test_it_runs_where_torch_cannot_be_imported(place, content, words):
    (place / "broken").mkdir()
    (place / "broken" / "torch.py").write_text(content)
    settings = os.environ | {"PYTHONPATH": str(place / "broken"), "HF_HUB_CACHE": str(place / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "difflora.cli", "doctor", "--json"], env=settings, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    faults = json.loads(done.stdout)["faults"]
    assert re.search(words, faults[0]["what"]) and "force-reinstall torch" in faults[0]["mend"]
    listed = [sys.executable, "-m", "difflora.cli", "bases"]
    assert subprocess.run(listed, env=settings, capture_output=True, text=True, check=True).stdout.startswith("base")


def test_a_package_that_is_missing_or_too_old_is_told_with_what_brings_it(monkeypatch, capsys):
    rows = [
        Package("peft", ">=0.21", "0.11.0"), Package("scipy", ">=1.14", ""), Package("torch", ">=2.6", "2.13.0+cpu"),
        Package("gradio", ">=6.16", "", "ui"), Package("xformers", ">=0.0.35", "0.0.20", "xformers"),
    ]  # fmt: skip
    monkeypatch.setattr(machine, "packages", lambda: iter(rows))
    shown, code = asked(capsys)
    assert code == 1
    assert 'peft 0.11.0: expected peft>=0.21 mend: pip install "peft>=0.21"' in shown
    assert "scipy is missing" in shown and "xformers 0.0.20: expected" in shown
    # What is optional may be missing.
    assert "wrong: gradio" not in shown and 'not here; pip install "gradio>=6.16"' in shown
    assert "wrong: torch" not in shown


def test_the_versions_asked_for_are_those_of_the_project():
    lines = packages.requirements()
    assert ("torch>=2.6", "") in lines and ("xformers>=0.0.35", "xformers") in lines
    found = list(packages.packages())
    assert {"torch", "diffusers", "transformers", "gradio", "xformers"} <= {package.name for package in found}
    assert all(package.fits for package in found if not package.extra)


def test_an_installed_difflora_says_the_same_without_its_project(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "PROJECT", tmp_path / "pyproject.toml")
    assert ("torch>=2.6", "") in packages.requirements() and ("gradio>=6.16", "ui") in packages.requirements()
    assert packages.python_wanted().contains("3.12.1") and not packages.python_wanted().contains("3.10.9")


def test_an_old_python_is_told(monkeypatch, capsys):
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.9.1")
    shown, code = asked(capsys)
    assert code == 1 and "Python 3.9.1: expected >=3.11" in shown


def test_a_full_disk_and_a_folder_that_cannot_be_written_to_are_told(monkeypatch, capsys):
    rows = {"cache": Disk(Path("/cache"), 10**8, 10**12, True), "runs": Disk(Path("/runs"), 10**12, 10**12, False)}
    monkeypatch.setattr(machine, "disk_of", lambda path: rows.get(Path(path).name, Disk(path, 10**11, 10**12, True)))
    shown, code = asked(capsys)
    assert code == 1
    assert "downloads: 100.0 MB are free in /cache" in shown and "runs: /runs cannot be written to" in shown
    assert "chmod -R u+w /runs" in shown


def test_an_installation_that_lacks_files_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(checkup, "CONFIGS", tmp_path)
    monkeypatch.setattr(checkup, "EMBEDDED", {"tiny": tmp_path})
    shown, code = asked(capsys)
    assert code == 1 and "the embedded base tiny is not whole" in shown and "settings for sd1, sd2, sdxl" in shown


def test_caches_are_told_with_their_size(place, capsys):
    blobs = place / "cache" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0").write_bytes(bytes(3_000_000))
    (blobs / "1.incomplete").write_bytes(bytes(2_000_000))
    (place / "cache" / "link").symlink_to(blobs / "0")
    (place / "runs" / ".cache").mkdir(parents=True)
    (place / "runs" / ".cache" / "x").write_bytes(bytes(1000))
    assert folder_bytes(place / "cache") == 5_000_000
    shown, _ = asked(capsys)
    assert "downloads: 5.0 MB" in shown and "of them unfinished: 2.0 MB" in shown and "pictures: 1,000 bytes" in shown


def test_the_real_torch_is_asked(monkeypatch):
    monkeypatch.undo()
    found = look_over({"here": Path()})
    assert not [fault for fault in found.faults if "torch" in fault.what]
    assert found.devices[-1].cores >= 1 and found.devices[-1].total > 10**8


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_of_its_parent(tmp_path):
    assert disk_of(tmp_path / "a" / "b").total == disk_of(tmp_path).total and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("built", "major", "minor", "runs"),
    [
        (["sm_80", "sm_90"], 8, 6, True), (["sm_80", "sm_90"], 7, 5, False), (["sm_90"], 12, 0, False),
        (["sm_90", "compute_90"], 12, 0, True), (["sm_90a"], 9, 0, True), (["sm_89"], 8, 6, False), ([], 9, 0, True),
        (["sm_75", "sm_100", "sm_120"], 12, 0, True),
    ],
)  # fmt: skip
def test_code_for_a_gpu_is_that_of_its_generation_or_compiled_later(built, major, minor, runs):
    assert has_code(built, major, minor) is runs


def test_sizes_and_paths_are_said_as_people_do():
    assert [in_bytes(count) for count in (0, 1500, 1_500_000, 2_130_000_000, 271 * 10**9)] == [
        "0 bytes", "1,500 bytes", "1.5 MB", "2.13 GB", "271 GB",
    ]  # fmt: skip
    assert short_path(Path.home() / "a") == "~/a" and short_path(Path("/a\nb")) == "/a\\nb"
