"""JPEG's transform, and first weights of a U-Net's encoder that compute it."""

import math
from typing import Any

import torch
from torch import Tensor

from cir_arch.layers.residual_unet import ResidualEncoder
from cir_host.errors import UserError

BLOCK = 8

LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation of luma at quality 50 (ITU-T T.81, table K.1)."""

WIDTHS = (0.06, 0.25, 1.0)
"""Distances from zero up to which a coefficient counts as near zero, in steps of quality 50."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601, which JPEG uses)."""

_COUNT = BLOCK * BLOCK


def dct_matrix(samples: int = BLOCK, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the orthonormal DCT-II: (frequency, sample)."""
    frequency, sample = torch.meshgrid(
        *[torch.arange(samples, dtype=torch.float64)] * 2, indexing="ij"
    )
    basis = torch.cos((2 * sample + 1) * frequency * math.pi / (2 * samples))
    basis *= math.sqrt(2 / samples)
    basis[0] /= math.sqrt(2)
    return basis.to(dtype)


@torch.no_grad()
def start_with_dct(encoder: ResidualEncoder) -> None:
    """Set the first weights of an encoder so that it counts DCT coefficients near zero.

    Level 1 is the luma, level 2 the DCT of its blocks. Level 3 has two maps for each of the 64
    coefficients c: ``max(0, 1 - |c| / w)`` with one of three widths w by frequency, and ``|c|`` in
    steps of quality 50 (smaller for the mean of the block). Level 4 has the same maps, shifted and
    scaled to be near 0 and 1. The branches of the residual blocks of level 1, 3 and 4 start at
    zero.

    Args:
        encoder: Has ``strides`` (8, 1, 1), 192, 128 and 128 channels in the last three levels, one
            block per stage and ``act_mode`` R.

    Raises:
        UserError: If its arguments are others.
    """
    sizes = encoder.sizes
    found = (*sizes.strides, *sizes.nc[1:], sizes.nb, sizes.act_mode)
    if found != (BLOCK, 1, 1, 3 * _COUNT, 2 * _COUNT, 2 * _COUNT, 1, "R"):
        raise UserError(
            "start: dct needs strides [8, 1, 1], nc [ANY, 192, 128, 128], nb 1 and act_mode R"
        )
    for name, parameter in encoder.named_parameters():
        if "qf_pred" not in name and (name.endswith("bias") or ".res.2." in name):
            parameter.zero_()
    basis = dct_matrix()
    steps = torch.tensor(LUMA_STEPS).float() / 255
    row, column = torch.meshgrid(*[torch.arange(BLOCK)] * 2, indexing="ij")
    widths = torch.tensor(WIDTHS)[(row + column) % len(WIDTHS)]
    transform = torch.einsum("ui,vj->uvij", basis, basis) / (steps * widths)[..., None, None]
    one = torch.arange(_COUNT)
    lower, middle, upper = one, one + _COUNT, one + 2 * _COUNT

    modules: Any = encoder  # torch types every attribute of a module as a tensor or a module
    modules.m_head.weight.zero_()
    modules.m_head.weight[0, :, 1, 1] = torch.tensor(LUMA)
    modules.m_head.bias[0] = -0.5
    # c / w + 1, c / w and c / w - 1
    to_blocks = modules.m_down1[-1]
    to_blocks.weight.zero_()
    for channels, shift in ((lower, 1.0), (middle, 0.0), (upper, -1.0)):
        to_blocks.weight[channels, 0] = transform.flatten(0, 1)
        to_blocks.bias[channels] = shift
    # after the ReLU they sum to the hat function, added to the first map, and to twice max(0, c)
    first, _, second = modules.m_down2[0].res
    first.weight.zero_()
    first.weight[torch.cat((lower, middle, upper)), torch.cat((lower, middle, upper)), 1, 1] = 1
    for channels, factor in ((lower, 1.0), (middle, -2.0), (upper, 1.0)):
        second.weight[one, channels, 1, 1] = factor
    second.weight[upper, middle, 1, 1] = 2
    # the coefficients themselves are subtracted again
    scale = widths.flatten().clone()
    scale[0] /= _COUNT
    to_counts = modules.m_down2[-1]
    to_counts.weight.zero_()
    to_counts.weight[lower, lower, 0, 0] = 1
    to_counts.weight[lower, middle, 0, 0] = -1
    to_counts.bias[lower] = -1
    to_counts.weight[middle, upper, 0, 0] = scale
    to_counts.weight[middle, middle, 0, 0] = -2 * scale
    to_counts.bias[middle] = scale
    to_features = modules.m_down3[-1]
    to_features.weight.zero_()
    to_features.weight[one, one, 0, 0] = 4
    to_features.bias[lower] = -2
    to_features.weight[middle, middle, 0, 0] = 1
    to_features.bias[middle] = -0.5
