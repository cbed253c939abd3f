"""JDEC computed step by step, without our optimizations; used by tests and benchmarks.

The parameters are the network's own; only the computation differs. Tokens are gathered one by one,
whole attention matrices and masks, all pixels at once, (B, C, H, W) maps.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from naive_steps import conv, linear, norm
from naive_swin2sr import swin_v2_block
from torch import Tensor

from cir_arch.jdec_arch import JDEC, WINDOW


class NaiveJDEC(JDEC):
    """JDEC for planes whose sides are multiples of 112."""

    def forward(self, x: Tensor) -> Tensor:
        """Map planes of coefficients (B, 3, H, W) to images of the same shape."""
        rows, columns = (side // 16 for side in x.shape[2:])
        y = torch.zeros(len(x), 24, 4 * rows, 4 * columns).to(x)
        for r in range(2 * rows):
            for c in range(2 * columns):
                block = x[:, :1, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8]
                y[:, :16, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = tokens(block, 4)
        for r in range(rows):
            for c in range(columns):
                block = x[:, 1:, 16 * r : 16 * r + 8, 16 * c : 16 * c + 8]
                y[:, 16:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] = tokens(block, 2)
        features = self._encode(y)

        steps = scaled(x[:, 1:, 8:16, 8:16]).reshape(len(x), 128, 1, 1)
        amplitude = conv(self.qmapp, steps) * two(self.coef, features)
        down, across = two(self.freq, features).chunk(2, dim=1)
        amplitude, down, across = (
            part.repeat_interleave(4, 2).repeat_interleave(4, 3)
            for part in (amplitude, down, across)
        )
        i, j = (torch.arange(side).to(x) % 4 for side in x.shape[2:])
        waves = amplitude * torch.cos(math.pi * down * (2 * i[:, None] + 1) / 8)
        z = waves * torch.cos(math.pi * across * (2 * j + 1) / 8)
        first, _, second, _, third, _, last = self.dequantizator.layers
        for layer in (first, second, third):
            z = F.relu(conv(layer, z))
        return conv(last, z) + 0.5

    def _encode(self, y: Tensor) -> Tensor:
        encoder = self.encoder_dct
        y = norm(encoder.patch_embed.norm, linear(encoder.patch_embed.projection[0], y))
        for i, block in enumerate(encoder.layers[0].blocks):
            y = swin_v2_block(block, y, WINDOW, i % 2 * (WINDOW // 2))
        y = shallow = norm(encoder.norm, y)
        for group in encoder.layers_RSTB:
            deep = y
            for i, block in enumerate(group.residual_group.blocks):
                deep = swin_v2_block(block, deep, WINDOW, i % 2 * (WINDOW // 2))
            y = y + conv(group.conv, deep)
        return conv(encoder.conv_after_body, norm(encoder.norm, y)) + shallow


def two(layers: torch.nn.Sequential, x: Tensor) -> Tensor:
    """Convolve, ReLU, convolve."""
    return conv(layers[2], F.relu(conv(layers[0], x)))


def scaled(values: Tensor) -> Tensor:
    """Map [-1024, 1016] to [-1, 1]."""
    return 2 * (values + 1024) / 2040 - 1


def dct(side: int, like: Tensor) -> Tensor:
    """Return the matrix of the orthonormal DCT-II."""
    rows = [
        [math.cos(math.pi * k * (2 * n + 1) / (2 * side)) for n in range(side)] for k in range(side)
    ]
    matrix = math.sqrt(2 / side) * torch.tensor(rows, dtype=torch.float64)
    matrix[0] = math.sqrt(1 / side)
    return matrix.to(like)


def tokens(block: Tensor, side: int) -> Tensor:
    """Return the tokens (B, C side^2, 8 / side, 8 / side) of one block (B, C, 8, 8)."""
    change = dct(8, block) @ torch.block_diag(*[dct(side, block)] * (8 // side)).T
    parts = change.T @ scaled(block.clamp(-1024, 1016)) @ change
    count = 8 // side
    return rearrange(parts, "b c (y i) (x j) -> b (c y x) i j", i=count, j=count)
