"""Restormer computed step by step; used by tests and benchmarks.

The parameters are ``Restormer``'s own; (B, C, H, W) maps. Height and width are multiples of 8.
"""

from naive_promptir import transform
from naive_steps import conv, u_net
from torch import Tensor

from cir_arch.restormer_arch import Restormer


class NaiveRestormer(Restormer):
    """Restormer with whole maps and no band of rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        y = conv(self.patch_embed.proj, x)
        return conv(self.output, u_net(self, y, transform)) + x
