"""UnifyFormer computed step by step; used by tests and benchmarks.

The parameters are ``UnifyFormer``'s own; (B, C, H, W) maps. Queries, keys and values are picked out
of the interleaved projection and convolved one after the other. Height and width are multiples
of 8.
"""

import torch
import torch.nn.functional as F
from naive_steps import channel_attention, conv, gated_feed_forward, u_net
from torch import Tensor, nn

from cir_arch.unifyformer_arch import ChannelNorm, UnifyAttention, UnifyBlock, UnifyFormer


class NaiveUnifyFormer(UnifyFormer):
    """UnifyFormer."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        y = x
        for i, layer in enumerate(self.patch_embed.proj[::2]):
            y = conv(layer, F.gelu(y) if i else y)
        return conv(self.output, u_net(self, y, transform)) + x


def transform(block: UnifyBlock, x: Tensor) -> Tensor:
    """Run the four branches of a block."""
    x = x + attend(block.attn1, norm(block.norm1, x))
    x = x + gated_feed_forward(block.ffn1, norm(block.norm2, x))
    x = x + channel_attention(block.attn2, norm(block.norm3, x))
    return x + gated_feed_forward(block.ffn2, norm(block.norm4, x))


def norm(layer: ChannelNorm, x: Tensor) -> Tensor:
    """Normalise the channels of each pixel."""
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * layer.body.g + layer.body.b


def attend(layer: UnifyAttention, x: Tensor) -> Tensor:
    """Unify attention: linear attention on four segments, convolutions on the fifth."""
    projected = conv(layer.qkv, x)
    parts = [projected[:, i::3].chunk(5, 1) for i in range(3)]
    aggregators = layer.aggregator
    wide = (aggregators.agg1, aggregators.agg2, aggregators.agg3)
    q, k, v = (
        torch.cat(
            [F.gelu(first)]
            + [F.gelu(separable(agg, y)) for agg, y in zip(wide, others, strict=True)],
            1,
        ).flatten(2)
        for first, *others, _ in parts
    )
    interleaved = torch.stack([part[4] for part in parts], 2).flatten(1, 2)
    local = aggregators.agg0
    convolved = F.gelu(norm(local.norm, separable(local.conv, interleaved)))
    outs = []
    for head in range(layer.heads):
        q_, k_, v_ = (y[:, head :: layer.heads].transpose(1, 2) for y in (q, k, v))
        context = k_.softmax(1).transpose(1, 2) @ v_
        outs.append((q_ @ context * (x.shape[1] / layer.heads) ** -0.5).transpose(1, 2))
    attended = torch.cat(outs, 1).unflatten(2, x.shape[2:])
    return conv(layer.proj, torch.cat((attended, convolved), 1))


def separable(layer: nn.Module, x: Tensor) -> Tensor:
    """Depthwise convolution, then 1x1 convolution."""
    return conv(layer.pointwise_conv, conv(layer.conv1, x))
