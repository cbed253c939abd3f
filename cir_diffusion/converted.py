"""CODiff in one file: everything that it needs, merged, as safetensors.

The metadata hold the configurations of UNet and VAE, the noise schedule, and the terms of use.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cir_arch.cave_arch import CaVEEncoder
from cir_arch.layers.residual_unet import residual_sizes
from cir_arch.state_dict import entries_below
from cir_diffusion.base import Base, build_part
from cir_diffusion.codiff import CODiff
from cir_diffusion.licence import CHANGES, LICENCE, USE_RESTRICTIONS
from cir_diffusion.noise_schedule import NoiseSchedule
from cir_host.checkpoint_files import read_file, reason
from cir_host.errors import UserError
from cir_host.file_names import printable
from cir_host.loading import refuse_not_finite

KEY = "codiff"
"""Of the metadata: the configurations, as JSON. It tells such files from others."""

TERMS = {"licence": LICENCE, "changes": CHANGES, "use_restrictions": USE_RESTRICTIONS}
"""Of the metadata: under which terms the file may be used."""


def save_converted(network: CODiff, state: Mapping[str, Tensor], path: Path) -> None:
    """Write CODiff as one file.

    Args:
        network: Whose configurations are stored.
        state: Its state dict, of any floating-point type.
        path: The file; an existing one is overwritten.
    """
    configurations = {
        "unet": _plain(network.unet.config),
        "vae": _plain(network.vae.config),
        "schedule": asdict(network.schedule),
    }
    metadata = {"format": "pt", KEY: json.dumps(configurations), **TERMS}
    path.touch()
    mode = path.stat().st_mode
    save_file({name: value.contiguous() for name, value in state.items()}, path, metadata)
    path.chmod(mode)  # safetensors makes files that only their owner can read


def load_converted(path: Path, **options: Any) -> CODiff:
    """Load a file of :func:`save_converted` in float32, on the CPU.

    Args:
        path: The file.
        options: Keyword arguments of :class:`cir_diffusion.codiff.CODiff`.

    Raises:
        UserError: The file is damaged.
    """
    source = printable(str(path))
    file = read_file(path)
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in file.content.items()
    }
    refuse_not_finite(state, source)
    try:
        held = json.loads(file.metadata[KEY])
        with torch.device("meta"):
            base = Base(
                build_part("unet", held["unet"]),
                build_part("vae", held["vae"]),
                NoiseSchedule(**held["schedule"]),
            )
            cave = CaVEEncoder(**residual_sizes(entries_below(state, "cave.")))
            context, embedding = state["proj.weight"].shape
            network = CODiff(base, cave, nn.Linear(embedding, context), **options)
        network.load_state_dict(state, assign=True)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{source}: its tensors and its metadata do not belong together ({reason(error)});"
            " convert codiff.pkl again"
        ) from error
    return network


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without diffusers' notes, such as the folder it was read from."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
