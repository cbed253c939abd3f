"""WaveletUNet computed step by step; used by tests and benchmarks.

The parameters are ``WaveletUNet``'s own; (B, C, H, W) maps. Height and width are multiples of 8.
"""

import torch
import torch.nn.functional as F
from naive_steps import conv, linear, norm
from torch import Tensor, nn

from cir_arch.wavelet_unet_arch import SelfAttention, WaveletUNet

HAAR = torch.tensor([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]]) / 2
"""Band, pixel of a cell."""


class NaiveWaveletUNet(WaveletUNet):
    """WaveletUNet with the transforms as strided convolutions, and whole attention matrices."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        y = conv(self.head, x)
        skips = []
        for level in self.down:
            y = y + chain(level.body, y)
            skips.append(y)
            y = conv(level.conv, F.conv2d(y, kernels(y, y.shape[1]), stride=2, groups=1))
        z = y
        for pair in self.middle:
            z = attend(pair.att, chain([pair.res], z))
        y = y + z
        for level in list(self.up)[::-1]:
            bands = conv(level.conv, y)
            y = F.conv_transpose2d(bands, kernels(y, bands.shape[1] // 4), stride=2) + skips.pop()
            y = y + chain(level.body, y)
        out1 = conv(self.tail, y) + (x if self.global_skip else 0)
        first, second, third = self.refine[0], self.refine[2], self.refine[4]
        z = F.relu(conv(second, F.relu(conv(first, torch.cat((x, out1), dim=1)))))
        alpha = torch.sigmoid(conv(third, z))
        return (1 - alpha) * x + alpha * out1


def kernels(like: Tensor, channels: int) -> Tensor:
    """Return the transform as a convolution, (4 channels, channels, 2, 2)."""
    cells = HAAR.to(like).view(4, 1, 1, 2, 2)
    each = torch.eye(channels).to(like).view(1, channels, channels, 1, 1)
    return (cells * each).flatten(0, 1)


def chain(blocks: list[nn.Module], x: Tensor) -> Tensor:
    """Run residual blocks one after the other."""
    for block in blocks:
        y = conv(block.res[2], F.relu(conv(block.res[0], x)))
        if block.attention is not None:
            squeeze, expand = block.attention.attention[1], block.attention.attention[3]
            means = y.mean((2, 3), keepdim=True)
            y = y * torch.sigmoid(conv(expand, F.relu(conv(squeeze, means))))
        x = x + y
    return x


def attend(layer: SelfAttention, x: Tensor) -> Tensor:
    """Self-attention of all pixels, one head."""
    y = norm(layer.norm, x)
    q, k, v = (linear(part, y).flatten(2) for part in (layer.q, layer.k, layer.v))
    weights = (q.mT @ k * x.shape[1] ** -0.5).softmax(dim=-1)
    return x + linear(layer.o, (v @ weights.mT).view(x.shape))
