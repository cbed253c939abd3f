"""Restormer's transformer block."""

from collections.abc import Callable

from torch import Tensor, nn

from cir_arch.layers.feed_forward import GDFN
from cir_arch.layers.norm import LayerNorm
from cir_arch.layers.transposed_attention import MDTA


class TransformerBlock(nn.Module):
    """MDTA, then GDFN, each behind a layer norm and added to its input; no convolution has a bias.

    Zamir et al., Restormer, CVPR 2022, fig. 2. ``norm`` builds a layer norm, given the channels.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        ffn_expansion: float,
        norm: Callable[[int], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.attn = MDTA(channels, heads)
        self.norm2 = norm(channels)
        self.ffn = GDFN(channels, ffn_expansion, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.ffn(self.norm2(x))
        return out
