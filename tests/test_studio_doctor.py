"""The doctor of the Styles page: any dialect comes in, what is damaged is offered sound, copies go out as the CLI's."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from browser import UNFIT, Studio, lines, turn_to
from dialect_files import KOHYA, dora, kohya, loha, lokr, lora, tucker
from safetensors.torch import load_file, save_file
from test_studio import ask, blend_of, drawn, pick
from test_studio_everyone import OUTSIDE, PHONE
from test_studio_library import IMAGE, SCRIPT, chosen, drop

from difflora.adapters.convert import convert
from difflora.adapters.edits import mend_style
from difflora.adapters.families import Match
from difflora.adapters.files import content_sha256, load_adapter
from difflora.adapters.networks import modules
from difflora.cli import main
from difflora.drawing.recipe import read_recipe
from difflora.errors import AdapterFileError, RequestError
from webui import dropped
from webui.doctor import Doctor, verdict
from webui.pending import Pending
from webui.recipes import how_made
from webui.words import text

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect  # noqa: E402

TINY = modules("tiny")
BROKEN, HALF = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", "lora_te_text_model_encoder_layers_0"


@pytest.fixture
def source(studio: Studio) -> Iterator[Path]:
    """A sound style of the library; what a test adds is called spare, or after it."""
    yield studio.loras / "pastel.safetensors"
    for left in [*studio.loras.glob("spare*"), *studio.loras.glob("pastel-*")]:
        left.unlink()


def damaged(source: Path, out: Path, metadata: dict[str, str] | None = None) -> Path:
    """A module that is not finite, half a pair, a name without a place."""
    tensors = load_file(source)
    tensors[f"{BROKEN}.lora_up.weight"] *= float("nan")
    del tensors[f"{HALF}_self_attn_q_proj.lora_up.weight"]
    tensors["lora_unet_nowhere.lora_up.weight"] = tensors["lora_unet_nowhere.lora_down.weight"] = torch.zeros(4, 4)
    save_file({key: value.clone() for key, value in tensors.items()}, out, metadata)
    return out


def box(page: Page):
    """The verdict on the Styles page."""
    return page.get_by_role("region", name=text("doctor.title"))


def unfold(page: Page, key: str):
    """Open one of the folded parts."""
    page.locator("#library .fold > summary").filter(has_text=text(key).split(":")[0]).first.click()


def press(page: Page, key: str) -> None:
    page.locator("#library").get_by_role("button", name=text(key), exact=True).click()


def same_tensors(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_dropped_file_of_diffusers_names_becomes_a_card_that_one_draws_with(source, page, studio, tmp_path):
    drop(page, convert(source, "diffusers", tmp_path / "spare.safetensors", dtype=torch.float32).path)
    expect(page.locator("#library").get_by_role("article").get_by_role("heading", level=2)).to_have_text("spare")
    expect(box(page)).to_contain_text(text("doctor.verdict.fine"))
    expect(page.locator(".facts-row")).to_contain_text(text("doctor.format.diffusers"))
    turn_to(page, "studio")
    pick(page, "spare")
    ask(page, "a red apple")
    assert set(blend_of(read_recipe(drawn(page, studio)))) == {"spare"}


def test_of_a_damaged_file_a_repaired_copy_is_offered_and_nothing_is_added_unasked(source, page, studio, tmp_path):
    file = damaged(source, tmp_path / "spare.safetensors")
    drop(page, file)
    expect(box(page)).to_contain_text(text("doctor.offer"))
    for left_out in ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q is not finite", "lora_unet_nowhere"):
        expect(box(page)).to_contain_text(left_out)
    press(page, "doctor.offer.no")
    expect(box(page)).to_have_count(0)
    assert not list(studio.loras.glob("spare*"))
    drop(page, file)
    press(page, "doctor.offer.add")
    expect(lines(page, text("library.added").format(name="spare"))).to_be_visible()
    expect(box(page)).to_contain_text(text("doctor.verdict.fine"))
    whole, kept = (load_adapter(path, TINY).layers for path in (source, studio.loras / "spare.safetensors"))
    assert len(kept) == len(whole) - 2
    assert all(torch.allclose(kept[path].delta(), whole[path].delta(), atol=1e-6) for path in kept)


def test_repair_puts_a_sound_copy_in_the_place_and_the_old_file_into_the_trash(source, page, studio):
    file = damaged(source, studio.loras / "spare.safetensors")
    data = file.read_bytes()
    page.evaluate("difflora.loadStyles()")
    article = chosen(page, "spare")
    expect(article).to_contain_text(text("doctor.verdict.refused"))
    expect(box(page)).to_contain_text("not finite")
    press(page, "doctor.repair")
    expect(box(page)).to_contain_text(text("doctor.verdict.fine"))
    expect(box(page)).to_contain_text("lora_unet_nowhere")
    assert len(load_adapter(file, TINY).layers) == len(load_adapter(source, TINY).layers) - 2
    assert data in [path.read_bytes() for path in (studio.loras / ".trash").glob("spare*")]
    unfold(page, "doctor.made")
    expect(article).to_contain_text(text("doctor.made.repaired"))


def test_a_converted_copy_is_what_the_command_line_writes_and_its_cost_is_said(source, page, studio, tmp_path):
    chosen(page, "pastel")
    unfold(page, "doctor.convert")
    for to, ending in (("diffusers", "safetensors"), ("peft", "zip")):
        page.get_by_label(text("doctor.convert.to")).select_option(to)
        page.get_by_label(text("doctor.convert.precision")).select_option("fp16")
        press(page, "doctor.convert.go")
        link = page.get_by_role("link", name=f"pastel-{to}.{ending}")
        with page.expect_download() as waiting:
            link.click()
        result = page.locator(".fold").filter(has=page.locator(".convert")).locator(".result")
        expect(result).to_contain_text(text("doctor.convert.differs").split("{")[0])
        waiting.value.save_as(tmp_path / f"page-{to}.{ending}")
        written = tmp_path / ("cli.safetensors" if to == "diffusers" else "cli")
        main(["convert", str(source), "--to", to, "--precision", "fp16", "--out", str(written)])
        if to == "diffusers":
            assert same_tensors(tmp_path / "page-diffusers.safetensors", written)
            press(page, "doctor.convert.add")
            heading = page.locator("#library").get_by_role("article").get_by_role("heading", level=2)
            expect(heading).to_have_text("pastel-diffusers")
            assert same_tensors(studio.loras / "pastel-diffusers.safetensors", written)
            chosen(page, "gouache")
            page.locator("#library .card").filter(has=page.get_by_text("pastel", exact=True)).click()
            expect(heading).to_have_text("pastel")
            unfold(page, "doctor.convert")
    with zipfile.ZipFile(tmp_path / "page-peft.zip") as packed:
        packed.extractall(tmp_path / "unpacked")
    for file in written.rglob("*.safetensors"):
        assert same_tensors(tmp_path / "unpacked/pastel-peft" / file.relative_to(written), file)


def test_what_a_strange_file_says_of_itself_is_text_in_every_part_on_a_phone_too(source, visit, studio):
    long = "ink" + IMAGE * 4
    row = {"name": f"{SCRIPT} {long}", "weight": IMAGE, "sha256": SCRIPT}
    made = {"to": IMAGE, "precision": SCRIPT, "sources": [row, 3, None]}
    rows = {"difflora.blend": json.dumps([row]), "difflora.made": json.dumps(made), "ss_steps": SCRIPT}
    rows |= {"difflora.config": json.dumps({"images": long, "seed": [[SCRIPT]], "rank": {IMAGE: 1}}), IMAGE: long}
    file = damaged(source, studio.loras / "spare.safetensors", rows)
    tensors = load_file(file) | {f"{SCRIPT}.lora_down.weight": torch.zeros(2, 2), f"lora_unet_{IMAGE}.x": torch.ones(1)}
    save_file(tensors, file, rows)
    page = visit(**PHONE)
    article = chosen(page, "spare")
    expect(box(page)).to_contain_text(SCRIPT)
    for summary in article.locator("summary").all():
        if summary.is_visible():
            summary.click()
    expect(article.locator(".made").filter(has_text=SCRIPT).first).to_be_visible()
    expect(page.locator(".programs tbody tr")).to_have_count(5)
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0


def test_a_style_of_another_base_opens_with_its_verdict(page):
    chosen(page, UNFIT)
    expect(box(page)).to_contain_text(text("doctor.verdict.elsewhere").format(family="toy"))
    expect(page.locator("#library .programs")).to_have_count(0)


def test_the_doctor_judges_a_file_by_the_family_it_fits_and_reads_it_once(tmp_path, monkeypatch):
    doctor = Doctor(Match("tiny", TINY))
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    size = modules("sd1")[path][0]
    names = f"lora_unet_{path[5:].replace('.', '_')}"
    parts = {"lora_down.weight": torch.ones(2, size), "lora_up.weight": torch.ones(size, 2), "alpha": torch.tensor(1.0)}
    file = tmp_path / "style.safetensors"
    save_file({f"{names}.{part}": value for part, value in parts.items()}, file)
    found = doctor.numbers(file)
    assert (found.family, verdict(doctor, found, "no place")["kind"]) == ("sd1", "elsewhere")
    monkeypatch.setattr("webui.doctor.inspect_numbers", None)
    assert doctor.numbers(file) is found
    monkeypatch.setattr("webui.doctor.inspect_header", lambda *_: (tmp_path / "gone").stat())
    file.touch()
    with pytest.raises(AdapterFileError, match="cannot be read"):
        doctor.header(file)


def test_a_copy_waits_for_its_own_user_only_until_it_is_taken_replaced_or_too_old():
    pending = Pending(seconds=0.2)

    def kept(user: str) -> tuple[str, Path]:
        with pending.folder() as folder:
            (folder / "x").write_text("x")
            return pending.keep(user, "repaired", folder / "x"), folder

    (first, one), (second, two) = kept("ada"), kept("ada")
    assert not one.exists() and pending.file("ada", second) == two / "x"
    pending.forget("bob", second)
    for user, key in (("ada", first), ("bob", second), ("ada", "")):
        with pytest.raises(RequestError, match="no longer kept"):
            pending.file(user, key)
    pending.kept[second].timer.join(5)
    assert not two.exists() and not pending.kept
    with pytest.raises(ValueError), pending.folder() as left:
        raise ValueError
    assert not left.exists()


def test_a_style_whose_words_alone_are_mended_is_kept_in_the_trash_as_well(source, tmp_path):
    file = tmp_path / "spare.safetensors"
    save_file(load_file(source), file, {"ss_base_model_version": "sd_v1"})
    data = file.read_bytes()
    made = mend_style(file, Match("tiny", TINY))
    assert (made.path, made.lost, content_sha256(file)) == (file, (), content_sha256(source))
    assert [path.read_bytes() for path in (tmp_path / ".trash").iterdir()] == [data]
    assert {path.name for path in tmp_path.iterdir()} == {".trash", "spare.safetensors"}


@pytest.mark.parametrize("kind", [lora, loha, lokr, tucker, partial(dora, axis=0)], ids=lambda k: str(k)[10:14])
def test_files_of_every_kind_are_taken_in_and_go_out_as_plain_lora(kind, tmp_path):
    names = {path: name for path, name in KOHYA.items() if path in TINY}
    shapes = {path: TINY[path] for path in names}
    rng = torch.Generator().manual_seed(0)
    weights = {path: torch.randn(shape, generator=rng) for path, shape in shapes.items()}
    file, _ = kohya(tmp_path, shapes, weights, 1, names=names, kinds=(kind,))
    config = SimpleNamespace(loras=tmp_path / "loras", runs=tmp_path)
    parts = SimpleNamespace(family="tiny", parts={"unet": Weights(weights), "text_encoder": Weights(weights)})
    desk = SimpleNamespace(
        config=config, shapes=TINY, model=parts, doctor=Doctor(Match("tiny", TINY)), pending=Pending()
    )
    desk.file = lambda name: config.loras / f"{name}.safetensors"
    assert dropped.take_in(desk, "ada", file) == {"chosen": "style"}
    assert len(load_adapter(desk.file("style"), TINY).layers) == len(names) > 4
    made = dropped.convert_style(desk, "ada", "style", "diffusers", "fp32", plain=True)
    assert made["error"] < dropped.WITHIN and made["adds"]
    assert dropped.add_kept(desk, "ada", made["key"]) == "style-diffusers"
    with pytest.raises(RequestError):
        dropped.convert_style(desk, "ada", "style", "../x", "", plain=False)


class Weights:
    """A network of which only weights are asked for."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights

    def get_submodule(self, rest: str) -> SimpleNamespace:
        return SimpleNamespace(weight=next(w for path, w in self.weights.items() if path.endswith(f".{rest}")))


@pytest.mark.parametrize("value", [None, 1, [], {}, "x", [1], {"sources": 3}, [{"name": []}], {"a": {"b": []}}])
def test_a_recipe_of_any_shape_becomes_short_lines(value):
    recipe = dict.fromkeys(("made", "blend", "training", "plan", "scores", "merged from"), value)
    for step in how_made(recipe, {"ss_seed": "1", "ss_steps": "9" * 999}):
        for line in json.dumps(step).split('"'):
            assert len(line) <= 800
