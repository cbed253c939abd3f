"""Run a network on latents tile by tile, for images that do not fit into memory.

The tiles and their weights are those of CODiff's release, but for the largest overlap.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_VARIANCE = 0.01
"""Of the Gaussian weights, in units of the squared tile size."""


@dataclass(frozen=True)
class LatentTiles:
    """Square tiles of equal size that overlap; the last of an axis ends at the edge.

    Example:
        >>> from cir_diffusion.latent_tiles import LatentTiles
        >>> LatentTiles(tile=6, overlap=2).starts(12, 6)
        [0, 4, 6]
    """

    tile: int
    """Height and width in latents; of images with a shorter side, the length of that side."""
    overlap: int
    """Least number of latents that neighbours share; at most half of a tile is.

    The release takes any number, and never ends if a tile is not larger.
    """

    def cover(self, height: int, width: int) -> bool:
        """Return whether an image of this size, in latents, is no larger than one tile."""
        return height * width <= self.tile**2

    def starts(self, length: int, tile: int) -> list[int]:
        """Return where the tiles of an axis begin."""
        stride = tile - min(self.overlap, tile // 2)
        return [*range(0, length - tile, stride), length - tile]

    def run(
        self,
        network: Callable[[Tensor], Tensor],
        x: Tensor,
        pixels_in: int = 1,
        pixels_out: int = 1,
    ) -> Tensor:
        """Run a network on the tiles and average its outputs, mostly by the nearest tile.

        Args:
            network: Maps (B, C, n H, n W) to (B, C', m H, m W).
            x: (B, C, n H, n W).
            pixels_in: n, the side of the input that belongs to a latent.
            pixels_out: m, the same of the output.

        Returns:
            (B, C', m H, m W), float32.
        """
        height, width = x.shape[-2] // pixels_in, x.shape[-1] // pixels_in
        if self.cover(height, width):
            return network(x).float()
        tile = min(self.tile, height, width)
        side = tile * pixels_out
        weights = _gaussian(side).to(x.device)
        shape = height * pixels_out, width * pixels_out
        total, sum_of_weights = torch.zeros(0), torch.zeros(shape, device=x.device)
        for row in self.starts(height, tile):
            for column in self.starts(width, tile):
                piece = _square(x, row * pixels_in, column * pixels_in, tile * pixels_in)
                output = network(piece).float()
                if not total.numel():
                    total = torch.zeros((*output.shape[:2], *shape), device=x.device)
                place = row * pixels_out, column * pixels_out, side
                _square(total, *place).add_(output * weights)
                _square(sum_of_weights, *place).add_(weights)
        return total.div_(sum_of_weights)


def _square(x: Tensor, row: int, column: int, side: int) -> Tensor:
    return x[..., row : row + side, column : column + side]


def _gaussian(side: int) -> Tensor:
    """Return weights (side, side). Rows are centred half a sample lower, as in the release."""
    place = torch.arange(side, dtype=torch.float64)
    rows, columns = (
        torch.exp(-(((place - middle) / side) ** 2) / (2 * _VARIANCE))
        for middle in (side / 2, (side - 1) / 2)
    )
    return (rows[:, None] * columns).float()
