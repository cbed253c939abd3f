"""Writes a network for other programs: safetensors that name it, and ONNX."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cir_arch.network import RestorationNetwork
from cir_arch.recognition import NetworkOptions
from cir_arch.running import facts_of
from cir_host.checkpoint import NETWORK_KEY
from cir_host.errors import UserError
from cir_host.extras import needs_extra

ONNX_OPSET = 18
"""The first version with all operators that our networks need."""
EXAMPLE_SIZE = (41, 50)
"""Height and width of the image that a network is traced with.

Networks that pad pad both sides of it, so that padding becomes part of the file; a side that needs
none is then padded by 0.
"""
OTHER_SIZES = ((64, 96), (35, 70))
"""Sizes to test a file for any size with: sides that most networks do not pad, and others."""
TOLERANCE = 1e-3
"""Largest error of a correct file, for outputs of range 1: float32, summed in another order."""


def save_safetensors(
    state: Mapping[str, Tensor], path: Path, network: NetworkOptions | None
) -> None:
    """Write a state dict as safetensors.

    Args:
        state: The tensors; their types are kept.
        path: The file; an existing one is overwritten.
        network: Written into the metadata, where :func:`cir_arch.load_network` finds it.
    """
    metadata = {"format": "pt"}
    if network is not None:
        metadata[NETWORK_KEY] = json.dumps({"type": network.type, **network.arguments})
    copies = {name: value.detach().clone().contiguous() for name, value in state.items()}
    path.write_bytes(save(copies, metadata))  # save_file makes files that only their owner can read


def tables_for_others(network: NetworkOptions) -> dict[str, Tensor]:
    """Return the buffers that other programs look for, see ``RestorationNetwork``; on the CPU.

    Args:
        network: Of any package; nothing is returned where it cannot be built.
    """
    if network.entry is None or network.entry.package == "basicsr":
        return {}
    with suppress(UserError):
        built = network.outline()
        return built.tables_for_others() if isinstance(built, RestorationNetwork) else {}
    return {}


def export_onnx(network: nn.Module, path: Path, size: tuple[int, int] | None = None) -> None:
    """Write a network as ONNX: input ``image`` (1, C, H, W), output ``restored``.

    Args:
        network: In evaluation mode, on the CPU.
        path: The file; an existing one is overwritten.
        size: Height and width of all images; None for any size, where :func:`takes_any_size`.

    Raises:
        UserError: The packages of the extra ``onnx`` are missing, the network needs a size, or the
            exporter fails.
    """
    require_onnx()
    if size is None and not takes_any_size(network):
        raise UserError(
            f"{type(network).__name__} as ONNX: it can be exported for one image size only;"
            " give --size HEIGHTxWIDTH"
        )
    facts = facts_of(network)
    channels = 3 if facts is None else facts.in_channels
    image = torch.rand(1, channels, *(size or EXAMPLE_SIZE))
    axes: dict[int, Any] = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        with warnings.catch_warnings(), torch.no_grad(), _quiet("onnxscript"):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (image,),
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                opset_version=ONNX_OPSET,
                input_names=["image"],
                output_names=["restored"],
                dynamic_shapes=(axes,) if size is None else None,
            )
    except Exception as error:  # of many kinds, each with a report of pages
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{type(network).__name__} as ONNX: {reason}") from error


def takes_any_size(network: nn.Module) -> bool:
    """Whether a network can be exported for images of any size.

    For a small PromptCIR, PyTorch's exporter (2.14) had not finished after four minutes with
    symbolic sizes; with one size it takes one minute. The networks that do not state
    ``onnx_any_size`` have not been tried for long.
    """
    return isinstance(network, RestorationNetwork) and network.entry.onnx_any_size


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger's warnings: the exporter warns for each layer that it does not fold."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def compare_onnx(
    network: nn.Module, path: Path, size: tuple[int, int] | None = None
) -> dict[tuple[int, int], float]:
    """Return the largest difference of onnxruntime to the network, for random images of each size.

    Args:
        network: The exported network.
        path: The ONNX file.
        size: The file's only size. None: it takes any size, and two others are tested.

    Raises:
        UserError: The file's output differs by more than :data:`TOLERANCE`.
    """
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    _, channels, _, _ = session.get_inputs()[0].shape
    differences = {}
    for height, width in (size,) if size else OTHER_SIZES:
        image = torch.rand(1, channels, height, width, generator=generator)
        with torch.inference_mode():
            expected = network(image)
        (found,) = session.run(None, {"image": image.numpy()})
        differences[height, width] = (torch.from_numpy(found) - expected).abs().max().item()
    worst = max(differences.values())
    if not worst < TOLERANCE * max(1.0, expected.abs().max().item()):
        raise UserError(f"{type(network).__name__}: the output of onnxruntime differs by {worst}")
    return differences


def require_onnx() -> None:
    """Import the packages of the extra ``onnx``.

    Raises:
        UserError: One cannot be imported.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needs_extra(package, "onnx", "ONNX")
