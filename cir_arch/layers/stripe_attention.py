"""Attention in windows and in anchored stripes (Li et al., GRL, CVPR 2023, sections 3.2, 3.3).

Scores are scaled cosines (Liu et al., Swin Transformer V2, CVPR 2022, section 3.3).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.layers.attention import attend
from cir_arch.layers.bands import bands, joined
from cir_arch.layers.convolution import to_image, to_map
from cir_arch.layers.window_attention import MASKED, merge, partition

Project = Callable[[Tensor], Tensor]
"""Maps tokens (..., C) to their queries, keys and values, side by side."""


class Cells(NamedTuple):
    """Equal cells that cover a map, or the map rolled up and left by ``shifts``."""

    sides: tuple[int, int]
    """Height and width, which divide those of the map."""
    shifts: tuple[int, int] = (0, 0)
    backwards: bool = False
    """Whether the tokens of a cell are listed last one first.

    If the positions of either queries or keys run backwards, the relative position depends on the
    sum of their indices. The biases of all pairs are then overlapping slices of a small table.
    """

    def cut(self, x: Tensor) -> Tensor:
        """Cut (B, H, W, C) into tokens (cells, N, C)."""
        tokens = partition(x, self.sides)
        return tokens.flip(1) if self.backwards else tokens

    def ends(self, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Split (B, H, W, C) into all cells but the last and the last, along axis 0 or 1."""
        before = x.shape[axis + 1] - self.sides[axis]
        return x.narrow(axis + 1, 0, before), x.narrow(axis + 1, before, self.sides[axis])

    def wrapped(self, axis: int, device: torch.device) -> Tensor:
        """Tell which tokens of the last cell along an axis come from the map's other side."""
        side = self.sides[axis]
        wrapped = torch.arange(side, device=device) >= side - self.shifts[axis]
        return wrapped.flip(0) if self.backwards else wrapped


Last = tuple[bool, bool]
"""Whether cells of a rolled map are in its last row, and in its last column."""


def in_cells(
    of_part: Callable[[Last], Callable[..., Tensor]], maps: Sequence[Tensor], cells: Sequence[Cells]
) -> Tensor:
    """Return what is computed cell by cell from several maps, (B, H, W, C').

    Only cells of the last row or column of a rolled map hold tokens from its opposite sides. So a
    map of any size has four kinds of cells: inside, in the last column, in the last row, in the
    corner.

    Args:
        of_part: Given the kind, returns a function that maps the cells' parts of the maps, each
            (B, H', W', C), to the part of the result that belongs to the first map.
        maps: (B, H, W, C) each, of different size, with equal numbers of cells.
        cells: Those of each map. Either all are shifted or none is.
    """
    down, right = cells[0].shifts
    if not (down or right):
        return _in_bands(of_part((False, False)), maps, cells)
    rolled = (
        x.roll((-up, -left), dims=(1, 2))
        for x, (up, left) in zip(maps, (each.shifts for each in cells), strict=True)
    )
    rows = []
    for last_row, row in enumerate(_split(tuple(rolled), cells, 0)):
        columns = [
            _in_bands(of_part((bool(last_row), bool(last_column))), part, cells)
            for last_column, part in enumerate(_split(row, cells, 1))
            if part[0].numel()
        ]
        if columns:
            rows.append(torch.cat(columns, dim=2))
    return torch.cat(rows, dim=1).roll((down, right), dims=(1, 2))


def _split(
    maps: Sequence[Tensor], cells: Sequence[Cells], axis: int
) -> tuple[tuple[Tensor, ...], ...]:
    """Split all maps before their last cell along an axis."""
    parts = (each.ends(x, axis) for x, each in zip(maps, cells, strict=True))
    return tuple(zip(*parts, strict=True))


def _in_bands(run: Callable[..., Tensor], maps: Sequence[Tensor], cells: Sequence[Cells]) -> Tensor:
    """Return ``run(*maps)``, computed band by band of the first map."""
    first, *others = maps
    parts = bands(first, multiple=cells[0].sides[0])
    rows = [band.rows.shape[1] // cells[0].sides[0] for band in parts]
    of_others = (
        torch.split(x, [count * each.sides[0] for count in rows], dim=1)
        for x, each in zip(others, cells[1:], strict=True)
    )
    following = iter(zip(*of_others, strict=True) if others else [()] * len(parts))
    return joined(lambda band: run(band.rows, *next(following)), parts)


class CosineScores(nn.Module):
    """Attention whose scores are cosines times a temperature, plus a bias by relative position.

    A small network computes the bias from row and column on a logarithmic scale, so the parameters
    fit cells of any size.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False)
        )

    def biases(self, queries: Cells, keys: Cells) -> Callable[[Last], Tensor]:
        """Return a function that gives the biases (1, heads, N, N') of each kind of cells.

        Args:
            queries: N tokens each.
            keys: N' tokens each. Of the two, one runs backwards. If one has fewer tokens, these
                are anchors, which count as lying side by side in the middle of the cell.
        """
        scale = self.logit_scale
        places = relative_places(queries, keys, scale)
        table = 16 * torch.sigmoid(self.cpb_mlp(places.to(scale.dtype)))
        height, width = keys.sides
        # (heads, rows and columns of queries, rows and columns of keys)
        slices = table.permute(2, 0, 1).contiguous().unfold(1, height, 1).unfold(2, width, 1)

        def of_part(last: Last) -> Tensor:
            bias = slices.contiguous()
            if any(last):
                bias = bias + seam_mask(queries, keys, last, bias)
            return bias.reshape(1, len(bias), math.prod(queries.sides), height * width)

        return of_part

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attend from tokens (W, N, C) to tokens (W, N', C); returns (W, N, C)."""
        heads = len(self.logit_scale)
        temperature = self.logit_scale.clamp(max=math.log(100)).exp().reshape(heads, 1)
        q = (_unit(q, heads) * temperature).to(v.dtype)
        return attend(q, _unit(k, heads).to(v.dtype), v, bias, heads, scale=1.0)


def _unit(tokens: Tensor, heads: int) -> Tensor:
    """Scale each head of (W, N, C) to length 1; (W, N, heads, C / heads)."""
    # 1e-12, as published, is zero in float16
    smallest = max(1e-12, torch.finfo(tokens.dtype).tiny)
    return F.normalize(tokens.reshape(*tokens.shape[:2], heads, -1), dim=-1, eps=smallest)


def relative_places(queries: Cells, keys: Cells, like: Tensor) -> Tensor:
    """Return the relative positions (rows, columns, 2) by the sums of the indices, scaled.

    As in :meth:`CosineScores.biases`, one of the two runs backwards.
    """
    axes = (_places(queries, keys, axis, like) for axis in (0, 1))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _places(queries: Cells, keys: Cells, axis: int, like: Tensor) -> Tensor:
    """Return the relative positions along an axis by the sum of the indices, scaled.

    Of query minus key, in units of the largest, on a logarithmic scale that ends at log2(9) / 3.
    """
    sides = queries.sides[axis], keys.sides[axis]
    largest, smallest = max(sides), min(sides)
    middle = (largest - smallest) // 2
    dtype = torch.promote_types(like.dtype, torch.float32)
    sums = torch.arange(sum(sides) - 1, dtype=dtype, device=like.device)
    offsets = sums - (smallest - 1 + middle)
    offsets = (-8 if queries.backwards else 8) / (largest - 1 - middle) * offsets
    return offsets.sign() * (1 + offsets.abs()).log2() / 3


def seam_mask(queries: Cells, keys: Cells, last: Last, like: Tensor) -> Tensor:
    """Return what is added to the scores of tokens that lie on opposite sides of the map.

    The axes are rows and columns of queries, rows and columns of keys.
    """
    device = like.device
    rows, columns = (
        queries.wrapped(axis, device)[:, None] != keys.wrapped(axis, device)[None, :]
        for axis in (0, 1)
    )
    rows, columns = rows[:, None, :, None], columns[None, :, None, :]
    seam = rows | columns if all(last) else rows if last[0] else columns
    return seam.to(like.dtype) * MASKED


class CosineWindowAttention(nn.Module):
    """Attention in square windows, of which the shifted ones begin at half a window."""

    def __init__(self, heads: int, window_size: int, shifted: bool) -> None:
        super().__init__()
        self.cells = windows(window_size, shifted)
        self.attn_transform = CosineScores(heads)

    def forward(self, x: Tensor, project: Project) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C / 2); H and W are multiples of the window."""
        return attend_in_windows(self.attn_transform, self.cells, x, project)


def windows(side: int, shifted: bool) -> Cells:
    """Return square windows, of which the shifted ones begin at half a window."""
    shift = side // 2 if shifted else 0
    return Cells((side, side), (shift, shift))


def attend_in_windows(
    scores: CosineScores,
    cells: Cells,
    x: Tensor,
    project: Project,
    finish: Project = lambda tokens: tokens,
) -> Tensor:
    """Let the tokens of each window of a map (B, H, W, C) attend to each other.

    Args:
        scores: Holds the parameters.
        cells: The windows, whose sides divide those of the map.
        x: The map.
        project: Returns queries, keys and values of pixels.
        finish: Maps the attended values, window by window.
    """
    biases = scores.biases(cells, cells._replace(backwards=True))

    def of_part(last: Last) -> Callable[[Tensor], Tensor]:
        bias = biases(last).flip(-1)  # keys forwards

        def of_rows(rows: Tensor) -> Tensor:
            q, k, v = project(cells.cut(rows)).chunk(3, dim=-1)
            return merge(finish(scores(q, k, v, bias)), cells.sides, *rows.shape[1:3])

        return of_rows

    return in_cells(of_part, (x,), (cells,))


class AnchoredStripeAttention(nn.Module):
    """Attention in large stripes by way of few anchors, which are means of the map.

    The anchors gather the values of the pixels, and the pixels read what the anchors gathered. The
    effort is that of anchors times pixels (Li et al., GRL, CVPR 2023, eq. 4).
    """

    def __init__(
        self, heads: int, stripe_size: tuple[int, int], factor: int, shifted: bool
    ) -> None:
        super().__init__()
        height, width = stripe_size
        shifts = (height // 2, width // 2) if shifted else (0, 0)
        self.cells = Cells(stripe_size, shifts)
        self.anchors = Cells(
            (height // factor, width // factor), (shifts[0] // factor, shifts[1] // factor), True
        )
        self.attn_transform1 = CosineScores(heads)
        self.attn_transform2 = CosineScores(heads)

    def forward(self, x: Tensor, anchors: Tensor, project: Project) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C / 2); H and W are multiples of the stripe's sides.

        Args:
            x: The map.
            anchors: (B, H / factor, W / factor, C / 2).
            project: Returns queries, keys and values of pixels.
        """
        gathering = self.attn_transform1.biases(self.anchors, self.cells)
        reading = self.attn_transform2.biases(self.cells, self.anchors)

        def of_part(last: Last) -> Callable[[Tensor, Tensor], Tensor]:
            return partial(self._of_rows, project=project, biases=(gathering(last), reading(last)))

        return in_cells(of_part, (x, anchors), (self.cells, self.anchors))

    def _of_rows(
        self, rows: Tensor, anchor_rows: Tensor, *, project: Project, biases: tuple[Tensor, Tensor]
    ) -> Tensor:
        q, k, v = project(self.cells.cut(rows)).chunk(3, dim=-1)
        anchors = self.anchors.cut(anchor_rows)
        gathered = self.attn_transform1(anchors, k, v, biases[0])
        out = self.attn_transform2(q, anchors, gathered, biases[1])
        return merge(out, self.cells.sides, *rows.shape[1:3])


class _Projection(nn.Module):
    """Computes queries, keys and values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Linear(channels, 3 * channels)

    def halves(self) -> tuple[Project, Project]:
        """Return the half for windows and the half for stripes."""
        weights, biases = self.body.weight.chunk(2), self.body.bias.chunk(2)
        window, stripe = (
            partial(F.linear, weight=weight, bias=bias)
            for weight, bias in zip(weights, biases, strict=True)
        )
        return window, stripe


class _Anchors(nn.Module):
    """Computes anchors from the means of squares of ``factor`` x ``factor`` pixels."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.reduction = nn.Linear(channels, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / factor, W / factor, C / 2)."""
        out: Tensor = self.reduction(to_map(F.avg_pool2d(to_image(x), self.factor)))
        return out


class MixedAttention(nn.Module):
    """Window attention on half of the channels, anchored stripe attention on the other half.

    The keys are those of GRL's checkpoints.
    """

    def __init__(
        self,
        channels: int,
        window: CosineWindowAttention,
        stripe: AnchoredStripeAttention,
        factor: int,
    ) -> None:
        super().__init__()
        self.qkv = _Projection(channels)
        self.anchor = nn.ModuleDict({"body": nn.Sequential(_Anchors(channels, factor))})
        self.window_attn = window
        self.stripe_attn = stripe
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of window and stripes."""
        of_window, of_stripe = self.qkv.halves()
        anchors = self.anchor["body"](x)
        parts = self.window_attn(x, of_window), self.stripe_attn(x, anchors, of_stripe)
        out: Tensor = self.proj(torch.cat(parts, dim=-1))
        return out
