"""What adapters promise, apart from files. Updates are compared, never factors: many factors make one update."""

import pytest
import torch

from difflora.adapters.adapter import Adapter, Factors
from difflora.adapters.blend import blend
from difflora.adapters.dialects import read_layers, to_kohya
from difflora.adapters.names import kohya_name
from difflora.adapters.settings import Settings
from difflora.errors import AdapterFileError

Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
MLP = "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.2"
CONV = "unet.up_blocks.1.resnets.0.conv1"
POINT = "unet.down_blocks.0.attentions.0.proj_in"
TEXT = "text_encoder.encoder.layers.0.self_attn.q_proj"
SHAPES = {Q: (24, 16), MLP: (16, 64), CONV: (12, 8, 3, 3), POINT: (16, 16, 1, 1), TEXT: (20, 20)}

NAMES = {
    Q: "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    MLP: "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2",
    CONV: "lora_unet_up_blocks_1_resnets_0_conv1",
    POINT: "lora_unet_down_blocks_0_attentions_0_proj_in",
    TEXT: "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
    "unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0": (
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0"
    ),
    "unet.down_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj": (
        "lora_unet_down_blocks_1_attentions_1_transformer_blocks_0_ff_net_0_proj"
    ),
    "unet.down_blocks.2.resnets.1.time_emb_proj": "lora_unet_down_blocks_2_resnets_1_time_emb_proj",
    "unet.down_blocks.0.downsamplers.0.conv": "lora_unet_down_blocks_0_downsamplers_0_conv",
    "unet.up_blocks.0.upsamplers.0.conv": "lora_unet_up_blocks_0_upsamplers_0_conv",
    "unet.time_embedding.linear_1": "lora_unet_time_embedding_linear_1",
    "unet.conv_in": "lora_unet_conv_in",
    "text_encoder.encoder.layers.11.mlp.fc1": "lora_te_text_model_encoder_layers_11_mlp_fc1",
    "text_encoder.text_model.encoder.layers.3.self_attn.out_proj": (
        "lora_te_text_model_encoder_layers_3_self_attn_out_proj"
    ),
}


def factors(shape: tuple[int, ...], rank: int, alpha: float, seed: int = 0) -> Factors:
    rng = torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], rank, *(1 for _ in shape[2:]), generator=rng)
    return Factors(torch.randn(rank, *shape[1:], generator=rng), up, alpha)


def adapter(seed: int, *paths: str) -> Adapter:
    """Mixed ranks, and an alpha that is none of them."""
    layers = {p: factors(SHAPES[p], 1 + (3 * i + seed) % 7, 2.5 + seed, seed) for i, p in enumerate(paths or SHAPES)}
    return Adapter(layers)


def close(found: torch.Tensor, wanted: torch.Tensor, relative: float = 1e-5) -> bool:
    return found.shape == wanted.shape and float((found - wanted).norm()) <= relative * float(wanted.norm())


# --- the sum


def test_a_blend_is_the_exact_weighted_sum_of_updates() -> None:
    parts, weights = [adapter(0), adapter(3), adapter(5)], [0.7, -1.3, 2.0]
    mixed = blend(parts, weights)
    for path in SHAPES:
        wanted = sum(w * a.layers[path].delta() for a, w in zip(parts, weights, strict=True))
        assert close(mixed.layers[path].delta(), wanted), path


def test_a_blend_covers_the_modules_of_every_part() -> None:
    mixed = blend([adapter(1, Q, CONV), adapter(2, CONV, TEXT)], [0.5, 2.0])
    assert set(mixed.layers) == {Q, CONV, TEXT}
    assert close(mixed.layers[TEXT].delta(), 2 * adapter(2, CONV, TEXT).layers[TEXT].delta())


def test_weight_zero_removes_a_style() -> None:
    alone, mixed = adapter(1), blend([adapter(1), adapter(2)], [1.0, 0.0])
    for path in SHAPES:
        assert close(mixed.layers[path].delta(), alone.layers[path].delta())
    assert not blend([adapter(1)], [0.0]).layers[Q].delta().any()


def test_a_negative_weight_subtracts() -> None:
    gone = blend([adapter(1), adapter(1)], [0.6, -0.6])
    less = blend([adapter(1), adapter(2)], [1.0, -0.4])
    for path in SHAPES:
        assert float(gone.layers[path].delta().abs().max()) < 1e-4
        assert close(less.layers[path].delta(), adapter(1).layers[path].delta() - 0.4 * adapter(2).layers[path].delta())


def test_a_blend_of_blends_is_the_blend() -> None:
    a, b, c = adapter(0), adapter(1), adapter(2)
    nested, flat = blend([blend([a, b], [0.5, -2.0]), c], [0.4, 1.5]), blend([a, b, c], [0.2, -0.8, 1.5])
    assert all(close(nested.layers[path].delta(), flat.layers[path].delta()) for path in SHAPES)


def test_a_convolution_update_is_the_composition_of_its_factors() -> None:
    made, picture = factors(SHAPES[CONV], 3, 5.0), torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(9))
    inner = torch.nn.functional.conv2d(picture, made.down)
    wanted = torch.nn.functional.conv2d(inner, made.up) * (5.0 / 3)
    assert close(torch.nn.functional.conv2d(picture, made.delta()), wanted)


def test_balancing_changes_no_update() -> None:
    lopsided = Factors(torch.randn(4, 16) * 1e3, torch.randn(24, 4) * 1e-4, 1.5)
    assert close(lopsided.balanced().delta(), lopsided.delta())
    fresh = Factors(torch.randn(4, 16), torch.zeros(24, 4), 4.0)
    assert not fresh.balanced().delta().any()


# --- kohya names


@pytest.mark.parametrize(("path", "name"), NAMES.items())
def test_kohya_names_are_the_ones_other_tools_know(path: str, name: str) -> None:
    assert kohya_name(path) == name
    keys = set(to_kohya({path: factors((4, 6), 2, 1.0)}))
    assert keys == {f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"}


def test_alpha_is_written_as_a_float32_scalar() -> None:
    alpha = to_kohya({Q: factors(SHAPES[Q], 4, 2.5)})[f"{NAMES[Q]}.alpha"]
    assert alpha.dtype == torch.float32 and alpha.ndim == 0 and alpha.item() == 2.5


def test_to_kohya_and_back_keeps_every_update_to_the_last_bit() -> None:
    made = adapter(2)
    back = read_layers(to_kohya(made.layers), SHAPES)
    assert list(back) == list(SHAPES)
    assert all(torch.equal(back[path].delta(), made.layers[path].delta()) for path in SHAPES)


def test_a_text_encoder_with_text_model_in_its_paths_reads_the_same_file() -> None:
    old = TEXT.replace("text_encoder.", "text_encoder.text_model.")
    made = factors(SHAPES[TEXT], 3, 2.0)
    back = read_layers(to_kohya({TEXT: made}), {old: SHAPES[TEXT]})
    assert torch.equal(back[old].delta(), made.delta())
    assert to_kohya({old: made}).keys() == to_kohya({TEXT: made}).keys()


def test_lora_te1_names_are_read_as_the_text_encoder() -> None:
    made = factors(SHAPES[TEXT], 3, 2.0)
    tensors = {key.replace("lora_te_", "lora_te1_"): value for key, value in to_kohya({TEXT: made}).items()}
    assert torch.equal(read_layers(tensors, SHAPES)[TEXT].delta(), made.delta())


def test_one_module_under_two_names_is_refused() -> None:
    tensors = to_kohya({TEXT: factors(SHAPES[TEXT], 3, 2.0)})
    tensors |= {key.replace("lora_te_", "lora_te1_"): value for key, value in tensors.items()}
    with pytest.raises(AdapterFileError, match="repeats"):
        read_layers(tensors, SHAPES)


def test_two_modules_with_one_kohya_name_are_refused() -> None:
    with pytest.raises(AdapterFileError, match="one kohya name"):
        to_kohya({"unet.a.b_c": factors((4, 4), 2, 1.0), "unet.a_b.c": factors((4, 4), 2, 1.0)})


def test_a_module_outside_the_two_networks_has_no_kohya_name() -> None:
    with pytest.raises(AdapterFileError, match="no kohya name"):
        to_kohya({"vae.decoder.conv_in": factors((4, 4), 2, 1.0)})


def test_a_missing_alpha_means_the_rank_of_that_module() -> None:
    made = {Q: factors(SHAPES[Q], 4, 1.0), MLP: factors(SHAPES[MLP], 2, 6.0)}
    tensors = to_kohya(made)
    del tensors[f"{NAMES[Q]}.alpha"]
    back = read_layers(tensors, SHAPES)
    assert back[Q].scale == 1 and close(back[Q].delta(), 4 * made[Q].delta())
    assert back[MLP].scale == 3 and torch.equal(back[MLP].delta(), made[MLP].delta())


@pytest.mark.parametrize("alpha", [torch.tensor(3), torch.tensor([3.0]), torch.tensor(3, dtype=torch.float16)])
def test_an_alpha_may_be_an_integer_or_half_precision(alpha: torch.Tensor) -> None:
    made = factors(SHAPES[Q], 4, 3.0)
    back = read_layers(to_kohya({Q: made}) | {f"{NAMES[Q]}.alpha": alpha}, SHAPES)
    assert torch.equal(back[Q].delta(), made.delta())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_factors_of_every_float_format_are_read(dtype: torch.dtype) -> None:
    made = factors(SHAPES[CONV], 3, 2.0)
    made = Factors(made.down.to(dtype), made.up.to(dtype), made.alpha)
    assert torch.equal(read_layers(to_kohya({CONV: made}), SHAPES)[CONV].delta(), made.delta())


def test_linear_and_1x1_convolution_factors_stand_in_for_each_other() -> None:
    flat, point = factors((16, 16), 3, 2.0), factors((16, 16, 1, 1), 3, 2.0, seed=1)
    as_point = read_layers(to_kohya({POINT: flat}), {POINT: (16, 16, 1, 1)})[POINT]
    as_flat = read_layers(to_kohya({POINT: point}), {POINT: (16, 16)})[POINT]
    assert as_point.down.shape == (3, 16, 1, 1) and as_point.up.shape == (16, 3, 1, 1)
    assert as_flat.down.shape == (3, 16) and as_flat.up.shape == (16, 3)
    assert torch.equal(as_point.delta().flatten(), flat.delta().flatten())
    assert torch.equal(as_flat.delta().flatten(), point.delta().flatten())


# --- refusals


def refusal(tensors: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]] = SHAPES) -> str:
    with pytest.raises(AdapterFileError) as caught:
        read_layers(tensors, shapes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_keys_are_listed_never_skipped() -> None:
    tensors = to_kohya(adapter(1).layers)
    for i in range(5):
        tensors[f"lora_unet_nowhere_{i}.lora_down.weight"] = torch.zeros(2, 4)
    message = refusal(tensors)
    assert all(f"lora_unet_nowhere_{i} " in message for i in range(3)) and "… and 2 more" in message
    assert "nowhere_3" not in message


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("oft_blocks", "OFT"),
        ("on_input", "IA3"),
        ("diff_b", "a learnt bias"),
        ("w_norm", "a changed normalisation"),
        ("anything", "no LoRA key"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(suffix: str, kind: str) -> None:
    message = refusal(to_kohya(adapter(1).layers) | {f"{NAMES[Q]}.{suffix}": torch.zeros(2, 2)})
    assert kind in message and f"{NAMES[Q]}.{suffix}" in message


@pytest.mark.parametrize(("part", "wrong"), [("hada_w1_a", "both"), ("lokr_w2", "both"), ("lora_mid.weight", "shape")])
def test_parts_of_two_kinds_in_one_module_are_refused(part: str, wrong: str) -> None:
    message = refusal(to_kohya(adapter(1).layers) | {f"{NAMES[Q]}.{part}": torch.zeros(2, 2)})
    assert NAMES[Q] in message and wrong in message


def test_plain_checkpoint_keys_are_refused() -> None:
    assert "no LoRA key" in refusal({"weight": torch.zeros(2, 16)})


@pytest.mark.parametrize("part", ["lora_down.weight", "lora_up.weight"])
def test_half_a_pair_is_refused(part: str) -> None:
    tensors = to_kohya(adapter(1).layers)
    del tensors[f"{NAMES[Q]}.{part}"]
    assert f"{NAMES[Q]} lacks {part.removesuffix('.weight')}" in refusal(tensors)


def test_factors_of_two_ranks_are_refused() -> None:
    tensors = to_kohya({Q: factors(SHAPES[Q], 4, 1.0)})
    assert "rank 3 and 4 in lora_down and lora_up" in refusal(
        tensors | {f"{NAMES[Q]}.lora_down.weight": torch.zeros(3, 16)}
    )


@pytest.mark.parametrize("shape", [(), (4,), (0, 16)])
def test_factors_without_a_rank_are_refused(shape: tuple[int, ...]) -> None:
    tensors = to_kohya({Q: factors(SHAPES[Q], 4, 1.0)})
    assert ("an empty tensor" if 0 in shape else "factors of shape") in refusal(
        tensors | {f"{NAMES[Q]}.lora_down.weight": torch.zeros(shape)}
    )


def test_an_alpha_per_rank_is_refused() -> None:
    tensors = to_kohya({Q: factors(SHAPES[Q], 4, 1.0)})
    assert "an alpha of shape" in refusal(tensors | {f"{NAMES[Q]}.alpha": torch.ones(4)})


def test_the_shapes_of_another_family_are_refused_in_one_line() -> None:
    message = refusal(to_kohya({TEXT: factors((320, 768), 4, 4.0)}), {TEXT: (96, 192)})
    assert f"{NAMES[TEXT]} is (768→320) in the file, (192→96) in the base" in message
    assert "another family" in message


def test_a_3x3_kernel_does_not_fit_a_linear_layer() -> None:
    message = refusal(to_kohya({POINT: factors((16, 16, 3, 3), 4, 4.0)}))
    assert "(16→16, 3x3) in the file, (16→16) in the base" in message


def test_an_empty_file_is_no_adapter() -> None:
    assert "no tensors" in refusal({})


def test_hostile_key_names_are_shown_in_one_printable_line() -> None:
    message = refusal({"evil\n\x1b[31m" + "x" * 5000 + ".alpha": torch.zeros(())})
    assert message.isprintable() and len(message) < 400


# --- what other dialects say besides


@pytest.mark.parametrize(("old", "new"), [("q", "q"), ("out", "out")])
def test_the_oldest_text_encoder_names_of_diffusers_are_read(old: str, new: str) -> None:
    path = TEXT.replace("q_proj", f"{new}_proj")
    made, name = factors((20, 20), 3, 3.0), f"text_encoder.text_model.encoder.layers.0.self_attn.to_{old}_lora"
    back = read_layers({f"{name}.down.weight": made.down, f"{name}.up.weight": made.up}, {path: (20, 20)})
    assert torch.equal(back[path].delta(), made.delta())


def test_settings_that_disagree_with_the_factors_are_refused() -> None:
    made = factors(SHAPES[Q], 4, 4.0)
    tensors = {f"{Q}.lora_A.weight": made.down, f"{Q}.lora_B.weight": made.up}
    for settings, scale in ((Settings(4, 2.0), 0.5), (Settings(4, 2.0, {}, {"to_q": 8.0}), 2.0)):
        assert close(read_layers(tensors, SHAPES, {"unet": settings})[Q].delta(), made.delta() * scale)
    with pytest.raises(AdapterFileError, match="has rank 4, its settings say 8"):
        read_layers(tensors, SHAPES, {"unet": Settings(8, 2.0)})
