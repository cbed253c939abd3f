"""Padding an image to a size that a network can divide."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PaddingMode = Literal["reflect", "replicate"]
PaddingSide = Literal["bottom right"]


@dataclass(frozen=True)
class PaddingRule:
    """How a network enlarges images whose size it cannot divide, before anything else."""

    multiple: int
    """Height and width are padded to the next multiple of this."""
    mode: PaddingMode
    """``reflect`` (the edge is not repeated) or ``replicate``.

    Where a side is too short to be reflected it is replicated too.
    """
    smallest: int = 1
    """Height and width are padded to at least this, a multiple."""
    side: PaddingSide = "bottom right"
    """Where the padding goes; it is cut off the result."""

    def missing(self, length: int) -> int:
        """Return by how many pixels a side is padded."""
        lacking = -length % self.multiple
        # Without a smallest size the remainder is all, for exporters that keep sizes symbolic.
        return lacking if self.smallest == 1 else max(lacking, self.smallest - length)

    def pad(self, x: Tensor) -> Tensor:
        """Pad (B, C, H, W), the height first. An image that fits is returned as it is."""
        height, width = x.shape[-2:]
        bottom, right = self.missing(height), self.missing(width)
        if bottom:
            x = F.pad(x, (0, 0, 0, bottom), mode=self.mode if bottom < height else "replicate")
        if right:
            x = F.pad(x, (0, right, 0, 0), mode=self.mode if right < width else "replicate")
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
