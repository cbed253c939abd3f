"""Layer normalisation."""

from torch import Tensor, nn


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
