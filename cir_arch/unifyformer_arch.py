"""UnifyFormer, the Titans team's network of the NTIRE 2024 challenge on compressed images.

Yang et al., NTIRE 2024 Challenge on Blind Enhancement of Compressed Image: Methods and Results,
CVPR Workshops 2024, team Titans. The authors' release (Apache-2.0) is
https://github.com/yasharora102/UnifyFormer; its checkpoint loads here unchanged. Where report and
release differ (48 channels against 50, four refinement blocks against two), the release counts.

Computes the same function as the release. Differences:

- Any image size from 1 x 1 on works. The release needs multiples of 8.
- The weight of the projection is reordered instead of its output, so that queries, keys and values
  come out sorted; they share each convolution call.
- Feature maps are channels last, so that norms and matrix products need no transposition.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.feed_forward import GDFN
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.transposed_attention import MDTA
from cir_arch.layers.unet import (
    PADDING,
    UNet,
    UNetSizes,
    gdfn_widths,
    unet_arguments,
)
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, ratio
from cir_host.errors import UserError

SEGMENTS = 5
"""Parts that the channels of unify attention are cut into: four attend, the last stays local."""


def patch_embedding(in_channels: int, channels: int) -> PatchEmbedding:
    """Build four 3x3 convolutions of maps, with exact GELU in between."""
    widths = (in_channels, channels // 4, channels // 2, channels // 2, channels)
    layers: list[nn.Module] = []
    for first, second in pairwise(widths):
        layers += [MapConv2d(first, second, 3, padding=1, bias=False), nn.GELU()]
    return PatchEmbedding(nn.Sequential(*layers[:-1]))


class _Affine(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, channels, 1, 1))


class ChannelNorm(nn.Module):
    """Layer norm over the channels, eps 1e-5, with the keys of UnifyFormer's checkpoint."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = _Affine(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., C)."""
        return F.layer_norm(x, x.shape[-1:], self.body.g.flatten(), self.body.b.flatten(), 1e-5)


class SeparableConv(nn.Module):
    """Depthwise convolution, then 1x1 convolution."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv1 = MapConv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False
        )
        self.pointwise_conv = MapConv2d(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C')."""
        out: Tensor = self.pointwise_conv(self.conv1(x))
        return out

    def of_each(self, x: Tensor) -> Tensor:
        """Map several maps in one call, (B, H, W, K, C) to (B, H, W, K, C')."""
        count, channels = x.shape[-2:]
        weight = self.conv1.weight.repeat(count, 1, 1, 1)
        image = to_image(x.flatten(3))
        y = F.conv2d(image, weight, padding=weight.shape[-1] // 2, groups=count * channels)
        out: Tensor = self.pointwise_conv(to_map(y).reshape(x.shape))
        return out


class LocalAggregator(nn.Module):
    """Separable 3x3 convolution, layer norm and exact GELU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = SeparableConv(channels, out_channels, 3)
        self.norm = ChannelNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C')."""
        return F.gelu(self.norm(self.conv(x)))


class Aggregators(nn.Module):
    """The layers that process each segment before the attention."""

    def __init__(self, segment: int) -> None:
        super().__init__()
        self.agg0 = LocalAggregator(3 * segment, segment)
        self.agg1 = SeparableConv(segment, segment, 3)
        self.agg2 = SeparableConv(segment, segment, 5)
        self.agg3 = SeparableConv(segment, segment, 7)

    def forward(self, segments: Sequence[Tensor]) -> Tensor:
        """Aggregate the segments 0 to 3, each (B, H, W, 3, s), to (B, H, W, 3, 4 s)."""
        first, *others = segments
        convs = (self.agg1, self.agg2, self.agg3)
        wide = [conv.of_each(segment) for conv, segment in zip(convs, others, strict=True)]
        return F.gelu(torch.cat((first, *wide), dim=-1))


class UnifyAttention(nn.Module):
    """Linear attention over the pixels on four segments of the channels, convolutions on the fifth.

    Convolutions of kernel size 3 to 7 process the segments of query, key and value first. Keys are
    a softmax over all pixels, so the result at a pixel depends on the whole map. Of the channels'
    two indices, the head varies fastest in the input and slowest in the output, as in the release.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels / heads) ** -0.5
        self.qkv = MapConv2d(channels, 3 * channels, 1, bias=False)
        self.proj = MapConv2d(channels, channels, 1, bias=False)
        self.aggregator = Aggregators(channels // SEGMENTS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        *segments, local = self._project(x)
        q, k, v = self.aggregator(segments).flatten(1, 2).unbind(-2)
        attended = self._attend(q, k, v).reshape(*x.shape[:3], -1)
        out: Tensor = self.proj(torch.cat((attended, self.aggregator.agg0(local)), dim=-1))
        return out

    def _project(self, x: Tensor) -> list[Tensor]:
        """Four segments (B, H, W, 3, s) of query, key, value; the last one (B, H, W, 3 s).

        In the rows of the weight, query, key and value alternate; they are sorted for all segments
        but the last one, whose aggregator takes them alternating.
        """
        weight = self.qkv.weight.reshape(SEGMENTS, -1, 3, x.shape[-1])
        rows = [part.transpose(0, 1).flatten(0, 1) for part in weight[:-1]]
        sorted_ = [F.linear(x, row).reshape(*x.shape[:3], 3, -1) for row in rows]
        return [*sorted_, F.linear(x, weight[-1].flatten(0, 1))]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of pixels (B, N, C) to the sum over all pixels, (B, N, C)."""
        q, k, v = (
            y.reshape(*y.shape[:2], -1, self.heads).permute(0, 3, 1, 2)
            for y in (q, k.softmax(dim=1), v)
        )
        context = (k.to(v.dtype).mT @ v) * self.scale
        out: Tensor = (q @ context).transpose(1, 2).flatten(2)
        return out


class UnifyBlock(nn.Module):
    """Unify attention, GDFN, MDTA, GDFN, each behind a norm and added to its input."""

    def __init__(self, channels: int, heads: int, ffn_expansion: float) -> None:
        super().__init__()
        hidden = _hidden_channels(channels, ffn_expansion)
        self.norm1 = ChannelNorm(channels)
        self.attn1 = UnifyAttention(channels, heads)
        self.norm2 = ChannelNorm(channels)
        self.ffn1 = GDFN(channels, ffn_expansion, bias=False, hidden=hidden)
        self.norm3 = ChannelNorm(channels)
        self.attn2 = MDTA(channels, heads)
        self.norm4 = ChannelNorm(channels)
        self.ffn2 = GDFN(channels, ffn_expansion, bias=False, hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.ffn1(self.norm2(x))
        x = x + self.attn2(self.norm3(x))
        out: Tensor = x + self.ffn2(self.norm4(x))
        return out


@network(
    paper="Titans team of the challenge",
    gmacs=42.85,
    small={"dim": 20, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1},
    weights=(
        Weights(
            "https://github.com/yasharora102/UnifyFormer/releases/tag/Weights",
            "model_unifyformer.pth",
            "params",
            "Apache-2.0",
            "colour JPEG of quality 10 to 70, NTIRE 2024",
        ),
    ),
)
class UnifyFormer(UNet, RestorationNetwork):
    """Restormer's U-Net with blocks that attend between pixels as well as between channels.

    The defaults give the published network.

    Args:
        in_channels: Channels of input and output image.
        dim: Channels of level 1; the levels below have 2, 4 and 8 times as many. A multiple of 10.
        num_blocks: Blocks of level 1, 2, 3 and the latent level; each decoder level mirrors its
            encoder level.
        num_refinement_blocks: Blocks after the decoder.
        heads: Attention heads of level 1, 2, 3 and the latent level; the refinement has those of
            level 1.
        ffn_expansion: Hidden over outer channels of the feed-forward networks, rounded so that
            the hidden channels are a multiple of 16.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        in_channels: int = 3,
        dim: int = 50,
        num_blocks: Sequence[int] = (2, 3, 3, 4),
        num_refinement_blocks: int = 2,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion: float = 2.66,
        use_checkpoint: bool = False,
    ) -> None:
        sizes = UNetSizes(in_channels, dim, num_blocks, num_refinement_blocks, heads)
        _check_segments(sizes)
        super().__init__(
            sizes,
            patch_embedding(in_channels, dim),
            lambda channels, count: UnifyBlock(channels, count, ffn_expansion),
            latent_out=sizes.widths[3],
            use_checkpoint=use_checkpoint,
        )

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if "encoder_level1.0.attn1.aggregator.agg0.conv.conv1.weight" not in state:
            return None
        return {
            **unet_arguments(state, attention="attn2"),
            "ffn_expansion": ratio(gdfn_widths(state), 2.66, _hidden_channels),
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        Float16 is left out: the keys are a softmax over all pixels, and the shares of a large image
        are subnormal numbers in float16. On a CPU the attention stayed accurate up to 8 megapixels;
        training was not tried.
        """
        return NetworkFacts(
            size_multiple=PADDING.multiple,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16"}),
            padding=PADDING,
        )


def _hidden_channels(channels: int, ffn_expansion: float) -> int:
    return 16 * round(channels * ffn_expansion / 16)


def _check_segments(sizes: UNetSizes) -> None:
    if sizes.dim % SEGMENTS:
        raise UserError(f"dim: {sizes.dim} channels cannot be cut into {SEGMENTS} segments")
    for channels, heads in zip(sizes.widths, sizes.heads, strict=True):
        attending = channels // SEGMENTS * (SEGMENTS - 1)
        if attending % heads:
            raise UserError(
                f"heads: {heads} heads cannot share the {attending} of {channels} channels that "
                f"attend; choose dim ({sizes.dim}) and heads ({list(sizes.heads)}) so that they can"
            )
