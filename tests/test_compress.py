"""A compressed adapter is the nearest one of its ranks, and its error is known before it is made.

What is compared are updates, against a full decomposition of the dense ones in double precision.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.blend import blend
from difflora.adapters.compress import compress, spectra, spectrum, true_error
from difflora.adapters.updates import Decomposed, Hadamard, Whole
from difflora.errors import AdapterFileError, RequestError
from difflora.events import Progress

Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
MLP = "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.2"
CONV = "unet.up_blocks.1.resnets.0.conv1"
POINT = "unet.down_blocks.0.attentions.0.proj_in"
FEW = "unet.conv_out"
TEXT = "text_encoder.encoder.layers.0.self_attn.q_proj"
SHAPES = {Q: (24, 16), MLP: (16, 64), CONV: (12, 8, 3, 3), POINT: (16, 16, 1, 1), FEW: (4, 10, 3, 3), TEXT: (20, 20)}


def factors(shape: tuple[int, ...], rank: int, alpha: float, seed: int = 0, fall: float = 0.0) -> Factors:
    """Random; each inner channel is weaker than the one before it by 10^-fall."""
    rng = torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], rank, *(1 for _ in shape[2:]), generator=rng)
    down = torch.randn(rank, *shape[1:], generator=rng)
    return Factors(down * (10.0 ** -(fall * torch.arange(rank))).view(-1, *[1] * (down.dim() - 1)), up, alpha)


def adapter(seed: int, *paths: str, fall: float = 0.2) -> Adapter:
    """Mixed ranks, an alpha that is none of them, energy that falls from module to module."""
    layers = {
        path: factors(SHAPES[path], 1 + (3 * i + seed) % 5, (2.5 + seed) * 0.6**i, 10 * seed + i, fall)
        for i, path in enumerate(paths or SHAPES)
    }
    return Adapter(layers, Info(f"style-{seed}", "toy"))


def mixed() -> Adapter:
    """Three styles, one negative, one that touches other modules: ranks 3 to 12, more than one layer has outputs."""
    return blend([adapter(1), adapter(4), adapter(3, CONV, TEXT, FEW)], [0.7, -1.3, 0.4])


def dense(factors: Factors) -> Tensor:
    """The update in double precision, as a matrix."""
    return factors.up.double().flatten(1) @ factors.down.double().flatten(1) * factors.scale


def tails(whole: Adapter) -> dict[str, Tensor]:
    """The squares of all singular values of each dense update."""
    return {path: torch.linalg.svdvals(dense(one)).square() for path, one in whole.layers.items()}


def error_of(found: Adapter, wanted: Adapter) -> float:
    """The relative error by dense updates, written out."""
    gap = whole = 0.0
    for path, one in wanted.layers.items():
        target = dense(one)
        other = dense(found.layers[path]) if path in found.layers else torch.zeros_like(target)
        gap, whole = gap + float((other - target).square().sum()), whole + float(target.square().sum())
    return math.sqrt(gap / whole)


# --- one module


@pytest.mark.parametrize("path", SHAPES)
def test_the_values_are_the_singular_values_of_the_dense_update(path):
    one = mixed().layers[path]
    found, wanted = spectrum(one).values, torch.linalg.svdvals(dense(one))
    assert len(found) == min(one.rank, *dense(one).shape)
    assert torch.allclose(found, wanted[: len(found)], rtol=1e-6)
    assert wanted[len(found) :].sum() < 1e-6 * wanted[0]


@pytest.mark.parametrize("path", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_cut_is_the_nearest_update_of_its_rank(path, rank):
    one = mixed().layers[path]
    cut = spectrum(one).cut(rank)
    a, values, b = torch.linalg.svd(dense(one), full_matrices=False)
    wanted = a[:, :rank] * values[:rank] @ b[:rank]
    assert cut.rank == rank and cut.shape == one.shape
    assert float((dense(cut) - wanted).norm()) < 1e-6 * float(values[0])


def test_a_spectrum_does_not_depend_on_how_an_update_is_factored():
    one = factors((24, 16), 6, 2.0)
    other = Factors(one.down * 1e5, one.up * 1e-5, one.alpha)
    halves = blend([Adapter({Q: one}), Adapter({Q: other})], [0.25, 0.75]).layers[Q]
    assert torch.allclose(spectrum(other).values, spectrum(one).values, rtol=1e-6)
    assert len(spectrum(halves).values) == 6
    assert torch.allclose(spectrum(halves).values, spectrum(one).values, rtol=1e-6)


def test_what_is_left_where_styles_cancel_is_still_exact():
    one, other = factors((24, 16), 4, 3.0, 1), factors((24, 16), 3, 1.0, 2)
    nearly = blend([Adapter({Q: one}), Adapter({Q: one}), Adapter({Q: other})], [1.0, -1.0, 1e-3]).layers[Q]
    left = spectrum(nearly)
    assert torch.allclose(left.values[:3], 1e-3 * torch.linalg.svdvals(dense(other))[:3], rtol=1e-4)
    assert float((dense(left.cut(3)) - 1e-3 * dense(other)).norm()) < 1e-4 * float(left.values[0])


def test_an_update_that_is_zero_stays_zero():
    gone = blend([adapter(1, Q, CONV), adapter(1, Q, CONV)], [1.0, -1.0])
    fresh = Adapter({Q: replace(factors((24, 16), 4, 2.0), up=torch.zeros(24, 4))})
    for whole in (gone, fresh):
        for made in (compress(whole, rank=2), compress(whole, max_error=0.1)):
            assert made.error == 0 and not any(one.delta().any() for one in made.adapter.layers.values())
            assert len(made.adapter)


# --- a whole adapter


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 8, 12, 20])
def test_told_and_true_error_of_a_rank_are_the_best_that_there_is(rank):
    whole = mixed()
    made = compress(whole, rank=rank)
    energies = tails(whole)
    total = sum(float(e.sum()) for e in energies.values())
    best = math.sqrt(sum(float(e[rank:].sum()) for e in energies.values()) / total)
    assert made.error == pytest.approx(best, rel=1e-6, abs=2e-7)
    assert made.error == pytest.approx(error_of(made.adapter, whole), rel=1e-6, abs=2e-7)
    assert made.error == pytest.approx(true_error(made.adapter, whole), rel=1e-6, abs=2e-7)
    assert made.parameters == made.adapter.parameters()
    assert {path: one.rank for path, one in made.adapter.layers.items()} == dict(made.ranks)
    assert max(made.ranks.values()) <= rank and made.adapter.info == whole.info


def test_a_module_of_a_smaller_rank_is_kept_as_it_is():
    whole = adapter(4)
    made = compress(whole, rank=3)
    for path, one in whole.layers.items():
        assert (made.adapter.layers[path] is one) is (one.rank <= 3), path


def test_compressing_again_changes_nothing():
    once = compress(mixed(), rank=2)
    again = compress(once.adapter, rank=2)
    assert again.error == 0
    assert all(again.adapter.layers[path] is one for path, one in once.adapter.layers.items())


def test_equal_styles_need_the_rank_of_one():
    one = adapter(4)
    made = compress(blend([one, one], [0.5, 0.5]), max_error=0)
    assert true_error(made.adapter, one) < 1e-6
    assert made.ranks == {path: min(update.rank, SHAPES[path][0]) for path, update in one.layers.items()}


@pytest.mark.parametrize("max_error", [0.01, 0.05, 0.2, 0.5, 0.9])
def test_an_error_is_kept_to_and_no_module_could_lose_another_direction(max_error):
    whole = mixed()
    made = compress(whole, max_error=max_error)
    assert made.error <= max_error
    assert made.error == pytest.approx(error_of(made.adapter, whole), rel=1e-6)
    energies = tails(whole)
    total = sum(float(e.sum()) for e in energies.values())
    for path, rank in made.ranks.items():
        if rank:
            less = made.error**2 + float(energies[path][rank - 1]) / total
            assert math.sqrt(less) > max_error, path


def test_an_error_makes_a_smaller_file_than_the_same_error_with_one_rank_for_all():
    found = spectra(mixed())
    for rank, error, numbers in found.curve()[:-1]:
        assert found.foretold(max_error=error + 1e-9).parameters <= numbers, rank


def test_directions_that_are_dear_for_their_energy_go_first():
    # The same energy in a small layer and a large one.
    same = {Q: Factors(torch.eye(4, 8), torch.eye(8, 4), 4.0), MLP: Factors(torch.eye(4, 400), torch.eye(8, 4), 4.0)}
    made = compress(Adapter(same), max_error=0.71)
    assert made.ranks == {Q: 4, MLP: 0} and made.worst == (MLP, 1.0)


def test_a_module_without_energy_disappears_and_one_always_stays():
    loud, quiet = factors((24, 16), 3, 30.0), factors((20, 20), 2, 1e-4)
    made = compress(Adapter({Q: loud, TEXT: quiet}), max_error=0.01)
    assert made.ranks == {Q: 3, TEXT: 0} and set(made.adapter.layers) == {Q}
    assert made.error == pytest.approx(true_error(made.adapter, Adapter({Q: loud, TEXT: quiet})), rel=1e-6)
    assert made.error == pytest.approx(error_of(made.adapter, Adapter({Q: loud, TEXT: quiet})), rel=1e-6)
    least = compress(Adapter({TEXT: quiet, Q: loud}), max_error=1)
    assert least.ranks == {TEXT: 0, Q: 1}


def test_the_curve_foretells_every_cut_and_ends_at_nothing_lost():
    whole = mixed()
    found = spectra(whole)
    curve = found.curve()
    assert [rank for rank, _, _ in curve] == [1, 2, 4, 8, 9]
    for rank, error, numbers in curve:
        made = found.cut(rank=rank)
        assert (made.error, made.adapter.parameters()) == (error, numbers)
    assert [e for _, e, _ in curve] == sorted((e for _, e, _ in curve), reverse=True) and curve[-1][1] < 1e-7
    told = found.foretold(max_error=0.1)
    made = compress(whole, max_error=0.1)
    assert (told.error, told.ranks, told.parameters) == (made.error, made.ranks, made.adapter.parameters())


def test_what_is_a_product_of_factors_is_compressed_too():
    rng = torch.Generator().manual_seed(3)
    parts = {
        "hada_w1_a": torch.randn(24, 2, generator=rng), "hada_w1_b": torch.randn(2, 16, generator=rng),
        "hada_w2_a": torch.randn(24, 2, generator=rng), "hada_w2_b": torch.randn(2, 16, generator=rng),
    }  # fmt: skip
    whole = Adapter({Q: Hadamard(parts, 3.0, (24, 16))})
    made = compress(whole, rank=2)
    assert made.error == pytest.approx(true_error(made.adapter, whole), rel=1e-5)


def test_half_precision_is_compressed_as_the_numbers_it_holds():
    whole = mixed()
    half = replace(whole, layers={p: replace(f, up=f.up.half(), down=f.down.half()) for p, f in whole.layers.items()})
    made = compress(half, rank=2)
    assert made.error == pytest.approx(error_of(made.adapter, half), rel=1e-6)


# --- what is refused, and who is told


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "one of the two"),
        ({"rank": 2, "max_error": 0.1}, "one of the two"),
        ({"rank": 0}, "rank 0: expected 1 to 20,"),
        ({"rank": 21}, "rank 21: expected 1 to 20,"),
        ({"max_error": -0.1}, "0 to 1"),
        ({"max_error": 1.5}, "0 to 1"),
        ({"max_error": math.nan}, "0 to 1"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(asked, words):
    with pytest.raises(RequestError, match=words) as refused:
        compress(adapter(1), **asked)
    assert "\n" not in str(refused.value)


def test_updates_that_are_no_plain_lora_or_not_finite_are_refused():
    broken = replace(factors((24, 16), 2, 1.0), up=torch.full((24, 2), math.nan))
    dora = Decomposed(factors((24, 16), 2, 1.0), torch.ones(24, 1))
    for update in (broken, dora, Whole(torch.ones(24, 16), (24, 16))):
        with pytest.raises(AdapterFileError):
            compress(Adapter({Q: update}), rank=1)
    with pytest.raises(RequestError):
        compress(Adapter({}), rank=1)


def test_progress_is_told_with_the_time_that_is_left():
    events: list[Progress] = []
    compress(adapter(1), rank=1, report=events.append)
    assert [(e.done, e.total) for e in events] == [(i, 6) for i in range(1, 7)] * 2
    assert all(e.eta is not None for e in events) and events[-1].eta == 0
