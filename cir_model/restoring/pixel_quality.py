"""Estimate the JPEG quality of an image from its pixels alone."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir_arch import load_network
from cir_arch.layers.dct import BLOCK, dct_matrix
from cir_model.restoring.pictures import luma
from cir_weights import path_of

SMALLEST = 32
"""The smallest height and width with an estimate."""

WINDOW = 512
"""Height and width of the windows in larger images."""

_NEAR_ZERO = 2.0
"""JPEG may have rounded coefficients below this to zero, on a scale of 255."""


@functools.cache
def quality_network(device: torch.device) -> nn.Module:
    """Return the bundled quality estimator, CaVE-S."""
    return load_network(path_of("cave_s_x1")).to(device)


@torch.inference_mode()
def pixel_quality(network: nn.Module, image: Tensor) -> float | None:
    """Estimate the JPEG quality from pixels, for example of a PNG or a crop of a decoded JPEG.

    The network was trained on crops that start at block corners, so the block grid is found first.
    In a large image, the result is the median of five windows.

    Args:
        network: One with ``predict_quality``, such as :class:`cir_arch.CaVEQuality`, in evaluation
            mode.
        image: (1, 1 or 3, H, W) in [0, 1], on the network's device.

    Returns:
        0 to 100; near 100 without visible compression. None if a side is shorter than 32 pixels.

    Example:
        >>> import torch
        >>> from cir_model.restoring.pixel_quality import pixel_quality, quality_network
        >>> network = quality_network(torch.device("cpu"))
        >>> pixel_quality(network, torch.rand(1, 3, 16, 16)) is None
        True
        >>> 0 <= pixel_quality(network, torch.rand(1, 3, 64, 64)) <= 100
        True
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
    """Find the block grid on which an image was compressed.

    JPEG rounds DCT coefficients to zero only on its own grid, so it is the grid with the most luma
    coefficients near zero.

    Args:
        image: (1, 1 or 3, H, W) in [0, 1], with at least 15 rows and columns.

    Returns:
        Row and column, 0 to 7, of the first block corner.
    """
    basis = dct_matrix().to(image.device)
    kernels = torch.einsum("ui,vj->uvij", basis, basis).flatten(0, 1)[1:, None] * 255
    total = torch.zeros(BLOCK, BLOCK, device=image.device)
    for window in _windows(image):
        near = F.conv2d(luma(window), kernels).abs_().div_(-_NEAR_ZERO).add_(1).relu_().mean((0, 1))
        rows, columns = (side // BLOCK * BLOCK for side in near.shape)
        cut = near[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        total += cut.sum((0, 2))
    row, column = divmod(int(total.argmax()), BLOCK)
    return row, column


def _windows(image: Tensor) -> Iterator[Tensor]:
    """Yield windows that start at multiples of 8: the whole image, or the middle and four more."""
    height, width = (side // BLOCK * BLOCK for side in image.shape[-2:])
    tall, wide = min(height, WINDOW), min(width, WINDOW)
    places = ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3))  # of the centres, in quarters
    corners = {(_start(height, tall, down), _start(width, wide, right)) for down, right in places}
    for top, left in sorted(corners):
        yield image[..., top : top + tall, left : left + wide]


def _start(length: int, window: int, quarters: int) -> int:
    start = quarters * length // 4 - window // 2
    return min(max(start, 0), length - window) // BLOCK * BLOCK
