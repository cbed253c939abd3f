"""Where JPEG's blocks begin in an image, and an image extended so that they begin at its corner.

A network that was trained on blocks that begin at the corner restores more of such images.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from cir_arch.layers.dct import BLOCK, dct_matrix
from cir_model.restoring.luma import luma
from cir_model.restoring.tiling import BLOCK_PERIOD

Offset: TypeAlias = tuple[int, int]
"""Row and column, 0 to 7, of the first block corner."""

Blocks: TypeAlias = Offset | Literal["search"] | None
"""Where blocks begin; ``search``: found from the pixels; None: there are none."""

WINDOW = 320
"""Height and width of the windows that are searched in larger images."""

SMALLEST = 32
"""The smallest height and width in which a grid can be told from chance."""

CONFIDENT = 6.0
"""The evidence from which a grid is accepted, see :func:`search`. Of 26 photographs without
compression, whole and in crops of 64 to 300 pixels, none had more than 3.8."""

_NEAR_ZERO = 2.0
"""JPEG may have rounded coefficients below this to zero, on a scale of 255."""

_STEPS = range(2, 100)
"""Quantisation steps that are tried; smaller ones drown in the rounding of pixels."""

_FREQUENCIES = (
    (0, 1),
    (1, 0),
    (1, 1),
    (0, 2),
    (2, 0),
    (1, 2),
    (2, 1),
    (2, 2),
    (0, 3),
    (3, 0),
    (1, 3),
    (3, 1),
)
"""Vertical and horizontal frequencies whose coefficients are often not zero."""

_LEAST_LEAD = 0.5
"""Of a grid over the next best; a ramp of grey shows multiples of one step on every grid."""

_FEWEST = 20
"""Coefficients that a mean needs."""


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
    offset, evidence = search(image)
    return offset if evidence >= CONFIDENT else None


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
    """Return the most likely block grid, and the evidence for it.

    JPEG rounds DCT coefficients to zero only on its own grid, so it is the grid with the most luma
    coefficients near zero. There, all coefficients of a frequency are multiples of one step: the
    evidence is how far the mean of cos(2 pi c / step) over those coefficients c that are not zero
    exceeds that of random ones, in standard deviations, for the best frequency and step.

    Args:
        image: (B, 1 or 3, H, W) in [0, 1], with at least 15 rows and columns.

    Returns:
        Row and column, 0 to 7, of the first block corner; and the evidence.
    """
    basis = dct_matrix().to(image.device) * 255**0.5
    kernels = torch.einsum("ui,vj->uvij", basis, basis).flatten(0, 1)[1:, None]
    # windows that overlap would count blocks twice
    small = image.shape[-2] * image.shape[-1] <= (2 * WINDOW) ** 2
    parts = [luma(part) for part in ([image] if small else windows(image, WINDOW))]
    total = torch.zeros(BLOCK, BLOCK, device=image.device)
    for part in parts:
        near = F.conv2d(part, kernels).abs_().div_(-_NEAR_ZERO).add_(1).relu_().mean((0, 1))
        down, across = (side // BLOCK * BLOCK for side in near.shape)
        cut = near[:down, :across].reshape(down // BLOCK, BLOCK, across // BLOCK, BLOCK)
        total += cut.sum((0, 2))
    row, column = divmod(int(total.argmax()), BLOCK)
    if _lead(total.roll((-row, -column), (0, 1))) < _LEAST_LEAD:
        return (row, column), 0.0
    return (row, column), _evidence([part[..., row:, column:] for part in parts], basis)


def _lead(total: Tensor) -> float:
    """Return how far the first grid stands out, in standard deviations of the others.

    Grids in the same row or column share block edges with it, so they score higher and do not
    count for the deviation.
    """
    second = total.flatten()[1:].max()
    return float((total[0, 0] - second) / (total[1:, 1:].std() + 1e-3 * total.mean()))


def _evidence(parts: Sequence[Tensor], basis: Tensor) -> float:
    """Return the evidence that blocks of images (B, 1, H, W) begin at their corner."""
    kernels = torch.stack([basis[v][:, None] * basis[u] for v, u in _FREQUENCIES])[:, None]
    found = [F.conv2d(part, kernels, stride=BLOCK).transpose(0, 1).flatten(1) for part in parts]
    coefficients = torch.cat(found, 1)[..., None]
    steps = torch.tensor(_STEPS, device=coefficients.device)
    counted = coefficients.abs() > steps / 2
    count = counted.sum(1)
    cosines = (2 * math.pi / steps * coefficients).cos_().mul_(counted)
    # the variance of the cosine of a random angle is 1/2
    deviations = cosines.sum(1) * (2 / count.clamp_min(1)).sqrt()
    return float(torch.where(count >= _FEWEST, deviations, 0).max())


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
