"""Convolutions of feature maps (B, H, W, C)."""

import torch.nn.functional as F
from torch import Tensor, nn


def to_image(x: Tensor) -> Tensor:
    """View a map (B, H, W, C) as (B, C, H, W). Copies nothing."""
    return x.permute(0, 3, 1, 2)


def to_map(x: Tensor) -> Tensor:
    """View (B, C, H, W) as a map (B, H, W, C). Copies nothing."""
    return x.permute(0, 2, 3, 1)


class MapConv2d(nn.Conv2d):
    """``Conv2d`` on maps (B, H, W, C), same parameters; a 1x1 kernel is one matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, H, W, C) to (B, H', W', C')."""
        if self.kernel_size == (1, 1):
            return F.linear(x, self.weight.flatten(1), self.bias)
        return to_map(super().forward(to_image(x)))


def depthwise_conv(channels: int, bias: bool) -> MapConv2d:
    """Build a depthwise 3x3 convolution with zero padding 1."""
    return MapConv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)
