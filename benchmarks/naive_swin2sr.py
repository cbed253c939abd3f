"""Swin2SR computed step by step, without our optimizations; used by tests and benchmarks.

The parameters are the network's own; only the computation differs. An index for every pair of
tokens, one mask for every window of every call, whole attention matrices, (B, C, H, W) maps. No
drop path.
"""

import torch
import torch.nn.functional as F
from naive_grl import attend, cut, join, position_bias, regions
from naive_hat import RGB_MEAN
from naive_steps import conv, linear, mlp, norm
from torch import Tensor, nn

from cir_arch.layers.swin_v2 import SwinV2Block
from cir_arch.swin2sr_arch import Swin2SR


class NaiveSwin2SR(Swin2SR):
    """Swin2SR for images whose sides are multiples of the window."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H * upscale, W * upscale)."""
        mean = torch.tensor(RGB_MEAN if self.in_chans == 3 else (0.0,) * self.in_chans)
        mean = mean.to(x).view(1, -1, 1, 1)
        z = (x - mean) * self.image_range.img_range
        shallow = conv(self.conv_first, z)
        y = norm(self.patch_embed.norm, conv(self.patch_embed.proj, shallow))
        for group in self.layers:
            deep = y
            for i, block in enumerate(group.residual_group.blocks):
                deep = swin_v2_block(block, deep, self.window_size, i % 2 * (self.window_size // 2))
            y = y + conv(group.patch_embed.proj, conv(group.conv, deep))
        y = conv(self.conv_after_body, norm(self.norm, y)) + shallow
        if self.upsampler != "pixelshuffle_aux":
            return enlarged(self, z, y) / self.image_range.img_range + mean
        y = conv(self.conv_aux, F.leaky_relu(conv(self.conv_before_upsample[0], y), 0.01))
        y = F.leaky_relu(conv(self.conv_after_aux[0], y), 0.01)
        bicubic = F.interpolate(z, scale_factor=self.upscale, mode="bicubic", align_corners=False)
        y = shuffled(self, y) + conv(self.conv_bicubic, bicubic)
        return conv(self.conv_last, y) / self.image_range.img_range + mean


def swin_v2_block(block: SwinV2Block, x: Tensor, window: int, shift: int) -> Tensor:
    """Attend in windows of a map rolled by ``shift``, then run the MLP; norms come last."""
    attention, sides, shifts = block.attn, (window, window), (shift, shift)
    q, k, v = F.linear(x.movedim(1, -1), attention.qkv.weight).movedim(-1, 1).chunk(3, dim=1)
    q, v = q + attention.q_bias[:, None, None], v + attention.v_bias[:, None, None]
    q, k, v = (cut(part, sides, shifts) for part in (q, k, v))
    labels, bias = regions(x, sides, shifts), position_bias(attention, sides, sides)
    attended = join(attend(attention, q, k, v, bias, labels, labels), x, sides, shifts)
    x = x + norm(block.norm1, linear(attention.proj, attended))
    return x + norm(block.norm2, mlp(block.mlp, x))


def shuffled(network: nn.Module, y: Tensor) -> Tensor:
    """Enlarge a map by sub-pixel convolutions."""
    for layer in network.upsample[::2]:
        y = F.pixel_shuffle(conv(layer, y), round((len(layer.weight) / y.shape[1]) ** 0.5))
    return y


def enlarged(network: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    """Turn features into an image, by SwinIR's upsamplers; ``z`` is the image itself."""
    if not network.upsampler:
        return z + conv(network.conv_last, y)
    if network.upsampler == "pixelshuffledirect":
        return F.pixel_shuffle(conv(network.upsample[0], y), network.upscale)
    y = F.leaky_relu(conv(network.conv_before_upsample[0], y), 0.01)
    if network.upsampler == "pixelshuffle":
        return conv(network.conv_last, shuffled(network, y))
    for layer in (network.conv_up1, network.conv_up2):
        y = F.leaky_relu(conv(layer, y.repeat_interleave(2, 2).repeat_interleave(2, 3)), 0.2)
    return conv(network.conv_last, F.leaky_relu(conv(network.conv_hr, y), 0.2))
