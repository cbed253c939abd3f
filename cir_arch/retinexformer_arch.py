"""Retinexformer: a transformer for low-light images, whose attention an illumination map guides.

Cai et al., Retinexformer: One-stage Retinex-based Transformer for Low-light Image Enhancement, ICCV
2023, https://arxiv.org/abs/2303.06705. The authors' release (MIT) is
https://github.com/caiyuanhao1998/Retinexformer; its checkpoints load here unchanged. The published
ones are of low-light tasks, none of JPEG.

Computes the same function as the release. Differences:

- The used settings are the defaults: 40 channels. The release's default, 31, cannot be built.
- Any image size from 1 x 1 on works. The release needs multiples of 4.
- Images may have other than three channels.
- Feature maps are channels last. Without gradients, large maps are processed in bands of rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.bands import Band, bands, in_bands, joined
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.convolution import MapConv2d, depthwise_conv, to_image, to_map
from cir_arch.layers.initialization import init_linear_layers
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.transposed_attention import ChannelScores, attend_between_channels
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, entry_count
from cir_host.errors import UserError

PADDING = PaddingRule(4, "reflect")
"""Twice a level is half as large as the one above."""

GROUPS = 4
"""Groups of the convolution that makes the illumination features."""


class IlluminationEstimator(nn.Module):
    """Estimates illumination features and an illumination map (Cai et al., section 3.1, eq. 4)."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.conv1 = MapConv2d(channels + 1, features, 1)
        self.depth_conv = MapConv2d(features, features, 5, padding=2, groups=GROUPS)
        self.conv2 = MapConv2d(features, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map an image (B, H, W, C) to features (B, H, W, C') and a map (B, H, W, C)."""
        prior = x.mean(dim=-1, keepdim=True)
        features = self.depth_conv(self.conv1(torch.cat((x, prior), dim=-1)))
        return features, self.conv2(features)


class IGMSA(nn.Module):
    """Illumination-guided attention between channels (Cai et al., section 3.2, eq. 6 to 8).

    Values are multiplied by the illumination features before the attention; the position's
    embedding is made of those that are not.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (
            nn.Linear(channels, channels, bias=False) for _ in range(3)
        )
        self.rescale = nn.Parameter(torch.ones(heads, 1, 1))
        self.proj = nn.Linear(channels, channels)
        self.pos_emb = nn.Sequential(
            depthwise_conv(channels, bias=False), nn.GELU(), depthwise_conv(channels, bias=False)
        )

    def forward(self, x: Tensor, light: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape, which ``light`` has, too."""
        parts = bands(x)
        if len(parts) > 1:
            return self._in_bands(x, light, parts)
        v = self.to_v(x)
        q, k, lit = (self._heads(y) for y in (self.to_q(x), self.to_k(x), v * light))
        # Contrary to Restormer, the softmax is over the channels of the query.
        out = attend_between_channels(k, q, lit, self.rescale)
        mixed: Tensor = self.proj(out.transpose(1, 2).reshape(x.shape)) + self.pos_emb(v)
        return mixed

    def _in_bands(self, x: Tensor, light: Tensor, parts: Sequence[Band]) -> Tensor:
        """Compute the same band by band; attention and projection are one matrix per image."""
        scores = ChannelScores(x, self.heads)

        def values(band: Band) -> Tensor:
            scores.add(self._heads(self.to_k(band.rows)), self._heads(self.to_q(band.rows)))
            v: Tensor = self.to_v(band.rows)
            return v

        v = joined(values, parts)
        position = in_bands(self.pos_emb, v, halo=2) + self.proj.bias
        lit = v.mul_(light)
        matrix = scores.matrix(self.rescale, self.proj.weight).to(v.dtype)
        return torch.baddbmm(position.flatten(1, 2), lit.flatten(1, 2), matrix).reshape(x.shape)

    def _heads(self, x: Tensor) -> Tensor:
        """View (B, H, W, C) as (B, heads, H W, C / heads)."""
        batch, height, width, channels = x.shape
        heads = x.reshape(batch, height * width, self.heads, channels // self.heads)
        return heads.transpose(1, 2)


class FeedForward(nn.Module):
    """Two 1x1 convolutions, to four times the channels and back, around a depthwise one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.net = nn.Sequential(
            MapConv2d(channels, hidden, 1, bias=False),
            nn.GELU(),
            depthwise_conv(hidden, bias=False),
            nn.GELU(),
            MapConv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        out: Tensor = self.net(x)
        return out


class NormFirst(nn.Module):
    """Layer norm, then the feed-forward network, under the keys of the release."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fn = FeedForward(channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        return in_bands(lambda rows: self.fn(self.norm(rows)), x, halo=1)


class IGBlock(nn.ModuleList):
    """Attention without a norm in front, then feed-forward, each added to its input."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__((IGMSA(channels, heads), NormFirst(channels)))

    def forward(self, x: Tensor, light: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        attention, feed_forward = self
        x = x + attention(x, light)
        out: Tensor = x + feed_forward(x)
        return out


class IGAB(nn.Module):
    """A chain of blocks that are guided by the same illumination features."""

    def __init__(self, channels: int, heads: int, count: int, use_checkpoint: bool) -> None:
        super().__init__()
        blocks = (IGBlock(channels, heads) for _ in range(count))
        self.blocks = BlockChain(*blocks, use_checkpoint=use_checkpoint)

    def forward(self, x: Tensor, light: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        out: Tensor = self.blocks(x, light)
        return out


class Enlarge(nn.ConvTranspose2d):
    """Transposed 2x2 convolution of maps, twice the size and half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels // 2, 2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, H, W, C) to (B, 2 H, 2 W, C / 2)."""
        return to_map(super().forward(to_image(x), output_size))


def _reduce(channels: int) -> MapConv2d:
    """Build the convolution to half the size and twice the channels."""
    return MapConv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False)


class Denoiser(nn.Module):
    """U-Net of three levels, whose blocks are guided by illumination features (section 3.2)."""

    def __init__(
        self, channels: int, n_feat: int, num_blocks: Sequence[int], use_checkpoint: bool
    ) -> None:
        super().__init__()

        def blocks(level: int) -> IGAB:
            # every head has the channels of the first level
            return IGAB(n_feat << level, 1 << level, num_blocks[level], use_checkpoint)

        self.embedding = MapConv2d(channels, n_feat, 3, padding=1, bias=False)
        self.encoder_layers = nn.ModuleList()
        self.decoder_layers = nn.ModuleList()
        for level in (0, 1):
            width = n_feat << level
            stage = (blocks(level), _reduce(width), _reduce(width))
            self.encoder_layers.append(nn.ModuleList(stage))
        self.bottleneck = blocks(2)
        for level in (1, 0):
            width = n_feat << level
            fuse = MapConv2d(2 * width, width, 1, bias=False)
            self.decoder_layers.append(nn.ModuleList((Enlarge(2 * width), fuse, blocks(level))))
        self.mapping = MapConv2d(n_feat, channels, 3, padding=1, bias=False)

    def forward(self, z: Tensor, light: Tensor) -> Tensor:
        """Restore an image (B, H, W, C), given illumination features (B, H, W, C')."""
        y = self.embedding(z)
        kept = []
        for stage in self.encoder_layers:
            assert isinstance(stage, nn.ModuleList)  # for the type checker
            blocks, reduce, reduce_light = stage
            y = blocks(y, light)
            kept.append((y, light))
            y, light = reduce(y), reduce_light(light)
        y = self.bottleneck(y, light)
        for stage in self.decoder_layers:
            assert isinstance(stage, nn.ModuleList)
            enlarge, fuse, blocks = stage
            skip, light = kept.pop()
            y = blocks(fuse(torch.cat((enlarge(y), skip), dim=-1)), light)
        out: Tensor = self.mapping(y) + z
        return out


class Stage(nn.Module):
    """Lights the image up by its illumination map, then denoises it (section 3.1, eq. 3)."""

    def __init__(
        self, channels: int, n_feat: int, num_blocks: Sequence[int], use_checkpoint: bool
    ) -> None:
        super().__init__()
        self.estimator = IlluminationEstimator(channels, n_feat)
        self.denoiser = Denoiser(channels, n_feat, num_blocks, use_checkpoint)

    def forward(self, x: Tensor) -> Tensor:
        """Restore an image (B, H, W, C)."""
        features, illumination = self.estimator(x)
        out: Tensor = self.denoiser(x * illumination + x, features)
        return out


@network(
    paper="[Cai et al., ICCV 2023](https://arxiv.org/abs/2303.06705), for low light",
    gmacs=4.16,
    small={"n_feat": 8, "stage": 2, "num_blocks": (1, 2, 1)},
    weights=(
        Weights(
            "https://github.com/caiyuanhao1998/Retinexformer (README, Google Drive)",
            "one file per task",
            "params",
            "MIT",
            "low light, not JPEG",
        ),
    ),
    in_spandrel=lambda arguments: arguments.get("in_channels", 3) == 3,
)
class Retinexformer(RestorationNetwork):
    """Lights the image up, then denoises it by attention that the illumination guides.

    The defaults give the published network.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output image, which must be ``in_channels``; None for that.
        n_feat: Channels of the first level and of every head, a multiple of 4; the levels below
            have 2 and 4 times as many.
        stage: How often estimator and denoiser follow each other, each time with own weights.
        num_blocks: Blocks of level 1, 2 and 3; each decoder level mirrors its encoder level.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If an argument has an impossible value; the message names it.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int | None = None,
        n_feat: int = 40,
        stage: int = 1,
        num_blocks: Sequence[int] = (1, 2, 2),
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if out_channels not in (None, in_channels):
            raise UserError(
                f"out_channels: {out_channels} differs from in_channels ({in_channels}), but the"
                " network adds its input to its output; give the same number"
            )
        if n_feat < 1 or n_feat % GROUPS:
            raise UserError(
                f"n_feat: {n_feat} channels cannot be cut into {GROUPS} groups; give a multiple of"
                f" {GROUPS}, such as 40"
            )
        if stage < 1:
            raise UserError(f"stage: {stage} leaves nothing of the network; give 1 or more")
        if len(num_blocks) != 3:
            raise UserError(
                f"num_blocks: {list(num_blocks)} has {len(num_blocks)} numbers; give three, for"
                " level 1, 2 and 3"
            )
        self.in_channels = in_channels
        stages = (Stage(in_channels, n_feat, num_blocks, use_checkpoint) for _ in range(stage))
        self.body = nn.Sequential(*stages)
        self.apply(init_linear_layers)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        denoiser = "body.0.denoiser."
        if f"{denoiser}embedding.weight" not in state:
            return None
        n_feat, channels = state[f"{denoiser}embedding.weight"].shape[:2]
        levels = ("encoder_layers.0.0", "encoder_layers.1.0", "bottleneck")
        return {
            # out_channels: always in_channels.
            "in_channels": channels,
            "n_feat": n_feat,
            "stage": entry_count(state, "body."),
            "num_blocks": [entry_count(state, f"{denoiser}{level}.blocks.") for level in levels],
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=PADDING.multiple,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=PADDING,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Sides that are not multiples of 4 are padded at bottom and right by reflection (replication
        where a side is too short), and the result is cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_channels, "in_channels")
        return crop_to(to_image(self.body(to_map(PADDING.pad(x)))), height, width)
