"""ART computed step by step, without our optimizations; used by tests and benchmarks.

The parameters are ``ART``'s own; (B, C, H, W) maps. Maps are padded for windows and intervals,
padded keys are masked in every group, and whole attention matrices are held. No drop path.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from naive_steps import attend, conv, linear, mlp, norm
from torch import Tensor

from cir_arch.art_arch import ART, ARTBlock, PositionNetwork
from cir_arch.layers.blocks import ResidualGroup

RGB_MEAN = (0.4488, 0.4371, 0.4040)
MASKED = -1e6
WINDOWS = "b c (y i) (x j) -> (b y x) (i j) c"
COMBS = "b c (i y) (j x) -> (b y x) (i j) c"


class NaiveART(ART):
    """ART."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H * upscale, W * upscale)."""
        mean = torch.tensor(RGB_MEAN if self.in_chans == 3 else (0.0,) * self.in_chans)
        mean = mean.to(x).view(1, -1, 1, 1)
        z = (x - mean) * self.image_range.img_range
        shallow = conv(self.conv_first, z)
        y = norm(self.patch_embed["norm"], shallow)
        for group, interval in zip(self.layers, self.interval, strict=True):
            y = self._group(group, y, interval)
        y = shallow + conv(self.conv_after_body, norm(self.norm, y))
        if self.upsamples:
            y = F.leaky_relu(conv(self.conv_before_upsample[0], y), 0.01)
            for layer in self.upsample[::2]:
                y = F.pixel_shuffle(conv(layer, y), round((len(layer.weight) / y.shape[1]) ** 0.5))
            y = conv(self.conv_last, y)
        else:
            y = z + conv(self.conv_last, y)
        return y / self.image_range.img_range + mean

    def _group(self, group: ResidualGroup, x: Tensor, interval: int) -> Tensor:
        y = x
        for i, block in enumerate(group.residual_group.blocks):
            if min(x.shape[2:]) <= self.window_size:
                y = transform(block, y, WINDOWS, min(x.shape[2:]))
            elif i % 2 == 0:
                y = transform(block, y, WINDOWS, self.window_size)
            else:
                y = transform(block, y, COMBS, interval)
        return x + conv(group.conv, y)


def transform(block: ARTBlock, x: Tensor, pattern: str, size: int) -> Tensor:
    """Run a block: groups by ``pattern``, with windows or intervals of ``size``."""
    height, width = x.shape[2:]
    padding = (0, -width % size, 0, -height % size)
    y = F.pad(norm(block.norm1, x), padding)
    inside = F.pad(torch.ones_like(x[:, :1]), padding)
    sides = {"i": size, "j": size} if pattern == WINDOWS else {"y": size, "x": size}
    groups, real = (rearrange(part, pattern, **sides) for part in (y, inside))
    mask = ((1 - real) * MASKED).transpose(1, 2).expand(-1, real.shape[1], -1)
    grid = (size, size) if pattern == WINDOWS else (y.shape[2] // size, y.shape[3] // size)
    q, k, v = F.linear(groups, block.attn.qkv.weight, block.attn.qkv.bias).chunk(3, -1)
    out = attend(q, k, v, position_bias(block.attn.pos, *grid), block.attn.heads, mask)
    out = F.linear(out, block.attn.proj.weight, block.attn.proj.bias)
    before, after = pattern.split(" -> ")
    counts = {"b": len(x), "y": y.shape[2] // grid[0], "x": y.shape[3] // grid[1]}
    joined = rearrange(out, f"{after} -> {before}", i=grid[0], j=grid[1], **counts)
    x = x + joined[..., :height, :width]
    return x + mlp(block.mlp, norm(block.norm2, x))


def position_bias(network: PositionNetwork, rows: int, columns: int) -> Tensor:
    """Return the bias of each query and key of a grid, (N, N, heads)."""
    like = network.pos_proj.weight
    row, column = (torch.arange(1 - side, side).to(like) for side in (rows, columns))
    y = linear(network.pos_proj, torch.stack(torch.meshgrid(row, column, indexing="ij"))[None])
    for layers in (network.pos1, network.pos2, network.pos3):
        y = linear(layers[2], F.relu(norm(layers[0], y)))
    r, c = (i.flatten() for i in torch.meshgrid(*map(torch.arange, (rows, columns)), indexing="ij"))
    offsets = (r[:, None] - r + rows - 1, c[:, None] - c + columns - 1)
    return y[0].permute(1, 2, 0)[offsets]
