"""JDEC, a JPEG decoder that restores: from the coefficients of a file, not from its pixels.

Han et al., JDEC: JPEG Decoding via Enhanced Continuous Cosine Coefficients, CVPR 2024,
https://arxiv.org/abs/2404.05558. The authors' release (BSD-3-Clause) is
https://github.com/WooKyoungHan/JDEC; its checkpoint loads here unchanged.

Computes the same function as the release on images of 112 x 112 pixels and of other multiples of
112 where the release counts pixels exactly. Differences:

- The input is one tensor like an image, see :mod:`cir_arch.layers.jpeg_planes`, and the network
  scales the coefficients itself.
- Any size: blocks are mirrored as those of a mirrored picture, up to the next multiple of 112.
- Pixels within a token are counted in integers. The release computes them from coordinates in
  float32, which fails at some sizes, such as 336 rows.
- Without gradients, the layers at the size of the image run in strips, which changes no value and
  saves 2 GB per megapixel and layer.
- Indices and masks that the release's checkpoint holds besides are ignored.
"""

import math
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from cir_arch.facts import NetworkFacts
from cir_arch.layers.argument_checks import check_channels, check_groups
from cir_arch.layers.bands import Band, joined
from cir_arch.layers.blocks import BlockChain, ResidualGroup
from cir_arch.layers.convolution import MapConv2d
from cir_arch.layers.dct import BLOCK, dct_matrix
from cir_arch.layers.initialization import init_linear_layers
from cir_arch.layers.jpeg_planes import SQUARE, Blocks, mirrored_to, split
from cir_arch.layers.padding import crop_to
from cir_arch.layers.swin_v2 import SwinV2Block
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, drop_entries, entry_count, ratio
from cir_host.errors import UserError

WINDOW = 7
"""Side of the windows in tokens."""

TOKEN = 4
"""Side of a token in pixels."""

MULTIPLE = math.lcm(WINDOW * TOKEN, SQUARE)
"""Sides are extended to multiples of this."""

_LOWEST, _HIGHEST = -1024, 1016
"""Coefficients are clamped to this, and mapped to [-1, 1]."""

_COMPUTED = r".*\.(relative_coords_table|relative_position_index|attn_mask)$"
"""Names of the release's buffers, which follow from the size of the windows."""

_STRIP = 2**22
"""Values of a map at the size of the image that are computed at once: 16 MB in float32."""


class _Embedding(nn.Module):
    """Maps the coefficients of 4 x 4 pixels to features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(_count(TOKEN) + 2 * _count(TOKEN // 2), channels))
        self.norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, H, W, 24) to (B, H, W, C)."""
        out: Tensor = self.norm(self.projection(tokens))
        return out


class _Unused(nn.Module):
    """A norm that the published checkpoint holds, and which the published network never runs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)


class _Chain(nn.Module):
    """Holds blocks under the key of the published checkpoint."""

    def __init__(self, blocks: BlockChain) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        out: Tensor = self.blocks(x)
        return out


class _Encoder(nn.Module):
    """From tokens to features; the names are those of the published checkpoint."""

    def __init__(
        self,
        channels: int,
        depth: int,
        depths: tuple[int, ...],
        heads: int,
        mlp_ratio: float,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()

        def chain(count: int) -> BlockChain:
            blocks = (
                SwinV2Block(
                    channels,
                    heads,
                    WINDOW,
                    shifted=index % 2 == 1,
                    mlp_ratio=mlp_ratio,
                    drop_path=0.0,
                )
                for index in range(count)
            )
            return BlockChain(*blocks, use_checkpoint=use_checkpoint)

        self.patch_embed = _Embedding(channels)
        self.patch_embed_deep = _Unused(channels)
        self.layers = nn.ModuleList([_Chain(chain(depth))])
        self.layers_RSTB = nn.ModuleList(ResidualGroup(channels, chain(n)) for n in depths)
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = MapConv2d(channels, channels, 3, padding=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, H, W, 24) to (B, H, W, C); H and W are multiples of the window."""
        x = self.patch_embed(tokens)
        for chain in self.layers:
            x = chain(x)
        shallow = x = self.norm(x)
        for group in self.layers_RSTB:
            x = group(x)
        out: Tensor = self.conv_after_body(self.norm(x)) + shallow
        return out


class _Decoder(nn.Module):
    """Layers at the size of the image, pixel by pixel."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                layer
                for _ in range(3)
                for layer in (MapConv2d(channels, channels, 1), nn.ReLU(inplace=True))
            ),
            MapConv2d(channels, out_channels, 1),
        )


@network(
    paper="[Han et al., CVPR 2024](https://arxiv.org/abs/2404.05558), from the DCT coefficients of"
    " JPEG files",
    gmacs=160.80,
    small={
        "embed_dim": 16,
        "depth": 2,
        "depths": (2, 1),
        "num_heads": 2,
        "hidden": 24,
        "zero_start": False,
    },
    weights=(
        Weights(
            "https://github.com/WooKyoungHan/JDEC",
            "one file (Google Drive)",
            "model",
            "BSD-3-Clause",
            "colour JPEGs of all qualities, 4:2:0",
        ),
    ),
    unused_parameters=r"encoder_dct\.patch_embed_deep\..*",
)
class JDEC(RestorationNetwork):
    """Features of the coefficients, then sums of cosines whose frequencies are learned.

    Args:
        embed_dim: Channels of the features.
        depth: Blocks before the groups.
        depths: Blocks of each group.
        num_heads: Attention heads of the blocks.
        mlp_ratio: Hidden over outer channels of the feed-forward networks.
        hidden: Cosines per pixel, and channels of the layers that turn them into the image.
        zero_start: Whether new weights of the blocks before the groups let their input pass
            unchanged, as published.
        use_checkpoint: Gradient checkpointing: recompute each block, and the layers at the size of
            the image, in the backward pass.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    input_kind = "coefficients"

    def __init__(
        self,
        embed_dim: int = 256,
        depth: int = 6,
        depths: tuple[int, ...] = (6,) * 5,
        num_heads: int = 8,
        mlp_ratio: float = 2.0,
        hidden: int = 512,
        zero_start: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        if depth < 1:
            raise UserError(f"depth: {depth} blocks are too few; give 1 or more")
        check_groups(embed_dim, depths, [num_heads] * len(depths))
        check_channels(hidden=hidden, mlp_ratio=int(embed_dim * mlp_ratio))
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.encoder_dct = _Encoder(
            embed_dim, depth, tuple(depths), num_heads, mlp_ratio, use_checkpoint
        )
        self.coef = _two_convolutions(embed_dim, hidden)
        self.freq = _two_convolutions(embed_dim, 2 * hidden)
        self.qmapp = nn.Conv2d(2 * _count(BLOCK), hidden, 1)
        self.dequantizator = _Decoder(hidden, 3)
        self.apply(init_linear_layers)
        if zero_start:
            for block in self.encoder_dct.layers.modules():
                if isinstance(block, SwinV2Block):
                    nn.init.zeros_(block.norm1.weight)
                    nn.init.zeros_(block.norm2.weight)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        first, base = "encoder_dct.layers.0.blocks.", "encoder_dct.layers_RSTB."
        if not {"qmapp.weight", f"{first}0.attn.logit_scale"} <= state.keys():
            return None
        groups = [f"{base}{index}" for index in range(entry_count(state, base))]
        embed_dim = len(state["encoder_dct.norm.weight"])
        return {
            # zero_start: for new weights only
            "embed_dim": embed_dim,
            "depth": entry_count(state, first),
            "depths": [entry_count(state, f"{name}.residual_group.blocks.") for name in groups],
            "num_heads": len(state[f"{first}0.attn.logit_scale"]),
            "mlp_ratio": ratio([(embed_dim, len(state[f"{first}0.mlp.fc1.weight"]))], 2.0),
            "hidden": len(state["qmapp.weight"]),
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=MULTIPLE,
            min_size=SQUARE,
            scale=1,
            halo=None,
            in_channels=3,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            input_kind=self.input_kind,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images from planes of coefficients; RGB in [0, 1], not clamped.

        Args:
            x: (B, 3, H, W), see :mod:`cir_arch.layers.jpeg_planes`; H and W are multiples of 16.

        Raises:
            UserError: If the input is none of such planes.
        """
        height, width = x.shape[-2:]
        blocks = split(x, "JDEC")
        rows, columns = (-(-side // MULTIPLE) * MULTIPLE // BLOCK for side in (height, width))
        features = self.encoder_dct(_tokens(blocks, rows, columns))
        # (B, 1, 1, C): one factor per image and cosine
        steps = _scaled(blocks.tables).reshape(len(x), -1, 1, 1)
        factors = self.qmapp(steps).permute(0, 2, 3, 1)
        waves = torch.cat((self.coef(features) * factors, self.freq(features)), dim=-1)
        return crop_to(self._image(waves), height, width) + 0.5

    def _image(self, waves: Tensor) -> Tensor:
        """Sum the waves of each token, (B, H, W, 3 C), to pixels around 0, (B, 3, 4 H, 4 W)."""
        if is_grad_enabled() or torch.compiler.is_compiling():
            recomputed = self.use_checkpoint and is_grad_enabled()
            pixels = (
                checkpoint(self._pixels, waves, use_reentrant=False)
                if recomputed
                else self._pixels(waves)
            )
        else:
            batch, rows, columns, channels = waves.shape
            at_once = max(1, _STRIP // (batch * columns * channels // 3 * TOKEN**2))
            parts = [Band(waves[:, i : i + at_once], 0, 0) for i in range(0, rows, at_once)]
            pixels = joined(lambda strip: self._pixels(strip.rows), parts)
        squares = pixels.reshape(*pixels.shape[:3], TOKEN, TOKEN, -1).permute(0, 5, 1, 3, 2, 4)
        return squares.flatten(4, 5).flatten(2, 3)

    def _pixels(self, waves: Tensor) -> Tensor:
        """Return the pixels of each token, (B, H, W, 48), from its waves."""
        amplitude, down, across = waves.chunk(3, dim=-1)
        place = torch.arange(TOKEN, device=waves.device, dtype=waves.dtype)
        phase = (math.pi / (2 * TOKEN) * (2 * place + 1))[:, None]
        rows = torch.cos(down[..., None, :] * phase) * amplitude[..., None, :]
        columns = torch.cos(across[..., None, :] * phase)
        values = rows[..., :, None, :] * columns[..., None, :, :]
        out: Tensor = self.dequantizator.layers(values)
        return out.flatten(3)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        drop_entries(state_dict, prefix, _COMPUTED)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _two_convolutions(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        MapConv2d(channels, out_channels, 3, padding=1),
        nn.ReLU(inplace=True),
        MapConv2d(out_channels, out_channels, 3, padding=1),
    )


def _tokens(blocks: Blocks, rows: int, columns: int) -> Tensor:
    """Return the coefficients of every 4 x 4 pixels, (B, 2 rows, 2 columns, 24).

    Args:
        blocks: Of the JPEG.
        rows: Blocks of luma after the extension by mirroring.
        columns: The same.
    """
    luma = mirrored_to(blocks.luma, rows, columns)
    chroma = mirrored_to(blocks.chroma, rows // 2, columns // 2)
    luma, chroma = (_scaled(part.clamp(_LOWEST, _HIGHEST)) for part in (luma, chroma))
    return torch.cat((_in_tokens(luma, TOKEN), _in_tokens(chroma, TOKEN // 2)), dim=-1)


def _in_tokens(blocks: Tensor, side: int) -> Tensor:
    """Share the coefficients of blocks (B, C, R, S, 8, 8) between tokens; (B, H, W, C side^2).

    The transform of a block becomes those of its parts of ``side`` x ``side`` samples. As
    published, a token gets every n-th row and column of them, where n parts lie side by side, not
    the transform of its own part.
    """
    count = BLOCK // side
    small = dct_matrix(side, torch.float64)
    several = torch.kron(torch.eye(count, dtype=torch.float64), small)
    change = dct_matrix(BLOCK, torch.float64) @ several.T
    change = change.to(blocks.device, blocks.dtype)
    parts = change.T @ blocks @ change
    # channel, row and column of blocks; row and token, column and token within a block
    parts = parts.reshape(*parts.shape[:4], side, count, side, count)
    return parts.permute(0, 2, 5, 3, 7, 1, 4, 6).flatten(5).flatten(3, 4).flatten(1, 2)


def _scaled(values: Tensor) -> Tensor:
    """Map coefficients from their range to [-1, 1]; steps are mapped in the same way."""
    return (values - _LOWEST) * (2 / (_HIGHEST - _LOWEST)) - 1


def _count(side: int) -> int:
    return side * side
