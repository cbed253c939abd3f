"""SwinIR's frame, around blocks of any kind (Liang et al., SwinIR, ICCVW 2021, fig. 2)."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.argument_checks import check_channels, check_groups, check_img_range
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.image_range import ImageRange
from cir_arch.layers.initialization import init_linear_layers
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.receptive_field import Span, radius
from cir_arch.layers.upsampling import (
    TAIL_CHANNELS,
    UPSAMPLING_STEPS,
    before_upsampling,
    sub_pixel_convolutions,
    tail_of,
)
from cir_arch.state_dict import State, drop_entries, entry_count, ratio

Upsampler = Literal["", "pixelshuffle", "pixelshuffledirect", "nearest+conv"]

_COMPUTED = (
    r"layers\..*\."
    r"(relative_coords_table|relative_position_index|aligned_relative_position_index|attn_mask)$"
)
"""Names of the releases' buffers, which follow from arguments and image size, as a pattern."""


@runtime_checkable
class WindowBlock(Protocol):
    """A block of a group."""

    def input_of(self, output: Span) -> Span:
        """Return the pixels that a span of the output depends on."""
        ...


class SwinNetwork(nn.Module):
    """Base of networks that put their own blocks into SwinIR's frame.

    Convolution, layer norm, groups, layer norm, convolution, around all of it a residual; then the
    layers that ``upsampler`` names. The keys are those of the published checkpoints. A subclass
    passes the layers between first convolution and groups, and the groups.
    """

    def __init__(
        self,
        embedding: nn.Sequential,
        groups: Sequence[nn.Module],
        *,
        in_chans: int,
        embed_dim: int,
        window_size: int,
        upscale: int,
        img_range: float,
        upsampler: str,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.window_size = window_size
        self.upscale = upscale
        self.upsampler = upsampler
        self.image_range = ImageRange(in_chans, img_range)
        self.padding = PaddingRule(window_size, "reflect")
        self.conv_first = MapConv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = embedding
        self.layers = nn.ModuleList(groups)
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = MapConv2d(embed_dim, embed_dim, 3, padding=1)
        self._add_tail(embed_dim)
        self.apply(init_linear_layers)

    def _add_tail(self, embed_dim: int) -> None:
        def conv(in_channels: int, out_channels: int) -> nn.Conv2d:
            return nn.Conv2d(in_channels, out_channels, 3, padding=1)

        if self.upsampler == "pixelshuffledirect":
            out_channels = self.in_chans * self.upscale**2
            self.upsample = nn.Sequential(
                conv(embed_dim, out_channels), nn.PixelShuffle(self.upscale)
            )
            return
        if self.upsampler:
            self.conv_before_upsample = before_upsampling(embed_dim, TAIL_CHANNELS)
        if self.upsampler == "nearest+conv":
            self.conv_up1 = conv(TAIL_CHANNELS, TAIL_CHANNELS)
            self.conv_up2 = conv(TAIL_CHANNELS, TAIL_CHANNELS)
            self.conv_hr = conv(TAIL_CHANNELS, TAIL_CHANNELS)
        elif self.upsampler:
            self.upsample = sub_pixel_convolutions(TAIL_CHANNELS, self.upscale)
        self.conv_last = conv(TAIL_CHANNELS if self.upsampler else embed_dim, self.in_chans)

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=self.padding.multiple,
            min_size=1,
            scale=self.upscale,
            halo=radius(self._input_of, self.padding.multiple, self.upscale),
            in_channels=self.in_chans,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=self.padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1]; result (B, C, H * upscale, W * upscale).

        The result is not clamped. Sides are padded to multiples of the window at bottom and right
        by reflection (replication where a side is too short), and the result is cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_chans, "in_chans")
        image = self.image_range.enter(self.padding.pad(x))
        restored = self.image_range.leave(self._image(image, self.features(image)))
        return crop_to(restored, height * self.upscale, width * self.upscale)

    def features(self, image: Tensor) -> Tensor:
        """Map images (B, C, H, W), padded and in the network's range, to features (B, E, H, W)."""
        shallow: Tensor = self.conv_first(to_map(image))
        y = self.patch_embed(shallow)
        for group in self.layers:
            y = group(y)
        return to_image(self.conv_after_body(self.norm(y)) + shallow)

    def _image(self, image: Tensor, features: Tensor) -> Tensor:
        """Turn features into an image, in the network's range."""
        y: Tensor
        if not self.upsampler:
            y = image + self.conv_last(features)
            return y
        if self.upsampler == "pixelshuffledirect":
            y = self.upsample(features)
            return y
        y = self.conv_before_upsample(features)
        if self.upsampler == "nearest+conv":
            for layer in (self.conv_up1, self.conv_up2):
                y = F.leaky_relu(layer(F.interpolate(y, scale_factor=2, mode="nearest")), 0.2)
            y = F.leaky_relu(self.conv_hr(y), 0.2)
        else:
            y = self.upsample(y)
        y = self.conv_last(y)
        return y

    def _input_of(self, output: Span) -> Span:
        """Return the span of the image that a span of the output depends on, along an axis."""
        if self.upsampler == "pixelshuffledirect":
            span = output.enlargement(self.upscale).convolutions(1)
        elif self.upsampler == "nearest+conv":
            span = output.convolutions(3).enlargement(2).convolutions(1).enlargement(2)
            span = span.convolutions(1)
        else:
            span = output.convolutions(1)
            for factor in reversed(UPSAMPLING_STEPS[self.upscale]):
                span = span.enlargement(factor).convolutions(1)
            span = span.convolutions(1) if self.upsampler else span
        span = span.convolutions(1)
        for group in reversed(self.layers):
            within = span.convolutions(1)
            blocks = [block for block in group.modules() if isinstance(block, WindowBlock)]
            for block in reversed(blocks):
                within = block.input_of(within)
            span = span.union(within)
        return span.convolutions(1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        drop_entries(state_dict, prefix, _COMPUTED)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def check_arguments(
    *,
    in_chans: int,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    mlp_ratio: float,
    img_range: float,
) -> None:
    """Check the arguments that concern the groups, whatever their blocks.

    Raises:
        UserError: One would fail, with a message about tensors.
    """
    check_groups(embed_dim, depths, num_heads)
    check_channels(in_chans=in_chans, mlp_ratio=int(embed_dim * mlp_ratio))
    check_img_range(img_range)


def group_arguments(state: State, mlp_ratio: float) -> dict[str, Any] | None:
    """Read off a state dict the arguments of the frame; None if it is of another network.

    Args:
        state: The state dict.
        mlp_ratio: The network's default, returned where it fits.
    """
    first = "layers.0.residual_group.blocks.0"
    if not {"conv_first.weight", f"{first}.mlp.fc1.weight", "conv_after_body.weight"} <= (
        state.keys()
    ):
        return None
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    upsampler, upscale = tail_of(state)
    return {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": [
            entry_count(state, f"layers.{i}.residual_group.blocks.")
            for i in range(entry_count(state, "layers."))
        ],
        "mlp_ratio": ratio([(embed_dim, len(state[f"{first}.mlp.fc1.weight"]))], mlp_ratio),
        "upscale": upscale,
        "upsampler": upsampler,
    }
