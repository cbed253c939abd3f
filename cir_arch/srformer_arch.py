"""SRFormer, SwinIR with large windows, whose keys and values are permuted into fewer tokens.

Zhou et al., SRFormer: Permuted Self-Attention for Single Image Super-Resolution, ICCV 2023,
https://arxiv.org/abs/2303.09735. The authors' release (CC BY-NC 4.0) is
https://github.com/HVision-NKU/SRFormer; its checkpoints, which are for non-commercial use, load
here unchanged, and so do the ``network_g`` sections of its options files.

Computes the same function as the release. Differences:

- The network of the Xhs-IAG team of the RAIM challenge, which keeps the size, is the default.
- Tables of positions and masks are not in the state dict. Those that a file holds are ignored.
- Any image size from 1 x 1 on works. The release pads by reflection, which fails where a side is
  shorter than its padding.
- Every second block shifts its windows. The release shifts none if ``img_size`` is one window.
- A bias is cut out of a small table as overlapping slices; four masks serve all windows of a map.
  Without gradients, windows and feed-forward networks run in bands of rows.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from math import isqrt
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.layers.attention import attend
from cir_arch.layers.bands import in_linked_bands
from cir_arch.layers.blocks import BlockChain, ResidualGroup
from cir_arch.layers.convolution import MapConv2d
from cir_arch.layers.drop_path import DropPath, drop_path_rates
from cir_arch.layers.receptive_field import Span
from cir_arch.layers.stripe_attention import Cells, Last, in_cells, seam_mask, windows
from cir_arch.layers.swin_network import (
    SwinNetwork,
    Upsampler,
    check_arguments,
    group_arguments,
)
from cir_arch.layers.upsampling import check_tail
from cir_arch.layers.window_attention import bias_table, merge
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State
from cir_host.errors import UserError


class PSA(nn.Module):
    """Permuted self-attention (Zhou et al., section 3.2): keys and values of 2 x 2 pixels.

    A pixel has a quarter of the channels of a key; the heads are cut after four pixels were joined.
    """

    def __init__(self, channels: int, heads: int, window_size: int, shifted: bool) -> None:
        super().__init__()
        self.heads = heads
        self.queries = windows(window_size, shifted)
        half, shift = window_size // 2, self.queries.shifts[0]
        # a key across the seam counts as one of the wrapped pixels
        self.keys = Cells((half, half), (-(-shift // 2), -(-shift // 2)))
        self.relative_position_bias_table = bias_table((2 * half - 1) ** 2, heads)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, channels // 2)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        bias = self._bias()

        def of_part(last: Last) -> Callable[[Tensor], Tensor]:
            masked = bias
            if any(last):
                masked = bias + seam_mask(self.queries, self.keys, last, bias)
            flat = masked.flatten(3).flatten(1, 2)[None]

            def of_rows(rows: Tensor) -> Tensor:
                tokens = self.queries.cut(rows)
                keys, values = self._joined(self.kv(tokens))
                out = self.proj(attend(self.q(tokens), keys, values, flat, self.heads))
                return merge(out, self.queries.sides, *rows.shape[1:3])

            return of_rows

        return in_cells(of_part, (x,), (self.queries,))

    def _bias(self) -> Tensor:
        """Return the biases (heads, M, M, M / 2, M / 2) of rows and columns of queries and keys."""
        half = self.keys.sides[0]
        table = self.relative_position_bias_table.t().reshape(-1, 2 * half - 1, 2 * half - 1)
        # of query plus backward key: query minus key
        slices = table.unfold(1, half, 1).unfold(2, half, 1).flip((3, 4))
        pixels = slices[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1, -1)
        return pixels.reshape(-1, *self.queries.sides, half, half)

    def _joined(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Join the four pixels of each cell: (W, M * M, C / 2) to twice (W, M * M / 4, C)."""
        half = self.keys.sides[0]
        pixels = kv.reshape(len(kv), half, 2, half, 2, 2, -1)
        keys, values = pixels.permute(5, 0, 1, 3, 2, 4, 6).reshape(2, len(kv), half * half, -1)
        return keys, values


class ConvFFN(nn.Module):
    """Feed-forward network with a depthwise 5x5 convolution (Zhou et al., section 3.3)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        conv = MapConv2d(hidden, hidden, 5, padding=2, groups=hidden)
        self.dwconv = nn.Sequential(OrderedDict(depthwise_conv=nn.Sequential(conv)))
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Map (B, H, W, C), normalised first, to the same shape."""
        return in_linked_bands(
            lambda rows: F.gelu(self.fc1(norm(rows))), self._contracted, x, multiple=4, halo=2
        )

    def _contracted(self, y: Tensor) -> Tensor:
        out: Tensor = self.fc2(y + F.gelu(self.dwconv(y)))
        return out


class SRFormerBlock(nn.Module):
    """PSA and ConvFFN, each behind a norm and added to its input."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        heads: int,
        window_size: int,
        *,
        shifted: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = PSA(channels, heads, window_size, shifted)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = ConvFFN(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(x, self.norm2))
        return out

    def input_of(self, output: Span) -> Span:
        """Return the pixels that a span of the output depends on, along an axis."""
        queries = self.attn.queries
        return output.convolutions(2).windows(queries.sides[0], queries.shifts[0])


@network(
    paper="[Zhou et al., ICCV 2023](https://arxiv.org/abs/2303.09735); by default the network of"
    " the Xhs-IAG team of the RAIM challenge",
    gmacs=299.24,
    small={
        "embed_dim": 24,
        "depths": (2, 1),
        "num_heads": (2, 3),
        "window_size": 4,
        "mlp_ratio": 2.0,
        "upsampler": "pixelshuffle",
        "drop_path_rate": 0.0,
    },
    weights=(
        Weights(
            "https://github.com/HVision-NKU/SRFormer (README, Google Drive)",
            "one file per task and scale",
            "params; params_ema for real super-resolution",
            "CC BY-NC 4.0 (non-commercial use only)",
            "super-resolution x2, x3 and x4, also light; real super-resolution x4; not JPEG",
        ),
    ),
)
class SRFormer(SwinNetwork, RestorationNetwork):
    """Groups of blocks with permuted self-attention, then the layers that enlarge the image.

    The defaults give the network of the Xhs-IAG team of the RAIM challenge, which keeps the size
    and has no published weights. The published files, for non-commercial use (CC BY-NC 4.0), need:

    - classical super-resolution: ``window_size: 22, mlp_ratio: 2, upsampler: pixelshuffle`` and
      ``upscale``;
    - light: ``window_size: 16, embed_dim: 60, depths: [6, 6, 6, 6], num_heads: [6, 6, 6, 6],
      mlp_ratio: 2, upsampler: pixelshuffledirect`` and ``upscale``;
    - real super-resolution: ``window_size: 24, mlp_ratio: 2, upsampler: nearest+conv, upscale: 4``.

    Args:
        img_size: Side of the training patches. Has no effect.
        in_chans: Channels of input and output image.
        embed_dim: Channels of the features, a multiple of 4.
        depths: Blocks of each group; every second one has shifted windows.
        num_heads: Attention heads of each group.
        window_size: Side of the attention windows in input pixels, an even number.
        mlp_ratio: Hidden over outer channels of the feed-forward networks.
        drop_path_rate: Stochastic depth (Huang et al., ECCV 2016): probability in training that the
            last block drops a branch of a sample; it rises from 0 at the first block.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
        upscale: Output size over input size: 1 without upsampler, 4 with ``nearest+conv``; 1, 2, 3,
            4 or 8 with ``pixelshuffle``.
        img_range: Factor of the image inside the network. Images are in [0, 1].
        upsampler: The layers behind the groups. Empty: the result is added to the image.
        resi_connection: ``1conv``, the only one published.

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
        window_size: int = 32,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        use_checkpoint: bool = False,
        upscale: int = 1,
        img_range: float = 1.0,
        upsampler: Upsampler = "",
        resi_connection: str = "1conv",
    ) -> None:
        if window_size < 2 or window_size % 2:
            raise UserError(
                f"window_size: {window_size} cannot be cut into 2 x 2 pixels; give an even number"
            )
        check_arguments(
            in_chans=in_chans,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            img_range=img_range,
        )
        if embed_dim % 4:
            raise UserError(
                f"embed_dim: {embed_dim} channels of a key cannot come from four pixels; give a"
                " multiple of 4"
            )
        check_tail(
            upsampler,
            upscale,
            resi_connection,
            known=("", "pixelshuffle", "pixelshuffledirect", "nearest+conv"),
        )
        rates = iter(drop_path_rates(sum(depths), drop_path_rate))
        hidden = int(embed_dim * mlp_ratio)

        def group(depth: int, heads: int) -> ResidualGroup:
            blocks = (
                SRFormerBlock(
                    embed_dim, hidden, heads, window_size, shifted=bool(i % 2), drop_path=rate
                )
                for i, rate in enumerate(islice(rates, depth))
            )
            return ResidualGroup(embed_dim, BlockChain(*blocks, use_checkpoint=use_checkpoint))

        super().__init__(
            nn.Sequential(OrderedDict(norm=nn.LayerNorm(embed_dim))),
            list(map(group, depths, num_heads)),
            in_chans=in_chans,
            embed_dim=embed_dim,
            window_size=window_size,
            upscale=upscale,
            img_range=img_range,
            upsampler=upsampler,
        )

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        attention = "layers.{}.residual_group.blocks.0.attn"
        kv = f"{attention.format(0)}.kv.weight"
        found = group_arguments(state, 4.0) if kv in state else None
        if found is None:
            return None
        tables = [
            state[f"{attention.format(i)}.relative_position_bias_table"]
            for i in range(len(found["depths"]))
        ]
        return {
            # img_size: without effect. drop_path_rate: for training only. img_range: 1 in all
            # published networks.
            **found,
            "num_heads": [table.shape[1] for table in tables],
            "window_size": isqrt(len(tables[0])) + 1,
        }
