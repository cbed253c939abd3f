"""Retinexformer computed step by step; used by tests and benchmarks.

The parameters are ``Retinexformer``'s own; (B, C, H, W) maps. Height and width are multiples of 4.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from naive_steps import conv, linear, norm
from torch import Tensor, nn

from cir_arch.retinexformer_arch import IGAB, IGMSA, Retinexformer


class NaiveRetinexformer(Retinexformer):
    """Retinexformer on whole maps."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        for stage in self.body:
            estimator = stage.estimator
            together = torch.cat((x, x.mean(1, keepdim=True)), 1)
            light = conv(estimator.depth_conv, conv(estimator.conv1, together))
            x = denoise(stage.denoiser, x * conv(estimator.conv2, light) + x, light)
        return x


def denoise(denoiser: nn.Module, z: Tensor, light: Tensor) -> Tensor:
    """Run the U-Net on a lit-up image."""
    y = conv(denoiser.embedding, z)
    kept = []
    for blocks, down, down_light in denoiser.encoder_layers:
        y = chain(blocks, y, light)
        kept.append((y, light))
        y, light = (
            F.conv2d(value, layer.weight, stride=2, padding=1)
            for value, layer in ((y, down), (light, down_light))
        )
    y = chain(denoiser.bottleneck, y, light)
    for up, fuse, blocks in denoiser.decoder_layers:
        skip, light = kept.pop()
        y = F.conv_transpose2d(y, up.weight, up.bias, stride=2)
        y = chain(blocks, conv(fuse, torch.cat((y, skip), 1)), light)
    return conv(denoiser.mapping, y) + z


def chain(module: IGAB, x: Tensor, light: Tensor) -> Tensor:
    """Run blocks of attention and feed-forward."""
    for attention, feed_forward in module.blocks:
        x = attend(attention, x, light) + x
        first, _, between, _, last = feed_forward.fn.net
        hidden = F.gelu(conv(first, norm(feed_forward.norm, x)))
        x = conv(last, F.gelu(conv(between, hidden))) + x
    return x


def attend(layer: IGMSA, x: Tensor, light: Tensor) -> Tensor:
    """IG-MSA: each channel of the key asks those of the query."""
    q, k, v = (linear(part, x) for part in (layer.to_q, layer.to_k, layer.to_v))
    q, k, lit = (
        rearrange(y, "b (m d) h w -> b m d (h w)", m=layer.heads) for y in (q, k, v * light)
    )
    scores = (F.normalize(k, dim=-1) @ F.normalize(q, dim=-1).mT) * layer.rescale
    out = rearrange(scores.softmax(-1) @ lit, "b m d (h w) -> b (m d) h w", h=x.shape[2])
    first, _, second = layer.pos_emb
    return linear(layer.proj, out) + conv(second, F.gelu(conv(first, v)))
