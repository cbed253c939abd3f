"""Padding an image to a size that a network can divide."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) at bottom and right until height and width are multiples of ``multiple``.

    A side is padded by reflection (the edge is not repeated), or by replication where it is too
    short to be reflected. An image that fits is returned as it is.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom:
        x = F.pad(x, (0, 0, 0, bottom), mode="reflect" if bottom < height else "replicate")
    if right:
        x = F.pad(x, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    return x


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """Cut (B, C, H, W) to its upper left ``height`` x ``width`` part."""
    return x[..., :height, :width]
