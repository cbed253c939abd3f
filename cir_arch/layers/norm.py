"""Layer normalisation."""

import torch
from torch import Tensor, nn

from cir_arch.layers.bands import in_bands


class LayerNorm(nn.Module):
    """Layer norm over the channels of (..., C), with the state-dict keys of Restormer (``body``).

    Biased variance, eps 1e-5, affine.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., C)."""
        normed: Tensor = self.body(x)
        return normed


class BiasFreeLayerNorm(nn.Module):
    """Restormer's layer norm without a bias: ``x / sqrt(var(x) + 1e-5) * weight``.

    The variance, biased, is the one about the mean, but the mean stays in ``x``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = _Scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, H, W, C)."""
        return in_bands(self._of_rows, x)

    def _of_rows(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # on CPUs several times as fast as ``Tensor.var``
        variance = (wide - wide.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
        return (wide * (variance + 1e-5).rsqrt() * self.body.weight).to(x.dtype)


class _Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
