"""SAFMN-BCIE, the VPEG team's network of the NTIRE 2024 challenge on compressed images.

Sun et al., Spatially-Adaptive Feature Modulation for Efficient Image Super-Resolution, ICCV 2023,
https://arxiv.org/abs/2302.13800; Yang et al., NTIRE 2024 Challenge on Blind Enhancement of
Compressed Image: Methods and Results, CVPR Workshops 2024, team VPEG. The authors' release is
https://github.com/sunny2109/SAFMN; its checkpoints load here unchanged.

Computes the same function as the release. Differences:

- The published depth is the default. The release's default has six groups, its checkpoint eight.
- Any image size from 1 x 1 on works. The release needs even sides of at least 16; those are not
  padded here either, even where the pooling factors do not divide them.
- Feature maps are channels last, so that the norm needs no reshaping.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.convolution import MapConv2d, depthwise_conv, to_image, to_map
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, entry_count, ratio
from cir_host.errors import UserError

SCALES = 4
"""Resolutions of the feature modulation, each half as large as the one before."""


class SAFM(nn.Module):
    """Spatially-adaptive feature modulation (SAFMN, section 3.1): a gate made at four resolutions.

    One quarter of the channels stays at full size, the others are pooled to 1/2, 1/4 and 1/8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mfr = nn.ModuleList(
            depthwise_conv(channels // SCALES, bias=True) for _ in range(SCALES)
        )
        self.aggr = MapConv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are at least 8."""
        parts = zip(x.chunk(SCALES, dim=-1), self.mfr, strict=True)
        scales = [self._at_scale(part, conv, 2**i) for i, (part, conv) in enumerate(parts)]
        return F.gelu(self.aggr(torch.cat(scales, dim=-1))) * x

    def _at_scale(self, x: Tensor, conv: nn.Module, factor: int) -> Tensor:
        if factor == 1:
            full: Tensor = conv(x)
            return full
        height, width = x.shape[1:3]
        pooled = _max_pool(to_image(x), factor)
        return to_map(F.interpolate(to_image(conv(to_map(pooled))), (height, width)))


def _max_pool(x: Tensor, factor: int) -> Tensor:
    """Shrink (B, C, H, W) by a factor, rounded down; windows overlap where it leaves a rest."""
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        return F.adaptive_max_pool2d(x, (height // factor, width // factor))
    return F.max_pool2d(x, factor)  # the same windows, faster


class ConvolutionalChannelMixer(nn.Module):
    """3x3 convolution to more channels, exact GELU, 1x1 convolution back (SAFMN, section 3.2)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.ccm = nn.Sequential(
            MapConv2d(channels, hidden, 3, padding=1), nn.GELU(), MapConv2d(hidden, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        out: Tensor = self.ccm(x)
        return out


class AttBlock(nn.Module):
    """Feature modulation, then channel mixer, each behind a layer norm and added to its input."""

    def __init__(self, channels: int, ffn_scale: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.safm = SAFM(channels)
        self.ccm = ConvolutionalChannelMixer(channels, int(channels * ffn_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = x + self.safm(self.norm1(x))
        out: Tensor = x + self.ccm(self.norm2(x))
        return out


class ResidualGroup(nn.Module):
    """Blocks and a 3x3 convolution, added to the group's input."""

    def __init__(self, channels: int, depth: int, ffn_scale: float, use_checkpoint: bool) -> None:
        super().__init__()
        blocks = (AttBlock(channels, ffn_scale) for _ in range(depth))
        self.layers = BlockChain(*blocks, use_checkpoint=use_checkpoint)
        self.conv = MapConv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        out: Tensor = x + self.conv(self.layers(x))
        return out


@network(
    paper="[Sun et al., ICCV 2023](https://arxiv.org/abs/2302.13800), VPEG team of the challenge",
    gmacs=75.08,
    small={"dim": 16, "n_blocks": 2, "num_layers": 2},
    weights=(
        Weights(
            "https://github.com/sunny2109/SAFMN/releases/tag/v0.1.1",
            "SAFMN_BCIE.pth",
            "params",
            "Apache-2.0",
            "colour JPEG of quality 10 to 70, NTIRE 2024",
        ),
    ),
    in_spandrel=True,
)
class SAFMN_BCIE(RestorationNetwork):  # noqa: N801 (the registered name)
    """Residual groups of feature modulation on the pixel-unshuffled image.

    No skip connection adds the image.
    The defaults give the published network.

    Args:
        dim: Channels of the features; a multiple of 4.
        n_blocks: Residual groups.
        num_layers: Blocks of each group.
        ffn_scale: Hidden over outer channels of the channel mixers.
        upscaling_factor: Size of the image over the size of the features. The output has the size
            of the image.
        in_channels: Channels of input and output image.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If ``dim`` is no multiple of 4.
    """

    def __init__(
        self,
        dim: int = 128,
        n_blocks: int = 8,
        num_layers: int = 6,
        ffn_scale: float = 2.0,
        upscaling_factor: int = 2,
        in_channels: int = 3,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if dim % SCALES:
            raise UserError(f"dim: {dim} is not a multiple of {SCALES}")
        self.in_channels = in_channels
        # At the smallest size the coarsest pooled map is one pixel.
        smallest = upscaling_factor * 2 ** (SCALES - 1)
        self.padding = PaddingRule(upscaling_factor, "reflect", smallest)
        pixels = upscaling_factor**2
        self.to_feat = nn.Sequential(
            nn.PixelUnshuffle(upscaling_factor), nn.Conv2d(in_channels * pixels, dim, 3, padding=1)
        )
        self.feats = nn.Sequential(
            *(ResidualGroup(dim, num_layers, ffn_scale, use_checkpoint) for _ in range(n_blocks))
        )
        self.to_img = nn.Sequential(
            nn.Conv2d(dim, dim * pixels, 3, padding=1),
            nn.PixelShuffle(upscaling_factor),
            nn.Conv2d(dim, in_channels, 3, padding=1),
        )

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        # Names of SAFMN itself lack the layers within the groups.
        if not {"to_feat.1.weight", "feats.0.layers.0.safm.aggr.weight"} <= state.keys():
            return None
        dim = len(state["to_feat.1.weight"])
        mixer = state["feats.0.layers.0.ccm.ccm.0.weight"]
        return {
            "dim": dim,
            "n_blocks": entry_count(state, "feats."),
            "num_layers": entry_count(state, "feats.0.layers."),
            "ffn_scale": ratio([(dim, len(mixer))], 2.0),
            "upscaling_factor": math.isqrt(len(state["to_img.0.weight"]) // dim),
            "in_channels": len(state["to_img.2.weight"]),
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        At multiples of ``size_multiple`` all pooling windows have the same size. Even sides from 16
        on are not padded either, but there the position of every window depends on the size of
        the image; so no halo holds for all sizes.
        """
        return NetworkFacts(
            size_multiple=self.padding.smallest,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=self.padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Odd sides are padded to even ones, short sides to 16, at bottom and right by reflection
        (replication where a side is too short), and the result is cropped. For another
        ``upscaling_factor`` f read multiples of f for even, and 8 f for 16.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_channels, "in_channels")
        features = to_map(self.to_feat(self.padding.pad(x)))
        features = features + self.feats(features)
        return crop_to(self.to_img(to_image(features)), height, width)
