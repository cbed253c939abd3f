"""The JPEG quality that the pixels of an image show, whatever its file says."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir_arch import load_network
from cir_arch.layers.dct import BLOCK, LUMA, dct_matrix
from cir_weights import path_of

SMALLEST = 32
"""Height and width from which on there is an estimate."""

WINDOW = 512
"""Larger images are looked at through windows of this height and width."""

_NEAR_ZERO = 2.0
"""Coefficients below this, on a scale of 255, may have been rounded to zero."""


@functools.cache
def quality_network(device: torch.device) -> nn.Module:
    """Return CaVE-S, which the package carries."""
    return load_network(path_of("cave_s_x1")).to(device)


@torch.inference_mode()
def pixel_quality(network: nn.Module, image: Tensor) -> float | None:
    """Estimate the JPEG quality of an image's pixels, as after saving as PNG, or after a cut.

    The block grid is found first, as the network is trained on crops that start at block corners.
    Of large images five windows are looked at, and the median is taken.

    Args:
        network: One with ``predict_quality``, such as :class:`cir_arch.CaVEQuality`, in eval mode.
        image: (1, C, H, W) in [0, 1], of one channel or three, on the network's device.

    Returns:
        0 to 100; near 100 where nothing is seen. None for an image of fewer than 32 rows or
        columns.
    """
    height, width = image.shape[-2:]
    if min(height, width) < SMALLEST:
        return None
    row, column = block_offset(image)
    estimates = [
        network.predict_quality(window.expand(-1, 3, -1, -1))  # type: ignore[operator]
        for window in _windows(image[..., row:, column:])
    ]
    return float(torch.cat(estimates).median())


def block_offset(image: Tensor) -> tuple[int, int]:
    """Find the grid on which an image was compressed.

    It is the one on which the most coefficients of the luma's DCT are near zero, as JPEG rounds
    them to zero on its own grid alone.

    Args:
        image: (1, C, H, W) in [0, 1], of at least 15 rows and columns.

    Returns:
        Row and column, 0 to 7, of the first block corner.
    """
    basis = dct_matrix().to(image.device)
    kernels = torch.einsum("ui,vj->uvij", basis, basis).flatten(0, 1)[1:, None] * 255
    total = torch.zeros(BLOCK, BLOCK, device=image.device)
    for window in _windows(image):
        near = (
            F.conv2d(_luma(window), kernels).abs_().div_(-_NEAR_ZERO).add_(1).relu_().mean((0, 1))
        )
        rows, columns = (side // BLOCK * BLOCK for side in near.shape)
        cut = near[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        total += cut.sum((0, 2))
    row, column = divmod(int(total.argmax()), BLOCK)
    return row, column


def _windows(image: Tensor) -> Iterator[Tensor]:
    """Yield parts that begin at multiples of 8: the whole, or the middle and four around it."""
    height, width = (side // BLOCK * BLOCK for side in image.shape[-2:])
    tall, wide = min(height, WINDOW), min(width, WINDOW)
    places = ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3))  # of the centres, in quarters
    corners = {(_start(height, tall, down), _start(width, wide, right)) for down, right in places}
    for top, left in sorted(corners):
        yield image[..., top : top + tall, left : left + wide]


def _start(length: int, window: int, quarters: int) -> int:
    start = quarters * length // 4 - window // 2
    return min(max(start, 0), length - window) // BLOCK * BLOCK


def _luma(image: Tensor) -> Tensor:
    if image.shape[1] == 1:
        return image
    weights = torch.tensor(LUMA, device=image.device)[:, None, None]
    return (image * weights).sum(1, keepdim=True)
