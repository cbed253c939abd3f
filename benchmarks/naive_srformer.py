"""SRFormer computed step by step, without our optimizations; used by tests and benchmarks.

The parameters are the network's own; only the computation differs. An index for every pair of
tokens, one mask for every window of every call, whole attention matrices, (B, C, H, W) maps. No
drop path.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from naive_hat import RGB_MEAN
from naive_steps import attend, conv, cut, join, linear, norm
from naive_swin2sr import enlarged
from torch import Tensor

from cir_arch.srformer_arch import PSA, SRFormer, SRFormerBlock


class NaiveSRFormer(SRFormer):
    """SRFormer for images whose sides are multiples of the window."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H * upscale, W * upscale)."""
        mean = torch.tensor(RGB_MEAN if self.in_chans == 3 else (0.0,) * self.in_chans)
        mean = mean.to(x).view(1, -1, 1, 1)
        z = (x - mean) * self.image_range.img_range
        shallow = conv(self.conv_first, z)
        y = norm(self.patch_embed.norm, shallow)
        for group in self.layers:
            deep = y
            for i, block in enumerate(group.residual_group.blocks):
                deep = self._block(block, deep, self.window_size // 2 if i % 2 else 0)
            y = y + conv(group.conv, deep)
        y = conv(self.conv_after_body, norm(self.norm, y)) + shallow
        return enlarged(self, z, y) / self.image_range.img_range + mean

    def _block(self, block: SRFormerBlock, x: Tensor, shift: int) -> Tensor:
        y = norm(block.norm1, x).roll((-shift, -shift), (2, 3))
        x = x + permuted_attention(block.attn, y, self.window_size, shift).roll(
            (shift, shift), (2, 3)
        )
        y = F.gelu(linear(block.mlp.fc1, norm(block.norm2, x)))
        y = y + F.gelu(conv(block.mlp.dwconv.depthwise_conv[0], y))
        return x + linear(block.mlp.fc2, y)


def permuted_attention(attention: PSA, x: Tensor, window: int, shift: int) -> Tensor:
    """Attend from pixels to cells of 2 x 2 pixels on a map that is rolled by ``shift``."""
    half = window // 2
    joined = "b (t c) (y i) (x j) -> t b (i j c) y x"
    keys, values = rearrange(linear(attention.kv, x), joined, t=2, i=2, j=2)
    q, k, v = cut(linear(attention.q, x), window), cut(keys, half), cut(values, half)
    pixel, cell = torch.arange(window) // 2, torch.arange(half)
    offset = pixel[:, None] - cell + half - 1
    index = (window - 1) * offset[:, None, :, None] + offset[None, :, None, :]
    bias = attention.relative_position_bias_table[index.reshape(window**2, half**2)]
    mask = None
    if shift:
        of_queries = regions(*x.shape[2:], window, shift)
        of_keys = regions(*keys.shape[2:], half, -(-shift // 2))
        different = of_queries[:, :, None] != of_keys[:, None, :]
        mask = torch.zeros(different.shape).to(x).masked_fill(different, -100)
        mask = mask.repeat(len(x), 1, 1)
    out = attend(q, k, v, bias, attention.heads, mask)
    return linear(attention.proj, join(out, window, *x.shape[2:]))


def regions(height: int, width: int, window: int, shift: int) -> Tensor:
    """Label the tokens (W, N) of a rolled map by three ranges of rows times three of columns."""
    rows, columns = (
        (torch.arange(side) >= side - window).int() + (torch.arange(side) >= side - shift).int()
        for side in (height, width)
    )
    return cut((3 * rows[:, None] + columns)[None, None], window)[..., 0]
