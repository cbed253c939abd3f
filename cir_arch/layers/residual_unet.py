"""The convolutional U-Net of FBCNN and CaVE: residual blocks, strided convolutions, sums."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cir_arch.layers.padding import PaddingRule, checked_size
from cir_arch.layers.receptive_field import Span, radius
from cir_arch.layers.residual_conv import ResBlock, ResidualBranch
from cir_arch.state_dict import State, entry_count
from cir_host.errors import UserError


@dataclass(frozen=True)
class ResidualSizes:
    """Widths, depths and kind of blocks. Raises ``UserError`` if they do not fit four levels."""

    in_nc: int
    nc: Sequence[int]
    """Channels of the four levels."""
    nb: int
    """Blocks of each stage."""
    strides: Sequence[int]
    """Size of each level's predecessor over the level's size."""
    act_mode: str
    """``R``, or ``BR`` for blocks with batch norm."""
    use_checkpoint: bool
    """Recompute the blocks in the backward pass."""

    def __post_init__(self) -> None:
        for name, values, count in (("nc", self.nc, 4), ("strides", self.strides, 3)):
            if len(values) != count:
                raise UserError(f"{name}: {list(values)} has {len(values)} numbers; give {count}")

    @property
    def padding(self) -> PaddingRule:
        """To whole pixels of the lowest level."""
        return PaddingRule(math.prod(self.strides), "replicate")

    @property
    def halo(self) -> int:
        """Receptive-field radius of the decoded image, see :class:`cir_arch.facts.NetworkFacts`."""
        return radius(self._input_of, self.padding.multiple)

    def _input_of(self, output: Span) -> Span:
        """Return the span of the image that a span of the output depends on."""
        blocks = 2 * self.nb  # of two convolutions
        span = output.convolutions(1)
        for stride in self.strides:
            span = span.convolutions(blocks).enlargement(stride)
        span = span.convolutions(2 * blocks)
        for stride in reversed(self.strides):
            span = span.reduction(stride).convolutions(blocks)
        return span.convolutions(1)

    def blocks(self, level: int, block: type[ResidualBranch] = ResBlock) -> list[nn.Module]:
        """Build the blocks of one stage."""
        return [block(self.nc[level], self.act_mode, self.use_checkpoint) for _ in range(self.nb)]


class ResidualEncoder(nn.Module):
    """The encoder: three times blocks and a strided convolution, then blocks."""

    def __init__(self, sizes: ResidualSizes) -> None:
        super().__init__()
        self.sizes = sizes

        def down(level: int) -> nn.Sequential:
            wide, narrow = sizes.nc[level : level + 2]
            stride = sizes.strides[level]
            return nn.Sequential(*sizes.blocks(level), nn.Conv2d(wide, narrow, stride, stride))

        self.m_head = nn.Conv2d(sizes.in_nc, sizes.nc[0], 3, padding=1)
        self.m_down1, self.m_down2, self.m_down3 = down(0), down(1), down(2)
        self.m_body_encoder = nn.Sequential(*sizes.blocks(3))

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Pad images (B, C, H, W) and return the maps of level 1 to 4, and level 4 encoded.

        Sides that are not multiples of the strides' product are padded at bottom and right by
        replication.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        checked_size(x, self.sizes.in_nc, "in_nc")
        return self.encode_unpadded(self.sizes.padding.pad(x))

    def encode_unpadded(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of :meth:`encode` without padding.

        Each strided convolution drops the rows and columns that do not fill its stride.
        """
        x1 = self.m_head(x)
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        return x1, x2, x3, x4, self.m_body_encoder(x4)


class UpStage(nn.Sequential):
    """A transposed convolution, then blocks that all receive the same further arguments."""

    def forward(self, x: Tensor, *shared: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', s H, s W)."""
        first, *blocks = self
        x = first(x)
        for block in blocks:
            x = block(x, *shared)
        return x


class ResidualUNet(ResidualEncoder):
    """Encoder and decoder, joined by sums at each level; no skip connection adds the image.

    Args:
        sizes: Widths and depths.
        out_nc: Channels of the output.
        up_block: Class of the decoder's blocks.
    """

    def __init__(self, sizes: ResidualSizes, out_nc: int, up_block: type[ResidualBranch]) -> None:
        super().__init__(sizes)

        def up(level: int) -> UpStage:
            wide, narrow = sizes.nc[level : level + 2]
            stride = sizes.strides[level]
            return UpStage(
                nn.ConvTranspose2d(narrow, wide, stride, stride), *sizes.blocks(level, up_block)
            )

        self.m_body_decoder = nn.Sequential(*sizes.blocks(3))
        self.m_up3, self.m_up2, self.m_up1 = up(2), up(1), up(0)
        self.m_tail = nn.Conv2d(sizes.nc[0], out_nc, 3, padding=1)

    def decode(
        self,
        features: tuple[Tensor, ...],
        shared: Sequence[tuple[Tensor, ...]] = ((), (), ()),
    ) -> Tensor:
        """Make a padded image (B, C, H, W) from what :meth:`encode` returned.

        Args:
            features: The five maps.
            shared: Further arguments of the decoder's blocks, for level 3, 2 and 1.
        """
        x1, x2, x3, x4, encoded = features
        y = self.m_up3(self.m_body_decoder(encoded) + x4, *shared[0])
        y = self.m_up2(y + x3, *shared[1])
        y = self.m_up1(y + x2, *shared[2])
        out: Tensor = self.m_tail(y + x1)
        return out


def residual_sizes(state: State) -> dict[str, Any]:
    """Read :class:`ResidualSizes` off a state dict, without ``use_checkpoint``."""
    blocks = entry_count(state, "m_body_encoder.")
    downs = [state[f"m_down{level}.{blocks}.weight"] for level in (1, 2, 3)]
    return {
        "in_nc": state["m_head.weight"].shape[1],
        "nc": [downs[0].shape[1], *(len(down) for down in downs)],
        "nb": blocks,
        "act_mode": "BR" if "m_body_encoder.0.res.1.running_mean" in state else "R",
        "strides": [down.shape[-1] for down in downs],
    }


def residual_arguments(state: State) -> dict[str, Any]:
    """Read the arguments of FBCNN and CaVE off a state dict, with or without a decoder."""
    sizes = residual_sizes(state)
    out_nc = len(state["m_tail.weight"]) if "m_tail.weight" in state else sizes["in_nc"]
    return {
        **sizes,
        "out_nc": None if out_nc == sizes["in_nc"] else out_nc,
        "quality_nc": len(state[f"qf_pred.{sizes['nb'] + 2}.weight"]),
    }
