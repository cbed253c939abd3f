"""FFTformer computed step by step; used by tests and benchmarks.

The parameters are ``FFTformer``'s own; (B, C, H, W) maps. Height and width are multiples of 32.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from naive_steps import conv, norm
from torch import Tensor, nn

from cir_arch.fftformer_arch import FFTformer
from cir_arch.layers.frequency import DFFN, FSAS, FrequencyBlock, Fusion


class NaiveFFTformer(FFTformer):
    """FFTformer with Fourier transforms of all blocks of whole maps."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        e1 = chain(self.encoder_level1, conv(self.patch_embed.proj, x))
        e2 = chain(self.encoder_level2, down(self.down1_2, e1))
        y = chain(self.encoder_level3, down(self.down2_3, e2))
        y = up(self.up3_2, chain(self.decoder_level3, y))
        y = up(self.up2_1, chain(self.decoder_level2, fuse(self.fuse2, y, e2)))
        y = chain(self.refinement, chain(self.decoder_level1, fuse(self.fuse1, y, e1)))
        return conv(self.output, y) + x


def chain(blocks: nn.Sequential, x: Tensor) -> Tensor:
    """Run blocks one after the other."""
    for block in blocks:
        x = transform(block, x)
    return x


def transform(block: FrequencyBlock, x: Tensor) -> Tensor:
    """Run one block, with or without attention."""
    if block.attends:
        x = x + attention(block.attn, norm(block.norm1.body, x))
    return x + feed_forward(block.ffn, norm(block.norm2.body, x))


def attention(layer: FSAS, x: Tensor) -> Tensor:
    """FSAS: the product of the transforms of queries and keys."""
    q, k, v = conv(layer.to_hidden_dw, conv(layer.to_hidden, x)).chunk(3, dim=1)
    product = torch.fft.rfft2(cut(q)) * torch.fft.rfft2(cut(k))
    weights = joined(torch.fft.irfft2(product, s=(8, 8)))
    return conv(layer.project_out, v * norm(layer.norm.body, weights))


def feed_forward(layer: DFFN, x: Tensor) -> Tensor:
    """DFFN: a gate on the transforms, then GDFN."""
    y = conv(layer.project_in, x)
    gated = torch.fft.irfft2(torch.fft.rfft2(cut(y)) * layer.fft, s=(8, 8))
    gate, value = conv(layer.dwconv, joined(gated)).chunk(2, dim=1)
    return conv(layer.project_out, F.gelu(gate) * value)


def fuse(layer: Fusion, decoded: Tensor, encoded: Tensor) -> Tensor:
    """Join the features of decoder and encoder."""
    y = transform(layer.att_channel, conv(layer.conv, torch.cat((decoded, encoded), dim=1)))
    first, second = conv(layer.conv2, y).chunk(2, dim=1)
    return first + second


def down(layer: nn.Module, x: Tensor) -> Tensor:
    """Halve height and width, then convolve."""
    return conv(layer.body[1], F.interpolate(x, scale_factor=0.5, mode="bilinear"))


def up(layer: nn.Module, x: Tensor) -> Tensor:
    """Double height and width, then convolve."""
    return conv(layer.body[1], F.interpolate(x, scale_factor=2, mode="bilinear"))


def cut(x: Tensor) -> Tensor:
    """Cut a map into 8 x 8 blocks."""
    return rearrange(x, "b c (y i) (x j) -> b c y x i j", i=8, j=8)


def joined(blocks: Tensor) -> Tensor:
    """Put blocks back into a map."""
    return rearrange(blocks, "b c y x i j -> b c (y i) (x j)")
