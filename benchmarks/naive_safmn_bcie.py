"""SAFMN-BCIE computed step by step; used by tests and benchmarks.

The parameters are ``SAFMN_BCIE``'s own; (B, C, H, W) maps. Height and width are even and at least
16.
"""

import torch
import torch.nn.functional as F
from naive_steps import conv, norm
from torch import Tensor

from cir_arch.safmn_bcie_arch import SAFM, SAFMN_BCIE


class NaiveSAFMN_BCIE(SAFMN_BCIE):  # noqa: N801 (the registered name)
    """SAFMN-BCIE with adaptive pooling at every size."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        shallow = y = conv(self.to_feat[1], F.pixel_unshuffle(x, self.padding.multiple))
        for group in self.feats:
            z = y
            for block in group.layers:
                z = z + modulate(block.safm, norm(block.norm1, z, 1e-6))
                first, _, last = block.ccm.ccm
                z = z + conv(last, F.gelu(conv(first, norm(block.norm2, z, 1e-6))))
            y = y + conv(group.conv, z)
        y = F.pixel_shuffle(conv(self.to_img[0], y + shallow), self.padding.multiple)
        return conv(self.to_img[2], y)


def modulate(safm: SAFM, x: Tensor) -> Tensor:
    """Gate a map by what it is at four resolutions."""
    height, width = x.shape[2:]
    maps = []
    for i, (part, layer) in enumerate(zip(x.chunk(4, 1), safm.mfr, strict=True)):
        pooled = F.adaptive_max_pool2d(part, (height // 2**i, width // 2**i)) if i else part
        maps.append(F.interpolate(conv(layer, pooled), (height, width), mode="nearest"))
    return F.gelu(conv(safm.aggr, torch.cat(maps, 1))) * x
