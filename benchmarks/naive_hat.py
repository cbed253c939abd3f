"""HAT and HFT computed step by step, without our optimizations; used by tests and benchmarks.

The parameters are the networks' own; only the computation differs. One mask for every window of
every call, whole attention matrices, unfolded keys and values, (B, C, H, W) maps. No drop path.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from naive_steps import attend, conv, cut, join, linear, mlp, norm, shift_mask
from torch import Tensor

from cir_arch.hat_arch import HAT
from cir_arch.hft_arch import HFT
from cir_arch.layers.channel_attention import CAB
from cir_arch.layers.hybrid_attention import HAB, OCAB, RHAG

RGB_MEAN = (0.4488, 0.4371, 0.4040)


class NaiveHAT(HAT):
    """HAT for images whose sides are multiples of the window."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H * upscale, W * upscale)."""
        mean = torch.tensor(RGB_MEAN).to(x).view(1, 3, 1, 1)
        shallow = conv(self.conv_first, (x - mean) * self.image_range.img_range)
        y = norm(self.patch_embed["norm"], shallow)
        for group in self.layers:
            y = self._group(group, y)
        y = shallow + conv(self.conv_after_body, norm(self.norm, y))
        y = F.leaky_relu(conv(self.conv_before_upsample[0], y), 0.01)
        for layer in self.upsample[::2]:
            y = F.pixel_shuffle(conv(layer, y), round((len(layer.weight) / y.shape[1]) ** 0.5))
        return conv(self.conv_last, y) / self.image_range.img_range + mean

    def _group(self, group: RHAG, x: Tensor) -> Tensor:
        y = x
        for i, block in enumerate(group.residual_group.blocks):
            y = self._block(block, y, self.window_size // 2 if i % 2 else 0)
        return x + conv(group.conv, self._overlapping(group.residual_group.overlap_attn, y))

    def _block(self, block: HAB, x: Tensor, shift: int) -> Tensor:
        window, heads, attention = self.window_size, block.attn.heads, block.attn
        y = norm(block.norm1, x)
        tokens = cut(y.roll((-shift, -shift), (2, 3)), window)
        q, k, v = F.linear(tokens, attention.qkv.weight, attention.qkv.bias).chunk(3, -1)
        table = attention.relative_position_bias_table
        mask = None
        if shift:
            mask = shift_mask(*x.shape[2:], window, shift, -100.0).to(x).repeat(len(x), 1, 1)
        out = attend(q, k, v, table[self.relative_position_index_SA], heads, mask)
        out = F.linear(out, attention.proj.weight, attention.proj.bias)
        attended = join(out, window, *x.shape[2:]).roll((shift, shift), (2, 3))
        x = x + attended + block.conv_scale * gated_convolutions(block.conv_block, y)
        return x + mlp(block.mlp, norm(block.norm2, x))

    def _overlapping(self, block: OCAB, x: Tensor) -> Tensor:
        window, extended, heads = self.window_size, self.extended_size, block.heads
        q, kv = linear(block.qkv, norm(block.norm1, x)).split((x.shape[1], 2 * x.shape[1]), dim=1)
        unfolded = F.unfold(kv, extended, padding=(extended - window) // 2, stride=window)
        k, v = rearrange(unfolded, "b (two c n) w -> two (b w) n c", two=2, n=extended**2)
        table = block.relative_position_bias_table
        bias = table[self.relative_position_index_OCA]
        out = attend(cut(q, window), k, v, bias, heads)
        out = F.linear(out, block.proj.weight, block.proj.bias)
        x = x + join(out, window, *x.shape[2:])
        return x + mlp(block.mlp, norm(block.norm2, x))


class NaiveHFT(NaiveHAT, HFT):
    """HFT, which differs from HAT only in its arguments."""


def gated_convolutions(block: CAB, x: Tensor) -> Tensor:
    """Two convolutions and the gate of their channels on (B, C, H, W)."""
    y = conv(block.cab[2], F.gelu(conv(block.cab[0], x)))
    squeeze, expand = block.cab[3].attention[1], block.cab[3].attention[3]
    means = y.mean((2, 3), keepdim=True)
    return y * torch.sigmoid(conv(expand, F.relu(conv(squeeze, means))))
