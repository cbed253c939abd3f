"""DiffIR computed step by step; used by tests and benchmarks.

The parameters are ``DiffIR``'s own; (B, C, H, W) maps, sides multiples of 32 / scale.
"""

import torch
import torch.nn.functional as F
from naive_promptir import block_norm
from naive_steps import channel_attention, conv, gated_feed_forward, u_net
from torch import Tensor, nn

from cir_arch.diffir_arch import DiffIR, ModulatedBlock, PriorEncoder


class NaiveDiffIR(DiffIR):
    """DiffIR with the formulas of the diffusion written out, and whole maps."""

    def forward(
        self,
        x: Tensor,
        gt: Tensor | None = None,
        noise: Tensor | None = None,
        prior: Tensor | None = None,
        return_prior: bool = False,
    ) -> Tensor:
        """Restore images (B, C, H, W)."""
        cells = unshuffled(x, self.cell)
        if self.stage == 1:
            prior = encoded(self.E, torch.cat((cells, unshuffled(gt, 4)), 1))
        else:
            start = self.noise if noise is None else noise
            prior = self._reversed(encoded(self.condition, cells), start.expand(len(x), -1))
        y = conv(self.G.patch_embed.proj, cells)
        y = u_net(self.G, y, lambda block, y: modulated(block, y, prior))
        for layer in (self.G.tail[0][0], self.G.tail[0][2]):
            y = F.pixel_shuffle(conv(layer, y), 2)
        nearest = x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return conv(self.G.tail[1], y) + nearest

    def _reversed(self, condition: Tensor, x: Tensor) -> Tensor:
        """Four steps back: the mean of the posterior of DDPM, eq. 7, with the predicted prior."""
        beta = torch.linspace(0.1**0.5, 0.99**0.5, 4, dtype=torch.float64) ** 2
        kept = (1 - beta).cumprod(0)
        first, _, *others = self.denoise.resmlp
        layers = (first, *(other.resmlp[0] for other in others))
        for t in (3, 2, 1, 0):
            y = torch.cat((condition, torch.full((len(x), 1), t / 40).to(x), x), 1)
            for layer in layers:
                y = leaky_relu(linear(layer, y))
            before = kept[t - 1] if t else torch.tensor(1.0)
            a = before.sqrt() * beta[t] / (1 - kept[t])
            b = (1 - beta[t]).sqrt() * (1 - before) / (1 - kept[t])
            x = (a * y + b * x).to(y)
        return x


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer to vectors."""
    return F.linear(x, layer.weight, layer.bias)


def leaky_relu(x: Tensor) -> Tensor:
    """Return x where it is positive, x / 10 elsewhere."""
    return torch.where(x > 0, x, 0.1 * x)


def unshuffled(x: Tensor, cell: int) -> Tensor:
    """Move the pixels of cells to the channels: channel c cell^2 + dy cell + dx."""
    b, c, h, w = x.shape
    parts = x.view(b, c, h // cell, cell, w // cell, cell)
    return parts.permute(0, 1, 3, 5, 2, 4).reshape(b, c * cell**2, h // cell, w // cell)


def encoded(encoder: PriorEncoder, cells: Tensor) -> Tensor:
    """Return the prior of images, given as cells."""
    first, _, *blocks = encoder.E[:-6]
    y = leaky_relu(conv(first, cells))
    for block in blocks:
        y = y + conv(block.body[2], leaky_relu(conv(block.body[0], y)))
    for layer in encoder.E[-6::2]:
        y = leaky_relu(conv(layer, y))
    y = y.mean((2, 3))
    for layer in encoder.mlp[::2]:
        y = leaky_relu(linear(layer, y))
    return y


def modulated(block: ModulatedBlock, x: Tensor, prior: Tensor) -> Tensor:
    """Run one transformer block."""
    for norm, layer, run in (
        (block.norm1, block.attn, channel_attention),
        (block.norm2, block.ffn, gated_feed_forward),
    ):
        kernel = linear(layer.kernel[0], prior)[..., None, None]
        scale, shift = kernel.chunk(2, 1)
        x = x + run(layer, block_norm(norm, x) * scale + shift)
    return x
