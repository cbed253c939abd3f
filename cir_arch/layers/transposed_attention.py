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
        qkv = self.qkv_dwconv(self.qkv(x)).flatten(1, 2)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q = (q * _inverse_norm(q)).to(q.dtype)
        # The key's norm divides the small matrix of scores instead of the key itself.
        scores = (q.mT @ k) * _inverse_norm(k) * self.temperature
        # Rows of ``scores`` are channels of q; pixels come first in v: hence the transposition.
        out = v @ scores.softmax(dim=-1).to(v.dtype).mT
        projected: Tensor = self.project_out(out.transpose(1, 2).reshape(x.shape))
        return projected


def _inverse_norm(x: Tensor) -> Tensor:
    """1 / max(norm of (..., N, D) along N, 1e-12), (..., 1, D) in float32 or wider."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.square().sum(dim=-2, keepdim=True).clamp_min(1e-24).rsqrt()
