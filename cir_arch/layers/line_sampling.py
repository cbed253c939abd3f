"""Linear interpolation along the rows or columns of a map, at learned positions."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_INT32 = 2**31 - 1


class LineTaps(NamedTuple):
    """Where each value of a map (B, H, W, C) is read from: between two neighbours on its line."""

    axis: int
    """Axis that is read along: 1 for columns, 2 for rows."""
    stride: int
    """Distance of the two neighbours in the flattened map."""
    lower: Tensor
    """Index of the lower neighbour in the flattened map with padded lines, (B * H * W * C)."""
    weight: Tensor
    """Weight of the upper neighbour, (B, H, W, C), in [0, 1]."""


def line_taps(offset: Tensor, axis: int, channels: int) -> LineTaps:
    """Return the taps of pixels that read along an axis at offsets (B, H, W, G), in pixels.

    ``channels / G`` neighbouring channels share an offset. Positions are float32 at least: bfloat16
    has no fractions from 128 on. A position that is NaN reads some pixel of its line, never memory
    outside the map, with a weight that is NaN.
    """
    length = offset.shape[axis]
    dtype = torch.promote_types(offset.dtype, torch.float32)
    position = (_coordinates(axis, length, dtype, offset) + offset).clamp(-1, length)
    sizes = [*offset.shape[:3], channels]
    sizes[axis] += 2
    strides = [sizes[1] * sizes[2] * channels, sizes[2] * channels, channels]
    small = sizes[0] * strides[0] <= LARGEST_INT32
    lower = position.detach().floor().to(torch.int32 if small else torch.int64)
    lower = lower.clamp(-1, length - 1)  # position n reads n - 1 and its neighbour, a zero
    index = (lower + 1) * strides[axis]
    for other in (i for i in range(3) if i != axis):
        index = index + _coordinates(other, sizes[other], index.dtype, index) * strides[other]
    channel = torch.arange(channels, dtype=index.dtype, device=index.device)
    index = index.unsqueeze(-1) + channel.reshape(offset.shape[-1], -1)
    weight = (position - lower).unsqueeze(-1).expand(index.shape)
    return LineTaps(axis, strides[axis], index.flatten(), weight.flatten(-2))


def _coordinates(axis: int, length: int, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Coordinates along an axis, to be added to (B, H, W, G)."""
    coordinates = torch.arange(length, dtype=dtype, device=like.device)
    return coordinates.reshape([length if i == axis else 1 for i in range(4)])


def sample_line(x: Tensor, taps: LineTaps) -> Tensor:
    """Read a map (B, H, W, C) at taps of the same shape; outside a line there are zeros.

    This equals torchvision's ``deform_conv2d`` with a 1x1 identity kernel and offsets along one
    axis. Indices are flat, because selecting from a vector is several times as fast as a gather.
    """
    margins = (0, 0, 1, 1) if taps.axis == 2 else (0, 0, 0, 0, 1, 1)
    flat = F.pad(x, margins).flatten()
    lower = flat.index_select(0, taps.lower).reshape(x.shape)
    upper = flat[taps.stride :].index_select(0, taps.lower).reshape(x.shape)
    return torch.addcmul(lower, taps.weight.to(x.dtype), upper - lower)
