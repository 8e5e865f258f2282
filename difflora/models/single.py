"""Single-file checkpoints of Stable Diffusion, as artists download them, and what such a file leaves open.

The layers are converted by diffusers (loaders/single_file_utils.py); the configs that a file lacks are in configs/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapters.stream import Table, read_table
from ..errors import BaseModelError
from ..events import Note, Progress
from .clip import tokenizers
from .opening import How, Source, kind_of, load_scheduler, one_line

V, EPSILON = "v_prediction", "epsilon"
LEAST_LIKENESS = 0.5


def load_single(source: Source, how: How) -> dict[str, object]:
    """Every network of the file by its name, and the schedule it was trained with; raises BaseModelError."""
    how.report(Progress(f"opening {source.name}", 0, 1))
    kind = kind_of("diffusers", source.index["_class_name"])
    scheduler = load_scheduler(source)
    words = dict(zip(("tokenizer", "tokenizer_2"), tokenizers(source), strict=False))
    with one_line(source.name):
        pipe = kind.from_single_file(
            str(source.file), config=str(source.folder), torch_dtype=how.dtype, local_files_only=True,
            scheduler=scheduler, **words,
        )  # fmt: skip
    networks: dict[str, object] = {name: getattr(pipe, name) for name in source.networks}
    for name, network in networks.items():
        if lost := [path for path, tensor in network.named_parameters() if tensor.is_meta]:
            raise BaseModelError(
                f"base {source.name}: {name} lacks {len(lost)} weights, {lost[0]} first: expected a whole checkpoint; "
                "get it again"
            )
    networks["scheduler"] = schedule(source, how, scheduler, networks)
    how.report(Progress(f"opening {source.name}", 1, 1))
    return networks


def schedule(source: Source, how: How, own: object, networks: Mapping[str, nn.Module]) -> object:
    """The family's schedule with what this file was trained to predict; SD 2 at 512 px predicts noise, at 768 px v."""
    table = read_table(source.file)
    kind = told(source.file, table)
    unet = networks["unet"]
    if kind is None:
        asked = own.config.prediction_type != EPSILON
        kind = asked_of(unet, networks["text_encoder"], how) if asked else EPSILON
        if asked:
            how.report(Note(f"{source.name} does not say what it predicts; its answer to noise is that of {kind}"))
    if own.config.prediction_type == V and kind == EPSILON:
        unet.register_to_config(sample_size=64)
    more = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in table.rows else {}
    return type(own).from_config(own.config, prediction_type=kind, **more)


def told(file: Path, table: Table) -> str | None:
    """What a file says it predicts: modelspec's line, the mark of v-prediction models, or a .yaml beside it."""
    said = str(table.metadata.get("modelspec.prediction_type", "")).lower()
    if said in ("v", V, "epsilon"):
        return EPSILON if said == "epsilon" else V
    if "v_pred" in table.rows:
        return V
    beside = file.with_suffix(".yaml")
    if beside.is_file():
        text = beside.read_text(encoding="utf-8", errors="ignore").replace("'", '"')
        return V if 'parameterization: "v"' in text else EPSILON
    return None


def asked_of(unet: nn.Module, encoder: nn.Module, how: How) -> str:
    """What a network predicts, asked where it will compute; on a CPU in float32, as half precision takes minutes."""
    quick = torch.float32 if how.device.type == "cpu" else how.dtype
    try:
        return answered(unet.to(how.device, quick), encoder)
    finally:
        unet.to(how.dtype)


@torch.inference_mode()
def answered(unet: nn.Module, encoder: nn.Module) -> str:
    """What a network predicts, by its own answer to pure noise: one for noise gives the noise back, one for v does not.

    At the last timestep v is sqrt(a) noise - sqrt(1 - a) picture with a near 0 (Salimans & Ho 2022).
    """
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(unet.device, unet.dtype)
    width = unet.config.cross_attention_dim
    words = torch.zeros(1, encoder.config.max_position_embeddings, width, dtype=unet.dtype, device=unet.device)
    answer: Tensor = unet(noise, torch.tensor([999], device=unet.device), words).sample
    likeness = torch.corrcoef(torch.stack([answer.flatten().float(), noise.flatten().float()]))[0, 1]
    return EPSILON if likeness > LEAST_LIKENESS else V
