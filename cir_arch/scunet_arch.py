"""SCUNet, the Swin-Conv U-Net, as PixelArtAI widened it for the NTIRE 2024 challenge.

Zhang et al., Practical Blind Image Denoising via Swin-Conv-UNet and Data Synthesis, Machine
Intelligence Research 2023, https://arxiv.org/abs/2203.13278; Yang et al., NTIRE 2024 Challenge on
Blind Enhancement of Compressed Image: Methods and Results, CVPR Workshops 2024. PixelArtAI's
release (Apache-2.0) is https://github.com/zdyshine/BasicSR-NTIRE2024-Compressed-Image, the original
https://github.com/cszn/SCUNet; the checkpoints of both load here unchanged.

Computes the same function as the releases. Differences:

- PixelArtAI's 96 channels are the default; ``dim=64, head_dim=32, config=[4] * 7`` is the original.
- Feature maps are channels last, so that nothing is transposed between the halves of a block.
- Attention needs no masks: the half windows of a shifted grid at the borders are windows of their
  own. The releases join two of them into a full window and mask one from the other.
- Biases are read from their table by strides, not by an index.
- The window size is an argument.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.attention import attend
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.drop_path import DropPath
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.receptive_field import Span, radius
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, entry_count
from cir_host.errors import UserError

STAGES = ("m_down1", "m_down2", "m_down3", "m_body", "m_up3", "m_up2", "m_up1")
LEVEL_OF_STAGE = (0, 1, 2, 3, 2, 1, 0)
"""How many times the map has been halved in each stage."""
BIAS_TABLE = ".trans_block.msa.relative_position_params"
"""Suffix of the names of the attention's bias tables."""


class MapConvTranspose2d(nn.ConvTranspose2d):
    """``ConvTranspose2d`` on maps (B, H, W, C), same parameters."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C')."""
        return to_map(super().forward(to_image(x), output_size))


class WindowMSA(nn.Module):
    """Multi-head self-attention in windows; every second block's grid is shifted by half a window.

    Liu et al., Swin Transformer, ICCV 2021, eq. 4. The biases are a table (heads, row, column) of
    distances from key to query. At the borders the shifted grid leaves halves and quarters of
    windows, each of which is a window of its own.
    """

    def __init__(self, channels: int, heads: int, window_size: int, shifted: bool) -> None:
        super().__init__()
        self.heads = heads
        self.window_size = window_size
        self.shifted = shifted
        distances = 2 * window_size - 1
        self.relative_position_params = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(heads, distances, distances), std=0.02)
        )
        self.embedding_layer = nn.Linear(channels, 3 * channels)
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        size, half = self.window_size, self.window_size // 2
        if not self.shifted:
            return self._attend(x, size, size)
        x = x.roll((-half, -half), dims=(1, 2))  # whole windows first, then both borders
        bands = [
            torch.cat(
                [
                    self._attend(part, rows, columns)
                    for part, columns in self._split_last(band, 2, size, half)
                ],
                dim=2,
            )
            for band, rows in self._split_last(x, 1, size, half)
        ]
        return torch.cat(bands, dim=1).roll((half, half), dims=(1, 2))

    @staticmethod
    def _split_last(x: Tensor, axis: int, size: int, half: int) -> list[tuple[Tensor, int]]:
        """Split a rolled map into whole windows and the last one, with their sides on the axis."""
        rest = x.shape[axis] - size
        return [(x.narrow(axis, 0, rest), size), (x.narrow(axis, rest, size), half)]

    def _attend(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Attend in windows of rows x columns."""
        if not x.numel():  # a map of one window has no others
            return x
        batch, height, width, channels = x.shape
        grid = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
        grid = grid.transpose(2, 3)
        tokens = grid.reshape(-1, rows * columns, channels)
        q, k, v = self.embedding_layer(tokens).chunk(3, dim=-1)
        out = self.linear(attend(q, k, v, self._bias(rows, columns), self.heads))
        merged: Tensor = out.reshape(grid.shape).transpose(2, 3).reshape(x.shape)
        return merged

    def _bias(self, rows: int, columns: int) -> Tensor:
        """Biases (1, heads, N, N) of a window: entry row of query - row of key, columns alike."""
        # Windows of the flipped table run over keys; in reverse order they belong to the queries.
        table = self.relative_position_params.flip(1, 2)
        for axis, side in ((1, rows), (2, columns)):
            table = table.narrow(axis, self.window_size - side, 2 * side - 1).unfold(axis, side, 1)
        return table.flip(1, 2).flatten(3).flatten(1, 2).unsqueeze(0)


class SwinBlock(nn.Module):
    """Window attention, then a two-layer network, each behind a norm and added to its input."""

    def __init__(
        self, channels: int, heads: int, window_size: int, shifted: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(channels)
        self.msa = WindowMSA(channels, heads, window_size, shifted)
        self.ln2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        x = x + self.drop_path(self.msa(self.ln1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.ln2(x)))
        return out


class SwinConvBlock(nn.Module):
    """One half of the channels through convolutions, one through a Swin block (SCUNet, fig. 2)."""

    def __init__(
        self, channels: int, head_dim: int, window_size: int, shifted: bool, drop_path: float
    ) -> None:
        super().__init__()
        half = channels // 2
        self.trans_block = SwinBlock(half, half // head_dim, window_size, shifted, drop_path)
        self.conv1_1 = MapConv2d(channels, channels, 1)
        self.conv1_2 = MapConv2d(channels, channels, 1)
        self.conv_block = nn.Sequential(
            MapConv2d(half, half, 3, padding=1, bias=False),
            nn.ReLU(),
            MapConv2d(half, half, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        local, distant = self.conv1_1(x).chunk(2, dim=-1)
        local = local + self.conv_block(local)
        out: Tensor = x + self.conv1_2(torch.cat((local, self.trans_block(distant)), dim=-1))
        return out


@network(
    paper="[Zhang et al., MIR 2023](https://arxiv.org/abs/2203.13278), widened by the PixelArtAI"
    " team of the challenge",
    gmacs=58.0,
    small={"config": (2, 1, 2, 2, 1, 2, 2), "dim": 8, "head_dim": 2, "window_size": 4},
    weights=(
        Weights(
            "https://github.com/zdyshine/BasicSR-NTIRE2024-Compressed-Image"
            "/releases/tag/checkpoints",
            "net_g_ema_68000.pth (name inferred from the release's code)",
            "params_ema",
            "Apache-2.0",
            "colour JPEG of quality 10 to 71, NTIRE 2024",
        ),
        Weights(
            "https://github.com/cszn/KAIR/releases/tag/v1.0",
            "scunet_color_real_psnr.pth, scunet_color_real_gan.pth (64 channels)",
            "state dict",
            "Apache-2.0",
            "noise in real photographs",
        ),
    ),
    in_spandrel=lambda arguments: arguments.get("head_dim") == 32,
)
class SCUNet(RestorationNetwork):
    """U-Net of four levels of Swin-Conv blocks, joined by sums.

    No skip connection adds the image. The defaults give PixelArtAI's published network.

    Args:
        in_nc: Channels of input and output image.
        config: Blocks of the seven stages: three down, the body, three up.
        dim: Channels of level 1; the levels below have 2, 4 and 8 times as many. Half of them go
            through attention.
        drop_path_rate: Stochastic depth in training: rate of the last block; it rises from 0 at the
            first block.
        input_resolution: Side of the training images. Blocks of a level whose maps would then be no
            larger than a window shift no windows, whatever the size of the image at hand.
        head_dim: Channels of an attention head.
        window_size: Side of the attention windows in pixels of their level; even.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        in_nc: int = 3,
        config: Sequence[int] = (4, 4, 6, 8, 6, 6, 4),
        dim: int = 96,
        drop_path_rate: float = 0.0,
        input_resolution: int = 256,
        head_dim: int = 48,
        window_size: int = 8,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(config, dim, head_dim, window_size)
        self.in_channels = in_nc
        self.config = tuple(config)
        self.window_size = window_size
        self.padding = PaddingRule(8 * window_size, "replicate")
        self.shifts_windows = tuple(
            input_resolution // 2**level > window_size for level in LEVEL_OF_STAGE
        )
        rates = iter(torch.linspace(0, drop_path_rate, sum(config), device="cpu").tolist())

        def blocks(stage: int) -> list[nn.Module]:
            channels = dim * 2 ** LEVEL_OF_STAGE[stage]
            return [
                SwinConvBlock(channels, head_dim, window_size, self._shifts(stage, i), next(rates))
                for i in range(config[stage])
            ]

        def chain(*modules: nn.Module) -> BlockChain:
            return BlockChain(*modules, use_checkpoint=use_checkpoint)

        def down(stage: int) -> BlockChain:
            channels = dim * 2**stage
            return chain(*blocks(stage), MapConv2d(channels, 2 * channels, 2, stride=2, bias=False))

        def up(stage: int) -> BlockChain:
            channels = dim * 2 ** LEVEL_OF_STAGE[stage]
            return chain(
                MapConvTranspose2d(2 * channels, channels, 2, stride=2, bias=False), *blocks(stage)
            )

        self.m_head = nn.Sequential(MapConv2d(in_nc, dim, 3, padding=1, bias=False))
        self.m_down1, self.m_down2, self.m_down3 = down(0), down(1), down(2)
        self.m_body = chain(*blocks(3))
        self.m_up3, self.m_up2, self.m_up1 = up(4), up(5), up(6)
        self.m_tail = nn.Sequential(MapConv2d(dim, in_nc, 3, padding=1, bias=False))

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        tables = [name for name in state if name.endswith(BIAS_TABLE)]
        if "m_head.0.weight" not in state or not tables:
            return None
        dim, in_nc = state["m_head.0.weight"].shape[:2]
        heads, distances, _ = state[tables[0]].shape
        level = LEVEL_OF_STAGE[STAGES.index(tables[0].partition(".")[0])]
        return {
            # input_resolution: cannot be deduced. drop_path_rate: for training only.
            "in_nc": in_nc,
            "config": [entry_count(state, f"{stage}.", ".trans_block.") for stage in STAGES],
            "dim": dim,
            "head_dim": dim * 2**level // (2 * heads),
            "window_size": (distances + 1) // 2,
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=self.padding.multiple,
            min_size=1,
            scale=1,
            halo=radius(self._input_of, self.padding.multiple),
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=self.padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Sides that are not multiples of 64 (8 windows) are padded at bottom and right by
        replication, and the result is cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_channels, "in_nc")
        x = to_map(self.padding.pad(x))
        x1 = self.m_head(x)
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        y = self.m_up3(self.m_body(x4) + x4)
        y = self.m_up2(y + x3)
        y = self.m_up1(y + x2)
        return crop_to(to_image(self.m_tail(y + x1)), height, width)

    def _shifts(self, stage: int, block: int) -> bool:
        return self.shifts_windows[stage] and block % 2 == 1

    def _input_of(self, output: Span) -> Span:
        """Return the span of the image that a span of the output depends on."""
        span = output.convolutions(1)
        for stage in reversed(range(len(STAGES))):
            if stage < 3:
                span = span.reduction(2)
            for block in reversed(range(self.config[stage])):
                start = self.window_size // 2 if self._shifts(stage, block) else 0
                span = span.convolutions(2).union(span.windows(self.window_size, start))
            if stage > 3:
                span = span.enlargement(2)
        return span.convolutions(1)


def _check_arguments(config: Sequence[int], dim: int, head_dim: int, window_size: int) -> None:
    if len(config) != len(LEVEL_OF_STAGE):
        raise UserError(
            f"config: {list(config)} has {len(config)} numbers; give seven, the blocks of the "
            f"three stages down, the body and the three stages up"
        )
    if dim % (2 * head_dim):
        raise UserError(
            f"dim: half of {dim} channels cannot be cut into heads of {head_dim}; "
            f"give a dim that is a multiple of twice head_dim"
        )
    if window_size % 2:
        raise UserError(
            f"window_size: {window_size} is odd; give an even number, for shifts by half"
        )
