"""A network written for other programs: safetensors that name it, and ONNX."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cir_arch.basicsr_networks import facts_of
from cir_arch.cave_arch import CaVE
from cir_arch.fbcnn_arch import FBCNN
from cir_arch.recognition import NetworkOptions
from cir_arch.ucip_arch import UCIP
from cir_host.checkpoint import NETWORK_KEY
from cir_host.errors import UserError

ONNX_OPSET = 18
"""The first that has what all networks of ours need."""
ANY_SIZE = (CaVE, FBCNN, UCIP)
"""Networks that are exported for images of any size.

With a small PromptCIR, PyTorch's exporter (2.14) was not done after four minutes if sizes are
symbols; given one size it is done in one. The others have not been tried for long, and need a size
too.
"""
EXAMPLE_SIZE = (41, 50)
"""Height and width of the image that a network is traced with.

Every network that pads pads both sides of it, so that padding is part of the file; a side that
needs none is then padded by 0.
"""
OTHER_SIZES = ((64, 96), (35, 70))
"""What a file for any size is tried with: sides that most networks leave alone, and others."""
TOLERANCE = 1e-3
"""How far a right file may be off, relative to an output of range 1: float32, summed otherwise."""


def save_safetensors(
    state: Mapping[str, Tensor], path: Path, network: NetworkOptions | None
) -> None:
    """Write a state dict as safetensors.

    Args:
        state: The tensors; their types are kept.
        path: The file; one that is there is replaced.
        network: What :func:`cir_arch.load_network` will find in the file's metadata.
    """
    metadata = {"format": "pt"}
    if network is not None:
        metadata[NETWORK_KEY] = json.dumps({"type": network.type, **network.arguments})
    apart = {name: value.detach().clone().contiguous() for name, value in state.items()}
    path.write_bytes(save(apart, metadata))  # save_file lets its owner alone read it


def export_onnx(network: nn.Module, path: Path, size: tuple[int, int] | None = None) -> None:
    """Write a network as ONNX: input ``image`` (1, C, H, W), output ``restored``.

    Args:
        network: In evaluation mode, on the CPU.
        path: The file; one that is there is replaced.
        size: Height and width of all images; None for any, which :data:`ANY_SIZE` can.

    Raises:
        UserError: The packages of the extra ``onnx`` are missing, the network needs a size, or the
            exporter fails.
    """
    require_onnx()
    if size is None and not isinstance(network, ANY_SIZE):
        raise UserError(
            f"{type(network).__name__} as ONNX: it can be exported for one size of image alone;"
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


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger's warnings back: the exporter tells of each layer what it does not fold."""
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
    """Return how far onnxruntime is from the network, at most, for random images of each size.

    Args:
        network: What was exported.
        path: The ONNX file.
        size: The file's only size. None if it takes any, and two others are tried.

    Raises:
        UserError: The file's output differs by more than rounding explains, 1e-3 of a range of 1.
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
        raise UserError(f"{type(network).__name__}: onnxruntime gives other values, off by {worst}")
    return differences


def require_onnx() -> None:
    """Check that the packages of the extra ``onnx`` are there.

    Raises:
        UserError: One is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise UserError(
                f"ONNX needs the package {package}; install it by `pip install 'basicsr-cir[onnx]'`"
            )
