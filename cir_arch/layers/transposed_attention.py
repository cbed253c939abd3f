"""Multi-Dconv head transposed attention."""

import torch
from torch import Tensor, nn

from cir_arch.layers.convolution import MapConv2d, depthwise_conv


class MDTA(nn.Module):
    """Attention between channels instead of pixels (Zamir et al., Restormer, CVPR 2022, eq. 1).

    Each channel of query and key, taken over the whole map, is divided by its norm, so the result
    at a pixel depends on all pixels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = MapConv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = depthwise_conv(3 * channels, bias=False)
        self.project_out = MapConv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        batch, height, width, channels = x.shape
        qkv = self.qkv_dwconv(self.qkv(x)).reshape(batch, height * width, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 4, 1).unbind(0)  # (B, heads, C / heads, H * W) each
        q = q / _norm(q)
        # The key's norm divides the small matrix instead of the key itself.
        scores = (q @ k.transpose(-2, -1)) * (self.temperature / _norm(k).transpose(-2, -1))
        out = scores.softmax(dim=-1).to(v.dtype) @ v
        out = out.permute(0, 3, 1, 2).reshape(batch, height, width, channels)
        projected: Tensor = self.project_out(out)
        return projected


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)
