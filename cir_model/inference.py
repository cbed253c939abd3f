"""The one way an image passes through a network, in validation and in restoring alike."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from cir_arch.basicsr_networks import run
from cir_arch.facts import Precision

Ensemble = Literal["none", "transpose", "flips", "x8"]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@torch.no_grad()
def restore_image(
    network: nn.Module,
    image: Tensor,
    *,
    ensemble: Ensemble = "none",
    precision: Precision = "fp32",
) -> Tensor:
    """Pass whole images through a network.

    Args:
        network: Any network that maps an image to an image, on the device of ``image``.
        image: (B, C, H, W) in [0, 1].
        ensemble: Symmetries of the square over which outputs are averaged: ``none``; ``transpose``
            (the image and its transpose, as the NTIRE 2024 winner did); ``flips`` (four); ``x8``.
        precision: ``fp32``, or autocast to ``bf16`` or ``fp16``.

    Returns:
        (B, C, scale H, scale W), float32, not clamped.
    """
    total: Tensor | None = None
    symmetries = SYMMETRIES[ensemble]
    dtype = _AUTOCAST.get(precision)
    with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
        for apply, undo in symmetries:
            output = undo(run(network, apply(image))).float()
            total = output if total is None else total + output
    assert total is not None  # every ensemble holds the identity
    return total / len(symmetries)


def _identity(image: Tensor) -> Tensor:
    return image


def _transpose(image: Tensor) -> Tensor:
    return image.transpose(-1, -2)


def _flip(*axes: int) -> Callable[[Tensor], Tensor]:
    return lambda image: image.flip(axes)


Symmetry = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

_FLIPS: tuple[Symmetry, ...] = (
    (_identity, _identity),
    *((_flip(*axes), _flip(*axes)) for axes in ((-1,), (-2,), (-2, -1))),
)


def _transposed(symmetry: Symmetry) -> Symmetry:
    apply, undo = symmetry
    return (lambda image: apply(_transpose(image))), (lambda image: _transpose(undo(image)))


SYMMETRIES: dict[Ensemble, tuple[Symmetry, ...]] = {
    "none": ((_identity, _identity),),
    "transpose": ((_identity, _identity), (_transpose, _transpose)),
    "flips": _FLIPS,
    "x8": _FLIPS + tuple(_transposed(symmetry) for symmetry in _FLIPS),
}
"""For each ensemble the pairs of a symmetry and its inverse."""
