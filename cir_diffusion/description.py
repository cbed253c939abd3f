"""Say what a file of CODiff's holds, for ``basicsr models``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cir_diffusion.checkpoint import TrainedParts, kind_of, read_trained_parts
from cir_diffusion.converted import TERMS
from cir_diffusion.lora import LowRank, low_rank_changes
from cir_host.checkpoint_files import read_file
from cir_host.file_names import printable


def describe(path: Path) -> dict[str, Any]:
    """Describe a file that :func:`cir_diffusion.checkpoint.kind_of` knows.

    Returns:
        ``network``; ``holds``, in words; ``tensors``, ``numbers`` and ``dtypes`` of the file; and
        ``more``, lines by their titles.

    Raises:
        UserError: The file is damaged, or of another model.
    """
    if kind_of(path) == "converted":
        file = read_file(path)
        terms = {key.replace("_", " "): file.metadata.get(key, "not stated") for key in TERMS}
        return _described("with its base and CaVE", file.content, terms)
    parts = read_trained_parts(path)
    held = (parts.state_dict_unet, parts.state_dict_vae, parts.proj)
    state = {(part, name): value for part in range(3) for name, value in held[part].items()}
    return _described("what was trained", state, _about(parts, printable(str(path))))


def _about(parts: TrainedParts, source: str) -> dict[str, str]:
    unet, vae = (
        _layers(low_rank_changes(state, source))
        for state in (parts.state_dict_unet, parts.state_dict_vae)
    )
    return {
        "changes": f"{unet} of the UNet, {vae} of the VAE",
        "base": f"needed, by --base FOLDER; its UNet takes tokens of {parts.context} numbers",
        "CaVE": f"needed, as cave.pth or by --cave FILE; its tokens have {parts.embedding} numbers",
    }


def _layers(changes: Mapping[str, LowRank]) -> str:
    ranks = sorted({change.rank for change in changes.values()})
    return f"{len(changes)} layers with rank {' or '.join(map(str, ranks))}"


def _described(holds: str, state: Mapping[Any, Tensor], more: Mapping[str, str]) -> dict[str, Any]:
    dtypes = {str(value.dtype).removeprefix("torch.") for value in state.values()}
    return {
        "network": "CODiff",
        "holds": holds,
        "tensors": len(state),
        "numbers": sum(value.numel() for value in state.values()),
        "dtypes": sorted(dtypes),
        "more": dict(more),
    }
