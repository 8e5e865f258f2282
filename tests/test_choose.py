"""A kept checkpoint becomes the style."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import random_adapter

from difflora.adapters.files import read_header, save_adapter
from difflora.errors import RequestError
from difflora.training.choose import choose_kept, kept_steps, use_checkpoint, used_step
from difflora.training.control import holding
from difflora.training.waiting import Waiting


@pytest.fixture
def run(tmp_path: Path, model) -> Path:
    """A run of a style called ink, in a folder of its own name, with two checkpoints."""
    folder = tmp_path / "runs" / "ink"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.toml").write_text(f'images = "/pictures/ink"\nout = "{tmp_path / "loras"}"\n')
    for step in (100, 200):
        metadata = {"ss_steps": str(step), "ss_output_name": "ink"}
        save_adapter(
            folder / "checkpoints" / f"step-{step:06}.safetensors", random_adapter(model, 2, 3.0, step), metadata
        )
    (folder / "checkpoints" / "step-later.safetensors").touch()
    return folder


def test_a_checkpoint_becomes_the_style_in_the_library_and_beside_the_run(run, tmp_path):
    assert kept_steps(run) == [100, 200]
    file = choose_kept(run, 200)
    assert file == tmp_path / "loras" / "ink.safetensors" and used_step(file) == 200
    kept = (run / "checkpoints" / "step-000200.safetensors").read_bytes()
    assert file.read_bytes() == kept == (run / "ink.safetensors").read_bytes()
    assert read_header(file).metadata["ss_output_name"] == "ink"


def test_the_style_that_was_there_lies_in_the_trash_and_the_same_one_does_not(run, tmp_path):
    first = choose_kept(run, 100).read_bytes()
    choose_kept(run, 200)
    choose_kept(run, 200)
    (old,) = (tmp_path / "loras" / ".trash").iterdir()
    assert old.read_bytes() == first
    assert used_step(choose_kept(run, 100)) == 100


def test_another_library_leaves_the_run_s_own_as_it_was(run, tmp_path):
    file = choose_kept(run, 100, tmp_path / "other")
    assert file == tmp_path / "other" / "ink.safetensors" and not (tmp_path / "loras").exists()


def test_a_run_put_aside_gives_its_style_the_name_it_was_learnt_by(run, tmp_path):
    aside = run.rename(run.with_name("ink-1"))
    assert choose_kept(aside, 100) == tmp_path / "loras" / "ink.safetensors"


def test_a_step_that_was_not_kept_is_refused_with_those_that_were_and_nothing_changes(run, tmp_path):
    with pytest.raises(RequestError, match="no checkpoint of step 150 .* one of 100, 200"):
        choose_kept(run, 150)
    with pytest.raises(RequestError, match="none yet"):
        use_checkpoint(tmp_path / "runs" / "oil", 100, tmp_path / "loras")
    assert not list(tmp_path.rglob("ink.safetensors"))


def test_a_run_at_work_or_waiting_keeps_its_own_choice(run):
    with holding(run), pytest.raises(RequestError, match="being trained"):
        choose_kept(run, 100)
    waiting = Waiting(run.parent)
    waiting.folder.mkdir()
    waiting.put("ink", {"images": "/pictures/ink"})
    with pytest.raises(RequestError, match="being trained"):
        choose_kept(run, 100)
    waiting.drop("ink")
    assert used_step(choose_kept(run, 100)) == 100


def test_a_file_that_tells_no_step_has_none(run, tmp_path):
    (tmp_path / "short.safetensors").write_bytes(b"{}")
    assert used_step(tmp_path / "short.safetensors") is None and used_step(tmp_path / "nothing.safetensors") is None
