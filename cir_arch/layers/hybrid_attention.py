"""HAT's residual hybrid attention group (Chen et al., HAT, CVPR 2023, section 3.2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cir_arch.layers.attention import attend
from cir_arch.layers.bands import Band, bands, joined
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.channel_attention import CAB
from cir_arch.layers.convolution import MapConv2d
from cir_arch.layers.drop_path import DropPath
from cir_arch.layers.feed_forward import GDFN, MLP
from cir_arch.layers.window_attention import (
    PositionIndices,
    WindowAttention,
    bias_table,
    extended_window,
    merge,
    overhang,
    partition,
    partition_overlapping,
    position_bias,
)
from cir_arch.state_dict import State, divisor, entry_count, ratio


@dataclass(frozen=True)
class HybridSizes:
    """Arguments that all blocks of a group share."""

    window_size: int
    overlap_ratio: float
    compress_ratio: int
    """Channels over inner channels of the convolution block."""
    squeeze_factor: int
    """Channels over squeezed channels of its channel attention."""
    conv_scale: float
    """Weight of the convolution block beside the attention."""
    feed_forward: Literal["gdfn", "mlp"]
    """GDFN with biases under the key ``ffn`` (PromptCIR), or MLP under the key ``mlp`` (HAT)."""
    ffn_expansion: float


class _FeedForwardBlock(nn.Module):
    """Layer norm and feed-forward network: the second half of both kinds of block."""

    def __init__(self, channels: int, sizes: HybridSizes) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(channels)
        if sizes.feed_forward == "gdfn":
            self.ffn = GDFN(channels, sizes.ffn_expansion, bias=True)
        else:
            self.mlp = MLP(channels, int(channels * sizes.ffn_expansion), channels)
        self._feed_forward_key = "ffn" if sizes.feed_forward == "gdfn" else "mlp"

    def feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(self._feed_forward_key)(self.norm2(x))
        return out


class HAB(_FeedForwardBlock):
    """Hybrid attention block: window attention beside a convolution block, then feed-forward."""

    def __init__(
        self, channels: int, heads: int, shift: int, sizes: HybridSizes, drop_path: float = 0.0
    ) -> None:
        super().__init__(channels, sizes)
        self.conv_scale = sizes.conv_scale
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, sizes.window_size, heads, shift)
        self.conv_block = CAB(
            channels, channels // sizes.compress_ratio, channels // sizes.squeeze_factor
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, positions: PositionIndices) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        normed = self.norm1(x)
        attended = self.drop_path(self.attn(normed, positions))
        x = torch.add(x + attended, self.conv_block(normed), alpha=self.conv_scale)
        out: Tensor = x + self.drop_path(self.feed_forward(x))
        return out


class OCAB(_FeedForwardBlock):
    """Overlapping cross-attention block: keys and values come from windows larger than the query's.

    Keys outside the map are zero vectors and count in the softmax.
    """

    def __init__(self, channels: int, heads: int, sizes: HybridSizes) -> None:
        super().__init__(channels, sizes)
        self.window_size = sizes.window_size
        self.extended_size = extended_window(sizes.window_size, sizes.overlap_ratio)
        self.heads = heads
        self.relative_position_bias_table = bias_table(
            (self.window_size + self.extended_size - 1) ** 2, heads
        )
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, positions: PositionIndices) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        bias = position_bias(self.relative_position_bias_table, positions.overlap)
        parts = bands(x, overhang(self.window_size, self.extended_size), self.window_size)
        x = joined(lambda band: self._attend(band, bias), parts)
        return x + self.feed_forward(x)

    def _attend(self, band: Band, bias: Tensor) -> Tensor:
        """Map a band to its own rows; keys and values come from the neighbouring rows too."""
        x, channels = band.rows, band.rows.shape[-1]
        q, kv = self.qkv(self.norm1(x)).split((channels, 2 * channels), dim=-1)
        k, v = partition_overlapping(
            kv, self.window_size, self.extended_size, band.above, band.below
        ).chunk(2, dim=-1)
        x = band.own(x)
        out = attend(partition(band.own(q), self.window_size), k, v, bias, self.heads)
        return x + merge(self.proj(out), self.window_size, *x.shape[1:3])


class _AttentionBlocks(nn.Module):
    """The blocks of a group, under the keys of the published checkpoints."""

    def __init__(self, blocks: BlockChain, overlap_attn: OCAB) -> None:
        super().__init__()
        self.blocks = blocks
        self.overlap_attn = overlap_attn

    def forward(self, x: Tensor, positions: PositionIndices) -> Tensor:
        out: Tensor = self.overlap_attn(self.blocks(x, positions), positions)
        return out


class RHAG(nn.Module):
    """Residual hybrid attention group: HABs (every second one shifted), one OCAB, a convolution."""

    def __init__(
        self,
        channels: int,
        depth: int,
        heads: int,
        sizes: HybridSizes,
        *,
        drop_path: tuple[float, ...] = (),
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        rates = drop_path or (0.0,) * depth
        shifts = (0, sizes.window_size // 2)
        blocks = (HAB(channels, heads, shifts[i % 2], sizes, rate) for i, rate in enumerate(rates))
        self.residual_group = _AttentionBlocks(
            BlockChain(*blocks, use_checkpoint=use_checkpoint), OCAB(channels, heads, sizes)
        )
        self.conv = MapConv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, positions: PositionIndices) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        out: Tensor = x + self.conv(self.residual_group(x, positions))
        return out


def hybrid_arguments(
    state: State, groups: Sequence[str], squeeze_factor: int
) -> dict[str, int | float]:
    """Read off a state dict the arguments that the blocks of its groups share.

    ``conv_scale`` cannot be deduced.

    Args:
        state: The state dict.
        groups: Prefixes of its groups, such as ``layers.0``.
        squeeze_factor: The network's default. Where several values give the same network, the
            default is returned if it is one of them.
    """
    first = f"{groups[0]}.residual_group"
    side = math.isqrt(len(state[f"{first}.blocks.0.attn.relative_position_bias_table"]))
    window = (side + 1) // 2
    overlapping = math.isqrt(len(state[f"{first}.overlap_attn.relative_position_bias_table"]))
    overlap = overlapping + 1 - 2 * window
    convs = [f"{group}.residual_group.blocks.0.conv_block.cab" for group in groups]
    widths = [state[f"{conv}.0.weight"].shape[:2] for conv in convs]
    squeezed = [state[f"{conv}.3.attention.1.weight"].shape[:2] for conv in convs]
    return {
        "window_size": window,
        "overlap_ratio": ratio([(window, overlap)], 0.5),
        "compress_ratio": divisor([(wide, inner) for inner, wide in widths], 3),
        "squeeze_factor": divisor([(wide, inner) for inner, wide in squeezed], squeeze_factor),
    }


def group_depth(state: State, group: str) -> int:
    """Count the hybrid attention blocks of a group."""
    return entry_count(state, f"{group}.residual_group.blocks.")


def group_heads(state: State, group: str) -> int:
    """Count the attention heads of a group."""
    return len(state[f"{group}.residual_group.overlap_attn.relative_position_bias_table"].mT)
