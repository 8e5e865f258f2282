"""Whatever a stranger's file holds, it ends in a sentence or in a style. The long version is scripts/bench/fuzz.py."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image

from difflora.adapters.cards import card
from difflora.adapters.convert import convert, repair
from difflora.adapters.disk import content_sha256, sha256
from difflora.adapters.families import Match
from difflora.adapters.files import load_adapter
from difflora.adapters.inspection import inspect_header
from difflora.adapters.measure import inspect_numbers
from difflora.drawing.again import make_again
from difflora.errors import AdapterFileError, DiffloraError, OutputError, RequestError
from difflora.training.again import read_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "bench"))
import fuzz
from mutate import KINDS, NETWORKS, joined, row, special

TOY = Match("toy", NETWORKS["toy"])
PATH = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOWN, UP = row(f"{NAME}.lora_down.weight", (2, 32), Random(0)), row(f"{NAME}.lora_up.weight", (32, 2), Random(1))


def written(path: Path, rows: list, metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(joined(metadata or {}, rows))
    return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzz.Bench]:
    with fuzz.Bench(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_file_ends_in_a_sentence_or_a_style(bench: fuzz.Bench, kind: str) -> None:
    tally = fuzz.Tally()
    for number in range({"tensors": 30, "words": 15, "monster": 6, "sound": 4}.get(kind, 8)):
        _, style, rng = bench.case(1, number, [kind])
        fuzz.tried(bench, tally, number, kind, style, rng, None)
    assert not [found.text for found in tally.findings.values()]


def test_an_invented_header_ends_in_a_sentence(bench: fuzz.Bench) -> None:
    tally = fuzz.Tally()
    fuzz.invented_headers(bench, tally, 60, seed=1)
    assert not [found.text for found in tally.findings.values()]


# --- what was found, by the invariant that it broke


def test_a_prefix_that_is_repeated_without_end_makes_a_name_that_is_not_known(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", [("base_model.model." * 1500 + "x.alpha", "F32", (), bytes(4))])
    with pytest.raises(AdapterFileError, match="not in the base"):
        load_adapter(path, TOY.shapes)


def test_a_name_that_is_too_long_for_the_disk_is_an_error_of_ours(tmp_path: Path) -> None:
    for read in (inspect_header, lambda path: load_adapter(path, TOY.shapes)):
        with pytest.raises(AdapterFileError, match="cannot be read"):
            read(tmp_path / ("y" * 5000 + ".safetensors"))
    path = written(tmp_path / ("x" * 240 + ".safetensors"), [DOWN, UP])
    with pytest.raises(OutputError, match="too long"):
        convert(path, "diffusers", base=TOY)


HADA = {"hada_w1_a": (32, 2, 1), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2, 1), "hada_w2_b": (2, 32)}
LOKR = {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2, 1), "lokr_w2_b": (2, 8)}
TUCKER = {"lokr_w1": (4, 4), "lokr_w2_a": (2, 8), "lokr_w2_b": (2, 8, 1), "lokr_t2": (2, 2, 1, 1)}


@pytest.mark.parametrize("shapes", [HADA, LOKR, TUCKER])
def test_a_factor_of_three_axes_is_damage_and_no_crash(tmp_path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    rows = [row(f"{NAME}.{part}", shape, Random(0)) for part, shape in shapes.items()]
    path = written(tmp_path / "a.safetensors", rows)
    with pytest.raises(AdapterFileError, match=r"has a factor of shape \(.*the file is damaged"):
        load_adapter(path, TOY.shapes)
    assert inspect_numbers(inspect_header(path, TOY), TOY).troubles[0].grave


def test_an_empty_tensor_of_endless_axes_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", [(f"{NAME}.hada_t1", "F16", (2**47, 0, 2**47, 2**47), b"")])
    with pytest.raises(AdapterFileError, match="no proper shape"):
        inspect_header(path, TOY)


def test_a_file_without_tensors_is_not_called_sound(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", [])
    assert not inspect_header(path, TOY).loads
    with pytest.raises(AdapterFileError, match="no tensors"):
        load_adapter(path, TOY.shapes)


def test_a_file_that_no_memory_holds_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.safetensors", [DOWN, UP])
    monkeypatch.setattr(Path, "read_bytes", lambda path: bytes(2**60))
    with pytest.raises(AdapterFileError, match="what the memory holds"):
        load_adapter(path, TOY.shapes)


def test_the_name_of_a_pickle_in_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[2J.bin").write_bytes(b"")
    with pytest.raises(AdapterFileError, match=r": a\?\?\[2J\.bin can run code"):
        load_adapter(tmp_path, TOY.shapes)


def test_a_pipe_or_a_loop_in_a_folder_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "adapter_config.json")
    (tmp_path / "adapter_model.safetensors").symlink_to("..")
    for read in (content_sha256, lambda path: sha256(path / "adapter_config.json")):
        with pytest.raises(AdapterFileError, match="^.{,1000}not a regular file.{,100}$"):
            read(tmp_path)
    assert card(tmp_path).sha256 == ""


@pytest.mark.parametrize("target", ["nowhere", "fifo", "folder"])
def test_settings_that_cannot_be_read_are_not_skipped(tmp_path: Path, target: str) -> None:
    key = "base_model.model." + PATH.removeprefix("unet.")
    rows = [(f"{key}.lora_A.weight", *DOWN[1:]), (f"{key}.lora_B.weight", *UP[1:])]
    written(tmp_path / "adapter_model.safetensors", rows)
    special(tmp_path / "adapter_config.json", target)
    with pytest.raises(AdapterFileError, match="not a regular file"):
        load_adapter(tmp_path, TOY.shapes)


SOURCE = {"name": "a", "sha256": "0"}
MADE = {"name": "a", "sources": [SOURCE], "to": "kohya", "precision": "fp32", "rank": None, "max_error": None}
WRONG: tuple = ({"sources": []}, {"rank": "8"}, {"rank": 1.5}, {"rank": True}, {"max_error": []}, {"precision": []})
BLEND = {"difflora.blend": json.dumps([SOURCE | {"weight": 10**400}])}


@pytest.mark.parametrize("words", [*({"difflora.made": json.dumps(MADE | wrong)} for wrong in WRONG), BLEND])
def test_a_recipe_of_other_types_is_damaged(tmp_path: Path, words: dict[str, str]) -> None:
    path = written(tmp_path / "a.safetensors", [DOWN, UP], words)
    with pytest.raises(RequestError, match="its recipe is damaged"):
        make_again(path, tmp_path, tmp_path / "out", "b")


@pytest.mark.parametrize("config", [{}, {"rank": 10**300}, {"images": "y" * 5000}, {"images": []}])
def test_a_training_that_cannot_be_read_is_one_line(tmp_path: Path, config: dict) -> None:
    words = {"difflora.config": json.dumps({"images": str(tmp_path)} | config), "difflora.segments": "[[1e999, 2]]"}
    path = written(tmp_path / "**.safetensors", [DOWN, UP], words)
    with pytest.raises(DiffloraError, match="^.{,999}$"):
        read_recipe(path, images=None, name="b", out=tmp_path, runs=tmp_path)


def test_finite_factors_of_an_endless_product_are_told_and_not_decomposed(tmp_path: Path) -> None:
    shapes, huge = {"a": (32, 2), "b": (2, 32)}, struct.pack("<f", 3e38)
    rows = [(f"{NAME}.hada_w{n}_{side}", "F32", shapes[side], huge * 64) for n in (1, 2) for side in shapes]
    path = written(tmp_path / "a.safetensors", rows)
    fuzz.on_screen(lambda screen: screen.inspected(inspect_numbers(inspect_header(path, TOY), TOY), True))
    with pytest.raises(AdapterFileError, match="not finite"):
        convert(path, "diffusers", tmp_path / "b.safetensors", base=TOY, rank=1)


def test_any_recipe_is_shown_to_people_and_to_scripts(tmp_path: Path) -> None:
    for value in ('"\\ud800"', *("[" * deep + "]" * deep for deep in range(800, 1000, 2))):
        path = written(tmp_path / "\udcff.safetensors", [DOWN, UP], {"difflora.made": f'{{"a": {value}}}'})
        fuzz.on_screen(lambda screen, path=path: screen.inspected(inspect_header(path, TOY), True))


def test_a_picture_that_claims_to_be_huge_is_left_out_without_a_word(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(buffer := io.BytesIO(), "PNG")
    head = buffer.getvalue()[:16] + struct.pack(">II", 10_000, 10_000) + buffer.getvalue()[24:29]
    data = head + zlib.crc32(head[12:]).to_bytes(4, "big") + buffer.getvalue()[33:]
    words = {"modelspec.thumbnail": "data:image/png;base64," + base64.b64encode(data).decode()}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert card(written(tmp_path / "a.safetensors", [DOWN, UP], words)).thumbnail == b""
    assert not heard


def test_measuring_a_giant_rank_costs_no_more_memory_than_its_file_suggests(tmp_path: Path) -> None:
    shapes = {f"{NAME}.lora_down.weight": (4096, 32), f"{NAME}.lora_up.weight": (32, 4096)}
    path = written(tmp_path / "a.safetensors", [row(key, shape, Random(0)) for key, shape in shapes.items()])
    repair(written(tmp_path / "small.safetensors", [DOWN, UP]), base=TOY)
    before = fuzz.reset_memory()
    found = inspect_numbers(inspect_header(repair(path, base=TOY).path, TOY), TOY)
    norm = float(torch.linalg.norm(load_adapter(path, TOY.shapes).layers[PATH].delta()))
    assert found.modules[0].norm == pytest.approx(norm, rel=1e-4)
    assert fuzz.peak_memory() - before < 50 * 2**20
