"""Padding an image to a size that a network can divide."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PaddingMode = Literal["reflect", "replicate"]


def pad_to_multiple(x: Tensor, multiple: int, mode: PaddingMode = "reflect") -> Tensor:
    """Pad (B, C, H, W) at bottom and right until height and width are multiples of ``multiple``.

    A side is padded by reflection (the edge is not repeated), or by replication where that is the
    mode or where the side is too short to be reflected. An image that fits is returned as it is.
    """
    height, width = x.shape[-2:]
    return pad_by(x, -height % multiple, -width % multiple, mode)


def pad_by(x: Tensor, bottom: int, right: int, mode: PaddingMode = "reflect") -> Tensor:
    """Pad (B, C, H, W) by ``bottom`` rows and ``right`` columns as :func:`pad_to_multiple` does."""
    height, width = x.shape[-2:]
    if bottom:
        x = F.pad(x, (0, 0, 0, bottom), mode=mode if bottom < height else "replicate")
    if right:
        x = F.pad(x, (0, right, 0, 0), mode=mode if right < width else "replicate")
    return x


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """Cut (B, C, H, W) to its upper left ``height`` x ``width`` part."""
    return x[..., :height, :width]


def mirror_beyond(x: Tensor, axis: int, multiple: int) -> Tensor:
    """Pad (B, C, H, W) at the end of an axis to the next multiple that is *larger* than it.

    By the image mirrored with its edge, as several published test scripts do.
    """
    size = x.shape[axis]
    wanted = (size // multiple + 1) * multiple
    while x.shape[axis] < wanted:  # once, unless the side is shorter than the padding
        x = torch.cat((x, x.flip(axis)), dim=axis)
    return x.narrow(axis, 0, wanted)
