"""What adapter files promise: nothing is lost, nothing hostile is read, nothing is half written."""

import base64
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.blend import blend
from difflora.adapters.files import (
    adapter_named,
    adapter_names,
    find_adapter,
    load_adapter,
    read_header,
    save_adapter,
    sha256,
    style_metadata,
    write_atomic,
)
from difflora.adapters.metadata import complete
from difflora.errors import AdapterFileError, DiffloraError, OutputError
from difflora.version import __version__

Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "unet.up_blocks.1.resnets.0.conv1"
TEXT = "text_encoder.encoder.layers.0.self_attn.q_proj"
SHAPES = {Q: (24, 16), CONV: (12, 8, 3, 3), TEXT: (20, 20)}
INFO = Info(name="ink", family="tiny", base="tiny", trigger="inkish")
NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def factors(shape: tuple[int, ...], rank: int, alpha: float, seed: int = 0, size: float = 1.0) -> Factors:
    rng = torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], rank, *(1 for _ in shape[2:]), generator=rng) * size
    return Factors(torch.randn(rank, *shape[1:], generator=rng) * size, up, alpha)


def adapter(seed: int = 0) -> Adapter:
    """Mixed ranks, and alphas that are none of them."""
    return Adapter({p: factors(SHAPES[p], 2 + i, 2.5 + seed, seed) for i, p in enumerate(SHAPES)}, INFO)


def gap(found: Factors, wanted: Factors) -> float:
    return float((found.delta() - wanted.delta()).norm() / wanted.delta().norm())


def refusal(path: Path, shapes: dict[str, tuple[int, ...]] = SHAPES, family: str = "tiny") -> str:
    with pytest.raises(AdapterFileError) as caught:
        load_adapter(path, shapes, family)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.isprintable() and len(message) < 1000
    return message


def packed(header: object, numbers: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if numbers are read."""

    def read(data: bytes) -> None:
        raise AssertionError("the numbers were read")

    monkeypatch.setattr(safetensors.torch, "load", read)


# --- nothing is lost


def test_a_file_keeps_every_update_within_half_precision(tmp_path: Path) -> None:
    made = adapter()
    back = load_adapter(save_adapter(tmp_path / "ink.safetensors", made, {}), SHAPES, "tiny")
    assert {f.down.dtype for f in back.layers.values()} == {torch.float16}
    assert all(gap(back.layers[path], made.layers[path]) < 1e-3 for path in SHAPES)
    assert [f.rank for f in back.layers.values()] == [2, 3, 4]


def test_a_float32_file_keeps_every_update_to_the_last_bit(tmp_path: Path) -> None:
    made = adapter()
    back = load_adapter(save_adapter(tmp_path / "ink.safetensors", made, {}, torch.float32), SHAPES)
    assert all(torch.equal(back.layers[path].delta(), made.layers[path].delta()) for path in SHAPES)


def test_a_bfloat16_file_keeps_every_update_within_its_precision(tmp_path: Path) -> None:
    made = adapter()
    back = load_adapter(save_adapter(tmp_path / "ink.safetensors", made, {}, torch.bfloat16), SHAPES)
    assert all(gap(back.layers[path], made.layers[path]) < 8e-3 for path in SHAPES)


def test_alpha_survives_a_file(tmp_path: Path) -> None:
    back = load_adapter(save_adapter(tmp_path / "ink.safetensors", adapter(), {}), SHAPES)
    assert [f.alpha for f in back.layers.values()] == [2.5] * 3
    stored = safetensors.torch.load_file(tmp_path / "ink.safetensors")[f"{NAME}.alpha"]
    assert stored.dtype == torch.float32 and stored.shape == ()


def test_a_blend_with_negative_weights_survives_a_file(tmp_path: Path) -> None:
    mixed = blend([adapter(0), adapter(4)], [1.2, -0.7], INFO)
    back = load_adapter(save_adapter(tmp_path / "mix.safetensors", mixed, {}), SHAPES)
    assert all(gap(back.layers[path], mixed.layers[path]) < 1e-3 for path in SHAPES)


def test_lopsided_factors_are_balanced_before_the_cast(tmp_path: Path) -> None:
    shape = SHAPES[Q]
    made = Factors(factors(shape, 4, 1).down * 1e4, factors(shape, 4, 1).up * 1e-7, alpha=2.0)
    back = load_adapter(save_adapter(tmp_path / "x.safetensors", Adapter({Q: made}), {}), SHAPES)
    assert back.layers[Q].down.dtype == torch.float16 and gap(back.layers[Q], made) < 1e-3


@pytest.mark.parametrize("size", [1e5, 1e-6])
def test_only_a_layer_that_half_precision_cannot_hold_is_kept_in_float32(tmp_path: Path, size: float) -> None:
    made = Adapter({Q: factors(SHAPES[Q], 4, 2.0, size=size), TEXT: factors(SHAPES[TEXT], 4, 2.0)})
    back = load_adapter(save_adapter(tmp_path / "x.safetensors", made, {}), SHAPES)
    assert back.layers[Q].down.dtype == torch.float32 and back.layers[TEXT].down.dtype == torch.float16
    assert torch.equal(back.layers[Q].delta(), made.layers[Q].delta())


def test_a_fresh_adapter_survives_a_file(tmp_path: Path) -> None:
    fresh = Adapter({Q: Factors(torch.randn(4, 16), torch.zeros(24, 4), 4.0)})
    back = load_adapter(save_adapter(tmp_path / "x.safetensors", fresh, {}), SHAPES)
    assert not back.layers[Q].delta().any()


def test_views_and_trainable_factors_are_saved(tmp_path: Path) -> None:
    both = torch.randn(16, 4)
    made = Factors(torch.nn.Parameter(both).T, torch.nn.Parameter(torch.randn(4, 24)).T, 2.0)
    made = Adapter({Q: made, TEXT: Factors(both[:4].repeat(1, 5), both[:4].repeat(5, 1), 2.0)})
    back = load_adapter(save_adapter(tmp_path / "x.safetensors", made, {}, torch.float32), SHAPES)
    assert torch.equal(back.layers[Q].delta(), made.layers[Q].delta())


def test_the_header_says_what_the_adapter_is(tmp_path: Path) -> None:
    metadata = {"ss_output_name": "Ink", "modelspec.trigger_phrase": "inkish", "note": "日本 <b>\u2028"}
    back = load_adapter(save_adapter(tmp_path / "file.safetensors", adapter(), metadata), SHAPES, "tiny").info
    assert (back.name, back.family, back.base, back.trigger) == ("Ink", "tiny", "tiny", "inkish")
    assert metadata.items() <= back.metadata.items()
    unnamed = load_adapter(save_adapter(tmp_path / "file.safetensors", adapter(), {}), SHAPES).info
    assert unnamed.name == "file"


def test_the_same_adapter_makes_the_same_bytes(tmp_path: Path) -> None:
    metadata = {f"key {i}": "value" for i in range(20)}
    (tmp_path / "again").mkdir()
    one = save_adapter(tmp_path / "a.safetensors", adapter(), metadata)
    two = save_adapter(tmp_path / "again/a.safetensors", adapter(), dict(reversed(metadata.items())))
    assert one.read_bytes() == two.read_bytes() and sha256(one) == hashlib.sha256(two.read_bytes()).hexdigest()


# --- the hashes other tools trust


def test_hashes_match_an_independent_computation(tmp_path: Path) -> None:
    wide = {Q: (900, 700), TEXT: (500, 600)}
    made = Adapter({path: factors(shape, 500, 3.0) for path, shape in wide.items()}, INFO)
    metadata = {"ss_output_name": "ink\n\x01é", "ss_v2": "False", "other": "x" * 999, "sshs_model_hash": "stale"}
    path = save_adapter(tmp_path / "x.safetensors", made, metadata)
    stored, found = safetensors.torch.load_file(path), read_header(path).metadata
    alone = safetensors.torch.save(stored, {key: value for key, value in found.items() if key.startswith("ss_")})
    assert len(alone) > 0x110000
    numbers = alone[8 + int.from_bytes(alone[:8], "little") :]
    assert found["sshs_model_hash"] == hashlib.sha256(numbers).hexdigest()
    assert found["sshs_legacy_hash"] == hashlib.sha256(alone[0x100000:0x110000]).hexdigest()[:8]
    spec = hashlib.sha256()
    for value in stored.values():
        spec.update(value.numpy().tobytes())
    assert found["modelspec.hash_sha256"] == f"0x{spec.hexdigest()}"


def test_hashes_are_of_the_numbers_alone(tmp_path: Path) -> None:
    one = save_adapter(tmp_path / "a.safetensors", adapter(), {"ss_output_name": "a"})
    two = save_adapter(tmp_path / "b.safetensors", adapter(), {"title": "something else"})
    full = save_adapter(tmp_path / "c.safetensors", adapter(), {}, torch.float32)
    hashes = [read_header(p).metadata["sshs_model_hash"] for p in (one, two, full)]
    assert hashes[0] == hashes[1] != hashes[2]


# --- hostile and damaged files are refused before they are read


def row(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HOSTILE = {
    "empty": (b"", "is empty"),
    "tiny": (b"abc", "only 3 bytes"),
    "text": (b"this is no safetensors file at all", "not a safetensors file"),
    "web page": (b"<!DOCTYPE html><html>", "web page"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "renamed pickle": (b"\x80\x02}q\x00X\x05\x00\x00\x00hello", "renamed pickle"),
    "renamed zip": (b"PK\x03\x04" + bytes(20), "ends inside its header|renamed archive"),
    "huge header length": ((2**63).to_bytes(8, "little") + b"{}", "at most 16 MB"),
    "header beyond the end": ((5000).to_bytes(8, "little") + b"{}", "ends inside its header"),
    "garbage JSON": (packed(b'{"a": [1, 2'), "no valid JSON"),
    "no UTF-8": (packed(b'{"\xff": 1}'), "no valid JSON"),
    "half a character": (packed(b'{"\\ud800": {}}'), "no valid JSON"),
    "deep JSON": (packed(b"[" * 200_000), "no valid JSON"),
    "long number": (packed(b'{"a": ' + b"9" * 10_000 + b"}"), "no valid JSON"),
    "a list": (packed([1, 2]), "no JSON object"),
    "repeated key": (packed(b'{"a.alpha": {}, "a.alpha": {}}'), "no valid JSON"),
    "metadata no text": (packed({"__metadata__": {"a": 1}}), "no text"),
    "metadata no object": (packed({"__metadata__": []}), "no JSON object"),
    "too much metadata": (packed({"__metadata__": {"a": "x" * (4 * 2**20 + 1)}}), "metadata; expected at most 4 MB"),
    "too many tensors": (packed({str(i): row([0], 0, 0) for i in range(20_001)}), "20,001 tensors"),
    "not described": (packed({"a": 1}), "not described"),
    "extra field": (packed({"a": row([1], 0, 4) | {"x": 1}}, bytes(4)), "not described"),
    "pickled dtype": (packed({"a": row([1], 0, 8, "F64")}, bytes(8)), "stored as F64"),
    "dtype no text": (packed({"a": row([1], 0, 8) | {"dtype": []}}, bytes(8)), "stored as"),
    "integers": (packed({"a.lora_up.weight": row([1], 0, 8, "I64")}, bytes(8)), "stored as I64"),
    "many alphas": (packed({"a.alpha": row([2], 0, 16, "I64")}, bytes(16)), "stored as I64"),
    "five axes": (packed({"a": row([1] * 5, 0, 4)}, bytes(4)), "5 axes"),
    "negative axis": (packed({"a": row([-1], 0, 4)}, bytes(4)), "no proper shape"),
    "true axis": (packed({"a": row([True], 0, 4)}, bytes(4)), "no proper shape"),
    "giant axis": (packed({"a": row([0, 2**70], 0, 0)}), "no proper shape"),
    "wrong size": (packed({"a": row([3], 0, 4)}, bytes(4)), "expected 12"),
    "overlap": (packed({"a": row([2], 0, 8), "b": row([2], 4, 12)}, bytes(12)), "overlap"),
    "gap": (packed({"a": row([1], 0, 4), "b": row([1], 8, 12)}, bytes(12)), "gap"),
    "cut short": (packed({"a": row([4], 0, 16)}, bytes(10)), "cut short: 10 of 16 bytes"),
    "something after the end": (packed({"a": row([1], 0, 4)}, bytes(9)), "5 bytes follow"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_before_it_is_read(tmp_path: Path, never_loaded: None, kind: str) -> None:
    data, why = HOSTILE[kind]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    assert any(part in refusal(path) for part in why.split("|"))
    with pytest.raises(AdapterFileError):
        read_header(path)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".PTH", ".pkl"])
def test_a_pickle_is_refused_by_its_name(tmp_path: Path, never_loaded: None, suffix: str) -> None:
    path = tmp_path / f"style{suffix}"
    path.write_bytes(b"anything")
    assert "weights_only=True" in refusal(path)


def test_other_names_folders_and_missing_files_are_refused(tmp_path: Path, never_loaded: None) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "x.zip").write_bytes(b"")
    assert "no adapter in it" in refusal(tmp_path / "folder.safetensors")
    assert "not a regular file" in refusal(tmp_path / "pipe.safetensors")
    assert "expected .safetensors" in refusal(tmp_path / "x.zip")
    assert "no such file" in refusal(tmp_path / "nothing.safetensors")
    for name in ("x\0.safetensors", "y" * 5000 + ".safetensors"):
        with pytest.raises(AdapterFileError):
            read_header(tmp_path / name)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, never_loaded: None) -> None:
    data = save_adapter(tmp_path / "whole.safetensors", adapter(), {}).read_bytes()
    path = tmp_path / "x.safetensors"
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        refusal(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", [f"{NAME}.lora_up.weight", f"{NAME}.alpha"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, bad: float, key: str) -> None:
    stored = safetensors.torch.load_file(save_adapter(tmp_path / "x.safetensors", adapter(), {}))
    stored[key] = torch.full_like(stored[key], bad)
    safetensors.torch.save_file(stored, tmp_path / "x.safetensors")
    assert "not finite" in refusal(tmp_path / "x.safetensors")


def test_a_giant_rank_is_refused_before_it_is_read(tmp_path: Path, never_loaded: None) -> None:
    giant = {f"{NAME}.lora_down.weight": torch.zeros(4097, 1), f"{NAME}.lora_up.weight": torch.zeros(1, 4097)}
    safetensors.torch.save_file(giant, tmp_path / "x.safetensors")
    assert "rank 4,097" in refusal(tmp_path / "x.safetensors")


def test_another_familys_file_is_refused_in_one_line_before_it_is_read(tmp_path: Path, never_loaded: None) -> None:
    path = save_adapter(tmp_path / "x.safetensors", adapter(), {})
    assert "made for a base of family 'tiny'; expected 'sd1'" in refusal(path, family="sd1")
    assert "made for another family" in refusal(path, SHAPES | {Q: (320, 320)})
    assert "not in the base" in refusal(path, {Q: SHAPES[Q]})


def test_integer_alphas_are_read(tmp_path: Path) -> None:
    stored = safetensors.torch.load_file(save_adapter(tmp_path / "x.safetensors", adapter(), {}))
    stored[f"{NAME}.alpha"] = torch.tensor(3)
    safetensors.torch.save_file(stored, tmp_path / "x.safetensors")
    assert load_adapter(tmp_path / "x.safetensors", SHAPES).layers[Q].alpha == 3


def test_reading_a_header_reads_no_numbers(tmp_path: Path, never_loaded: None) -> None:
    header = read_header(save_adapter(tmp_path / "x.safetensors", adapter(), {"a": "b"}))
    assert header.tensors[f"{NAME}.lora_down.weight"] == ("F16", (2, 16))
    assert header.tensors[f"{NAME}.alpha"] == ("F32", ()) and header.metadata["a"] == "b"


QUICK = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@QUICK
@given(edits=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=6), cut=st.booleans())
def test_a_mutated_file_loads_or_is_refused(tmp_path: Path, edits: list[tuple[int, int]], cut: bool) -> None:
    good = tmp_path / "good.safetensors"
    if not good.exists():
        save_adapter(good, adapter(), {"ss_output_name": "ink"})
    data = bytearray(good.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for place, byte in edits:
        data[place % (header if place % 4 else len(data))] = byte
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data[: edits[0][0] % len(data)] if cut else data)
    survives(lambda: load_adapter(path, SHAPES, "tiny"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["F32", "I64", "__metadata__"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ROWS = st.fixed_dictionaries({"dtype": JSON, "shape": JSON, "data_offsets": JSON}) | JSON


@QUICK
@given(header=st.dictionaries(st.sampled_from(["__metadata__", f"{NAME}.alpha", "a"]), ROWS) | JSON)
def test_an_invented_header_is_refused(tmp_path: Path, header: object) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(header, bytes(16)))
    refusal(path)


@QUICK
@given(name=st.text(max_size=20) | st.sampled_from(["..", ".", "../..", "/", "\0", "a" * 5000, "x/../../y", "\ud800"]))
def test_any_name_finds_a_file_in_the_folder_or_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "loras"
    folder.mkdir(exist_ok=True)
    (tmp_path / "outside.safetensors").write_bytes(b"")
    survives(lambda: find_adapter(name, folder))
    survives(lambda: adapter_named(name, folder))


def survives(work: Callable[[], object]) -> None:
    try:
        work()
    except DiffloraError as error:
        assert str(error).isprintable()


# --- names and the folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "loras"
    folder.mkdir()
    for name in ("ink", "gouache", "Wood cut"):
        save_adapter(folder / f"{name}.safetensors", adapter(), {})
    save_adapter(tmp_path / "outside.safetensors", adapter(), {})
    return folder


def test_a_name_is_a_file_in_the_folder(folder: Path) -> None:
    assert find_adapter("ink", folder) == folder / "ink.safetensors"
    assert find_adapter("Wood cut", folder) == adapter_named("Wood cut", folder) == folder / "Wood cut.safetensors"
    assert find_adapter("ink.safetensors", folder) == folder / "ink.safetensors"
    assert adapter_names(folder) == ["Wood cut", "gouache", "ink"]


def test_a_path_is_taken_as_it_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside.safetensors"
    assert find_adapter(str(outside), folder) == outside
    monkeypatch.chdir(tmp_path)
    assert find_adapter("outside.safetensors", folder) == Path("outside.safetensors")


def test_a_name_is_looked_up_before_a_file_of_that_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "ink").mkdir()
    (folder.parent / "gouache").write_bytes(b"")
    monkeypatch.chdir(folder.parent)
    assert find_adapter("ink", folder) == folder / "ink.safetensors"
    assert find_adapter("gouache", folder) == folder / "gouache.safetensors"


@pytest.mark.parametrize("name", ["../outside", "../loras/ink", "..", "/etc/passwd", "..\\outside", "a/../../outside"])
def test_a_name_cannot_leave_the_folder(folder: Path, name: str) -> None:
    with pytest.raises(AdapterFileError):
        adapter_named(name, folder)
    if not Path(name).is_file():
        with pytest.raises(AdapterFileError):
            find_adapter(name, folder)


def test_a_link_cannot_lead_out_of_the_folder(folder: Path) -> None:
    (folder / "link.safetensors").symlink_to(folder.parent / "outside.safetensors")
    (folder / "gone.safetensors").symlink_to(folder.parent / "nowhere.safetensors")
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    (folder / "inside.safetensors").symlink_to(folder / "ink.safetensors")
    for name in ("link", "gone", "loop"):
        with pytest.raises(AdapterFileError):
            find_adapter(name, folder)
    assert find_adapter("inside", folder) == folder / "ink.safetensors"


def test_a_folder_reached_by_a_link_still_works(folder: Path) -> None:
    (folder.parent / "alias").symlink_to(folder)
    assert find_adapter("ink", folder.parent / "alias").samefile(folder / "ink.safetensors")


def test_a_wrong_name_is_answered_with_the_nearest_names_first(folder: Path) -> None:
    with pytest.raises(AdapterFileError, match="no style 'guache'.*there are: gouache, .*; write one of these"):
        find_adapter("guache", folder)
    with pytest.raises(AdapterFileError, match="no file .*there are: ink, "):
        find_adapter("elsewhere/ink.safetensors", folder)
    with pytest.raises(AdapterFileError, match="holds no styles yet; train one"):
        find_adapter("ink", folder / "nowhere")


def test_a_long_list_of_names_is_cut(folder: Path) -> None:
    for i in range(20):
        (folder / f"style {i}.safetensors").write_bytes(b"")
    with pytest.raises(AdapterFileError, match="… and 15 more"):
        find_adapter("nothing", folder)


# --- nothing is half written


@pytest.mark.parametrize("step", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("number", "why"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "Input/output error")]
)
def test_an_interrupted_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, why: str
) -> None:
    path = save_adapter(tmp_path / "ink.safetensors", adapter(0), {})
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputError, match=why):
        save_adapter(path, adapter(1), {})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["ink.safetensors"]


def test_a_save_stopped_by_the_user_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_the_reason_a_place_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, why in (
        ("missing/a", "no such folder"),
        ("file/a", "is a file, not a folder"),
        ("folder", "a folder has that name"),
        ("a" * 300, "name is too long"),
        ("a\0", "null byte"),
    ):
        with pytest.raises(OutputError, match=why):
            write_atomic(tmp_path / name, b"data")

    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "replace", deny)
    with pytest.raises(OutputError, match="read-only or belongs to someone else"):
        write_atomic(tmp_path / "a", b"data")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_that_cannot_be_synced_still_holds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.fsync

    def only_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "no")
        whole(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_written_file_has_ordinary_rights(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "a", b"data")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("made", "metadata", "why"),
    [
        (Adapter({}), {}, "no layers"),
        (Adapter({Q: Factors(torch.full((2, 16), torch.nan), torch.ones(24, 2), 1.0)}), {}, "not finite"),
        (Adapter({Q: Factors(torch.ones(2, 16), torch.ones(24, 2), float("inf"))}), {}, "not finite"),
        (Adapter({Q: Factors(torch.ones(4097, 16), torch.ones(24, 4097), 1.0)}), {}, "rank 4,097"),
        (adapter(), {"thumbnail": "x" * (5 * 2**20)}, "metadata; expected at most 4 MB"),
        (adapter(), {"a": 1}, "no text"),
    ],
)
def test_nothing_is_saved_that_could_not_be_loaded(
    tmp_path: Path, made: Adapter, metadata: dict[str, str], why: str
) -> None:
    with pytest.raises(OutputError, match=why):
        save_adapter(tmp_path / "x.safetensors", made, metadata)
    assert not os.listdir(tmp_path)


def test_an_adapter_is_saved_under_its_own_suffix_only(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="ending in .safetensors"):
        save_adapter(tmp_path / "x.pt", adapter(), {})


def test_the_hash_of_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match="cannot be read"):
        sha256(tmp_path / "nothing")


# --- what a file says of itself


def described(info: Info = INFO, **changes: object) -> dict[str, str]:
    values: dict[str, object] = {
        "info": info,
        "config": {"seed": 7, "images": "style", "preview_prompts": ["a", "b"]},
        "captions": ["a red apple, ink", "a cat,ink,", "ünïcode"],
        "folder": "style",
        "fingerprint": "abc",
        "resolution": 64,
        "pictures": 3,
        "steps": 900,
        "learning_rate": 5e-4,
        "thumbnail": b"RIFF",
    }
    made = Adapter({Q: factors(SHAPES[Q], 16, 8.0)}, info)
    return complete(style_metadata(**(values | changes)), made, info.name)


def test_metadata_speaks_to_kohya_and_modelspec_readers() -> None:
    found = described()
    assert all(isinstance(value, str) for value in found.values())
    wanted = {
        "ss_output_name": "ink",
        "ss_base_model_version": "difflora_tiny",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "16",
        "ss_network_alpha": "8.0",
        "ss_network_args": "{}",
        "ss_learning_rate": "0.0005",
        "ss_max_train_steps": "900",
        "ss_steps": "900",
        "ss_num_train_images": "3",
        "ss_resolution": "(64, 64)",
        "ss_seed": "7",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "difflora-tiny/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "ink",
        "modelspec.resolution": "64x64",
        "modelspec.trigger_phrase": "inkish",
        "difflora.family": "tiny",
        "difflora.base": "tiny",
        "difflora.data": "abc",
        "difflora.pictures": "3",
    }
    assert wanted.items() <= found.items()
    assert found["difflora.version"] == __version__ and "inkish" in found["modelspec.usage_hint"]
    assert datetime.fromisoformat(found["modelspec.date"]).tzinfo
    assert base64.b64decode(found["modelspec.thumbnail"].removeprefix("data:image/webp;base64,")) == b"RIFF"
    assert json.loads(found["difflora.config"]) == {"seed": 7, "images": "style", "preview_prompts": ["a", "b"]}


def test_tags_are_counted_between_commas_and_the_trigger_counts_for_every_picture() -> None:
    wanted = {"inkish": 3, "ink": 2, "a red apple": 1, "a cat": 1, "ünïcode": 1}
    assert json.loads(described()["ss_tag_frequency"]) == {"style": wanted}
    prefixed = described(captions=["inkish, a cat", "inkish, a dog"])
    assert json.loads(prefixed["ss_tag_frequency"])["style"] == {"inkish": 2, "a cat": 1, "a dog": 1}


def test_ten_thousand_long_captions_still_fit_the_header(tmp_path: Path) -> None:
    found = described(captions=[f"{i} " + "word " * 200 for i in range(10_000)])
    assert read_header(save_adapter(tmp_path / "x.safetensors", adapter(), found)).metadata["ss_steps"] == "900"


def test_sd1_styles_are_named_as_other_tools_expect() -> None:
    found = described(Info(name="ink", family="sd1", base="models/sd15"), thumbnail=None)
    assert found["ss_base_model_version"] == "sd_v1"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert "modelspec.trigger_phrase" not in found and "modelspec.thumbnail" not in found


def test_a_family_without_a_name_in_these_formats_keeps_its_own() -> None:
    found = described(Info(name="ink", family="other"))
    assert (found["ss_base_model_version"], found["modelspec.architecture"]) == ("other", "other/lora")


def test_metadata_survives_a_file(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "ink.safetensors", adapter(), described())
    assert described().keys() <= read_header(path).metadata.keys()
    info = load_adapter(path, SHAPES, "tiny").info
    assert (info.name, info.family, info.base, info.trigger) == ("ink", "tiny", "tiny", "inkish")


def test_a_broken_file_name_in_the_metadata_does_not_stop_the_save(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "ink.safetensors", adapter(), described(folder="caf\udce9"))
    assert "caf?" in read_header(path).metadata["ss_tag_frequency"]


def test_the_control_characters_of_a_stranger_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "x.safetensors", adapter(), {"ss_output_name": "ink\x1b[2J\n" + "y" * 500})
    name = load_adapter(path, SHAPES).info.name
    assert name.isprintable() and len(name) <= 120
