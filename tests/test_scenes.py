"""The scenes that the embedded base learns from show what their captions say."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from base import folder, scenes

COLOURS = {"lemon": (230, 210, 30), "tomato": (220, 40, 30), "whale": (40, 90, 220)}
ROWS = [
    {"name": name, "set": label, "group": "Food & Drink", "drawn": True} for label in ("noto", "fx") for name in COLOURS
]


@pytest.fixture(scope="module")
def sources() -> torch.Tensor:
    """A disc in one colour for each of the rows, (6, 4, 64, 64)."""
    axis = torch.linspace(-1, 1, 64)
    disc = (axis.view(1, -1) ** 2 + axis.view(-1, 1) ** 2 < 0.9).float()
    colours = torch.tensor([COLOURS[row["name"]] for row in ROWS]).view(-1, 3, 1, 1)
    return torch.cat([colours.expand(-1, 3, 64, 64), 255 * disc.expand(len(ROWS), 1, 64, 64)], 1).to(torch.uint8)


@pytest.fixture(scope="module")
def planned(sources) -> scenes.Scenes:
    """A plan of 400 scenes."""
    return scenes.plan(ROWS, *scenes.hues(sources), 400)


def drawn(planned, sources, at: int) -> torch.Tensor:
    """One picture (3, 64, 64)."""
    return scenes.draw(planned.tensors(), slice(at, at + 1), sources, 64)[0]


def hue_of(picture: torch.Tensor) -> float:
    """The mean hue of what has a colour."""
    hsv = scenes.to_hsv(picture[None])[0]
    return float(hsv[0][hsv[1] > 0.4].mean())


def test_pictures_by_themselves_are_half_of_all_weight_and_pixel_for_pixel(planned, sources):
    weights = planned.tensors()["weights"]
    assert weights[: planned.singles].sum().item() == pytest.approx(weights[planned.singles :].sum().item(), rel=1e-3)
    whole = sources[0].float() / 255
    assert torch.allclose(drawn(planned, sources, 0), whole[:3] * whole[3:] + 1 - whole[3:], atol=1e-5)


def test_what_is_named_first_stands_on_the_left_or_above(planned):
    found = 0
    for words, things, boxes in zip(planned.words, planned.things, planned.boxes, strict=True):
        for join, axis in ((" next to ", 1), (" above ", 2), (" on ", 2)):
            if join in words[0] and things[1] >= 0:
                found += 1
                assert boxes[0][axis] < boxes[1][axis]
    assert found > 50


def test_a_colour_that_is_named_is_the_colour_that_is_drawn(planned, sources):
    checked = 0
    for at, (words, turns) in enumerate(zip(planned.words, planned.turns, strict=True)):
        colour = next((name for name in scenes.HUES if words[0].startswith(name + " ")), None)
        if colour and turns[0] and ", " not in words[0] and planned.things[at][1] < 0:
            apart = abs(hue_of(drawn(planned, sources, at)) - scenes.HUES[colour])
            assert min(apart, 1 - apart) < 0.04, words[0]
            checked += 1
    assert checked > 5


def test_a_ground_that_is_named_is_at_the_picture_s_corner(planned, sources):
    checked = 0
    for at, words in enumerate(planned.words):
        named = words[0].rpartition(", ")[2].removesuffix(" background")
        if named in scenes.compose.PALETTE and planned.boxes[at][0][0] < 0.95:
            corner = drawn(planned, sources, at)[:, 0, 0]
            assert (corner - torch.tensor(scenes.compose.PALETTE[named])).abs().max() < 0.06
            checked += 1
    assert checked > 20


def test_older_sets_always_say_their_name_and_the_others_in_half_of_their_captions(planned):
    for label, ways in zip(planned.sets, planned.captions(), strict=True):
        assert sum(f"{label} style" in way for way in ways) == (2 if label in scenes.MODERN else 4)


def test_shared_pieces_are_the_folder_again(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "PIECE", 4096)
    whole = tmp_path / "out"
    whole.mkdir()
    (whole / "weights").write_bytes(bytes(range(256)) * 64)
    folder.share([whole, tmp_path / "missing"], tmp_path / "share")
    pieces = sorted((tmp_path / "share").iterdir(), key=lambda path: int(path.suffix[1:]))
    assert len(pieces) > 3 and all(path.stat().st_size <= 4096 for path in pieces)
    with tarfile.open(fileobj=io.BytesIO(b"".join(path.read_bytes() for path in pieces))) as tar:
        assert tar.extractfile("out/weights").read() == (whole / "weights").read_bytes()
