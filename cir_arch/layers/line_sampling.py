"""Linear interpolation along the rows or columns of a map, at learned positions."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LineTaps(NamedTuple):
    """Where each output pixel reads its line: between two neighbouring taps."""

    axis: int
    """Axis of a map (B, H, W, C) that is read along: 1 for columns, 2 for rows."""
    lower: Tensor
    """Lower tap, (B, H, W, G), int64: 0 is the zero before the line, n its last pixel."""
    weight: Tensor
    """Weight of the upper tap, its neighbour, (B, H, W, G), in [0, 1]."""


def line_taps(offset: Tensor, axis: int) -> LineTaps:
    """Turn offsets (B, H, W, G) in pixels, relative to each pixel, into taps along an axis.

    Positions are float32 at least: bfloat16 has no fractions from 128 on. A position that is not
    finite reads some tap of its line with a weight that is not a number; it never reads outside.
    """
    length = offset.shape[axis]
    dtype = torch.promote_types(offset.dtype, torch.float32)
    here = torch.arange(length, dtype=dtype, device=offset.device)
    here = here.reshape([length if i == axis else 1 for i in range(4)])
    position = (here + offset).clamp(-1, length)
    lower = position.detach().floor().to(torch.int64).clamp(-1, length - 1)
    return LineTaps(axis, lower + 1, position - lower)


def sample_line(x: Tensor, taps: LineTaps) -> Tensor:
    """Read a map (B, H, W, C) at taps (B, H, W, G) of its pixels; returns (B, H, W, C).

    C / G neighbouring channels share a tap. Outside the line there are zeros. This equals
    torchvision's ``deform_conv2d`` with a 1x1 identity kernel, offset along one axis.
    """
    axis, index, weight = taps
    length, groups = x.shape[axis], index.shape[-1]
    padded = F.pad(x, (0, 0, 1, 1) if axis == 2 else (0, 0, 0, 0, 1, 1))
    lower = padded.narrow(axis, 0, length + 1)
    # The step to the upper tap, not that tap: autograd keeps one gathered map instead of two.
    step = padded.narrow(axis, 1, length + 1) - lower
    index = index.unsqueeze(-1).expand(*index.shape, x.shape[-1] // groups)
    lower, step = (t.reshape(*t.shape[:3], groups, -1).gather(axis, index) for t in (lower, step))
    return torch.addcmul(lower, weight.unsqueeze(-1).to(x.dtype), step).flatten(-2)
