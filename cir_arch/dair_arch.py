"""DAIR, the IIP_IR team's network of the RAIM challenge: estimates blur kernels, then restores.

Liang et al., NTIRE 2024 Restore Any Image Model (RAIM) in the Wild Challenge, CVPR Workshops 2024,
supplement, section 1.4 (phase 2). The authors' release, without a licence, is
https://github.com/zzzhy03/NTIRE2024-RAIM-IIP_IR-Phase2. Its restorer is an FFTformer (Kong et al.,
CVPR 2023, https://arxiv.org/abs/2211.12250) with one more level; the kernels change its features as
in SPADE (Park et al., CVPR 2019, https://arxiv.org/abs/1903.07291).

Computes the same function as the release. Differences:

- One network with the parts ``kernel`` and ``restore``; the release has two, in two files. Join
  them by ``basicsr convert net_kernel.pth net_g.pth -o dair.safetensors``.
- Any image size from 1 x 1 on works. The release needs multiples of 64.
- Weights stored with spectral norm are divided by it once, when they are loaded. The release
  divides them at each call, and trains with it; here the network trains without.
- Of feature maps that are halved by keeping each second pixel, only these are computed.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cir_arch.facts import NetworkFacts
from cir_arch.layers.argument_checks import check_channels
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.frequency import (
    BLOCK,
    BlockTransform,
    Fusion,
    block_transform,
    doubling,
    frequency_blocks,
    halving,
)
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.unet import gdfn_widths
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, entry_count, ratio
from cir_host.errors import UserError

PADDING = PaddingRule(8 * BLOCK, "reflect")
"""Level 4, an eighth of the image's size, consists of whole blocks."""


class Convolutions(nn.Module):
    """3x3 convolutions, each followed by ReLU, with initial values for that (He et al., ICCV 2015).

    With PyTorch's own, the gradient would lose twelve decimals on its way through the estimator.
    """

    def __init__(self, *widths: int, use_checkpoint: bool) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.conv = nn.Sequential()
        for wide, narrow in pairwise(widths):
            conv = nn.Conv2d(wide, narrow, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            self.conv.extend((conv, nn.ReLU(inplace=True)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        if self.use_checkpoint and torch.is_grad_enabled():
            out: Tensor = checkpoint(self.conv, x, use_reentrant=False)
        else:
            out = self.conv(x)
        return out


class KernelEstimator(nn.Module):
    """A U-Net of five levels that maps an image to a kernel for each of its pixels.

    Args:
        in_channels: Channels of the image.
        width: Channels of the first level.
        size: Edge of the kernels.
        use_checkpoint: Recompute the convolutions in the backward pass.
    """

    def __init__(self, in_channels: int, width: int, size: int, use_checkpoint: bool) -> None:
        super().__init__()

        def convolutions(*widths: int) -> Convolutions:
            return Convolutions(*widths, use_checkpoint=use_checkpoint)

        levels = [width, 2 * width, 2 * width, 4 * width, 4 * width]
        self.initial_conv = convolutions(in_channels, width)
        for level, (above, wide) in enumerate(pairwise([width, *levels]), 1):
            self.add_module(f"down_conv{level}", convolutions(above, wide, wide))
        below = 8 * width
        self.features_conv1 = convolutions(levels[-1], below)
        self.features_conv2 = convolutions(below, below)
        raised = [8 * width, 4 * width, 2 * width, 2 * width, 2 * width]
        for step, (skip, wide) in enumerate(zip(reversed(levels), raised, strict=True), 1):
            joined = convolutions(skip + below, wide, wide, wide)
            self.add_module(f"up_coeff_conv{step}", joined)
            below = wide
        self.coeff_conv1 = convolutions(below, 4 * width)
        self.coeff_conv2 = convolutions(4 * width, 4 * width)
        self.coeff_conv3 = convolutions(4 * width, size**2)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), 32 x 32 or larger, to kernels (B, size^2, H, W) in [0, 1).

        Channels are the kernel's rows, one after the other.
        """
        y, skips = self.initial_conv(x), []
        for level in range(1, 6):
            skips.append(self.get_submodule(f"down_conv{level}")(y))
            y = F.max_pool2d(skips[-1], 2)
        y = self.features_conv2(self.features_conv1(y))
        for step, skip in enumerate(reversed(skips), 1):
            y = F.interpolate(y, scale_factor=2, mode="bilinear")
            y = torch.cat((skip, _centred(y, skip)), dim=1)
            y = self.get_submodule(f"up_coeff_conv{step}")(y)
        out: Tensor = self.coeff_conv3(self.coeff_conv2(self.coeff_conv1(y))).tanh()
        return out


def _centred(x: Tensor, like: Tensor) -> Tensor:
    """Pad with zeros to the size of ``like``; the smaller half goes to the top and the left."""
    bottom, right = (a - b for a, b in zip(like.shape[2:], x.shape[2:], strict=True))
    if bottom or right:
        x = F.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
    return x


class FoldedConv2d(nn.Conv2d):
    """``Conv2d`` that also loads weights stored with PyTorch's ``spectral_norm``.

    In evaluation these stand for ``weight_orig / (u . W v)``, where W is ``weight_orig`` as a
    matrix (out, rest). Miyato et al., ICLR 2018, https://arxiv.org/abs/1802.05957.
    """

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        parts = [f"{prefix}weight_{part}" for part in ("orig", "u", "v")]
        if all(name in state_dict for name in parts):
            stored, u, v = (state_dict.pop(name) for name in parts)
            norm = u.double() @ stored.double().flatten(1) @ v.double()
            state_dict[prefix + "weight"] = (stored / norm).to(stored.dtype)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class EncoderBlock(nn.Module):
    """A residual block of two convolutions with reflected borders, and LeakyReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.LeakyReLU(0.2, inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return F.leaky_relu_(x + self.conv_block(x), 0.2)


class LatentHalving(nn.Module):
    """Two convolutions with reflected borders and LeakyReLU; the first keeps each second pixel."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            FoldedConv2d(channels, out_channels, 3, stride=2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Identity(),  # in the release, here the pixels are left out
            nn.ReflectionPad2d(1),
            FoldedConv2d(out_channels, out_channels, 3),
            nn.LeakyReLU(0.2, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / 2, W / 2)."""
        out: Tensor = self.conv_block(x)
        return out


class KernelEncoder(nn.Module):
    """Maps kernels to a latent map for each of three levels."""

    def __init__(self, kernels: int, width: int, use_checkpoint: bool) -> None:
        super().__init__()
        self.encoder = BlockChain(
            *(EncoderBlock(kernels) for _ in range(3)),
            nn.Conv2d(kernels, width, 3, padding=1),
            use_checkpoint=use_checkpoint,
        )
        self.conv_latent_down1 = LatentHalving(width, 2 * width)
        self.conv_latent_down2 = LatentHalving(2 * width, 4 * width)

    def forward(self, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, size^2, H, W) to (B, C, H, W), (B, 2 C, H / 2, W / 2), (B, 4 C, H / 4, W / 4)."""
        first = F.leaky_relu_(self.encoder(kernels), 0.2)
        second = self.conv_latent_down1(first)
        return first, second, self.conv_latent_down2(second)


class SPADE(nn.Module):
    """Batch norm whose scale and shift a latent map gives for each pixel."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1), nn.ReLU(inplace=True)
        )
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; so is the latent map."""
        shared = self.mlp_shared(latent)
        gamma, beta = self.mlp_gamma(shared), self.mlp_beta(shared)
        out: Tensor = self.param_free_norm(x) * (1 + gamma) + beta
        return out


class BlurSPADE(nn.Module):
    """SPADE, LeakyReLU and a convolution, added to the input."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv_0 = FoldedConv2d(channels, channels, 3, padding=1)
        self.norm_0 = SPADE(channels, hidden)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; so is the latent map."""
        out: Tensor = x + self.conv_0(F.leaky_relu_(self.norm_0(x, latent), 0.2))
        return out


class BlurFusion(Fusion):
    """FFTformer's fusion, before which the latent map changes the decoder's features."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels)
        self.blur_spade = BlurSPADE(channels, hidden)

    def joined(
        self, decoded: Tensor, encoded: Tensor, latent: Tensor, transform: BlockTransform
    ) -> Tensor:
        """Join two maps (B, H, W, C) to one of the same shape, given a latent map (B, C, H, W)."""
        changed = to_map(self.blur_spade(to_image(decoded), latent))
        return self(changed, encoded, transform)  # type: ignore[no-any-return]


class Restorer(nn.Module):
    """FFTformer with a fourth level, whose fusions see the kernels."""

    def __init__(
        self,
        channels: int,
        dim: int,
        num_blocks: Sequence[int],
        num_refinement_blocks: int,
        ffn_expansion_factor: float,
        kernels: int,
        spade_channels: int,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()

        chain = partial(
            frequency_blocks, expansion=ffn_expansion_factor, use_checkpoint=use_checkpoint
        )
        c1, c2, c3, c4 = dim, 2 * dim, 4 * dim, 8 * dim
        n1, n2, n3, n4 = num_blocks
        self.KernelEncoder = KernelEncoder(kernels, dim, use_checkpoint)
        self.patch_embed = PatchEmbedding(MapConv2d(channels, c1, 3, padding=1, bias=False))
        self.encoder_level1 = chain(c1, n1, attends=False)
        self.down1_2 = halving(c1)
        self.encoder_level2 = chain(c2, n2, attends=False)
        self.down2_3 = halving(c2)
        self.encoder_level3 = chain(c3, n3, attends=False)
        self.down3_4 = halving(c3)
        self.decoder_level4 = chain(c4, n4, attends=True)
        self.up4_3 = doubling(c4)
        self.fuse3 = BlurFusion(c3, spade_channels)
        self.decoder_level3 = chain(c3, n3, attends=True)
        self.up3_2 = doubling(c3)
        self.fuse2 = BlurFusion(c2, spade_channels)
        self.decoder_level2 = chain(c2, n2, attends=True)
        self.up2_1 = doubling(c2)
        self.fuse1 = BlurFusion(c1, spade_channels)
        self.decoder_level1 = chain(c1, n1, attends=True)
        self.refinement = chain(c1, num_refinement_blocks, attends=True)
        self.output = MapConv2d(c1, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Restore images (B, C, H, W) whose sides are multiples of 64.

        Args:
            x: The images.
            kernels: Of each pixel, (B, size^2, H, W), row by row.
        """
        transform = block_transform(x)
        latent1, latent2, latent3 = self.KernelEncoder(kernels.flip(1))  # rows and columns reversed
        e1 = self.encoder_level1(self.patch_embed(to_map(x)), transform)
        e2 = self.encoder_level2(self.down1_2(e1), transform)
        e3 = self.encoder_level3(self.down2_3(e2), transform)
        y = self.decoder_level4(self.down3_4(e3), transform)
        y = self.fuse3.joined(self.up4_3(y), e3, latent3, transform)
        y = self.decoder_level3(y, transform)
        y = self.fuse2.joined(self.up3_2(y), e2, latent2, transform)
        y = self.decoder_level2(y, transform)
        y = self.fuse1.joined(self.up2_1(y), e1, latent1, transform)
        y = self.refinement(self.decoder_level1(y, transform), transform)
        return x + to_image(self.output(y))


@network(
    paper="IIP_IR team of the RAIM challenge, FFTformer that sees estimated blur kernels",
    gmacs=79.89,
    small={
        "dim": 4,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "ffn_expansion_factor": 2.5,
        "kernel_size": 3,
        "kernel_dim": 4,
        "spade_channels": 6,
    },
    weights=(
        Weights(
            "https://github.com/zzzhy03/NTIRE2024-RAIM-IIP_IR-Phase2",
            "net_kernel.pth and net_g.pth, to be joined",
            "params",
            "no licence: its use is not granted",
            "defocus and noise of phones, the photographs of RAIM, phase 2; not JPEG",
        ),
    ),
    parts={
        "kernel.": "coeff_conv3.conv.0.weight",
        "restore.": "KernelEncoder.encoder.3.weight",
    },
)
class DAIR(RestorationNetwork):
    """A kernel estimator, and a restorer that sees the image and the kernels.

    The defaults give the published network. Its batch norms use the statistics of the batch in
    training, and their running means in evaluation.

    Args:
        inp_channels: Channels of input and output image.
        dim: Channels of the restorer's level 1; the levels below have 2, 4 and 8 times as many.
        num_blocks: Blocks of the restorer's levels; decoder levels mirror the encoder's, and on
            level 4 there is one row of blocks.
        num_refinement_blocks: Blocks after the decoder.
        ffn_expansion_factor: Hidden over outer channels of the feed-forward networks.
        kernel_size: Edge of the kernels.
        kernel_dim: Channels of the kernel estimator's first level.
        spade_channels: Hidden channels of the layers that give scale and shift.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If an argument has another number of values, or a value that the network cannot
            have; the message names it.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        dim: int = 32,
        num_blocks: Sequence[int] = (4, 4, 4, 6),
        num_refinement_blocks: int = 2,
        ffn_expansion_factor: float = 3,
        kernel_size: int = 15,
        kernel_dim: int = 32,
        spade_channels: int = 128,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if len(num_blocks) != 4:
            raise UserError(
                f"num_blocks: {list(num_blocks)} has {len(num_blocks)} numbers; give four, for"
                " level 1 to 4"
            )
        check_channels(
            dim=dim,
            ffn_expansion_factor=int(dim * ffn_expansion_factor),
            kernel_size=kernel_size,
            kernel_dim=kernel_dim,
            spade_channels=spade_channels,
        )
        self.inp_channels = inp_channels
        self.kernel = KernelEstimator(inp_channels, kernel_dim, kernel_size, use_checkpoint)
        self.restore = Restorer(
            inp_channels,
            dim,
            num_blocks,
            num_refinement_blocks,
            ffn_expansion_factor,
            kernel_size**2,
            spade_channels,
            use_checkpoint,
        )

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if "restore.KernelEncoder.encoder.3.weight" not in state:
            return None
        dim, inp_channels = state["restore.patch_embed.proj.weight"].shape[:2]
        levels = {name: value for name, value in state.items() if ".fuse" not in name}
        encoders = [f"restore.encoder_level{level}." for level in (1, 2, 3)]
        blocks = [*encoders, "restore.decoder_level4."]
        return {
            "inp_channels": inp_channels,
            "dim": dim,
            "num_blocks": [entry_count(state, level) for level in blocks],
            "num_refinement_blocks": entry_count(state, "restore.refinement."),
            "ffn_expansion_factor": ratio(gdfn_widths(levels), 3.0),
            "kernel_size": math.isqrt(len(state["kernel.coeff_conv3.conv.0.weight"])),
            "kernel_dim": len(state["kernel.initial_conv.conv.0.weight"]),
            "spade_channels": len(state["restore.fuse1.blur_spade.norm_0.mlp_shared.0.weight"]),
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        As in FFTformer, each block carries information across its blocks of pixels.
        """
        return NetworkFacts(
            size_multiple=PADDING.multiple,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.inp_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=PADDING,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Sides that are not multiples of 64 are padded at bottom and right by reflection (replication
        where a side is too short), and the result is cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.inp_channels, "inp_channels")
        padded = PADDING.pad(x)
        out: Tensor = self.restore(padded, self.kernel(padded))
        return crop_to(out, height, width)
