"""PromptIR computed step by step; used by tests and benchmarks.

The parameters are ``PromptIR``'s own; (B, C, H, W) maps. Height and width are multiples of 8.
"""

import torch
import torch.nn.functional as F
from naive_steps import channel_attention, conv, gated_feed_forward, norm, u_net
from torch import Tensor

from cir_arch.layers.norm import BiasFreeLayerNorm, LayerNorm
from cir_arch.layers.transformer_block import TransformerBlock
from cir_arch.promptir_arch import ImagePrompt, PromptIR


class NaivePromptIR(PromptIR):
    """PromptIR with prompts copied for each image before they are weighed."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        y = conv(self.patch_embed.proj, x)
        return conv(self.output, u_net(self, y, transform, self._ask)) + x

    def _ask(self, y: Tensor, level: int) -> Tensor:
        asked = prompt(self.get_submodule(f"prompt{level}"), y)
        y = transform(self.get_submodule(f"noise_level{level}"), torch.cat((y, asked), 1))
        return conv(self.get_submodule(f"reduce_noise_level{level}"), y)


def prompt(layer: ImagePrompt, x: Tensor) -> Tensor:
    """Return the prompt of a map: weighed by its means, resized to it, convolved."""
    means = x.mean((2, 3))
    weights = F.linear(means, layer.linear_layer.weight, layer.linear_layer.bias).softmax(-1)
    maps = layer.prompt_param.repeat(len(x), 1, 1, 1, 1)
    mixed = (weights[:, :, None, None, None] * maps).sum(1)
    return conv(layer.conv3x3, F.interpolate(mixed, x.shape[2:], mode="bilinear"))


def transform(block: TransformerBlock, x: Tensor) -> Tensor:
    """Run one transformer block."""
    x = x + channel_attention(block.attn, block_norm(block.norm1, x))
    return x + gated_feed_forward(block.ffn, block_norm(block.norm2, x))


def block_norm(layer: LayerNorm | BiasFreeLayerNorm, x: Tensor) -> Tensor:
    """Normalise the channels of each pixel; without a bias, their mean stays."""
    if isinstance(layer, LayerNorm):
        return norm(layer.body, x)
    deviation = (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return x / deviation * layer.body.weight[:, None, None]
