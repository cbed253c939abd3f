"""A loss on the DCT coefficients of JPEG's 8 x 8 blocks."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from cir_arch.layers.dct import BLOCK, dct_matrix
from cir_host.errors import UserError
from cir_host.registration import register

SMALLEST = 2 * BLOCK - 1
"""The shortest side that contains a whole block wherever the first boundary is."""


@register("loss")
class DCTLoss(nn.Module):
    """Mean absolute difference of the DCT coefficients of the blocks that JPEG compressed.

    One of the losses of HFT (the UCAS_SCST team; Yang et al., NTIRE 2024 Challenge on Blind
    Enhancement of Compressed Image: Methods and Results, CVPR Workshops 2024, section 4.7). The
    report states neither the transform nor the norm nor the weight. Our choice: JPEG's transform,
    an orthonormal DCT-II of 8 x 8 pixels on the grid of the compression, for each channel; and the
    L1 norm, since the L2 norm would equal that of the pixels. Blocks cut by the crop are ignored.

    Args:
        loss_weight: Factor of the loss.
    """

    sample_keys: ClassVar = ("block_offset",)

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.basis: Tensor
        self.register_buffer("basis", dct_matrix(), persistent=False)

    def forward(self, output: Tensor, gt: Tensor, block_offset: Tensor) -> Tensor:
        """Compare images (B, C, H, W) in [0, 1].

        Args:
            output: Restored images.
            gt: Ground truth.
            block_offset: (B, 2), row and column, 0 to 7, of the first block boundary.

        Returns:
            Scalar: mean over the coefficients of all whole blocks in the batch.

        Raises:
            UserError: A side is shorter than 15 pixels, so that it may contain no whole block.
        """
        height, width = output.shape[-2:]
        if min(height, width) < SMALLEST:
            raise UserError(
                f"DCTLoss: crops of {height}x{width} may contain no whole block; set"
                f" datasets.train.gt_size to {SMALLEST} or more"
            )
        offset = block_offset.to(output.device)
        rows, whole_rows = _whole_blocks(offset[:, 0], height)
        columns, whole_columns = _whole_blocks(offset[:, 1], width)
        images = torch.arange(len(output), device=output.device)[:, None, None]
        # indexed axes come first: (B, rows, columns, C); the transform is linear
        pixels = (output - gt).permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None]]
        number, _, _, channels = pixels.shape
        blocks = pixels.view(number, -1, BLOCK, whole_columns.shape[1], BLOCK, channels)
        found = torch.einsum("ui,bminjc,vj->bmnuvc", self.basis, blocks, self.basis).abs()
        whole = whole_rows[:, :, None] & whole_columns[:, None]
        total = (found.mean(dim=(-3, -2, -1)) * whole).sum()
        return self.loss_weight * total / whole.sum()


def _whole_blocks(first: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the blocks of each image along one axis.

    Args:
        first: (B,), the first boundary.
        length: Pixels along the axis.

    Returns:
        The indices of their pixels (B, 8 N), and whether each block lies inside (B, N).
    """
    blocks = length // BLOCK
    indices = first[:, None] + torch.arange(BLOCK * blocks, device=first.device)
    return indices.clamp(max=length - 1), indices[:, BLOCK - 1 :: BLOCK] < length
