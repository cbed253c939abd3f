"""HAT, the hybrid attention transformer for super-resolution and restoration.

Chen et al., Activating More Pixels in Image Super-Resolution Transformer, CVPR 2023,
https://arxiv.org/abs/2205.04437. The authors' release (Apache-2.0) is
https://github.com/XPixelGroup/HAT; its checkpoints load here unchanged, and so do the
``network_g`` sections of its options files.

Computes the same function as the release. Differences:

- The published x4 network is the default. The release's defaults build none of the published ones.
- An ``upsampler`` other than the published one is an error. With its default, the empty one, the
  release silently returns its input.
- An ``img_size`` of one window or less is an error. The release then shifts no windows.
- Any image size from 1 x 1 on works. The release's network needs multiples of the window, and its
  model pads by reflection, which fails where a side is shorter than its padding.
- Four masks serve all windows of all image sizes. The release builds one per window, on the CPU, in
  every call.
- Masks, biases and the mean have the precision of the features, so that bfloat16 weights work.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.argument_checks import check_channels, check_groups, check_img_range
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.drop_path import drop_path_rates
from cir_arch.layers.hybrid_attention import (
    RHAG,
    HybridSizes,
    group_depth,
    group_heads,
    hybrid_arguments,
)
from cir_arch.layers.hybrid_network import HybridAttentionNetwork, check_hybrid_sizes
from cir_arch.layers.image_range import ImageRange
from cir_arch.layers.initialization import init_linear_layers
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.upsampling import before_upsampling, scale_of, sub_pixel_convolutions
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, entry_count, ratio
from cir_host.errors import UserError


@network(
    paper="[Chen et al., CVPR 2023](https://arxiv.org/abs/2205.04437), super-resolution x4 by"
    " default",
    gmacs=415.52,
    small={
        "upscale": 1,
        "embed_dim": 12,
        "depths": (2, 2),
        "num_heads": (2, 3),
        "window_size": 4,
        "compress_ratio": 2,
        "squeeze_factor": 1,
        "num_feat": 8,
        "drop_path_rate": 0.0,
    },
    weights=(
        Weights(
            "https://github.com/XPixelGroup/HAT (README, Google Drive and Baidu)",
            "HAT, HAT-S and HAT-L, one file per scale",
            "params_ema",
            "Apache-2.0",
            "super-resolution x2, x3 and x4, not JPEG",
        ),
    ),
    in_spandrel=True,
)
class HAT(HybridAttentionNetwork, RestorationNetwork):
    """Residual hybrid attention groups at the size of the input, then upsampling.

    No skip connection adds the image. The defaults give the published network for scale 4.
    ``embed_dim=144, compress_ratio=24, squeeze_factor=24`` gives HAT-S, twelve groups
    (``depths=[6] * 12, num_heads=[6] * 12``) give HAT-L.

    Args:
        img_size: Side, or height and width, of the training patches. Has no effect; patches of one
            window or less are refused, because shifted windows could not be trained on them.
        in_chans: Channels of input and output image.
        embed_dim: Channels of the features.
        depths: Hybrid attention blocks of each group.
        num_heads: Attention heads of each group.
        window_size: Side of the attention windows in input pixels.
        compress_ratio: Outer over inner channels of the convolution blocks beside the attention.
        squeeze_factor: Channels over squeezed channels of their channel attention.
        conv_scale: Weight of these convolution blocks.
        overlap_ratio: The key windows of the overlapping attention are larger than ``window_size``
            by this part of it.
        mlp_ratio: Hidden over outer channels of the feed-forward networks.
        drop_path_rate: Stochastic depth (Huang et al., ECCV 2016): probability in training that the
            last block drops a branch of a sample; it rises from 0 at the first block.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
        upscale: Output size over input size: 1, 2, 3, 4 or 8.
        img_range: Factor of the image inside the network. Images are in [0, 1].
        upsampler: ``pixelshuffle``, the only one published.
        resi_connection: ``1conv``, the only one published.
        num_feat: Channels of the features during upsampling.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 64,
        in_chans: int = 3,
        embed_dim: int = 180,
        depths: Sequence[int] = (6,) * 6,
        num_heads: Sequence[int] = (6,) * 6,
        window_size: int = 16,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 2.0,
        drop_path_rate: float = 0.1,
        use_checkpoint: bool = False,
        upscale: int = 4,
        img_range: float = 1.0,
        upsampler: str = "pixelshuffle",
        resi_connection: str = "1conv",
        num_feat: int = 64,
    ) -> None:
        sizes = HybridSizes(
            window_size, overlap_ratio, compress_ratio, squeeze_factor, conv_scale, "mlp", mlp_ratio
        )
        check_hybrid_sizes(sizes, embed_dim)
        check_groups(embed_dim, depths, num_heads)
        _check_choices(upsampler, resi_connection)
        _check_patches(img_size, window_size)
        hidden = int(embed_dim * mlp_ratio)
        check_channels(in_chans=in_chans, num_feat=num_feat, mlp_ratio=hidden)
        check_img_range(img_range)
        super().__init__(sizes)
        self.in_chans = in_chans
        self.image_range = ImageRange(in_chans, img_range)
        self.padding = PaddingRule(window_size, "reflect")
        self.upscale = upscale

        rates = iter(drop_path_rates(sum(depths), drop_path_rate))
        self.conv_first = MapConv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim)})
        self.layers = nn.ModuleList(
            RHAG(
                embed_dim,
                depth,
                heads,
                sizes,
                drop_path=tuple(islice(rates, depth)),
                use_checkpoint=use_checkpoint,
            )
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = MapConv2d(embed_dim, embed_dim, 3, padding=1)
        self.conv_before_upsample = before_upsampling(embed_dim, num_feat)
        self.upsample = sub_pixel_convolutions(num_feat, upscale)
        self.conv_last = nn.Conv2d(num_feat, in_chans, 3, padding=1)
        self.apply(init_linear_layers)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if not {"conv_first.weight", "layers.0.residual_group.overlap_attn.qkv.weight"} <= (
            state.keys()
        ):
            return None
        embed_dim, in_chans = state["conv_first.weight"].shape[:2]
        groups = [f"layers.{i}" for i in range(entry_count(state, "layers."))]
        mlp = state[f"{groups[0]}.residual_group.overlap_attn.mlp.fc1.weight"]
        return {
            # img_size, drop_path_rate: for training only. conv_scale, img_range: cannot be deduced.
            "in_chans": in_chans,
            "embed_dim": embed_dim,
            "depths": [group_depth(state, group) for group in groups],
            "num_heads": [group_heads(state, group) for group in groups],
            **hybrid_arguments(state, groups, squeeze_factor=30),
            "mlp_ratio": ratio([(embed_dim, len(mlp))], 2.0),
            "upscale": scale_of(state),
            "num_feat": len(state["conv_before_upsample.0.weight"]),
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=self.padding.multiple,
            min_size=1,
            scale=self.upscale,
            halo=None,
            in_channels=self.in_chans,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=self.padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W), RGB in [0, 1]; result (B, C, H * upscale, W * upscale).

        The result is not clamped. Sides are padded to multiples of the window at bottom and right
        by reflection (replication where a side is too short), and the result is cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_chans, "in_chans")
        padded = self.padding.pad(x)
        features = self._features(to_map(self.image_range.enter(padded)))
        upsampled = self.upsample(self.conv_before_upsample(to_image(features)))
        out = self.image_range.leave(self.conv_last(upsampled))
        return crop_to(out, height * self.upscale, width * self.upscale)

    def _features(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, E); H and W are multiples of the window."""
        positions = self.positions
        shallow: Tensor = self.conv_first(x)
        y = self.patch_embed["norm"](shallow)
        for group in self.layers:
            y = group(y, positions)
        deep: Tensor = self.conv_after_body(self.norm(y))
        return shallow + deep


def _check_choices(upsampler: str, resi_connection: str) -> None:
    for name, value, published in (
        ("upsampler", upsampler, "pixelshuffle"),
        ("resi_connection", resi_connection, "1conv"),
    ):
        if value != published:
            raise UserError(
                f"{name}: {value!r} is not what HAT has; give {published!r}, at scale 1 too"
            )


def _check_patches(img_size: int | Sequence[int], window_size: int) -> None:
    sides = (img_size,) if isinstance(img_size, int) else img_size
    if min(sides) <= window_size:
        raise UserError(
            f"img_size: patches of {img_size} are too small for shifted windows; "
            f"give more than window_size ({window_size})"
        )
