"""Padding an image to a size that a network can process."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cir_host.errors import UserError

PaddingMode = Literal["reflect", "replicate"]
PaddingSide = Literal["bottom right"]
PaddingOfShort = Literal["replicate", "zeros"]


@dataclass(frozen=True)
class PaddingRule:
    """How a network enlarges images whose size it cannot process, before its first layer."""

    multiple: int
    """Height and width are padded to the next multiple of this."""
    mode: PaddingMode
    """``reflect`` (the edge is not repeated) or ``replicate``."""
    smallest: int = 1
    """Height and width are padded to at least this, a multiple."""
    side: PaddingSide = "bottom right"
    """Where the padding goes; it is cut off the result."""
    short: PaddingOfShort = "replicate"
    """Instead of ``reflect``, where a side is too short to be reflected.

    ``replicate``: that side is replicated. ``zeros``: both sides are padded with zeros.
    """

    def missing(self, length: int) -> int:
        """Return the number of pixels that a side of this length is padded by."""
        lacking = -length % self.multiple
        # Without a smallest size, no comparison: exporters keep sizes symbolic.
        return lacking if self.smallest == 1 else max(lacking, self.smallest - length)

    def pad(self, x: Tensor) -> Tensor:
        """Pad (B, C, H, W), the height first; return an image unchanged if it needs none."""
        height, width = x.shape[-2:]
        bottom, right = self.missing(height), self.missing(width)
        if self.short == "zeros" and (bottom >= height or right >= width):
            return F.pad(x, (0, right, 0, bottom))
        if bottom:
            x = F.pad(x, (0, 0, 0, bottom), mode=self.mode if bottom < height else "replicate")
        if right:
            x = F.pad(x, (0, right, 0, 0), mode=self.mode if right < width else "replicate")
        return x


def checked_size(x: Tensor, channels: int, argument: str) -> tuple[int, int]:
    """Return height and width of images (B, C, H, W).

    Args:
        x: The images.
        channels: The number that C must be.
        argument: The network's argument that sets this number, for the message.

    Raises:
        UserError: If C is another number.
    """
    if x.shape[1] != channels:
        raise UserError(
            f"{argument}: the network takes images of {channels} channels, this one has"
            f" {x.shape[1]}"
        )
    return x.shape[-2], x.shape[-1]


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """Cut (B, C, H, W) to its upper left ``height`` x ``width`` part."""
    return x[..., :height, :width]


def mirror_beyond(x: Tensor, axis: int, multiple: int) -> Tensor:
    """Pad (B, C, H, W) at the end of an axis to the next multiple that is *larger* than its size.

    The image is mirrored with its edge, as in several published test scripts.
    """
    size = x.shape[axis]
    wanted = (size // multiple + 1) * multiple
    while x.shape[axis] < wanted:  # once, unless the side is shorter than the padding
        x = torch.cat((x, x.flip(axis)), dim=axis)
    return x.narrow(axis, 0, wanted)
