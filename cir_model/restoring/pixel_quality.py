"""Estimate the JPEG quality of an image from its pixels alone."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cir_arch import load_network
from cir_arch.layers.quality_head import QualityPredictor
from cir_model.restoring.block_grid import SMALLEST, Offset, search, windows
from cir_model.restoring.luma import luma
from cir_weights import path_of

WINDOW = 512
"""Height and width of the windows in larger images."""


@functools.cache
def quality_network(device: torch.device) -> QualityPredictor:
    """Return the bundled quality estimator, CaVE-S."""
    network = load_network(path_of("cave_s_x1")).to(device)
    assert isinstance(network, QualityPredictor)
    return network


def estimator(networks: Sequence[nn.Module], device: torch.device) -> QualityPredictor:
    """Return what estimates the quality for these networks.

    Args:
        networks: That restore.
        device: Of the networks.

    Returns:
        The first of them that predicts the quality of grey or colour images itself, such as FBCNN;
        else CaVE-S.
    """
    for network in networks:
        if isinstance(network, QualityPredictor) and network.sizes.in_nc in (1, 3):
            return network
    return quality_network(device)


@torch.inference_mode()
def pixel_quality(
    network: QualityPredictor, image: Tensor, offset: Offset | None = None
) -> float | None:
    """Estimate the JPEG quality from pixels, for example of a PNG or a crop of a decoded JPEG.

    The networks were trained on blocks that begin at the corner, so the grid is found first. In a
    large image, the result is the median of five windows.

    Args:
        network: See :func:`estimator`; in evaluation mode.
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
    on_grid = image[..., row:, column:]
    on_grid = luma(on_grid) if network.sizes.in_nc == 1 else on_grid.expand(-1, 3, -1, -1)
    estimates = [network.predict_quality(window) for window in windows(on_grid, WINDOW)]
    return float(torch.cat(estimates).median())
