"""Stochastic depth."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch per sample with probability ``rate`` in training.

    Huang et al., Deep Networks with Stochastic Depth, ECCV 2016. Kept branches are divided by
    ``1 - rate``; in eval mode or at rate 0 the module does nothing.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, ...) with whole samples zeroed or scaled."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < keep
        return x * (kept / keep).to(x.dtype)
