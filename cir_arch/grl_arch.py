"""GRL, image restoration by attention of global, regional and local range.

Li et al., Efficient and Explicit Modelling of Image Hierarchies for Image Restoration, CVPR 2023,
https://arxiv.org/abs/2303.00748. The authors' release (MIT) is
https://github.com/ofsoundof/GRL-Image-Restoration; it names no weights for JPEG yet. Checkpoints of
its training program load here unchanged.

Computes the same function as the release. Differences:

- GRL-S in the setting for JPEG is the default. Images keep their size; the release's upsamplers for
  super-resolution are errors, and so are other arguments of which one value is published.
- The thirteen tables, indices and masks of the release are not in the state dict. The release keeps
  those of one image size, about 1.5 GB in the setting for JPEG, and builds them in every call for
  all other sizes. Those that a file holds are ignored.
- A bias is cut out of a small table as overlapping slices, without an index per pair of tokens.
  Four masks serve all windows or stripes of a map, and no map of the whole image is built.
- Without gradients, windows and stripes run in bands of rows, so that memory grows slowly with the
  image.
- Stripes relative to the image's side (``stripe_groups``) are left out. In the release they run on
  square images only.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.argument_checks import check_channels, check_groups, check_img_range
from cir_arch.layers.bands import in_bands
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.channel_attention import CAB
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.drop_path import DropPath, drop_path_rates
from cir_arch.layers.feed_forward import MLP
from cir_arch.layers.image_range import ImageRange
from cir_arch.layers.initialization import init_linear_layers
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.receptive_field import Span, radius
from cir_arch.layers.stripe_attention import (
    AnchoredStripeAttention,
    CosineWindowAttention,
    MixedAttention,
)
from cir_arch.network import RestorationNetwork, network
from cir_arch.state_dict import State, drop_entries, entry_count, ratio
from cir_host.errors import UserError

_COMPUTED = "table_|index_|mask_"
"""Beginnings of the names of the release's buffers, which follow from arguments and image size."""

_UPSAMPLERS = ("conv_before_upsample.", "upsample.", "conv_up")
"""Beginnings of the names of the release's layers that enlarge the image."""

_DIVISORS = 4, 18
"""Channels over inner and over squeezed channels of the convolution blocks."""


class GRLBlock(nn.Module):
    """Attention and feed-forward network, each with a norm behind it; a convolution block beside.

    Of four blocks in a row, the first and third have shifted windows, the second and fourth have
    stripes of swapped sides, the third and fourth have shifted stripes.
    """

    def __init__(
        self,
        channels: int,
        index: int,
        heads: tuple[int, int],
        window_size: int,
        stripe_size: tuple[int, int],
        factor: int,
        mlp_ratio: float,
        local_connection: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.factor = factor
        for_windows, for_stripes = heads
        height, width = stripe_size
        stripe = (height, width) if index % 2 == 0 else (width, height)
        self.attn = MixedAttention(
            channels,
            CosineWindowAttention(for_windows, window_size, shifted=index % 2 == 0),
            AnchoredStripeAttention(for_stripes, stripe, factor, shifted=index % 4 >= 2),
            factor,
        )
        self.norm1 = nn.LayerNorm(channels)
        self.conv = (
            CAB(channels, *(channels // part for part in _DIVISORS)) if local_connection else None
        )
        self.mlp = MLP(channels, int(channels * mlp_ratio), channels)
        self.norm2 = nn.LayerNorm(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of window and stripes."""
        y = x + self.drop_path(self.norm1(self.attn(x)))
        if self.conv is not None:
            y = y + self.conv(x)
        made = in_bands(lambda rows: self.norm2(self.mlp(rows)), y)
        out: Tensor = y + self.drop_path(made)
        return out

    def input_of(self, output: Span, axis: int) -> Span:
        """Return the span that a span of the output depends on, along rows (0) or columns (1)."""
        window, stripe = self.attn.window_attn.cells, self.attn.stripe_attn.cells
        pixels = output.windows(stripe.sides[axis], stripe.shifts[axis])
        # the anchors of a shifted stripe may be means of pixels that are shifted by less
        less = stripe.shifts[axis] % self.factor
        anchors = Span(pixels.first - less, pixels.last - less)
        windows = output.windows(window.sides[axis], window.shifts[axis])
        return windows.union(pixels).union(anchors)


class GRLStage(nn.Module):
    """A chain of blocks and a convolution, whose result is added to the input."""

    def __init__(self, channels: int, blocks: BlockChain) -> None:
        super().__init__()
        self.blocks = blocks
        self.conv = MapConv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of window and stripes."""
        out: Tensor = x + self.conv(self.blocks(x))
        return out


@network(
    paper="[Li et al., CVPR 2023](https://arxiv.org/abs/2303.00748), GRL-S in the setting for JPEG",
    gmacs=170.37,
    small={
        "embed_dim": 24,
        "depths": (3, 1),
        "num_heads_window": (2, 3),
        "num_heads_stripe": (3, 2),
        "window_size": 4,
        "stripe_size": (4, 8),
        "anchor_window_down_factor": 2,
        "drop_path_rate": 0.0,
    },
    untold=("window_size", "stripe_size", "anchor_window_down_factor"),
)
class GRL(RestorationNetwork):
    """Stages of blocks that attend in windows and in anchored stripes, at the size of the image.

    The defaults give GRL-S for JPEG. ``embed_dim=64`` gives GRL-T; ``embed_dim=180,
    depths=[4, 4, 8, 8, 8, 4, 4], num_heads_window=[3] * 7, num_heads_stripe=[3] * 7,
    local_connection=True`` gives GRL-B. One state dict fits every window, stripe and factor, but
    the output differs: published are 36, [72, 144] and 4 for JPEG, 16, [64, 128] and 4 for noise,
    12, [48, 96] and 4 for blur.

    Args:
        img_size: Size of the training patches. Has no effect.
        in_channels: Channels of input and output image.
        embed_dim: Channels of the features. Half of them attend in windows, half in stripes.
        upscale: 1.
        img_range: Factor of the image inside the network. Images are in [0, 1].
        upsampler: Empty: the size stays.
        depths: Blocks of each stage.
        num_heads_window: Heads of the attention in windows, for each stage.
        num_heads_stripe: Heads of the attention in stripes, for each stage.
        window_size: Side of the windows in pixels.
        stripe_size: Height and width of the stripes in pixels; every second block swaps them.
            The largest of the three is a multiple of the others.
        anchor_window_down_factor: Side of the square of pixels whose mean is an anchor.
        mlp_ratio: Hidden over outer channels of the feed-forward networks.
        local_connection: Whether blocks have a convolution block with channel attention.
        drop_path_rate: Stochastic depth (Huang et al., ECCV 2016): probability in training that the
            last block drops a branch of a sample; it rises from 0 at the first block.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
        stripe_groups: No groups. This and the following arguments have one published value each.
        stripe_shift: Every third and fourth block shifts its stripes.
        qkv_proj_type: How queries, keys and values are computed.
        anchor_proj_type: How anchors are computed.
        anchor_one_stage: Anchors are computed in one step.
        conv_type: The convolution at the end of each stage.
        init_method: How new weights are drawn.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 64,
        in_channels: int = 3,
        embed_dim: int = 128,
        upscale: int = 1,
        img_range: float = 1.0,
        upsampler: str = "",
        depths: Sequence[int] = (4,) * 4,
        num_heads_window: Sequence[int] = (2,) * 4,
        num_heads_stripe: Sequence[int] = (2,) * 4,
        window_size: int = 36,
        stripe_size: Sequence[int] = (72, 144),
        stripe_groups: Sequence[int | None] = (None, None),
        stripe_shift: bool = True,
        mlp_ratio: float = 2.0,
        qkv_proj_type: str = "linear",
        anchor_proj_type: str = "avgpool",
        anchor_one_stage: bool = True,
        anchor_window_down_factor: int = 4,
        local_connection: bool = False,
        drop_path_rate: float = 0.1,
        conv_type: str = "1conv",
        init_method: str = "n",
        use_checkpoint: bool = False,
    ) -> None:
        _check_published(
            {
                "upscale": (upscale, 1),
                "upsampler": (upsampler, ""),
                "stripe_groups": (list(stripe_groups), [None, None]),
                "stripe_shift": (stripe_shift, True),
                "qkv_proj_type": (qkv_proj_type, "linear"),
                "anchor_proj_type": (anchor_proj_type, "avgpool"),
                "anchor_one_stage": (anchor_one_stage, True),
                "conv_type": (conv_type, "1conv"),
                "init_method": (init_method, "n"),
            }
        )
        multiple = _largest_side(window_size, stripe_size, anchor_window_down_factor)
        check_groups(embed_dim, depths, num_heads_window, "num_heads_window", parts=2)
        check_groups(embed_dim, depths, num_heads_stripe, "num_heads_stripe", parts=2)
        check_channels(in_channels=in_channels, mlp_ratio=int(embed_dim * mlp_ratio))
        check_img_range(img_range)
        if local_connection and embed_dim < max(_DIVISORS):
            raise UserError(
                f"embed_dim: {embed_dim} channels are too few for local_connection; give "
                f"{max(_DIVISORS)} or more"
            )
        super().__init__()
        self.in_channels = in_channels
        self.image_range = ImageRange(in_channels, img_range)
        self.padding = PaddingRule(multiple, "reflect", short="zeros")
        self.window_size = window_size
        self.stripe_size = height, width = tuple(stripe_size)
        self.anchor_window_down_factor = anchor_window_down_factor
        self.local_connection = local_connection
        rates = iter(drop_path_rates(sum(depths), drop_path_rate))

        def stage(depth: int, heads: tuple[int, int]) -> GRLStage:
            blocks = (
                GRLBlock(
                    embed_dim,
                    index,
                    heads,
                    window_size,
                    (height, width),
                    anchor_window_down_factor,
                    mlp_ratio,
                    local_connection,
                    rate,
                )
                for index, rate in enumerate(islice(rates, depth))
            )
            return GRLStage(embed_dim, BlockChain(*blocks, use_checkpoint=use_checkpoint))

        heads = zip(num_heads_window, num_heads_stripe, strict=True)
        self.conv_first = MapConv2d(in_channels, embed_dim, 3, padding=1)
        self.norm_start = nn.LayerNorm(embed_dim)
        self.layers = nn.ModuleList(map(stage, depths, heads))
        self.norm_end = nn.LayerNorm(embed_dim)
        self.conv_after_body = MapConv2d(embed_dim, embed_dim, 3, padding=1)
        self.conv_last = MapConv2d(embed_dim, in_channels, 3, padding=1)
        self.apply(init_linear_layers)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        attention = "attn.{}.logit_scale"
        window = attention.format("window_attn.attn_transform")
        stripe = attention.format("stripe_attn.attn_transform1")
        if not {"conv_first.weight", f"layers.0.blocks.0.{stripe}"} <= state.keys():
            return None
        if any(name.startswith(_UPSAMPLERS) for name in state):  # of super-resolution
            return None
        embed_dim, in_channels = state["conv_first.weight"].shape[:2]
        stages = [f"layers.{i}.blocks" for i in range(entry_count(state, "layers."))]
        hidden = len(state["layers.0.blocks.0.mlp.fc1.weight"])
        return {
            # img_size, drop_path_rate: for training only. img_range and the sides of windows and
            # stripes: cannot be deduced.
            "in_channels": in_channels,
            "embed_dim": embed_dim,
            "depths": [entry_count(state, f"{stage}.") for stage in stages],
            "num_heads_window": [len(state[f"{stage}.0.{window}"]) for stage in stages],
            "num_heads_stripe": [len(state[f"{stage}.0.{stripe}"]) for stage in stages],
            "mlp_ratio": ratio([(embed_dim, hidden)], 2.0),
            "local_connection": "layers.0.blocks.0.conv.cab.0.weight" in state,
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        The channel attention of ``local_connection`` depends on the whole image.
        """
        halos = (
            radius(partial(self._input_of, axis=axis), self.padding.multiple) for axis in (0, 1)
        )
        return NetworkFacts(
            size_multiple=self.padding.multiple,
            min_size=1,
            scale=1,
            halo=None if self.local_connection else max(halos),
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=self.padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Sides are padded to multiples of the largest of window and stripe sides at bottom and right:
        by reflection, or by zeros if one of them is too short to be reflected. The result is
        cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        image, shallow = self._shallow(x)
        y = self.norm_start(shallow)
        for stage in self.layers:
            y = stage(y)
        return self._image(image, shallow, y, x)

    def _shallow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the padded image in the network's range, (B, C, H, W), and its features, a map."""
        checked_size(x, self.in_channels, "in_channels")
        image = self.image_range.enter(self.padding.pad(x))
        return image, self.conv_first(to_map(image))

    def _image(self, image: Tensor, shallow: Tensor, deep: Tensor, x: Tensor) -> Tensor:
        """Turn the features of the last stage into an image of the size of ``x``."""
        features = self.conv_after_body(self.norm_end(deep)) + shallow
        restored = self.image_range.leave(image + to_image(self.conv_last(features)))
        return crop_to(restored, *x.shape[-2:])

    def _input_of(self, output: Span, axis: int) -> Span:
        """Return the span of the image that a span of the output depends on, along an axis."""
        span = output.convolutions(2)
        for stage in reversed(self.layers):
            within = span.convolutions(1)
            blocks = [block for block in stage.modules() if isinstance(block, GRLBlock)]
            for block in reversed(blocks):
                within = block.input_of(within, axis)
            span = span.union(within)
        return span.convolutions(1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        drop_entries(state_dict, prefix, _COMPUTED)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _check_published(arguments: Mapping[str, tuple[Any, Any]]) -> None:
    for name, (value, published) in arguments.items():
        if value != published:
            raise UserError(f"{name}: {value!r} is not supported; give {published!r}")


def _largest_side(window_size: int, stripe_size: Sequence[int], factor: int) -> int:
    """Return the largest side, of which all image sizes become multiples.

    Raises:
        UserError: A side is too small, does not divide the largest, or no anchors fill a stripe.
    """
    if len(stripe_size) != 2:
        raise UserError(
            f"stripe_size: {list(stripe_size)} is no height and width; give two numbers"
        )
    sides = (("window_size", window_size), *(("stripe_size", side) for side in stripe_size))
    largest = max(side for _, side in sides)
    for name, side in sides:
        if side < 2:
            raise UserError(f"{name}: {side} is too small; give 2 or more")
        if largest % side:
            raise UserError(
                f"{name}: {side} does not divide {largest}, the largest side of windows and "
                f"stripes; give a number that does"
            )
    for side in stripe_size:
        if factor < 1 or side % factor:
            raise UserError(
                f"anchor_window_down_factor: {factor} does not divide the stripe's side {side}; "
                f"give a number that divides both of stripe_size ({list(stripe_size)})"
            )
    return largest
