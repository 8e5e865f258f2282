"""Where styles meet: what is said of them is what was measured, against what chance would do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from conftest import random_adapter
from PIL import Image

from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.conflict import conflict
from difflora.adapters.files import save_adapter
from difflora.adapters.gram import gram, grams_by_part, inner, module_grams, weighed
from difflora.adapters.networks import modules
from difflora.adapters.orthogonal import orthogonalised
from difflora.adapters.overlap import overlaps
from difflora.adapters.updates import Decomposed, Whole
from difflora.cli import main
from difflora.config import parse_lora
from difflora.drawing.clash import answers
from difflora.drawing.conflict_picture import SCALE, draw_conflict
from difflora.drawing.effect import effects
from difflora.errors import AdapterFileError, RequestError
from difflora.strength import Strength, parse_strength, weight_at

SHAPES = {
    "text_encoder.encoder.layers.0.self_attn.q_proj": (40, 30),
    "unet.down_blocks.0.attentions.0.proj_in": (24, 40),
    "unet.down_blocks.1.resnets.0.conv1": (24, 6, 3, 3),
    "unet.mid_block.attentions.0.proj_in": (12, 48, 1, 1),
    "unet.up_blocks.2.attentions.0.proj_in": (64, 16),
}


def style(seed: int, name: str = "", shapes=SHAPES) -> Adapter:
    """Random factors of mixed ranks, alpha never the rank."""
    rng, layers = torch.Generator().manual_seed(seed), {}
    for place, (path, shape) in enumerate(shapes.items()):
        rank = (2, 5, 3, 1, 4)[(place + seed) % 5]
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=rng)
        layers[path] = Factors(torch.randn(rank, *shape[1:], generator=rng), up, rank * 1.5)
    return Adapter(layers, Info(name or f"style {seed}"))


def collided(a: Adapter, b: Adapter, where: str = "") -> Adapter:
    """The second style, writing what the first writes, for reasons of its own."""
    layers = dict(b.layers)
    for path, mine in a.layers.items():
        if path.startswith(where):
            down = torch.randn(mine.down.shape, generator=torch.Generator().manual_seed(len(path)))
            layers[path] = Factors(down, mine.up, 2.5 * mine.rank)
    return replace(b, layers=layers)


def parts(found, a: int = 0) -> dict:
    """What is said of the worst pair, by part."""
    return {row.part.name: row for row in found.pairs[a].findings}


def dense_gram(adapters, weights) -> torch.Tensor:
    """The long way round."""
    paths = list(dict.fromkeys(path for adapter in adapters for path in adapter.layers))
    rows = [
        torch.cat(
            [
                weight_at(w, path) * a.layers[path].delta().double().flatten()
                if path in a.layers
                else torch.zeros(next(x.layers[path].delta().numel() for x in adapters if path in x.layers)).double()
                for path in paths
            ]
        )
        for a, w in zip(adapters, weights, strict=True)
    ]
    return torch.stack(rows) @ torch.stack(rows).T


def test_inner_products_are_those_of_the_dense_updates_at_any_weights(adapters):
    weights = [0.7, -1.3, parse_strength("0.5/2@up=-0.4,mid=0")]
    torch.testing.assert_close(gram(adapters, weights), dense_gram(adapters, weights), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gram(adapters), dense_gram(adapters, [1.0] * 3), rtol=1e-5, atol=1e-6)
    path = next(iter(adapters[2].layers))
    a, b = (adapter.layers[path] for adapter in adapters[:2])
    assert inner(a, b) == pytest.approx(float((a.delta().double() * b.delta().double()).sum()), rel=1e-5)


def test_inner_products_of_parts_add_up_to_the_whole(adapters):
    weights = [1.0, parse_strength("-0.5@mid=2"), 3.0]
    found = grams_by_part(adapters, weights)
    torch.testing.assert_close(sum(found.values()), gram(adapters, weights))
    torch.testing.assert_close(sum(weighed(module_grams(adapters), weights).values()), gram(adapters, weights))
    assert list(found) == ["text encoder", "entry", "down 1", "down 2", "middle", "up 1", "up 2"]


def test_inner_products_form_no_dense_update_of_plain_factors(adapters, monkeypatch):
    monkeypatch.setattr(Factors, "delta", lambda *_: pytest.fail("a dense update"))
    assert gram(adapters).shape == (3, 3)
    assert overlaps(adapters).inner.shape[1:] == (3, 3)


def test_updates_without_factors_measure_as_the_same_updates_with_them():
    a, b = style(1), style(2)
    whole = replace(b, layers={p: Whole(f.delta(), f.shape) for p, f in b.layers.items()})
    told = replace(b, layers={p: Decomposed(f, torch.ones(f.shape[0], 1)) for p, f in b.layers.items()})
    torch.testing.assert_close(gram([a, whole, b]), gram([a, b, b]), rtol=1e-5, atol=1e-4)
    for other in (whole, told):
        assert gram([other, other])[0, 1] == pytest.approx(float(gram([b])[0, 0]), rel=1e-5)
        found, wanted = overlaps([a, other]), overlaps([a, b])
        for name in ("inner", "written", "read"):
            torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-3)


def test_identical_styles_agree_wholly_whatever_their_weights_and_factors():
    a = style(1)
    turned = {p: Factors(f.down * 4, f.up / 2, f.alpha) for p, f in a.layers.items()}
    found = conflict([a, replace(a, layers=turned)], [0.3, 1.2])
    for row in found.pairs[0].findings:
        assert row.meeting.cosine == pytest.approx(1) and row.meeting.agree.value == pytest.approx(1)
        assert row.meeting.cancel.value == pytest.approx(0, abs=1e-6) == row.meeting.collide.value
        assert row.verdict == "same" and "one and the same" in row.sentence
    assert found.level == pytest.approx(0, abs=1e-6)
    assert found.together == pytest.approx(sum(found.strengths))
    assert [s.measure for s in found.suggestions] == ["strength"]


@pytest.mark.parametrize("how", ["weight", "factors"])
def test_a_style_and_its_negative_cancel_wholly(how):
    a = style(1)
    minus = replace(a, layers={p: replace(f, up=-f.up) for p, f in a.layers.items()}) if how == "factors" else a
    found = conflict([a, minus], [1.0, 1.0 if how == "factors" else -1.0])
    for row in found.pairs[0].findings:
        assert row.meeting.cosine == pytest.approx(-1) and row.verdict == "opposite"
        assert row.meeting.taken == pytest.approx((1, 1)) and ": all of what" in row.sentence
    assert found.level == pytest.approx(1) and found.together == pytest.approx(0, abs=1e-3)


def test_styles_in_disjoint_directions_leave_each_other_alone():
    def half(first: bool, other: Adapter) -> Adapter:
        layers = {}
        for path, f in other.layers.items():
            rows = torch.arange(f.up.shape[0]) < f.up.shape[0] // 2
            layers[path] = replace(f, up=f.up * (rows == first).view(-1, *[1] * (f.up.dim() - 1)))
        return replace(other, layers=layers)

    found = conflict([half(True, style(1)), half(False, style(2))], [1.0, -2.0])
    for row in found.pairs[0].findings:
        assert row.verdict == "alone" and row.sentence.endswith(" they leave each other alone.")
        assert row.meeting.strokes.value == pytest.approx(0, abs=1e-9) == row.meeting.cosine
    assert found.level == pytest.approx(0, abs=1e-9) and not found.suggestions


def test_styles_in_different_layers_are_said_to_act_alone():
    a = style(1, "ink")
    b = replace(style(2, "chalk"), layers={p: f for p, f in style(2).layers.items() if p.startswith("unet.up")})
    said = parts(conflict([a, b], [1.0, 1.0]))
    assert said["composition"].sentence == "In composition only ink acts."
    assert said["text encoder"].verdict == "absent" and said["text encoder"].meeting.strengths[1] == 0
    assert said["colour"].verdict != "absent"
    silent = parts(conflict([a, b], [1.0, parse_strength("1@up=0")]))
    assert silent["whole"].sentence == "On the whole only ink acts."


def test_the_same_outputs_from_unrelated_inputs_collide():
    a = style(1)
    found = conflict([a, collided(a, style(2))], [1.0, 1.0])
    for row in found.pairs[0].findings:
        m = row.meeting
        assert row.verdict == "collide" and m.strokes.value > 0.7 > 0.4 > m.senses.value
        assert m.collide.clear and m.collide.excess > 0.3


def test_random_styles_of_any_rank_and_shape_stand_at_chance():
    scores: dict[str, list[float]] = {name: [] for name in ("cosine", "agree", "cancel", "strokes", "senses")}
    for seed in range(120):
        found = overlaps([style(2 * seed), style(2 * seed + 1)])
        everywhere = torch.ones(len(found.paths), dtype=torch.bool)
        m = found.meeting(0, 1, found.table([1.0, -0.5]), everywhere)
        scores["cosine"].append(m.cosine / m.spread)
        for name in ("agree", "cancel", "strokes", "senses"):
            share = getattr(m, name)
            scores[name].append((share.value - share.chance) / share.spread)
        # Less than the overlap, of which it is what does not agree.
        assert m.collide.value <= m.strokes.value
    for name, values in scores.items():
        z = torch.tensor(values)
        assert abs(float(z.mean())) < 0.3 and 0.75 < float(z.std()) < 1.3, name


def test_every_suggestion_lowers_the_conflict_by_what_it_says():
    a, b, c = style(1, "ink"), style(2, "chalk"), style(3, "wash")
    adapters = {"ink": a, "chalk": collided(a, b, "unet.down"), "wash": collided(a, c, "unet.up")}
    found = conflict(list(adapters.values()), [1.0, parse_strength("0.8/0.5"), 0.7])
    kinds = set()
    for suggestion in found.suggestions:
        words = suggestion.flags.split()
        styles = [parse_lora(word) for before, word in zip(words, words[1:], strict=False) if before == "--lora"]
        own, weights = [adapters[name] for name, _ in styles], [strength for _, strength in styles]
        if "--orthogonal" in words:
            own = orthogonalised(own, float(words[-1]), weights)
        again = conflict(own, weights)
        assert again.level == pytest.approx(suggestion.after, abs=1e-6)
        assert suggestion.before == pytest.approx(found.level) and suggestion.after < 0.95 * suggestion.before
        kinds.add("--orthogonal" in words)
    assert kinds == {True, False}


def test_a_budget_is_suggested_for_styles_that_add_up_and_says_what_it_does():
    a = style(1, "ink")
    found = conflict([a, a], [1.0, 1.0])
    (said,) = found.suggestions
    assert said.flags == "--lora ink:1 --lora 'ink (2):1' --budget normalised"
    assert said.before == pytest.approx(2) and said.after == pytest.approx(1)


def test_the_order_of_styles_does_not_matter():
    a, b, c = style(1, "ink"), style(2, "chalk"), style(3, "wash")
    styles = [(a, 1.0), (collided(a, b, "unet.down"), -0.6), (c, parse_strength("0.7@mid=2"))]
    there, back = (conflict(*zip(*rows, strict=True)) for rows in (styles, styles[::-1]))
    assert there.level == pytest.approx(back.level) and there.together == pytest.approx(back.together)
    for one in there.pairs:
        (other,) = [pair for pair in back.pairs if set(pair.names) == set(one.names)]
        assert one.conflict == pytest.approx(other.conflict)
        for mine, its in zip(one.findings, other.findings, strict=True):
            assert mine.verdict == its.verdict and mine.meeting.cosine == pytest.approx(its.meeting.cosine)
    told = [(s.after, sorted(s.flags.split())) for s in there.suggestions]
    for (after, flags), s in zip(told, back.suggestions, strict=True):
        assert after == pytest.approx(s.after) and flags == sorted(s.flags.split())


def test_pairs_stand_worst_first_and_agree_with_the_two_alone():
    a, b, c, d = (style(seed, name) for seed, name in ((1, "ink"), (2, "chalk"), (3, "wash"), (4, "oil")))
    adapters = {"ink": a, "chalk": collided(a, b), "wash": c, "oil": d}
    found = conflict(list(adapters.values()), [1.0, 0.5, -1.0, 0.3])
    weights = dict(zip(adapters, [1.0, 0.5, -1.0, 0.3], strict=True))
    assert {pair.names for pair in found.pairs} == set(combinations(adapters, 2))
    assert [p.conflict for p in found.pairs] == sorted((p.conflict for p in found.pairs), reverse=True)
    for pair in found.pairs:
        alone = conflict([adapters[n] for n in pair.names], [weights[n] for n in pair.names])
        assert alone.level == pytest.approx(pair.conflict)


def test_every_number_in_a_sentence_was_measured():
    a = style(1, "ink")
    minus = replace(a, layers={p: replace(f, up=-f.up) for p, f in a.layers.items()})
    mixed = replace(
        style(2, "chalk"),
        layers={p: Factors(torch.cat([f.down, g.down]), torch.cat([-f.up, g.up], 1), 3.0) for (p, f), g in
                zip(a.layers.items(), style(2).layers.values(), strict=True)},
    )  # fmt: skip
    table = torch.tensor([[4.0, -1.0], [-1.0, 3.0]])
    seen = {"whole": table * 9, "composition": table * 0.001, "colour": table, "texture": -table.abs(), "up 2": table}
    verdicts = set()
    for other in (minus, mixed, collided(a, style(2)), style(2), a):
        for told in (None, seen):
            for row in conflict([a, other], [1.0, 0.8], ["ink", "chalk"], answers=told).pairs[0].findings:
                verdicts.add(row.verdict)
                m = row.meeting
                numbers = [m.agree.value, m.strokes.value, m.strokes.chance, *m.taken]
                numbers += [*row.seen.shares, abs(row.seen.cosine)] if row.seen else []
                said = re.findall(r"([\d.]+)%", row.sentence)
                assert all(any(abs(float(x) - 100 * n) <= 0.51 for n in numbers) for x in said), row.sentence
                assert len(re.findall(r"\d+(?:\.\d+)?", row.sentence.replace(row.part.name, ""))) == len(said)
    assert verdicts >= {"opposite", "cancel", "collide", "same"}


def test_what_pictures_hardly_show_is_said_and_not_mended():
    a = style(1, "ink")
    other = collided(a, style(2, "chalk"), "unet.down")
    one = torch.eye(2)
    told = conflict([a, other], [1.0, 1.0])
    assert any("@" in s.flags for s in told.suggestions)
    hidden = {row.part.name: one * 1e-6 for row in told.pairs[0].findings} | {"whole": one}
    found = conflict([a, other], [1.0, 1.0], answers=hidden)
    said = parts(found)["down 1"]
    assert said.verdict == "collide" and "hardly shows in pictures: 0.1% of ink" in said.sentence
    assert not any("@" in s.flags for s in found.suggestions)


def test_a_base_is_asked_for_each_part_alone(model):
    paths = ["unet.mid_block.attentions.0.proj_in", "unet.conv_in"]
    adapters = [random_adapter(model, 3, 2.0, seed, paths=paths) for seed in (1, 2)]
    found = answers(model, adapters, [Strength(1.0), Strength(1.0)])
    assert list(found) == ["composition", "entry", "whole"]
    torch.testing.assert_close(found["whole"], effects(model, adapters), rtol=1e-3, atol=1e-8)
    middle = [replace(a, layers={paths[0]: a.layers[paths[0]]}) for a in adapters]
    torch.testing.assert_close(found["composition"], effects(model, middle), rtol=1e-3, atol=1e-8)


def test_one_style_and_styles_of_different_bases_are_refused():
    with pytest.raises(RequestError, match="expected two or more"):
        conflict([style(1)], [1.0])
    other = style(2, "sea", {path: (8, 8) for path in SHAPES})
    with pytest.raises(AdapterFileError, match="made for different bases"):
        conflict([style(1), other], [1.0, 1.0])


def test_hostile_names_are_shown_escaped(tmp_path, capsys):
    evil = "ink\x1b[31m\n[bold]x"
    found = conflict([style(1, evil), collided(style(1), style(2, evil))], [1.0, 1.0])
    said = json.dumps(found.row(), ensure_ascii=False) + "".join(s.flags for s in found.suggestions)
    assert "\x1b" not in said and "\n" not in said and len(set(found.names)) == 2
    shapes = {path: modules("tiny")[path] for path in list(modules("tiny"))[5:8]}
    for seed, name in ((1, "[red]a"), (2, "b")):
        save_adapter(tmp_path / f"{name}.safetensors", style(seed, "x", shapes), {"ss_output_name": evil})
    main(["conflict", "[red]a", "b", "--loras", str(tmp_path), "--modules"])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "[red]a and b" in out


def test_the_command_tells_pictures_and_scripts_the_same(tmp_path, capsys, tiny_styles):
    out = tmp_path / "clash.png"
    main(
        ["conflict", "ink", "cartoon:0.5@up=0.2", "fluent3d", "ink:-1", "--loras", str(tiny_styles), "--out", str(out)]
    )
    assert f"saved {out}" in (shown := capsys.readouterr().out)
    assert "ink and ink (2): 100% in conflict" in shown.replace("\n", " ")
    with Image.open(out) as picture:
        assert picture.width % SCALE == 0 and picture.width > picture.height > 1000
    main(["conflict", "ink", "fluent3d", "--loras", str(tiny_styles), "--modules", "--json"])
    row = json.loads(capsys.readouterr().out)
    assert row["event"] == "conflict" and row["styles"] == ["ink", "fluent3d"]
    (pair,) = row["pairs"]
    assert len(pair["modules"]) == 116 and pair["parts"][-1]["part"] == "whole"
    assert all(set(part["agree"]) == {"value", "chance", "spread"} for part in pair["parts"])
    main(["conflict", "ink", "ink", "--loras", str(tiny_styles)])
    assert "On the whole the two are one and the same." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no style: expected two"),
        (["ink"], "one style, ink: expected two"),
        (["ink", "nobody"], "no style 'nobody'"),
        (["ink", "big"], "big.safetensors: "),
        (["ink", "ink:0.5@nowhere=1"], "no block 'nowhere'"),
        (["ink", "fluent3d", "--out", "x.jpg"], "--out x.jpg: expected a name ending in .png"),
    ],
)
def test_bad_requests_are_one_clear_line(words, said, tmp_path, capsys, tiny_styles):
    shapes = {path: modules("sdxl")[path] for path in list(modules("sdxl"))[5:8]}
    save_adapter(tmp_path / "big.safetensors", style(1, "big", shapes), {"difflora.family": "sdxl"})
    for name in ("ink", "fluent3d"):
        (tmp_path / f"{name}.safetensors").write_bytes((tiny_styles / f"{name}.safetensors").read_bytes())
    with pytest.raises(SystemExit) as ended:
        main(["conflict", *words, "--loras", str(tmp_path)])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and error.count("\n") == 1


def test_pictures_grow_with_the_pairs_and_hold_any_weights():
    a = style(1, "a name that is much longer than the card of two styles has room for, by far")
    sizes = [draw_conflict(conflict([a, *map(style, range(2, 2 + n))], [0.0, *[-1.0] * n])).size for n in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2] or sizes[1][0] > sizes[0][0] <= sizes[2][0]
    assert all(side % SCALE == 0 for size in sizes for side in size)
