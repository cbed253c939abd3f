"""Channel attention, and the convolution block that ends with it."""

from torch import Tensor, nn

from cir_arch.layers.bands import in_bands
from cir_arch.layers.convolution import MapConv2d, to_image, to_map


class ChannelAttention(nn.Module):
    """Scales each channel by a gate that a two-layer network computes from the spatial means.

    Zhang et al., RCAN, ECCV 2018, section 3.3. The mean is global over the map.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        return x * to_map(self.attention(to_image(x)))


class CAB(nn.Module):
    """Channel attention block: convolution, exact GELU, convolution, channel attention.

    Chen et al., HAT, CVPR 2023, section 3.2.
    """

    def __init__(self, channels: int, inner: int, squeezed: int) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            MapConv2d(channels, inner, 3, padding=1),
            nn.GELU(),
            MapConv2d(inner, channels, 3, padding=1),
            ChannelAttention(channels, squeezed),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        first, gelu, second, attention = self.cab
        out: Tensor = attention(in_bands(lambda rows: second(gelu(first(rows))), x, halo=2))
        return out
