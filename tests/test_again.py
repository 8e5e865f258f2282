"""Whatever made a file can be repeated from the file, with its own sources and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import random_adapter
from test_convert import library as library  # a fixture
from test_convert import strange
from test_convert import tiny as tiny

from difflora import cli
from difflora.adapters.convert import MADE, convert, repair
from difflora.adapters.families import Match
from difflora.adapters.files import content_sha256, load_adapter, read_header, save_adapter
from difflora.adapters.inspection import inspect_header
from difflora.drawing.again import make_again
from difflora.drawing.request import blend_file
from difflora.errors import OutputError, RequestError


def notes(said: list):
    """A listener that keeps texts."""
    return lambda event: said.append(getattr(event, "text", ""))


def test_a_file_is_never_its_own_source(library, tmp_path):
    (tmp_path / "made").mkdir()
    made = convert(library / "ink.safetensors", "kohya", tmp_path / "made/ink.safetensors").path
    with pytest.raises(RequestError, match="the source 'ink'"):
        make_again(made, tmp_path / "nothing", tmp_path / "out")


def test_a_peft_folder_is_a_source_and_a_result(library, tmp_path):
    folder = convert(library / "ink.safetensors", "peft", library / "v1.5 style").path
    said = []
    kohya = convert(folder, "kohya").path
    assert kohya.name == "v1.5 style-kohya.safetensors"
    make_again(kohya, library, tmp_path / "out", report=notes(said))
    again = [make_again(folder, library, tmp_path / "out", report=notes(said)).name for _ in range(2)]
    assert again == ["v1.5 style-again", "v1.5 style-again-2"]
    assert all("to the last bit" in text for text in said)


def test_a_blend_with_a_peft_folder_is_made_again(library, tmp_path):
    folder = convert(library / "gouache.safetensors", "peft", library / "thick paint").path
    both = blend_file(["ink:0.7", f"{folder}:0.2"], tmp_path / "both.safetensors", "tiny", library).path
    assert "thick paint" in read_header(both).metadata["modelspec.merged_from"]
    said = []
    make_again(both, library, tmp_path / "out", report=notes(said))
    assert "to the last bit" in said[-1]


def test_what_needed_the_base_is_made_again_on_it(model, toy_folder, tmp_path, capsys):
    (tmp_path / "loras").mkdir()
    source = save_adapter(tmp_path / "loras/strange.safetensors", strange(model), {})
    made = tmp_path / "plain.safetensors"
    flags = ["--rank", "4", "--base", str(toy_folder)]
    cli.main(["convert", str(source), "--out", str(made), *flags])
    recipe = json.loads(read_header(made).metadata[MADE])
    assert recipe["base"] == str(toy_folder) and len(recipe["base_sha256"]) == 64
    cli.main(["again", str(made), "--loras", str(tmp_path / "loras"), "--out", str(tmp_path / "out")])
    assert "to the last bit" in capsys.readouterr().out


def test_a_base_that_only_the_file_names_is_not_fetched(library, tmp_path, tiny):
    adapter = load_adapter(library / "ink.safetensors", tiny.shapes())
    blend = [{"name": "ink", "weight": 1, "sha256": content_sha256(library / "ink.safetensors")}]
    rows = {"difflora.blend": json.dumps(blend), "difflora.base": "someone/something"}
    path = save_adapter(tmp_path / "x.safetensors", adapter, rows)
    with pytest.raises(RequestError, match="someone/something"):
        make_again(path, library, tmp_path / "out")
    assert make_again(path, library, tmp_path / "out", base="tiny").is_file()


def test_a_file_as_the_output_folder_gets_one_line(library, tmp_path):
    made = convert(library / "ink.safetensors", "kohya").path
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        make_again(made, library, tmp_path / "file")


def test_a_sidecar_is_never_written_over_and_belongs_to_its_style(library):
    beside = library / "out.json"
    beside.write_text("mine")
    with pytest.raises(OutputError, match="out.json"):
        convert(library / "ink.safetensors", "kohya", library / "out.safetensors", sidecar=True)
    assert beside.read_text() == "mine" and not (library / "out.safetensors").exists()
    convert(library / "ink.safetensors", "peft", library / "ink.v2", sidecar=True)
    assert (library / "ink.v2.json").is_file() and not (library / "ink.json").exists()


def test_words_that_a1111_keeps_beside_a_style_go_along(library):
    words = {"activation text": "inky", "preferred weight": 0.6}
    (library / "gouache.json").write_text(json.dumps(words))
    source = library / "gouache.safetensors"
    source.write_bytes(save_adapter(library / "x.safetensors", load_adapter(source, tiny_shapes()), {}).read_bytes())
    known = read_header(convert(source, "kohya").path).metadata
    assert (known["modelspec.trigger_phrase"], known["difflora.weight"]) == ("inky", "0.6")


def tiny_shapes():
    """Of the embedded base."""
    from difflora.adapters.networks import modules

    return modules("tiny")


def test_repairing_words_leaves_every_number_as_it_is(library):
    source = library / "ink.safetensors"
    assert content_sha256(repair(source).path) == content_sha256(source)
    assert content_sha256(convert(source, "kohya").path) == content_sha256(source)


def test_the_files_own_precision_is_that_of_most_numbers(model, tmp_path):
    base, source = Match("toy", model.shapes()), strange(model)
    first = save_adapter(tmp_path / "a.safetensors", source, {})
    second = convert(first, "kohya", tmp_path / "b.safetensors", base=base).path
    assert json.loads(read_header(second).metadata[MADE])["precision"] == "fp16"
    assert content_sha256(first) == content_sha256(second)


def test_an_error_smaller_than_half_precisions_is_kept_in_float32(model, tmp_path):
    path = save_adapter(tmp_path / "a.safetensors", random_lokr(model), {})
    made = convert(path, "kohya", tmp_path / "b.safetensors", base=Match("toy", model.shapes()), max_error=1e-5)
    assert made.error <= 1e-5


def random_lokr(model):
    """One full-rank LoKr."""
    source = strange(model)
    [path] = [p for p, update in source.layers.items() if update.kind == "LoKr"]
    return type(source)({path: source.layers[path]}, source.info)


def test_rank_for_what_is_plain_already_is_refused(library):
    with pytest.raises(RequestError, match="it is plain LoRA already"):
        convert(library / "ink.safetensors", "kohya", rank=2)


def test_a_file_of_an_unknown_family_is_not_called_loadable(model, tmp_path, capsys):
    path = save_adapter(tmp_path / "toy.safetensors", random_adapter(model, 4, 2.0, 1), {})
    found = inspect_header(path)
    assert not found.loads and found.programs == ()
    with pytest.raises(SystemExit) as caught:
        cli.main(["inspect", str(path), "--header"])
    assert caught.value.code == 1 and "give --base" in capsys.readouterr().out


def test_a_header_that_names_another_family_is_told_and_mended(library, tmp_path, tiny):
    adapter = load_adapter(library / "ink.safetensors", tiny.shapes())
    path = save_adapter(tmp_path / "x.safetensors", adapter, {})
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"difflora.family":"tiny"', b'"difflora.family":"sd1a"'))
    assert any("difflora.family" in trouble.text and trouble.grave for trouble in inspect_header(path).troubles)
    mended = repair(path, tmp_path / "y.safetensors").path
    assert load_adapter(mended, tiny.shapes(), "tiny") and inspect_header(mended).troubles == ()


def test_lopsided_factors_do_not_overflow_on_a_base_in_half_precision(model):
    from copy import deepcopy
    from dataclasses import replace

    from difflora.models.attach import attached

    adapter = random_adapter(model, 4, 2.0, 1, paths=["unet.conv_in"])
    factors = adapter.layers["unet.conv_in"]
    lopsided = replace(factors, down=factors.down * 1e-6, up=factors.up * 1e6)
    half = deepcopy(model.parts["unet"]).half()
    with attached({"unet": half}, [replace(adapter, layers={"unet.conv_in": lopsided})]) as stack:
        assert all(torch.isfinite(gated.up).all() for gated in stack.gated)


def test_settings_unlike_their_factors_are_told_and_left_out_of_a_repaired_copy(library, tmp_path, capsys):
    folder = convert(library / "ink.safetensors", "peft", tmp_path / "folder").path
    settings = folder / "unet/adapter_config.json"
    config = json.loads(settings.read_text())
    [spoilt] = config["target_modules"][:1]
    config["rank_pattern"] = {spoilt: 9}
    settings.write_text(json.dumps(config))
    cli.main(["inspect", str(folder), "--repair", "--out", str(tmp_path / "y.safetensors")])
    assert "unlike its settings" in capsys.readouterr().out
    before, after = (
        len(load_adapter(p, tiny_shapes())) for p in (library / "ink.safetensors", tmp_path / "y.safetensors")
    )
    assert after == before - 1


def test_json_names_everything_that_is_wrong(library, tmp_path, capsys, tiny):
    import safetensors.torch

    tensors = safetensors.torch.load_file(library / "ink.safetensors")
    tensors |= {f"lora_unet_nowhere_{i}.diff_b": torch.ones(2) for i in range(8)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(tmp_path / "x.safetensors"), "--json"])
    row = json.loads(capsys.readouterr().out)
    assert len(row["problems"][0]["items"]) == 8


def test_out_without_repair_is_refused(library, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["inspect", str(library / "ink.safetensors"), "--out", str(Path("x.safetensors"))])
    assert caught.value.code == 2 and "--repair" in capsys.readouterr().err
