"""ART, the attention retractable transformer for image restoration.

Zhang et al., Accurate Image Restoration with Attention Retractable Transformer, ICLR 2023,
https://arxiv.org/abs/2210.01427. The authors' release (Apache-2.0) is
https://github.com/gladzhang/ART; its checkpoints load here unchanged, and so do the ``network_g``
sections of its options files.

Computes the same function as the release. Differences:

- Nothing is padded and nothing is masked. The release pads each map for its windows and intervals
  and masks the padded keys; here the groups at the right and lower border are smaller instead.
- A map of one window or less is one dense window in that call only. The release then changes its
  blocks for good: every later image is processed with this window, too.
- Position biases are computed in float32 or better, so that bfloat16 and float64 weights work.
- Gradient checkpointing works.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.argument_checks import check_channels, check_groups, check_img_range
from cir_arch.layers.attention import attend
from cir_arch.layers.bands import VALUES, in_bands
from cir_arch.layers.blocks import BlockChain, ResidualGroup
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.drop_path import DropPath, drop_path_rates
from cir_arch.layers.feed_forward import MLP
from cir_arch.layers.image_range import ImageRange
from cir_arch.layers.initialization import init_linear_layers
from cir_arch.layers.padding import checked_size
from cir_arch.layers.precision import without_autocast
from cir_arch.layers.upsampling import (
    TAIL_CHANNELS,
    before_upsampling,
    check_tail,
    sub_pixel_convolutions,
    tail_of,
)
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, entry_count, ratio
from cir_host.errors import UserError

POSITION_DIVISOR = 16
"""Channels of the features over channels of the network that computes position biases."""

BIASES = 2**26
"""Position biases that are held at a time where no gradient is needed: 256 MB in float32."""

SCORES = 2**28
"""Scores of queries and keys per call on a GPU, which may store them all."""


class Groups(NamedTuple):
    """Groups of tokens of one size; the tokens of a group attend to each other."""

    tokens: Tensor
    """(groups, rows * columns), int64: where in the flattened map the tokens are, row by row."""
    rows: int
    """Of the grid that the tokens of a group form."""
    columns: int


def windows(length: int, size: int, device: torch.device) -> list[Tensor]:
    """Cut an axis into neighbours: indices (groups, members) of each size of group, (1, rest) last.

    Zhang et al., section 3.2: dense attention.
    """
    whole = length // size * size
    axis = torch.arange(length, device=device)
    return [part for part in (axis[:whole].reshape(-1, size), axis[None, whole:]) if part.numel()]


def combs(length: int, interval: int, device: torch.device) -> list[Tensor]:
    """Cut an axis into every interval-th index: (groups, members) of each size of group.

    Zhang et al., section 3.2: sparse attention. The first groups have one member more where the
    interval does not divide the length.
    """
    teeth, rest = divmod(length, interval)
    axis = torch.arange(length, device=device)
    longer = axis[:rest, None] + interval * axis[None, : teeth + 1]
    others = axis[rest:interval, None] + interval * axis[None, :teeth]
    return [part for part in (longer, others) if part.numel()]


Cut = Callable[[int, int, torch.device], list[Tensor]]


def groups_of(cut: Cut, height: int, width: int, size: int, device: torch.device) -> list[Groups]:
    """Cut a map along both axes. Every token is in one group; at most four sizes of group."""
    return [
        Groups(
            (width * rows[:, None, :, None] + columns[None, :, None, :]).flatten(2).flatten(0, 1),
            rows.shape[1],
            columns.shape[1],
        )
        for rows in cut(height, size, device)
        for columns in cut(width, size, device)
    ]


class PositionNetwork(nn.Module):
    """Computes the bias of every head for every offset of query and key on a grid."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.pos_proj = nn.Linear(2, channels)
        self.pos1, self.pos2, self.pos3 = (
            nn.Sequential(nn.LayerNorm(channels), nn.ReLU(), nn.Linear(channels, out_channels))
            for out_channels in (channels, channels, heads)
        )

    def forward(self, rows: int, columns: int) -> Tensor:
        """Return the table (heads, 2 rows - 1, 2 columns - 1), by key minus query position.

        Computed in float32 at least, under autocast as well: the offsets are not normalised.
        """
        weight = self.pos_proj.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        with without_autocast(weight):
            row, column = (  # query minus key position, as in the formula
                torch.arange(side - 1, -side, -1, device=weight.device, dtype=dtype)
                for side in (rows, columns)
            )
            y = torch.stack(torch.meshgrid(row, column, indexing="ij"), dim=-1)
            y = _linear(self.pos_proj, y)
            for norm, _, linear in (self.pos1, self.pos2, self.pos3):
                y = _linear(linear, F.relu(_normed(norm, y)))
        return y.permute(2, 0, 1)


def _linear(layer: Any, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _normed(layer: Any, x: Tensor) -> Tensor:
    return F.layer_norm(
        x, x.shape[-1:], layer.weight.to(x.dtype), layer.bias.to(x.dtype), layer.eps
    )


@dataclass
class Biases:
    """Biases (1, heads, queries, keys) of a grid, for consecutive rows of queries.

    All of them at once unless they are many, as on large maps, and no gradient is needed.
    """

    windows: Tensor
    """(heads, rows, columns, rows, columns), a view of a table: query, backwards; key."""
    rows_at_once: int
    whole: Tensor | None = None

    @classmethod
    def of(cls, table: Tensor, rows: int, columns: int) -> "Biases":
        """Take the biases of a grid from a table that may be of a larger one."""
        above, left = (table.shape[1] + 1) // 2 - rows, (table.shape[2] + 1) // 2 - columns
        table = table.narrow(1, above, 2 * rows - 1).narrow(2, left, 2 * columns - 1)
        view = table.unfold(1, rows, 1).unfold(2, columns, 1)
        if _must_not_be_split():
            rows_at_once = rows
        else:
            rows_at_once = min(max(BIASES * rows // view.numel(), 1), rows)
        biases = cls(view, rows_at_once)
        if rows_at_once == rows:
            biases.whole = biases._of_rows(0, rows)
        return biases

    def __iter__(self) -> Iterator[Tensor]:
        if self.whole is not None:
            yield self.whole
            return
        rows = self.windows.shape[1]
        for first in range(0, rows, self.rows_at_once):
            yield self._of_rows(first, min(first + self.rows_at_once, rows))

    def _of_rows(self, first: int, last: int) -> Tensor:
        rows = self.windows.shape[1]
        queries = self.windows[:, rows - last : rows - first].flip((1, 2))
        return queries.flatten(1, 2).flatten(2)[None]


def _must_not_be_split() -> bool:
    """Whether the backward pass needs all results, or the compiler handles memory itself."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


class GroupAttention(nn.Module):
    """Multi-head self-attention in groups of tokens, with biases from a position network."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.pos = PositionNetwork(channels // POSITION_DIVISOR, heads)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, biases: Biases) -> Tensor:
        """Map groups of tokens (W, N, C) to the same shape."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        parts = q.split(biases.rows_at_once * biases.windows.shape[2], dim=1)
        outs = [attend(q, k, v, bias, self.heads) for q, bias in zip(parts, biases, strict=True)]
        out: Tensor = self.proj(outs[0] if len(outs) == 1 else torch.cat(outs, dim=1))
        return out


class ARTBlock(nn.Module):
    """Attention in groups and a feed-forward network, each behind a norm and added to its input."""

    def __init__(
        self, channels: int, hidden: int, heads: int, *, is_sparse: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.is_sparse = is_sparse
        self.norm1 = nn.LayerNorm(channels)
        self.attn = GroupAttention(channels, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, hidden, channels)

    def forward(self, x: Tensor, dense: list[Groups], sparse: list[Groups]) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = x + self.drop_path(self._attended(x, sparse if self.is_sparse else dense))
        out: Tensor = x + self.drop_path(in_bands(lambda rows: self.mlp(self.norm2(rows)), x))
        return out

    def _attended(self, x: Tensor, sizes: list[Groups]) -> Tensor:
        """Attend within the groups, a few at a time where no gradient is needed."""
        tokens = x.flatten(1, 2)
        table = self.attn.pos(max(g.rows for g in sizes), max(g.columns for g in sizes))
        whole: Tensor | None = None
        for groups in sizes:
            biases = Biases.of(table, groups.rows, groups.columns)
            for places in torch.split(groups.tokens, _groups_at_once(x, groups, biases)):
                chosen = tokens.index_select(1, places.flatten())
                normed = self.norm1(chosen.reshape(-1, places.shape[1], x.shape[-1]))
                made = self.attn(normed, biases).reshape(chosen.shape)
                if whole is None:
                    whole = made.new_empty(tokens.shape)
                whole.index_copy_(1, places.flatten(), made)
        assert whole is not None  # there is at least one group
        return whole.reshape(x.shape)


def _groups_at_once(x: Tensor, groups: Groups, biases: Biases) -> int:
    if _must_not_be_split():
        return len(groups.tokens)
    heads, rows = biases.windows.shape[:2]
    if x.device.type == "cpu":
        limit, of_a_group = VALUES, groups.tokens.shape[1] * x.shape[-1]
    else:
        queries = min(biases.rows_at_once, rows) * groups.columns
        limit, of_a_group = SCORES, heads * queries * groups.tokens.shape[1]
    return max(limit // (len(x) * of_a_group), 1)


@network(
    paper="[Zhang et al., ICLR 2023](https://arxiv.org/abs/2210.01427), colour denoising by"
    " default; the network of the OldFe666 team of the challenge",
    gmacs=285.09,
    small={
        "embed_dim": 48,
        "depths": (2, 2),
        "num_heads": (2, 3),
        "interval": (4, 4),
        "upsampler": "pixelshuffle",
        "drop_path_rate": 0.0,
    },
    weights=(
        Weights(
            "https://github.com/gladzhang/ART (README, Google Drive)",
            "one file per task and setting",
            "params",
            "Apache-2.0",
            "grey JPEG of quality 10, 30 and 40; colour noise of level 15, 25 and 50;"
            " super-resolution x2, x3 and x4",
        ),
    ),
    # A softmax does not change with a number that is added to all of its scores.
    unused_parameters=r"layers\.\d+\.residual_group\.blocks\.\d+\.attn\.pos\.pos3\.2\.bias",
    untold=("window_size", "interval", "img_range"),
)
class ART(RestorationNetwork):
    """Groups of blocks whose attention alternates between windows and far-apart pixels.

    The defaults give the published network for colour noise. No weight depends on
    ``window_size`` or ``interval``, so that each setting takes the weights of every other;
    ``img_range`` must be that of the training. The published files need:

    - colour noise: the defaults;
    - grey JPEGs: ``in_chans: 1, window_size: 7, interval: [18, 18, 13, 13, 7, 7], img_range: 255``;
    - super-resolution: ``upsampler: pixelshuffle, interval: [4, 4, 4, 4, 4, 4]`` and ``upscale``;
    - ART-S, super-resolution: the same, with ``mlp_ratio: 2, interval: [8, 8, 8, 8, 8, 8]``.

    There are no published files for colour JPEGs. ``oldfe666_x1.yml`` trains this network.

    Args:
        img_size: Side of the training patches. Has no effect.
        in_chans: Channels of input and output image.
        embed_dim: Channels of the features, 16 or more.
        depths: Blocks of each group; the first one is dense, the next one sparse, and so on.
        num_heads: Attention heads of each group.
        window_size: Side of the windows of dense attention. A map whose shorter side is not longer
            than this has dense blocks only, with windows of the shorter side.
        interval: Sparse attention of each group is between pixels of this distance along rows and
            columns.
        mlp_ratio: Hidden over outer channels of the feed-forward networks.
        drop_path_rate: Stochastic depth (Huang et al., ECCV 2016): probability in training that the
            last block drops a branch of a sample; it rises from 0 at the first block.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
        upscale: Output size over input size: 1, or 1, 2, 3, 4 or 8 with ``pixelshuffle``.
        img_range: Factor of the image inside the network. Images are in [0, 1].
        upsampler: Empty: the result is added to the image. ``pixelshuffle``: the result is
            upsampled, and not added.
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
        window_size: int = 8,
        interval: Sequence[int] = (16, 16, 12, 12, 8, 8),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        use_checkpoint: bool = False,
        upscale: int = 1,
        img_range: float = 1.0,
        upsampler: Literal["", "pixelshuffle"] = "",
        resi_connection: str = "1conv",
    ) -> None:
        _check_channels(embed_dim)
        check_groups(embed_dim, depths, num_heads)
        _check_grouping(window_size, interval, len(depths))
        check_tail(upsampler, upscale, resi_connection, known=("", "pixelshuffle"))
        hidden = int(embed_dim * mlp_ratio)
        check_channels(in_chans=in_chans, mlp_ratio=hidden)
        check_img_range(img_range)
        super().__init__()
        self.in_chans = in_chans
        self.window_size = window_size
        self.interval = tuple(interval)
        self.upscale = upscale
        self.image_range = ImageRange(in_chans, img_range)

        rates = iter(drop_path_rates(sum(depths), drop_path_rate))
        self.conv_first = MapConv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim)})

        def group(depth: int, heads: int) -> ResidualGroup:
            blocks = (
                ARTBlock(embed_dim, hidden, heads, is_sparse=bool(i % 2), drop_path=rate)
                for i, rate in enumerate(islice(rates, depth))
            )
            return ResidualGroup(embed_dim, BlockChain(*blocks, use_checkpoint=use_checkpoint))

        self.layers = nn.ModuleList(map(group, depths, num_heads))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = MapConv2d(embed_dim, embed_dim, 3, padding=1)
        self.upsamples = upsampler == "pixelshuffle"
        if self.upsamples:
            self.conv_before_upsample = before_upsampling(embed_dim, TAIL_CHANNELS)
            self.upsample = sub_pixel_convolutions(TAIL_CHANNELS, upscale)
        last = TAIL_CHANNELS if self.upsamples else embed_dim
        self.conv_last = nn.Conv2d(last, in_chans, 3, padding=1)
        self.apply(init_linear_layers)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network.

        Window, interval and range are those of the published networks with these channels and this
        tail; see the class.
        """
        first = "layers.0.residual_group.blocks.0"
        if not {"conv_first.weight", f"{first}.attn.pos.pos_proj.weight"} <= state.keys():
            return None
        embed_dim, in_chans = state["conv_first.weight"].shape[:2]
        groups = [f"layers.{i}.residual_group.blocks" for i in range(entry_count(state, "layers."))]
        upsampler, upscale = tail_of(state)
        mlp_ratio = ratio([(embed_dim, len(state[f"{first}.mlp.fc1.weight"]))], 4.0)
        return {
            # img_size: without effect. drop_path_rate: for training only.
            "in_chans": in_chans,
            "embed_dim": embed_dim,
            "depths": [entry_count(state, f"{group}.") for group in groups],
            "num_heads": [len(state[f"{group}.0.attn.pos.pos3.2.weight"]) for group in groups],
            "mlp_ratio": mlp_ratio,
            "upscale": upscale,
            "upsampler": upsampler,
            **_published_setting(len(groups), in_chans, upsampler, mlp_ratio),
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=1,
            min_size=1,
            scale=self.upscale,
            halo=None,
            in_channels=self.in_chans,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1]; result (B, C, H * upscale, W * upscale).

        The result is not clamped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        checked_size(x, self.in_chans, "in_chans")
        entered = self.image_range.enter(x)
        features = to_image(self._features(to_map(entered)))
        if self.upsamples:
            out = self.conv_last(self.upsample(self.conv_before_upsample(features)))
        else:
            out = entered + self.conv_last(features)
        return self.image_range.leave(out)

    def _features(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, E)."""
        height, width = x.shape[1:3]
        shorter = min(height, width)
        dense = groups_of(windows, height, width, min(self.window_size, shorter), x.device)
        shallow: Tensor = self.conv_first(x)
        y = self.patch_embed["norm"](shallow)
        for group, interval in zip(self.layers, self.interval, strict=True):
            is_small = shorter <= self.window_size
            sparse = dense if is_small else groups_of(combs, height, width, interval, x.device)
            y = group(y, dense, sparse)
        deep: Tensor = self.conv_after_body(self.norm(y))
        return shallow + deep


def _published_setting(
    groups: int, in_chans: int, upsampler: str, mlp_ratio: float
) -> dict[str, Any]:
    """Return what the published networks of a kind have, for any number of groups."""
    if upsampler:
        interval = 8 if mlp_ratio == 2 else 4  # ART-S, ART
        return {"window_size": 8, "interval": [interval] * groups, "img_range": 1.0}
    is_grey = in_chans == 1
    intervals = (18, 13, 7) if is_grey else (16, 12, 8)
    return {
        "window_size": 7 if is_grey else 8,
        "interval": [intervals[3 * group // groups] for group in range(groups)],
        "img_range": 255.0 if is_grey else 1.0,
    }


def _check_channels(embed_dim: int) -> None:
    if embed_dim < POSITION_DIVISOR:
        raise UserError(
            f"embed_dim: {embed_dim} channels leave none for the position biases; give"
            f" {POSITION_DIVISOR} or more"
        )


def _check_grouping(window_size: int, interval: Sequence[int], groups: int) -> None:
    if window_size < 1:
        raise UserError(f"window_size: {window_size} is no side of a window; give 1 or more")
    if len(interval) != groups:
        raise UserError(
            f"interval: {list(interval)} has {len(interval)} numbers for {groups} groups (depths);"
            " give one number per group"
        )
    if min(interval) < 1:
        raise UserError(f"interval: {list(interval)} holds a number below 1; give 1 or more")
