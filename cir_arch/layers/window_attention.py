"""Attention in windows, with learned relative position biases (Swin Transformer, HAT)."""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.layers.attention import attend
from cir_arch.layers.bands import in_bands
from cir_host.errors import UserError

MASKED = -100.0
"""Added to the score of two tokens that are neighbours only because of the cyclic shift."""


class PositionIndices(NamedTuple):
    """The tables that all blocks of a network share; index tables are int64."""

    self_attention: Tensor
    """(N, N): row of the bias table for query and key of a window of N tokens."""
    overlap: Tensor
    """(N, N'): the same for a window and its extended window of N' tokens; may be negative."""
    shift_masks: Tensor
    """(4, 1, 1, N, N), float32, for maps that are shifted by half a window; see
    :func:`shift_masks`."""


def extended_window(window_size: int, overlap_ratio: float) -> int:
    """Return the side of the window that keys and values come from in overlapping attention."""
    return window_size + int(window_size * overlap_ratio)


def self_attention_index(window_size: int) -> Tensor:
    """Return the index of query minus key position, (N, N) with N = window_size ** 2.

    Liu et al., Swin Transformer, ICCV 2021, section 3.2.
    """
    return _relative_index(
        -_offsets(window_size, window_size) + window_size - 1, 2 * window_size - 1
    )


def overlap_index(window_size: int, extended_size: int) -> Tensor:
    """Return the index of key minus query position, (N, N') with N' = extended_size ** 2.

    Negative values count from the end of the table, as in HAT's checkpoints.
    """
    offsets = _offsets(window_size, extended_size) + window_size - extended_size + 1
    return _relative_index(offsets, window_size + extended_size - 1)


def _offsets(query_side: int, key_side: int) -> Tensor:
    """Key minus query position along one axis, (query_side, key_side)."""
    return torch.arange(key_side)[None, :] - torch.arange(query_side)[:, None]


def _relative_index(offsets: Tensor, base: int) -> Tensor:
    """Combine row and column offsets, base * row + column, for all pairs of 2-D positions."""
    rows, columns = offsets[:, None, :, None], offsets[None, :, None, :]
    query_side, key_side = offsets.shape
    return (base * rows + columns).reshape(query_side**2, key_side**2)


def partition(x: Tensor, window_size: int | tuple[int, int]) -> Tensor:
    """Cut (B, H, W, C) into (windows, tokens, C), both row by row.

    ``window_size`` is a side, or height and width.
    """
    down, right = _sides(window_size)
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // down, down, width // right, right, channels)
    return x.transpose(2, 3).reshape(-1, down * right, channels)


def merge(windows: Tensor, window_size: int | tuple[int, int], height: int, width: int) -> Tensor:
    """Put windows back to (B, H, W, C): the inverse of :func:`partition`."""
    down, right = _sides(window_size)
    channels = windows.shape[-1]
    x = windows.reshape(-1, height // down, width // right, down, right, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels)


def _sides(window_size: int | tuple[int, int]) -> tuple[int, int]:
    return (window_size, window_size) if isinstance(window_size, int) else window_size


def overhang(window_size: int, extended_size: int) -> int:
    """Return the number of pixels that an extended window adds to its window on each side."""
    return (extended_size - window_size) // 2


def partition_overlapping(
    x: Tensor, window_size: int, extended_size: int, above: int = 0, below: int = 0
) -> Tensor:
    """Cut (B, H, W, C) into (windows, extended_size ** 2, C); outside the map there are zeros.

    The windows have the order and number of :func:`partition`. ``extended_size`` is at most twice
    ``window_size``. The first ``above`` and the last ``below`` rows are in extended windows only.
    """
    before = overhang(window_size, extended_size)
    after = window_size - before
    x = F.pad(x, (0, 0, before, after, before - above, after - below))
    batch, height, width, channels = x.shape
    rows, columns = height // window_size, width // window_size
    x = x.reshape(batch, rows, window_size, columns, window_size, channels).transpose(2, 3)
    for grid, side in ((2, 4), (1, 3)):  # each window takes its missing pixels from the next one
        count = x.shape[grid] - 1
        lacking = x.narrow(grid, 1, count).narrow(side, 0, extended_size - window_size)
        x = torch.cat((x.narrow(grid, 0, count), lacking), dim=side)
    return x.reshape(-1, extended_size**2, channels)


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Gather a bias table (entries, heads) into (1, heads, N, N').

    ``index_select`` is deterministic; on several threads the backward pass of ``table[index]`` sums
    in no fixed order.
    """
    entries, heads = table.shape
    rows = table.index_select(0, index.remainder(entries).flatten())
    return rows.t().reshape(1, heads, *index.shape)


@lru_cache(maxsize=32)
def shift_masks(window_size: int, shift: int, device: torch.device) -> Tensor:
    """Return the masks of a shifted map's windows, (4, 1, 1, N, N), float32.

    Only windows of the last row or column hold tokens from opposite sides of the map. So four masks
    serve a map of any size: for windows inside, in the last column, in the last row, in the corner.
    """
    with torch.inference_mode(False):  # training could not use a cached inference tensor later
        wrapped = torch.arange(window_size, device=device) >= window_size - shift
        seam = wrapped[:, None] != wrapped[None, :]
        everywhere = torch.ones_like(seam)
        rows = (seam[:, None, :, None] & everywhere[None, :, None, :]).reshape(
            window_size**2, window_size**2
        )
        columns = (everywhere[:, None, :, None] & seam[None, :, None, :]).reshape_as(rows)
        masks = torch.stack((torch.zeros_like(rows), columns, rows, rows | columns))
        return (masks * MASKED)[:, None, None]


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows of the map, or of the map rolled by ``shift``.

    Liu et al., Swin Transformer, ICCV 2021, eq. 4 and fig. 4.
    """

    def __init__(self, channels: int, window_size: int, heads: int, shift: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.heads = heads
        self.shift = shift
        self.relative_position_bias_table = bias_table((2 * window_size - 1) ** 2, heads)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, positions: PositionIndices) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        bias = position_bias(self.relative_position_bias_table, positions.self_attention)
        if not self.shift:
            return self._attend(x, bias)
        x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        masks = iter(positions.shift_masks)
        rows = [
            torch.cat([self._attend(part, bias + next(masks)) for part in self._parts(row, 2)], 2)
            for row in self._parts(x, 1)
        ]
        return torch.cat(rows, 1).roll((self.shift, self.shift), dims=(1, 2))

    def _parts(self, x: Tensor, axis: int) -> tuple[Tensor, ...]:
        """Split off the last window along an axis."""
        before = x.shape[axis] - self.window_size
        return x.narrow(axis, 0, before), x.narrow(axis, before, self.window_size)

    def _attend(self, x: Tensor, bias: Tensor) -> Tensor:
        if not x.numel():
            return x

        def run(rows: Tensor) -> Tensor:
            q, k, v = self.qkv(partition(rows, self.window_size)).chunk(3, dim=-1)
            out = self.proj(attend(q, k, v, bias, self.heads))
            return merge(out, self.window_size, *rows.shape[1:3])

        return in_bands(run, x, multiple=self.window_size)


def bias_table(entries: int, heads: int) -> nn.Parameter:
    """Return a table of position biases, (entries, heads), initialised as in Swin Transformer."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(entries, heads), std=0.02))


def check_index_shape(name: str, found: Tensor, expected: Tensor) -> None:
    """Raise ``UserError`` if a checkpoint's index table belongs to another window size."""
    if found.shape != expected.shape:
        raise UserError(
            f"checkpoint entry {name} has shape {tuple(found.shape)}, the network needs "
            f"{tuple(expected.shape)}: give the network the window_size and overlap_ratio that "
            f"the checkpoint was trained with"
        )
