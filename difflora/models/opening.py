"""The networks of a Stable Diffusion, from a diffusers folder or a single file to where they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from ..adapters.files import SafetensorError
from ..adapters.precision import DTYPES
from ..config import BaseConfig
from ..errors import BaseModelError
from ..events import Note, Progress, Report, ignore


@dataclass(frozen=True)
class Source:
    """Where a base lies: a diffusers folder, or a single file with a folder of the configs that it lacks."""

    name: str
    folder: Path
    index: dict
    """What model_index.json says."""
    file: Path | None = None

    @property
    def networks(self) -> list[str]:
        """The names of its networks, in the order in which they are opened."""
        wanted = ("text_encoder", "text_encoder_2", "unet", "transformer", "vae")
        return [name for name in wanted if (self.index.get(name) or [None])[0]]


@dataclass(frozen=True)
class How:
    """How a base is opened on this machine."""

    device: torch.device
    dtype: torch.dtype
    config: BaseConfig = field(default_factory=BaseConfig)
    clip_skip: int | None = None
    report: Report = ignore


def how_to_open(
    config: BaseConfig, device: str | None = None, clip_skip: int | None = None, report: Report = ignore
) -> How:
    """Device and precision, the best that are there unless asked for; BaseModelError for what the device has not."""
    place = torch.device(device or best_device())
    if config.precision is None:
        # Without its own units for it (measured: half the speed), a CPU is quickest in float32.
        half = torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported(False) else torch.float16
        return How(place, half if place.type == "cuda" else torch.float32, config, clip_skip, report)
    dtype = DTYPES[config.precision]
    if place.type == "cuda" and dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(False):
        name = torch.cuda.get_device_name(place)
        raise BaseModelError(f"--precision bf16: {name} does not compute in it; expected fp16 or fp32")
    return How(place, dtype, config, clip_skip, report)


def best_device() -> str:
    """cuda, mps or cpu, the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def kind_of(library: str, name: str) -> Callable:
    """A class of diffusers or of transformers by its name; BaseModelError where the installed version has none."""
    if library.split(".")[0] not in ("diffusers", "transformers") or not hasattr(import_module(library), name):
        raise BaseModelError(
            f"{library} {name}: not known to the installed {library}; expected a model of its own; update it, or "
            "choose another base"
        )
    return getattr(import_module(library), name)


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """What the loading libraries raise becomes a BaseModelError; their bars and notices stay away."""
    from diffusers.utils import logging
    from transformers.utils import logging as text_logging

    logging.disable_progress_bar()
    text_logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError, AttributeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BaseModelError(f"base {name} cannot be opened: {first}; check that all of its files are whole") from error
    finally:
        logging.set_verbosity(verbosity)


def load_networks(source: Source, how: How) -> dict[str, object]:
    """Every network of a folder by its name, and its scheduler; BaseModelError where weights are missing."""
    found = {}
    for number, name in enumerate(source.networks):
        how.report(Progress(f"opening {source.name}", number, len(source.networks)))
        library, kind = source.index[name]
        with one_line(source.name):
            network, info = kind_of(library, kind).from_pretrained(
                source.folder, subfolder=name, dtype=how.dtype, use_safetensors=True,
                variant=variant(source.folder / name), output_loading_info=True, local_files_only=True,
            )  # fmt: skip
        if missing := sorted(info["missing_keys"]):
            raise BaseModelError(
                f"base {source.name}: {name} lacks {len(missing)} weights, {missing[0]} first: expected a whole model; "
                "get it again"
            )
        found[name] = network
    found["scheduler"] = load_scheduler(source)
    how.report(Progress(f"opening {source.name}", len(source.networks), len(source.networks)))
    return found


def load_scheduler(source: Source) -> object:
    """The schedule that a folder names."""
    with one_line(source.name):
        return kind_of(*source.index["scheduler"]).from_pretrained(source.folder, subfolder="scheduler")


def variant(folder: Path) -> str | None:
    """ "fp16" for a folder that has its weights only so."""
    files = [file.name for file in folder.glob("*.safetensors")]
    return "fp16" if files and all(".fp16" in name for name in files) else None


def load_vae(asked: str, fallback: Path, channels: int, how: How) -> nn.Module:
    """Another autoencoder: a file, a folder or a hub id; fallback: configs for a file.

    BaseModelError for what is none, or one of other latents.
    """
    kind, dtype = kind_of("diffusers", "AutoencoderKL"), how.dtype
    place = Path(asked).expanduser()
    with one_line(f"--vae {asked}"):
        if place.is_file():
            vae = kind.from_single_file(
                str(place), config=str(fallback), subfolder="vae", torch_dtype=dtype, local_files_only=True
            )
        elif place.is_dir():
            inner = "vae" if (place / "vae").is_dir() else None
            vae = kind.from_pretrained(
                place, subfolder=inner, dtype=dtype, variant=variant(place / (inner or "")), local_files_only=True
            )
        elif asked.count("/") == 1 and not asked.startswith((".", "/", "~")):
            how.report(Note(f"--vae {asked}: downloaded into the hub's cache unless it is there: up to 0.4 GB"))
            vae = kind.from_pretrained(asked, dtype=dtype)
        else:
            raise BaseModelError(f"--vae {asked}: no such file or folder; expected an autoencoder, or a hub id")
    if any(parameter.is_meta for parameter in vae.parameters()):
        raise BaseModelError(f"--vae {asked}: weights are missing in it; expected an autoencoder of Stable Diffusion")
    if vae.config.latent_channels != channels:
        found = vae.config.latent_channels
        raise BaseModelError(f"--vae {asked}: its latents have {found} channels; expected {channels}, as the base has")
    return vae


def settle(loaded: dict[str, object], source: Source, how: How) -> dict[str, object]:
    """The networks frozen, on their device, computing as asked; the VAE may be another one."""
    config = how.config
    if config.vae:
        loaded["vae"] = load_vae(config.vae, source.folder, loaded["vae"].config.latent_channels, how)
    elif how.dtype == torch.float16 and loaded["vae"].config.get("force_upcast", False):
        # SDXL's overflows in float16.
        loaded["vae"].float()
    if config.tiling:
        loaded["vae"].enable_tiling()
    if config.attention == "xformers":
        use_xformers(loaded.get("unet") or loaded["transformer"])
    networks = [network for network in loaded.values() if isinstance(network, nn.Module)]
    waiting = offloads(networks, how)
    for network in networks:
        network.eval().requires_grad_(False)
        offload(network, how.device) if waiting else network.to(how.device)
    return loaded


def offloads(networks: Sequence[nn.Module], how: How) -> bool:
    """Whether layers wait in main memory: when asked to, or when the device's free memory does not hold them all.

    BaseModelError where they may not wait and the device does not hold them.
    """
    if how.config.offload or how.device.type != "cuda":
        return bool(how.config.offload)
    size = sum(tensor.nbytes for network in networks for tensor in network.parameters())
    free, _ = torch.cuda.mem_get_info(how.device)
    if how.config.offload is False and size > free:
        raise BaseModelError(
            f"the base takes {size / 1e9:.1f} GB and {how.device} has {free / 1e9:.1f} GB free; expected room for all "
            "of it: end what else uses the device, or open it with --precision bf16"
        )
    return how.config.offload is None and size > 0.8 * free


def offload(network: nn.Module, device: torch.device) -> None:
    """Each layer is brought to the device when it computes and back to main memory afterwards."""
    from diffusers.hooks import apply_group_offloading

    for module in network.modules():
        # What is added to a layer has to be where it computes, not where it waits.
        module.computes_on = device
    apply_group_offloading(network, onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level")


def use_xformers(unet: nn.Module) -> None:
    """Attention by xformers; BaseModelError where it is not installed, or not for this device."""
    try:
        unet.enable_xformers_memory_efficient_attention()
    except ModuleNotFoundError:
        raise BaseModelError(
            '--attention xformers: it is not installed; expected it here; pip install "difflora[xformers]"'
        ) from None
    except (ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise BaseModelError(f"--attention xformers: {first}; leave it out to use PyTorch's own attention") from None
