"""Where JPEG's blocks begin in an image, and an image extended so that they begin at its corner.

A network that was trained on blocks that begin at the corner restores more of such images.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from cir_arch.layers.dct import BLOCK, LUMA, dct_matrix
from cir_model.restoring.tiling import BLOCK_PERIOD

Offset: TypeAlias = tuple[int, int]
"""Row and column, 0 to 7, of the first block corner."""

Blocks: TypeAlias = Offset | Literal["search"] | None
"""Where blocks begin; ``search``: found from the pixels; None: there are none."""

WINDOW = 320
"""Height and width of the windows that are searched in larger images."""

SMALLEST = 32
"""The smallest height and width in which a grid can be told from chance."""

CONFIDENT = 2.0
"""The lead from which a grid is believed. Of 26 photographs (256 x 256 pixels), none had more than
1.0 without compression; as JPEGs, the least was 7.1 at quality 40 to 95 and 1.4 at quality 10."""

_NEAR_ZERO = 2.0
"""JPEG may have rounded coefficients below this to zero, on a scale of 255."""


@dataclass(frozen=True)
class Frame:
    """Rows and columns added to an image."""

    top: int
    left: int
    bottom: int = 0
    right: int = 0

    @classmethod
    def fitting(cls, height: int, width: int, offset: Offset, *, flipped: bool) -> "Frame":
        """Return the frame that puts the block grid at the corner.

        Args:
            height: Of the image.
            width: Of the image.
            offset: Where the blocks begin in the image.
            flipped: Put the grid at all four corners, so that flips and transposes keep it.
        """
        top, left = (-start % BLOCK for start in offset)
        if not flipped:
            return cls(top, left)
        return cls(top, left, -(height + top) % BLOCK_PERIOD, -(width + left) % BLOCK_PERIOD)

    def extend(self, image: Tensor) -> Tensor:
        """Add the frame to images (B, C, H, W) by repeating the edge pixels."""
        sides = (self.left, self.right, self.top, self.bottom)
        return F.pad(image, sides, mode="replicate") if any(sides) else image

    def cut(self, image: Tensor, scale: int) -> Tensor:
        """Remove the frame from images that are ``scale`` times as large."""
        height, width = image.shape[-2:]
        return image[
            ...,
            self.top * scale : height - self.bottom * scale,
            self.left * scale : width - self.right * scale,
        ]


def block_offset(image: Tensor) -> Offset | None:
    """Find the block grid on which an image was compressed.

    Args:
        image: (B, 1 or 3, H, W) in [0, 1].

    Returns:
        Row and column, 0 to 7, of the first block corner; None if the image shows no grid.
    """
    if image.shape[1] not in (1, 3) or min(image.shape[-2:]) < SMALLEST:
        return None
    offset, confidence = search(image)
    return offset if confidence >= CONFIDENT else None


def blocks_of(sample: Mapping[str, Any]) -> Blocks:
    """Return where the JPEG blocks of a collated sample of one image begin.

    Samples of other codecs only assume a grid of 8 pixels, so those images are searched.
    """
    codec = str(sample["codec"][0]) if "codec" in sample else ""
    if codec != "JPEG" and not codec.startswith("JPEG ("):  # JPEG XL is another codec
        return "search"
    row, column = sample["block_offset"][0].tolist()
    return row, column


def search(image: Tensor) -> tuple[Offset, float]:
    """Return the most likely block grid, and how far it stands out.

    JPEG rounds DCT coefficients to zero only on its own grid, so it is the grid with the most luma
    coefficients near zero.

    Args:
        image: (B, 1 or 3, H, W) in [0, 1], with at least 15 rows and columns.

    Returns:
        Row and column, 0 to 7, of the first block corner; and its lead over the second best, in
        standard deviations of the grids in other rows and columns.
    """
    basis = dct_matrix().to(image.device)
    kernels = torch.einsum("ui,vj->uvij", basis, basis).flatten(0, 1)[1:, None] * 255
    total = torch.zeros(BLOCK, BLOCK, device=image.device)
    for window in windows(image, WINDOW):
        grey = _luma(window)
        near = F.conv2d(grey, kernels).abs_().div_(-_NEAR_ZERO).add_(1).relu_().mean((0, 1))
        rows, columns = (side // BLOCK * BLOCK for side in near.shape)
        cut = near[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        total += cut.sum((0, 2))
    row, column = divmod(int(total.argmax()), BLOCK)
    # grids in the same row or column share block edges with the true one, so they score higher;
    # an edge of the picture raises one row or column alone, so they count for the lead
    others = total.roll((-row, -column), (0, 1))[1:, 1:]
    second = total.flatten().topk(2).values[1]
    lead = float((total.max() - second) / (others.std() + 1e-3 * total.mean()))
    return (row, column), lead


def windows(image: Tensor, side: int) -> Iterator[Tensor]:
    """Yield windows that start at multiples of 8: the whole image, or the middle and four more.

    Args:
        image: (B, C, H, W).
        side: The largest height and width of a window.
    """
    height, width = (side // BLOCK * BLOCK for side in image.shape[-2:])
    tall, wide = min(height, side), min(width, side)
    places = ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3))  # of the centres, in quarters
    corners = {(_start(height, tall, down), _start(width, wide, right)) for down, right in places}
    for top, left in sorted(corners):
        yield image[..., top : top + tall, left : left + wide]


def _start(length: int, window: int, quarters: int) -> int:
    start = quarters * length // 4 - window // 2
    return min(max(start, 0), length - window) // BLOCK * BLOCK


def _luma(image: Tensor) -> Tensor:
    if image.shape[1] == 1:
        return image
    return (image * image.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
