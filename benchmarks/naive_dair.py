"""DAIR computed step by step; used by tests and benchmarks.

The parameters are ``DAIR``'s own; (B, C, H, W) maps. Height and width are multiples of 64.
"""

import torch
import torch.nn.functional as F
from naive_fftformer import chain, down, fuse, up
from naive_steps import conv
from torch import Tensor, nn

from cir_arch.dair_arch import DAIR, BlurFusion, KernelEncoder, KernelEstimator


class NaiveDAIR(DAIR):
    """DAIR with all pixels of all maps, and batch norm in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        r = self.restore
        latents = latent_maps(r.KernelEncoder, kernels_of(self.kernel, x))
        e1 = chain(r.encoder_level1, conv(r.patch_embed.proj, x))
        e2 = chain(r.encoder_level2, down(r.down1_2, e1))
        e3 = chain(r.encoder_level3, down(r.down2_3, e2))
        y = chain(r.decoder_level4, down(r.down3_4, e3))
        y = fuse(r.fuse3, spade(r.fuse3, up(r.up4_3, y), latents[2]), e3)
        y = chain(r.decoder_level3, y)
        y = fuse(r.fuse2, spade(r.fuse2, up(r.up3_2, y), latents[1]), e2)
        y = chain(r.decoder_level2, y)
        y = fuse(r.fuse1, spade(r.fuse1, up(r.up2_1, y), latents[0]), e1)
        y = chain(r.refinement, chain(r.decoder_level1, y))
        return conv(r.output, y) + x


def kernels_of(net: KernelEstimator, x: Tensor) -> Tensor:
    """Return a kernel for each pixel, (B, rows, columns, H, W)."""
    y = rectified(net.initial_conv, x)
    skips = []
    for down_conv in (
        net.down_conv1,
        net.down_conv2,
        net.down_conv3,
        net.down_conv4,
        net.down_conv5,
    ):
        y = rectified(down_conv, y)
        skips.append(y)
        y = F.max_pool2d(y, 2)
    y = rectified(net.features_conv2, rectified(net.features_conv1, y))
    for up_conv in (
        net.up_coeff_conv1,
        net.up_coeff_conv2,
        net.up_coeff_conv3,
        net.up_coeff_conv4,
        net.up_coeff_conv5,
    ):
        raised = F.interpolate(y, scale_factor=2, mode="bilinear")
        y = rectified(up_conv, torch.cat((skips.pop(), raised), dim=1))
    for layer in (net.coeff_conv1, net.coeff_conv2, net.coeff_conv3):
        y = rectified(layer, y)
    size = round(y.shape[1] ** 0.5)
    return torch.tanh(y).unflatten(1, (size, size))


def rectified(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolve, each time with ReLU."""
    for part in layer.conv[::2]:
        x = F.relu(conv(part, x))
    return x


def latent_maps(encoder: KernelEncoder, kernels: Tensor) -> list[Tensor]:
    """Return the latent maps of level 1, 2 and 3."""
    x = kernels.flip(1, 2).flatten(1, 2)
    for block in list(encoder.encoder)[:3]:
        y = leaky(reflected(block.conv_block[1], x))
        x = leaky(x + reflected(block.conv_block[4], y))
    maps = [leaky(conv(encoder.encoder[3], x))]
    for halved in (encoder.conv_latent_down1, encoder.conv_latent_down2):
        y = leaky(reflected(halved.conv_block[1], maps[-1]))[..., ::2, ::2]
        maps.append(leaky(reflected(halved.conv_block[5], y)))
    return maps


def reflected(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve with reflected borders; the size stays."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), layer.weight, layer.bias)


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU."""
    return F.leaky_relu(x, 0.2)


def spade(fusion: BlurFusion, x: Tensor, latent: Tensor) -> Tensor:
    """Normalise by the running statistics, scale and shift by the latent map, add."""
    layer = fusion.blur_spade.norm_0
    shared = F.relu(conv(layer.mlp_shared[0], latent))
    norm = layer.param_free_norm
    mean, variance = (values[:, None, None] for values in (norm.running_mean, norm.running_var))
    scale = 1 + conv(layer.mlp_gamma, shared)
    normed = (x - mean) / torch.sqrt(variance + 1e-5) * scale + conv(layer.mlp_beta, shared)
    return x + conv(fusion.blur_spade.conv_0, leaky(normed))
