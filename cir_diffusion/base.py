"""The base of CODiff: UNet, VAE and noise schedule of Stable Diffusion 2.1, from a local folder.

The folder has diffusers' layout. Nothing is downloaded.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cir_diffusion.noise_schedule import NoiseSchedule
from cir_host.checkpoint_files import reason, some_of
from cir_host.errors import UserError
from cir_host.extras import needs_extra
from cir_host.file_names import printable

WANTED = "stable-diffusion-2-1-base in diffusers' layout, with the folders unet, vae and scheduler"
"""What the user has to bring along."""

_WEIGHTS: Mapping[str, Mapping[str, Any]] = {
    "diffusion_pytorch_model.safetensors": {"use_safetensors": True},
    "diffusion_pytorch_model.safetensors.index.json": {"use_safetensors": True},
    "diffusion_pytorch_model.bin": {"use_safetensors": False},
    "diffusion_pytorch_model.bin.index.json": {"use_safetensors": False},
    "diffusion_pytorch_model.fp16.safetensors": {"use_safetensors": True, "variant": "fp16"},
    "diffusion_pytorch_model.fp16.bin": {"use_safetensors": False, "variant": "fp16"},
}
"""Names of weight files, the best first, with the arguments by which diffusers reads them."""

_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
"""The classes of the parts, in diffusers."""


@dataclass(frozen=True)
class Base:
    """The parts of a latent diffusion model that CODiff starts from."""

    unet: nn.Module
    """diffusers' ``UNet2DConditionModel``, which predicts the noise."""
    vae: nn.Module
    """diffusers' ``AutoencoderKL``, between images and latents."""
    schedule: NoiseSchedule


def diffusers() -> Any:
    """Import diffusers, which takes seconds.

    Raises:
        UserError: It is not installed.
    """
    return needs_extra("diffusers", "diffusion", "CODiff")


def load_base(folder: Path, context: int | None = None) -> Base:
    """Load the base on the CPU; diffusers loads in float32 and sets the evaluation mode.

    On the meta device, only the configurations are read.

    Args:
        folder: See :data:`WANTED`.
        context: Width of the tokens that the UNet must take; 1024 for published checkpoints. None:
            any width.

    Raises:
        UserError: A file is missing or damaged, or the base is of another kind.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise UserError(f"{printable(str(folder))}: {what}; the base is a folder: {WANTED}")
    schedule = _schedule(folder / "scheduler" / "scheduler_config.json")
    configs = {part: _json(folder / part / "config.json") for part in _CLASSES}
    _check_kind(folder, configs, context)
    ways = {part: _weights_of(folder / part) for part in _CLASSES}
    if torch.empty(0).is_meta:
        unet, vae = (build_part(part, configs[part]).eval() for part in _CLASSES)
    else:
        unet, vae = (_load_part(folder, part, ways[part]) for part in _CLASSES)
    return Base(unet, vae, schedule)


def build_part(part: str, config: Mapping[str, Any]) -> nn.Module:
    """Build the UNet or the VAE of a configuration, with new weights.

    Args:
        part: ``unet`` or ``vae``.
        config: What diffusers stores in ``config.json``.
    """
    kind = getattr(diffusers(), _CLASSES[part])
    with _quiet():
        built: nn.Module = kind.from_config(dict(config))
    return built


def _check_kind(
    folder: Path, configs: Mapping[str, Mapping[str, Any]], context: int | None
) -> None:
    """Refuse models of other kinds, whose tensors may have the same shapes."""
    for part, config in configs.items():
        where = printable(str(folder / part / "config.json"))
        kind = config.get("_class_name", _CLASSES[part])
        if kind != _CLASSES[part]:
            raise UserError(f"{where}: the {part} is a {kind}; give {WANTED}")
    width = configs["unet"].get("cross_attention_dim")
    if context is not None and width != context:
        raise UserError(
            f"{printable(str(folder / 'unet' / 'config.json'))}: cross_attention_dim is {width},"
            f" and the checkpoint needs {context}; give {WANTED}"
        )


def _schedule(path: Path) -> NoiseSchedule:
    config = _json(path)
    where = printable(str(path))
    for key, wanted in (("prediction_type", "epsilon"), ("beta_schedule", "scaled_linear")):
        value = config.get(key, wanted)
        if value != wanted:
            of = ", as of Stable Diffusion 2.1 for 768 pixels" * (value == "v_prediction")
            raise UserError(f"{where}: {key} is {value}{of}, not {wanted}; give {WANTED}")
    try:
        return NoiseSchedule(
            float(config["beta_start"]),
            float(config["beta_end"]),
            int(config["num_train_timesteps"]),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: beta_start, beta_end and num_train_timesteps must be numbers; copy the"
            " file again"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    where = printable(str(path))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such file; the base is {WANTED}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({reason(error)}); copy it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{where}: is no configuration; copy it again")
    return config


def _weights_of(folder: Path) -> Mapping[str, Any]:
    """Return the arguments by which diffusers reads the best weights in a folder."""
    for name, way in _WEIGHTS.items():
        if (folder / name).is_file():
            return way
    raise UserError(
        f"{printable(str(folder / next(iter(_WEIGHTS))))}: no such file, nor .bin or"
        f" .fp16.safetensors; the base is {WANTED}"
    )


def _load_part(folder: Path, part: str, way: Mapping[str, Any]) -> nn.Module:
    where = printable(str(folder / part))
    loader = getattr(diffusers(), _CLASSES[part])
    try:
        with _quiet():
            loaded, report = loader.from_pretrained(
                folder,
                subfolder=part,
                local_files_only=True,
                low_cpu_mem_usage=False,  # true would ask for the package accelerate
                output_loading_info=True,
                **way,
            )
    except Exception as error:  # of many types
        raise UserError(
            f"{where}: diffusers cannot load it ({reason(error)}); copy the folder again"
        ) from error
    if missing := report["missing_keys"]:
        raise UserError(f"{where}: the weights lack {some_of(missing)}; copy the folder again")
    network: nn.Module = loaded
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence diffusers' notices, such as those on attributes of other versions."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
