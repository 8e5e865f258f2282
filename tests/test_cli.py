"""The command line: what it says, what it refuses, what survives a kill."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from difflora import cli
from difflora.adapters.adapter import Adapter, Factors
from difflora.adapters.files import load_adapter, save_adapter
from difflora.commands.train import config_of
from difflora.config import TrainConfig


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line that a wrong command gets; it exits with 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert shown.startswith("difflora: ")
    assert len(shown.strip().splitlines()) == 1
    return shown


def train_command(pictures: Path, base: Path, *more: str) -> list[str]:
    """A short training of the random model."""
    return [
        "train",
        "--images",
        str(pictures),
        "--base",
        str(base),
        "--rank",
        "2",
        "--alpha",
        "3",
        "--batch",
        "4",
        *more,
    ]


def test_the_first_real_use_from_pictures_to_a_blend(place, pictures_folder, toy_folder, capsys):
    for name in ("one", "two"):
        more = ["--name", name, "--steps", "2", "--resolution", "32", "--seed", "3"]
        cli.main(train_command(pictures_folder, toy_folder, *more))
    shown = capsys.readouterr().out
    assert "9 at 32 px, captions: 9 from txt" in shown
    assert "rank 2, alpha 3" in shown
    draw = ["generate", "cat", "--base", str(toy_folder), "--steps", "2", "--size", "32"]
    cli.main([*draw, "--lora", "one:0.7", "--lora", "two:-0.4", "--count", "2"])
    assert len(list(place.glob("pictures/cat-*.png"))) == 2
    cli.main(["generate", "--like", "pictures/cat-1.png"])
    assert (place / "pictures/cat-1.png").read_bytes() == (place / "pictures/cat-1-2.png").read_bytes()
    capsys.readouterr()
    cli.main(["inspect", "pictures/cat-0.png", "--json"])
    recipe = json.loads(capsys.readouterr().out)
    assert [(s["name"], s["weight"]) for s in recipe["styles"]] == [("one", 0.7), ("two", -0.4)]
    cli.main(["blend", "one:0.7", "two:-0.4", "--base", str(toy_folder), "--out", "both.safetensors"])
    cli.main([*draw, "--lora", "both.safetensors", "--out", "blended"])
    stacked, blended = (Image.open(place / p) for p in ("pictures/cat-0.png", "blended/cat-0.png"))
    difference = torch.tensor(list(stacked.tobytes())).sub(torch.tensor(list(blended.tobytes()))).abs()
    assert difference.max() <= 3


def test_json_lines_say_what_happened(place, pictures_folder, toy_folder, capsys):
    cli.main(train_command(pictures_folder, toy_folder, "--steps", "2", "--resolution", "32", "--json"))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [row["event"] for row in rows]
    assert kinds.index("plan") < kinds.index("step") < kinds.index("saved") < kinds.index("result")
    assert {"scored", "best"} <= set(kinds)
    assert rows[-1]["file"] == "loras/blobs.safetensors"


def test_a_config_file_gives_the_defaults_and_flags_win(place, pictures_folder):
    (place / "style.toml").write_text(
        f'images = "{pictures_folder}"\nrank = 5\nalpha = 2.5\npreview_prompts = ["cat"]\n'
    )
    command = cli.parse(["train", "--config", "style.toml", "--rank", "6"])
    config = config_of(command)
    assert config == TrainConfig(images=pictures_folder, rank=6, alpha=2.5, preview_prompts=("cat",))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("steps = '100'", "steps = '100': expected a whole number"),
        ("rank = 8.5", "rank = 8.5: expected a whole number"),
        ("batch = true", "batch = True: expected a whole number"),
        ("learning_rate = '1e-4'", "expected a number"),
        ("early_stop = 'false'", "expected true or false"),
        ("targets = 'attention+MLP'", "expected one of attention, attention+mlp"),
        ("precision = 'float16'", "expected one of fp32, bf16, fp16"),
        ("preview_prompts = 'a cat'", "expected a list of texts"),
        ("base = 5", "expected a text"),
        ("name = 2024", "expected a text"),
        ("out = ['a', 'b']", "expected a path as text"),
    ],
)
def test_a_value_of_another_kind_in_a_config_file_is_named(place, capsys, line, words):
    (place / "style.toml").write_text(f'images = "x"\n{line}\n')
    assert words in refused(["train", "--config", "style.toml"], capsys)


def test_a_misspelt_key_in_a_config_file_is_named(place, capsys):
    (place / "style.toml").write_text('images = "x"\nrnak = 5\n')
    assert "'rnak' is unknown" in refused(["train", "--config", "style.toml"], capsys)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "--images", "nowhere"], "nowhere"),
        (["train", "--images", "empty"], "no pictures"),
        (["train", "--images", "cut"], "cut.jpg"),
        (["train", "--images", "small"], "small.png"),
        (["train", "--images", "moving"], "moving.webp"),
        (["train", "--images", "garbled"], "garbled.txt"),
        (["train", "--images", "blank"], "blank.txt"),
        (["train", "--images", "good", "--rank", "0"], "--rank 0"),
        (["train", "--images", "good", "--base", "no/where/at/all"], "no such folder"),
        (["train", "--images", "good", "--base", "good"], "model_index.json"),
        (["train", "--images", "good", "--name", "a/b"], "name 'a/b'"),
        (["train", "--images", "good", "--out", "file/loras"], "file"),
        (["generate"], "no prompt"),
        (["generate", "cat", "--lora", "ghost"], "ghost"),
        (["generate", "cat", "--lora", "ink:loud"], "--lora ink:loud"),
        (["generate", "cat", "--lora", "pickle.pt"], "pickle.pt"),
        (["generate", "cat", "--lora", "short.safetensors"], "short.safetensors"),
        (["generate", "cat", "--out", "file/pictures"], "file"),
        (["inspect", "short.safetensors"], "short.safetensors"),
        (["inspect", "good/cat.png"], "no recipe"),
        (["score", "ghost", "--images", "good"], "different captions"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(place, capsys, argv, words):
    spoil(place)
    before = sorted(place.rglob("*"))
    assert words in refused(argv, capsys)
    assert [path for path in sorted(place.rglob("*")) if path not in before and path.is_file()] == []


def spoil(place: Path) -> None:
    """Folders and files with one thing wrong each."""
    picture = Image.new("RGB", (32, 32), "red")
    for name in ("empty", "cut", "small", "moving", "garbled", "blank", "good"):
        (place / name).mkdir()
    (place / "file").write_text("")
    Image.effect_noise((64, 64), 50).save(place / "whole.jpg")
    (place / "cut" / "cut.jpg").write_bytes((place / "whole.jpg").read_bytes()[:900])
    Image.new("RGB", (2, 2)).save(place / "small" / "small.png")
    picture.save(place / "moving" / "moving.webp", save_all=True, append_images=[Image.new("RGB", (32, 32), "blue")])
    for name, caption in (("garbled", b"\xff\xfe\x00caf\xe9"), ("blank", b"  \n"), ("good", b"a cat")):
        stem = "cat" if name == "good" else name
        picture.save(place / name / f"{stem}.png")
        (place / name / f"{stem}.txt").write_bytes(caption)
    (place / "pickle.pt").write_bytes(b"\x80\x02}q\x00.")
    (place / "short.safetensors").write_bytes((9999).to_bytes(8, "little") + b"{}")


def test_an_adapter_of_another_family_is_refused_by_its_shapes(place, toy_folder, capsys):
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    wide = Adapter({path: Factors(torch.ones(2, 320), torch.ones(320, 2), 1.0)})
    (place / "loras").mkdir()
    save_adapter(place / "loras" / "wide.safetensors", wide, {})
    assert "another family" in refused(["generate", "cat", "--base", str(toy_folder), "--lora", "wide"], capsys)


def start(argv: list[str], place: Path) -> subprocess.Popen:
    """The real program."""
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "difflora.cli", *argv], cwd=place, env=quiet, stdout=subprocess.PIPE, text=True
    )


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    """Read events until a step was made."""
    for line in process.stdout:
        row = json.loads(line)
        if row["event"] == "step" and row["step"] >= step:
            return
    raise AssertionError("ended before that step")


def code_of(process: subprocess.Popen) -> int:
    """Read to the end and return the exit code."""
    process.stdout.read()
    return process.wait(120)


def test_ctrl_c_pauses_and_a_kill_loses_little_and_the_same_command_ends_with_the_same_numbers(
    place, pictures_folder, toy_folder, model
):
    options = ("--steps", "60", "--resolution", "32", "--preview-every", "0", "--json")
    command = train_command(pictures_folder, toy_folder, *options)
    with start(command, place) as paused:
        wait_for_step(paused, 5)
        paused.send_signal(signal.SIGINT)
        assert code_of(paused) == 130
    assert (place / "runs/blobs/state.safetensors").exists()
    assert not (place / "loras/blobs.safetensors").exists()
    with start(command, place) as killed:
        wait_for_step(killed, 10)
        killed.kill()
        assert code_of(killed) == -signal.SIGKILL
    with start(command, place) as finished:
        assert code_of(finished) == 0
    with start([*command, "--out", "other", "--runs", "other-runs"], place) as whole:
        assert code_of(whole) == 0
    a, b = (load_adapter(place / p / "blobs.safetensors", model.shapes()) for p in ("loras", "other"))
    assert all(torch.equal(a.layers[k].delta(), b.layers[k].delta()) for k in b.layers)


def test_a_disk_that_fills_up_stops_with_one_line_and_the_state_before_it_stays(place, pictures_folder, toy_folder):
    options = ("--resolution", "32", "--preview-every", "0", "--json")
    command = train_command(pictures_folder, toy_folder, "--steps", "2", *options)
    limit = (60_000, 60_000)
    full = subprocess.run(
        [sys.executable, "-m", "difflora.cli", *command],
        cwd=place,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert full.returncode == 2
    assert len(full.stderr.strip().splitlines()) == 1
    assert "cannot be written" in full.stderr
    # What was encoded and measured before it was full is whole and stays; there is no state and no style.
    left = [path.name for path in place.rglob("*.safetensors") if ".cache" not in path.parts]
    assert set(left) <= {"judge.safetensors"}
    assert not list(place.rglob("*.tmp"))
    with start(command, place) as after:
        assert code_of(after) == 0
    assert (place / "loras/blobs.safetensors").exists()


def test_every_config_field_has_a_flag_with_help(capsys):
    from dataclasses import fields

    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    for entry in fields(TrainConfig):
        assert f"--{entry.name.replace('_', '-')}" in shown


def test_the_version_is_printed(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out.startswith("difflora 0.")
