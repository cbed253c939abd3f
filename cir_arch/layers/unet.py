"""Restormer's U-Net, for any kind of block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.resample import Downsample, Upsample
from cir_arch.state_dict import State, entry_count
from cir_host.errors import UserError

PADDING = PaddingRule(8, "reflect")
"""The U-Net needs multiples of 8: three times a level is half as large as the one above."""

BlockFactory = Callable[[int, int], nn.Module]
"""Builds a block, given channels and heads."""


@dataclass(frozen=True)
class UNetSizes:
    """Widths and depths of a U-Net."""

    in_channels: int
    dim: int
    """Channels of level 1; the levels below have 2, 4 and 8 times as many."""
    num_blocks: Sequence[int]
    """Blocks of level 1, 2, 3 and the latent level; decoder levels mirror the encoder's."""
    num_refinement_blocks: int
    heads: Sequence[int]
    """Of level 1, 2, 3 and the latent level; the refinement has those of level 1."""

    def __post_init__(self) -> None:
        """Check what would otherwise fail in a layer, with a message about tensors.

        Raises:
            UserError: If there are not four levels, or channels cannot be halved or divided among
                the heads.
        """
        for name in ("num_blocks", "heads"):
            if len(getattr(self, name)) != 4:
                raise UserError(
                    f"{name}: {list(getattr(self, name))} has {len(getattr(self, name))} numbers; "
                    f"give four, for level 1, 2, 3 and the latent level"
                )
        if self.dim % 2:
            raise UserError(f"dim: {self.dim} channels cannot be halved; give an even number")
        for channels, heads in zip(self.widths, self.heads, strict=True):
            if channels % heads:
                raise UserError(
                    f"heads: {heads} heads cannot share {channels} channels evenly; "
                    f"choose dim ({self.dim}) and heads ({list(self.heads)}) so that they can"
                )

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of level 1, 2, 3 and the latent level."""
        return self.dim, 2 * self.dim, 4 * self.dim, 8 * self.dim


class UNetLevels(nn.Module):
    """Four levels, joined by concatenation (Zamir et al., Restormer, CVPR 2022, fig. 2).

    Args:
        sizes: Widths and depths.
        patch_embed: Maps the image, as (B, H, W, C), to the features of level 1.
        block: Builds the blocks of all levels.
        latent_out: Channels of the latent level when it is enlarged.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
    """

    def __init__(
        self,
        sizes: UNetSizes,
        patch_embed: nn.Module,
        block: BlockFactory,
        latent_out: int,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()

        def chain(channels: int, count: int, level: int) -> BlockChain:
            blocks = (block(channels, sizes.heads[level]) for _ in range(count))
            return BlockChain(*blocks, use_checkpoint=use_checkpoint)

        c1, c2, c3, c4 = sizes.widths
        n1, n2, n3, n4 = sizes.num_blocks
        self.patch_embed = patch_embed
        self.encoder_level1 = chain(c1, n1, 0)
        self.down1_2 = Downsample(c1)
        self.encoder_level2 = chain(c2, n2, 1)
        self.down2_3 = Downsample(c2)
        self.encoder_level3 = chain(c3, n3, 2)
        self.down3_4 = Downsample(c3)
        self.latent = chain(c4, n4, 3)
        self.up4_3 = Upsample(latent_out)
        self.reduce_chan_level3 = MapConv2d(latent_out // 2 + c3, c3, 1, bias=False)
        self.decoder_level3 = chain(c3, n3, 2)
        self.up3_2 = Upsample(c3)
        self.reduce_chan_level2 = MapConv2d(c2 + c2, c2, 1, bias=False)
        self.decoder_level2 = chain(c2, n2, 1)
        self.up2_1 = Upsample(c2)
        self.decoder_level1 = chain(c1 + c1, n1, 0)
        self.refinement = chain(c1 + c1, sizes.num_refinement_blocks, 0)

    def features(
        self,
        x: Tensor,
        *shared: Tensor,
        before_upsampling: Callable[[Tensor, int], Tensor] = lambda y, level: y,
        before_refinement: Callable[[Tensor], Tensor] = lambda y: y,
    ) -> Tensor:
        """Map images (B, C, H, W), sides multiples of 8, to refined features (B, H, W, 2 dim).

        Args:
            x: The images.
            shared: What every block gets besides the features.
            before_upsampling: Changes the features (B, H, W, C) that leave the level below
                ``level``, 3 to 1.
            before_refinement: Changes the features (B, H, W, C) that leave the decoder.
        """
        e1 = self.encoder_level1(self.patch_embed(to_map(x)), *shared)
        e2 = self.encoder_level2(self.down1_2(e1), *shared)
        e3 = self.encoder_level3(self.down2_3(e2), *shared)
        y = self.latent(self.down3_4(e3), *shared)
        y = torch.cat((self.up4_3(before_upsampling(y, 3)), e3), dim=-1)
        y = self.decoder_level3(self.reduce_chan_level3(y), *shared)
        y = torch.cat((self.up3_2(before_upsampling(y, 2)), e2), dim=-1)
        y = self.decoder_level2(self.reduce_chan_level2(y), *shared)
        y = torch.cat((self.up2_1(before_upsampling(y, 1)), e1), dim=-1)
        y = before_refinement(self.decoder_level1(y, *shared))
        refined: Tensor = self.refinement(y, *shared)
        return refined


class UNet(UNetLevels):
    """Predicts the difference to the image.

    A subclass may change the features before each upsampling, see :meth:`before_upsampling`.

    Args:
        sizes: As in :class:`UNetLevels`, like the others.
        patch_embed: Maps the image, as (B, H, W, C), to the features of level 1.
        block: Builds the blocks of all levels.
        latent_out: Channels that :meth:`before_upsampling` returns for the latent level.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
    """

    channels_argument: ClassVar[str] = "in_channels"
    """The network's argument that sets the channels of the image."""

    def __init__(
        self,
        sizes: UNetSizes,
        patch_embed: nn.Module,
        block: BlockFactory,
        latent_out: int,
        use_checkpoint: bool,
    ) -> None:
        super().__init__(sizes, patch_embed, block, latent_out, use_checkpoint)
        self.in_channels = sizes.in_channels
        self.output = MapConv2d(2 * sizes.dim, sizes.in_channels, 3, padding=1, bias=False)

    def before_upsampling(self, y: Tensor, level: int) -> Tensor:
        """Change the features (B, H, W, C) that leave the level below ``level``, 3 to 1."""
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Sides that are not multiples of 8 are padded at bottom and right by reflection (replication
        where a side is too short), and the result is cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_channels, self.channels_argument)
        out = self.restore_padded(PADDING.pad(x), self.before_upsampling)
        return crop_to(out, height, width)

    def restore_padded(
        self,
        x: Tensor,
        before_upsampling: Callable[[Tensor, int], Tensor],
        before_refinement: Callable[[Tensor], Tensor] = lambda y: y,
    ) -> Tensor:
        """Restore images (B, C, H, W) whose sides are multiples of 8.

        Args:
            x: The images.
            before_upsampling: Called like the method of this name.
            before_refinement: Changes the features (B, H, W, C) that leave the decoder.
        """
        y = self.features(
            x, before_upsampling=before_upsampling, before_refinement=before_refinement
        )
        return x + to_image(self.output(y))


LEVELS = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
"""The four levels of the encoder, in the keys of Restormer's kind of U-Net."""


def unet_arguments(state: State, attention: str, output: str = "output") -> dict[str, Any]:
    """Read :class:`UNetSizes` off a state dict.

    Args:
        state: The state dict.
        attention: Name of the attention between channels in a block; its shape tells the heads.
        output: Name of the last convolution.
    """
    levels = [f"{level}." for level in LEVELS]
    out_channels, width = state[f"{output}.weight"].shape[:2]
    return {
        "in_channels": out_channels,
        "dim": width // 2,
        "num_blocks": [entry_count(state, level) for level in levels],
        "num_refinement_blocks": entry_count(state, "refinement."),
        "heads": [len(state[f"{level}0.{attention}.temperature"]) for level in levels],
    }


def gdfn_widths(state: State) -> list[tuple[int, int]]:
    """Return outer and hidden channels of every gated feed-forward network in a state dict."""
    return [
        (value.shape[0], value.shape[1])
        for name, value in state.items()
        if name.endswith("project_out.weight") and ".ffn" in name
    ]
