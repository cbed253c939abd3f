"""Downsampling and upsampling between the levels of a U-Net."""

from torch import Tensor, nn

from cir_arch.layers.convolution import to_image, to_map


class Downsample(nn.Module):
    """3x3 convolution to half the channels, then pixel unshuffle: half the size, twice the width.

    Zamir et al., Restormer, CVPR 2022, section 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, 2 C)."""
        return to_map(self.body(to_image(x)))


class Upsample(nn.Module):
    """3x3 convolution to twice the channels, then pixel shuffle: twice the size, half the width.

    Zamir et al., Restormer, CVPR 2022, section 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels * 2, 3, padding=1, bias=False), nn.PixelShuffle(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, 2 H, 2 W, C / 2)."""
        return to_map(self.body(to_image(x)))
