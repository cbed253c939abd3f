"""Stochastic depth."""

import torch
from torch import Tensor, nn

from cir_host.errors import UserError


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


def drop_path_rates(blocks: int, last: float) -> list[float]:
    """Return rates that rise evenly from 0 at the first block to ``last`` at the last one.

    Raises:
        UserError: ``last`` is no rate.
    """
    if not 0 <= last < 1:
        raise UserError(f"drop_path_rate: {last} must be from 0 to below 1")
    return [last * n / max(blocks - 1, 1) for n in range(blocks)]
