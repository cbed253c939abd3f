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
        out = attend_between_channels(q, k, v, self.temperature)
        projected: Tensor = self.project_out(out.transpose(1, 2).reshape(x.shape))
        return projected

    def _in_bands(self, x: Tensor, parts: Sequence[Band]) -> Tensor:
        """Compute the same band by band; attention and projection are one matrix per image."""
        scores = ChannelScores(x, self.heads)

        def values(band: Band) -> Tensor:
            qkv = band.own(self.qkv_dwconv(self.qkv(band.rows)))
            q, k, _ = self._heads(qkv)
            scores.add(q, k)
            return qkv[..., -x.shape[-1] :]

        v = joined(values, parts)
        matrix = scores.matrix(self.temperature, self.project_out.weight.flatten(1))
        return (v.flatten(1, 2) @ matrix.to(v.dtype)).reshape(x.shape)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Take query, key and value, (B, heads, H W, C / heads), from (B, H, W, 3 C)."""
        heads = qkv.reshape(qkv.shape[0], -1, 3, self.heads, qkv.shape[-1] // (3 * self.heads))
        return heads.permute(2, 0, 3, 1, 4).unbind(0)


def attend_between_channels(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """Mix the channels of ``v`` by the likeness of the channels of ``q`` to those of ``k``.

    Args:
        q: (B, heads, N, D); each channel is divided by its norm over the N positions.
        k: The same.
        v: (B, heads, N, D).
        temperature: (heads, 1, 1), multiplies the products of ``q`` and ``k``. For each channel of
            ``q``, a softmax over the channels of ``k`` gives the shares of those of ``v``.

    Returns:
        (B, heads, N, D).
    """
    q = (q * _inverse_norm(_squares(q))).to(q.dtype)
    # The key's norm divides the small matrix of scores instead of the key itself.
    scores = (q.mT @ k) * _inverse_norm(_squares(k)) * temperature
    # Rows of ``scores`` are channels of q; pixels come first in v: hence the transposition.
    return v @ scores.softmax(dim=-1).to(v.dtype).mT


class ChannelScores:
    """The scores of :func:`attend_between_channels`, summed over the bands of a map.

    Args:
        x: The map (B, H, W, C).
        heads: Number of heads.
    """

    def __init__(self, x: Tensor, heads: int) -> None:
        batch, width = x.shape[0], x.shape[-1] // heads
        wide = torch.promote_types(x.dtype, torch.float32)
        self._products = x.new_zeros(batch, heads, width, width, dtype=wide)
        self._of_q, self._of_k = x.new_zeros(2, batch, heads, 1, width, dtype=wide).unbind(0)

    def add(self, q: Tensor, k: Tensor) -> None:
        """Add a band's queries and keys, (B, heads, N, D)."""
        if q.dtype == torch.float16:  # the sums over the pixels of a flat image exceed 65504
            self._products.add_((q * 2**-8).mT @ k, alpha=2**8)
        else:
            self._products.add_(q.mT @ k)
        self._of_q.add_(_squares(q))
        self._of_k.add_(_squares(k))

    def matrix(self, temperature: Tensor, projection: Tensor) -> Tensor:
        """Join attention and projection.

        Args:
            temperature: (heads, 1, 1).
            projection: (C', C), the weight of the linear layer behind the attention.

        Returns:
            (B, C, C'), by which values (B, H W, C) are multiplied.
        """
        scores = self._products * _inverse_norm(self._of_q).mT * _inverse_norm(self._of_k)
        shares = (scores * temperature).softmax(dim=-1)
        weight = projection.reshape(-1, *shares.shape[1:3]).to(shares.dtype)
        return torch.einsum("bhij,chi->bhjc", shares, weight).flatten(1, 2)


def _squares(x: Tensor) -> Tensor:
    """Sum the squares of (..., N, D) along N, (..., 1, D) in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(dim=-2, keepdim=True)


def _inverse_norm(squares: Tensor) -> Tensor:
    """1 / max(norm, 1e-12)."""
    return squares.clamp_min(1e-24).rsqrt()
