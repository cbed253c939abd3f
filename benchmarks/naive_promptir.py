"""PromptIR computed step by step: tests, benchmarks.

The parameters are ``PromptIR``'s own; (B, C, H, W) maps. Height and width are multiples of 8.
"""

import torch
import torch.nn.functional as F
from naive_steps import channel_attention, conv, gated_feed_forward, norm
from torch import Tensor

from cir_arch.layers.transformer_block import TransformerBlock
from cir_arch.promptir_arch import ImagePrompt, PromptIR


class NaivePromptIR(PromptIR):
    """PromptIR with prompts copied for each image before they are weighed."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        y = conv(self.patch_embed.proj, x)
        skips = []
        for level, down in ((1, self.down1_2), (2, self.down2_3), (3, self.down3_4)):
            y = chain(self.get_submodule(f"encoder_level{level}"), y)
            skips.append(y)
            y = F.pixel_unshuffle(conv(down.body[0], y), 2)
        y = chain(self.latent, y)
        for level, up in ((3, self.up4_3), (2, self.up3_2), (1, self.up2_1)):
            asked = prompt(self.get_submodule(f"prompt{level}"), y)
            y = transform(self.get_submodule(f"noise_level{level}"), torch.cat((y, asked), 1))
            y = conv(self.get_submodule(f"reduce_noise_level{level}"), y)
            y = torch.cat((F.pixel_shuffle(conv(up.body[0], y), 2), skips.pop()), 1)
            if level > 1:
                y = conv(self.get_submodule(f"reduce_chan_level{level}"), y)
            y = chain(self.get_submodule(f"decoder_level{level}"), y)
        return conv(self.output, chain(self.refinement, y)) + x


def prompt(layer: ImagePrompt, x: Tensor) -> Tensor:
    """Return the prompt of a map: weighed by its means, resized to it, convolved."""
    means = x.mean((2, 3))
    weights = F.linear(means, layer.linear_layer.weight, layer.linear_layer.bias).softmax(-1)
    maps = layer.prompt_param.repeat(len(x), 1, 1, 1, 1)
    mixed = (weights[:, :, None, None, None] * maps).sum(1)
    return conv(layer.conv3x3, F.interpolate(mixed, x.shape[2:], mode="bilinear"))


def chain(blocks: torch.nn.Sequential, x: Tensor) -> Tensor:
    """Run transformer blocks."""
    for block in blocks:
        x = transform(block, x)
    return x


def transform(block: TransformerBlock, x: Tensor) -> Tensor:
    """Run one transformer block."""
    x = x + channel_attention(block.attn, norm(block.norm1.body, x))
    return x + gated_feed_forward(block.ffn, norm(block.norm2.body, x))
