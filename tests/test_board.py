"""Curves and previews for TensorBoard, read back from the file that it reads."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from PIL import Image

from difflora.errors import RequestError
from difflora.events import Note, Preview, Scored, Step
from difflora.training import board
from difflora.training.board import Board

pytest.importorskip("tensorboard")


def read(folder: Path):
    """What a folder of events holds, in tensorboard's own words."""
    with warnings.catch_warnings():
        # tensorboard's own imports, not what is claimed here.
        warnings.simplefilter("ignore", DeprecationWarning)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(folder))
        found.Reload()
    return found


def curve(found, name: str) -> list[tuple[int, float]]:
    return [(point.step, round(point.value, 4)) for point in found.Scalars(name)]


def test_figures_and_previews_come_back_from_the_event_file(tmp_path):
    sheet = tmp_path / "previews.png"
    Image.new("RGB", (48, 32), "red").save(sheet)
    taken = Board(tmp_path / "tensorboard")
    taken.take(Step(1, 2, 0.5, 20.0, 3.0, 0.001, 0.75, 0.5))
    taken.take(Step(2, 2, 0.25, 21.0, 0.0, 0.002, 0.75, None))
    taken.take(Preview(2, sheet))
    taken.take(Scored(2, 0.31, 0.875, 0.125, 0.02, 0.4, 0.5))
    taken.take(Note("nothing to draw"))
    taken.close()
    found = read(tmp_path / "tensorboard")
    assert curve(found, "training/loss") == [(1, 0.5), (2, 0.25)]
    assert curve(found, "training/learning rate") == [(1, 0.001), (2, 0.002)]
    assert curve(found, "training/pictures per second") == [(1, 20.0), (2, 21.0)]
    assert curve(found, "training/memory GB") == [(1, 0.75), (2, 0.75)]
    scores = {"style": 0.31, "followed": 0.875, "copied": 0.125, "harm": 0.02, "loss": 0.4, "total": 0.5}
    assert {name: curve(found, f"checkpoint/{name}") for name in scores} == {k: [(2, v)] for k, v in scores.items()}
    (picture,) = found.Images("previews")
    assert (picture.step, picture.width, picture.height) == (2, 48, 32)


def test_a_training_that_goes_on_adds_to_the_same_curves(tmp_path):
    for step in (1, 2):
        taken = Board(tmp_path)
        taken.take(Step(step, 2, 0.5, 20.0, 3.0))
        taken.close()
    assert curve(read(tmp_path), "training/loss") == [(1, 0.5), (2, 0.5)]


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(board, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'difflora\[tensorboard\]'"):
        Board(tmp_path / "tensorboard")
    assert not (tmp_path / "tensorboard").exists()
