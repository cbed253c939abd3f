"""The input of networks that restore from the DCT coefficients of a JPEG instead of its pixels.

It is a tensor (B, 3, H, W) like an image; H and W are multiples of 16, since chroma is subsampled
(4:2:0). In a square of 16 x 16 that begins at a multiple of 16:

- plane 0 holds the four 8 x 8 blocks of luma where their pixels are;
- planes 1 and 2 hold the block of Cb and of Cr in the upper left quarter;
- planes 1 and 2 hold the quantisation steps of luma and of chroma in the lower right quarter, the
  same in all squares.

Rows of a block are vertical frequencies, columns horizontal ones. Coefficients are those of samples
around 0 on a scale of 255, which means that they are the stored integers times their steps. So
parts that begin on the grid of 16 can be cut out like parts of an image.

The data sets and the restoration of files write these planes: ``cir_data.images.jpeg_planes``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cir_arch.layers.dct import BLOCK
from cir_arch.layers.padding import checked_size
from cir_host.errors import UserError

SQUARE = 2 * BLOCK
"""Height and width of the part of an image to which one block of chroma belongs."""


class Blocks(NamedTuple):
    """Coefficients and tables, block by block."""

    luma: Tensor
    """(B, 1, rows, columns, 8, 8); rows and columns are even."""
    chroma: Tensor
    """(B, 2, rows / 2, columns / 2, 8, 8), Cb and Cr."""
    tables: Tensor
    """(B, 2, 8, 8), quantisation steps of luma and chroma."""


def split(planes: Tensor, network: str) -> Blocks:
    """Take planes (B, 3, H, W) apart.

    Args:
        planes: Of one JPEG, or of several of one size.
        network: Its name, for the message.

    Raises:
        UserError: The tensor is none of such planes.
    """
    height, width = checked_size(planes, 3, f"{network} restores from coefficients")
    if height % SQUARE or width % SQUARE or not planes.numel():
        raise UserError(
            f"{network} takes planes of coefficients, whose sides are multiples of {SQUARE}, not"
            f" {height} x {width}"
        )
    shape = len(planes), 3, height // SQUARE, 2, BLOCK, width // SQUARE, 2, BLOCK
    squares = planes.reshape(shape)
    luma = squares[:, :1].permute(0, 1, 2, 3, 5, 6, 4, 7).flatten(4, 5).flatten(2, 3)
    chroma = squares[:, 1:, :, 0, :, :, 0].transpose(3, 4)
    return Blocks(luma, chroma, squares[:, 1:, 0, 1, :, 0, 1])


def mirrored_to(blocks: Tensor, rows: int, columns: int) -> Tensor:
    """Extend a grid of blocks (B, C, R, S, 8, 8) as if the picture were mirrored, with its edge.

    A picture that is mirrored left-right has its blocks in reverse order and its odd horizontal
    frequencies negated, and the other way round for up-down.

    Args:
        blocks: The coefficients.
        rows: Blocks of the result, at least R.
        columns: At least S.
    """
    return _extended(_extended(blocks, 2, rows), 3, columns)


def _extended(blocks: Tensor, axis: int, count: int) -> Tensor:
    own = blocks.shape[axis]
    if count == own:
        return blocks
    place = torch.arange(count, device=blocks.device) % (2 * own)  # also where it is mirrored twice
    turned = place >= own
    extended = blocks.index_select(axis, torch.where(turned, 2 * own - 1 - place, place))
    odd = torch.arange(BLOCK, device=blocks.device) % 2 == 1
    negated = turned[:, None] & odd[None, :]
    shape = [1] * 6
    shape[axis], shape[axis + 2] = count, BLOCK
    return torch.where(negated.reshape(shape), -extended, extended)
