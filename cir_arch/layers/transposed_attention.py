"""Multi-Dconv head transposed attention."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cir_arch.layers.bands import Band, bands, joined
from cir_arch.layers.convolution import MapConv2d, depthwise_conv


class MDTA(nn.Module):
    """Attention between channels instead of pixels (Zamir et al., Restormer, CVPR 2022, eq. 1).

    Each channel of query and key is divided by its norm over the whole map, so the result at a
    pixel depends on all pixels.
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
        parts = bands(x, halo=1)
        if len(parts) > 1:
            return self._in_bands(x, parts)
        q, k, v = self._heads(self.qkv_dwconv(self.qkv(x)))
        q = (q * _inverse_norm(_squares(q))).to(q.dtype)
        # The key's norm divides the small matrix of scores instead of the key itself.
        scores = (q.mT @ k) * _inverse_norm(_squares(k)) * self.temperature
        # Rows of ``scores`` are channels of q; pixels come first in v: hence the transposition.
        out = v @ scores.softmax(dim=-1).to(v.dtype).mT
        projected: Tensor = self.project_out(out.transpose(1, 2).reshape(x.shape))
        return projected

    def _in_bands(self, x: Tensor, parts: Sequence[Band]) -> Tensor:
        """Compute the same band by band; attention and projection are one matrix per image."""
        width = x.shape[-1] // self.heads
        wide = torch.promote_types(x.dtype, torch.float32)
        scores = x.new_zeros(x.shape[0], self.heads, width, width, dtype=wide)
        of_q, of_k = x.new_zeros(2, x.shape[0], self.heads, 1, width, dtype=wide).unbind(0)

        def values(band: Band) -> Tensor:
            qkv = band.own(self.qkv_dwconv(self.qkv(band.rows)))
            q, k, _ = self._heads(qkv)
            if q.dtype == torch.float16:  # a flat image's sums exceed 65504
                scores.add_((q * 2**-8).mT @ k, alpha=2**8)
            else:
                scores.add_(q.mT @ k)
            of_q.add_(_squares(q))
            of_k.add_(_squares(k))
            return qkv[..., -x.shape[-1] :]

        v = joined(values, parts)
        scores = scores * _inverse_norm(of_q).mT * _inverse_norm(of_k) * self.temperature
        projection = self.project_out.weight.reshape(-1, self.heads, width)
        matrix = torch.einsum("bhij,chi->bhjc", scores.softmax(dim=-1), projection.to(wide))
        return (v.flatten(1, 2) @ matrix.flatten(1, 2).to(v.dtype)).reshape(x.shape)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Take query, key and value, (B, heads, H W, C / heads), from (B, H, W, 3 C)."""
        heads = qkv.reshape(qkv.shape[0], -1, 3, self.heads, qkv.shape[-1] // (3 * self.heads))
        return heads.permute(2, 0, 3, 1, 4).unbind(0)


def _squares(x: Tensor) -> Tensor:
    """Sum the squares of (..., N, D) along N, (..., 1, D) in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(dim=-2, keepdim=True)


def _inverse_norm(squares: Tensor) -> Tensor:
    """1 / max(norm, 1e-12)."""
    return squares.clamp_min(1e-24).rsqrt()
