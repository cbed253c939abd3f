"""The block of Swin Transformer V2 (Liu et al., CVPR 2022, sections 3.2 and 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.layers.bands import in_bands
from cir_arch.layers.drop_path import DropPath
from cir_arch.layers.feed_forward import MLP
from cir_arch.layers.receptive_field import Span
from cir_arch.layers.stripe_attention import CosineScores, attend_in_windows, windows


class CosineSelfAttention(CosineScores):
    """Attention in windows of a map, whose scores are scaled cosines; keys have no bias."""

    def __init__(self, channels: int, heads: int, window_size: int, shifted: bool) -> None:
        super().__init__(heads)
        self.cells = windows(window_size, shifted)
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def attend(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        return attend_in_windows(
            self, self.cells, x, lambda tokens: F.linear(tokens, self.qkv.weight, bias), self.proj
        )


class SwinV2Block(nn.Module):
    """Attention and feed-forward network, each with a norm behind it, added to its input."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window_size: int,
        *,
        shifted: bool,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.attn = CosineSelfAttention(channels, heads, window_size, shifted)
        self.norm1 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio), channels)
        self.norm2 = nn.LayerNorm(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        x = x + self.drop_path(self.norm1(self.attn.attend(x)))
        made = in_bands(lambda rows: self.norm2(self.mlp(rows)), x)
        out: Tensor = x + self.drop_path(made)
        return out

    def input_of(self, output: Span) -> Span:
        """Return the pixels that a span of the output depends on, along an axis."""
        return output.windows(self.attn.cells.sides[0], self.attn.cells.shifts[0])
