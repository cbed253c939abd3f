"""Estimate the JPEG quality of an image from its pixels alone."""

import functools

import torch
from torch import Tensor, nn

from cir_arch import load_network
from cir_model.restoring.block_grid import Offset, search, windows
from cir_weights import path_of

SMALLEST = 32
"""The smallest height and width with an estimate."""

WINDOW = 512
"""Height and width of the windows in larger images."""


@functools.cache
def quality_network(device: torch.device) -> nn.Module:
    """Return the bundled quality estimator, CaVE-S."""
    return load_network(path_of("cave_s_x1")).to(device)


@torch.inference_mode()
def pixel_quality(network: nn.Module, image: Tensor, offset: Offset | None = None) -> float | None:
    """Estimate the JPEG quality from pixels, for example of a PNG or a crop of a decoded JPEG.

    The network was trained on crops that start at block corners, so the block grid is found first.
    In a large image, the result is the median of five windows.

    Args:
        network: One with ``predict_quality``, such as :class:`cir_arch.CaVEQuality`, in evaluation
            mode.
        image: (1, 1 or 3, H, W) in [0, 1], on the network's device.
        offset: The most likely block grid, from :func:`search`; None: search here.

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
    row, column = offset or search(image)[0]
    estimates = [
        network.predict_quality(window.expand(-1, 3, -1, -1))  # type: ignore[operator]
        for window in windows(image[..., row:, column:], WINDOW)
    ]
    return float(torch.cat(estimates).median())
