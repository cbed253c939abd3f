"""Tiles: how an image is split and how the results are merged."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cir_arch.facts import NetworkFacts

BLOCK_PERIOD = 16
"""Period of JPEG's blocks with halved chroma, in pixels: on it, blocks are aligned in all tiles."""

_OVERLAP = 64
"""The largest default overlap for a network whose halo does not fit."""

Run = Callable[[Tensor], Tensor]
"""Runs a network on (B, C, H, W); the result is float32 and finite."""


class Span(NamedTuple):
    """A tile along one axis."""

    start: int
    stop: int


@dataclass(frozen=True)
class Tiling:
    """Tiles of at most a given size on a grid that fits the network and the JPEG blocks.

    In the overlap of two tiles, the weight of the later one rises linearly from 0 to 1; within
    ``margin`` pixels of an edge it is 0 or 1. If the margin is at least the receptive-field radius
    (halo), tiling is exact: the result equals that of the whole image.

    Example:
        >>> from cir_model.restoring.tiling import Tiling
        >>> tiling = Tiling(tile=64, overlap=16, grid=16, margin=4)
        >>> tiling.stride
        48
        >>> tiling.spans(100)
        [Span(start=0, stop=64), Span(start=48, stop=100)]
    """

    tile: int
    overlap: int
    grid: int
    margin: int

    @classmethod
    def fitting(cls, tile: int, overlap: int | None, facts: Sequence[NetworkFacts]) -> "Tiling":
        """Round tile and overlap up to the grid of all networks.

        Args:
            tile: Height and width of a tile.
            overlap: Tile overlap in pixels; the tile grows if the stride would be less than one
                step of the grid. None: twice the halo if that is at most half of the tile, else an
                eighth of the tile, at most 64; a third of the tile for networks that tile
                themselves.
            facts: Of all networks that will run on the tiles.
        """
        grid = grid_of(facts)
        tile = _round_up(tile, grid)
        if all(fact.whole_images for fact in facts):  # which blend over the whole overlap
            overlap = _round_up(tile // 3 if overlap is None else overlap, grid)
            return cls(max(tile, overlap + grid), overlap, grid, margin=0)
        halos = [fact.halo for fact in facts]
        halo = None if None in halos else max(halo for halo in halos if halo is not None)
        if overlap is None:
            exact = halo is not None and 4 * halo <= tile
            overlap = 2 * halo if exact and halo is not None else min(tile // 8, _OVERLAP)
        overlap = _round_up(overlap, grid)
        # the error of a network with global context fades with the distance from the edge
        margin = overlap // 4 if halo is None else min(halo, overlap // 2)
        return cls(max(tile, overlap + grid), overlap, grid, margin)

    @property
    def stride(self) -> int:
        """Distance between tiles of full size."""
        return self.tile - self.overlap

    def covers(self, height: int, width: int) -> bool:
        """Return whether a single tile covers an image."""
        return max(height, width) <= self.tile

    def spans(self, length: int) -> list[Span]:
        """Cover an axis by as few tiles as possible, which start on the grid.

        They are equal and no larger than the axis needs, but for the last, which may be smaller.
        """
        if length <= self.tile:
            return [Span(0, length)]
        alone = length - self.overlap
        count = math.ceil(alone / self.stride)
        stride = _round_up(math.ceil(alone / count), self.grid)
        return [
            Span(start, min(start + stride + self.overlap, length))
            for start in range(0, alone, stride)
        ]

    def count(self, height: int, width: int) -> int:
        """Return the number of tiles of an image."""
        return len(self.spans(height)) * len(self.spans(width))

    def middle(self, image: Tensor) -> Tensor:
        """Return the tile in the middle of an image (..., H, W), on the grid."""
        for axis in (-2, -1):
            length = image.shape[axis]
            start = max(length - self.tile, 0) // 2 // self.grid * self.grid
            image = image.narrow(axis, start, min(self.tile, length))
        return image

    def restore(self, run: Run, image: Tensor, scale: int, batch: int = 1) -> Tensor:
        """Restore an image tile by tile.

        Args:
            run: The network.
            image: (B, C, H, W), on any device.
            scale: Enlargement by ``run``.
            batch: How many tiles of equal shape ``run`` gets at once.

        Returns:
            (B, C, scale H, scale W), float32, on the device of ``image``.
        """
        whole: Tensor | None = None
        filled = 0
        columns = self.spans(image.shape[-1])
        for row in self.spans(image.shape[-2]):
            strip = self._restore_row(
                run, image[..., row.start : row.stop, :], columns, scale, batch
            )
            if whole is None:
                whole = strip.new_empty(*strip.shape[:-2], image.shape[-2] * scale, strip.shape[-1])
            self._blend(whole, strip, -2, row, filled, scale)
            filled = row.stop
            del strip  # before the next one needs as much memory
        assert whole is not None  # an axis has at least one span
        return whole

    def _restore_row(
        self, run: Run, image: Tensor, columns: Sequence[Span], scale: int, batch: int
    ) -> Tensor:
        strip: Tensor | None = None
        filled = 0
        for spans in _batches(columns, batch):
            tiles = torch.cat([image[..., span.start : span.stop] for span in spans])
            for span, piece in zip(spans, run(tiles).chunk(len(spans)), strict=True):
                if strip is None:
                    strip = torch.empty(
                        (*piece.shape[:-1], image.shape[-1] * scale), device=image.device
                    )
                self._blend(strip, piece.to(image.device), -1, span, filled, scale)
                filled = span.stop
        assert strip is not None
        return strip

    def _blend(
        self, whole: Tensor, piece: Tensor, axis: int, span: Span, filled: int, scale: int
    ) -> None:
        """Merge a piece into ``whole``, which is filled up to ``filled`` along the axis.

        Linear interpolation of equal values is exact, to the last bit.
        """
        shared = (filled - span.start) * scale if filled else 0
        start, stop = span.start * scale, span.stop * scale
        weights = self._weights(shared, scale).to(whole.device)
        if axis == -2:
            weights = weights[:, None]
        whole.narrow(axis, start, shared).lerp_(piece.narrow(axis, 0, shared), weights)
        rest = stop - start - shared
        whole.narrow(axis, start + shared, rest).copy_(piece.narrow(axis, shared, rest))

    def _weights(self, shared: int, scale: int) -> Tensor:
        margin = self.margin * scale
        ramp = shared - 2 * margin
        return ((torch.arange(shared) - margin + 0.5) / max(ramp, 0.5)).clamp_(0, 1)


def grid_of(facts: Sequence[NetworkFacts]) -> int:
    """Return the least common multiple of :data:`BLOCK_PERIOD` and the networks' size rules."""
    return math.lcm(BLOCK_PERIOD, *(fact.size_multiple for fact in facts))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _batches(spans: Sequence[Span], most: int) -> Iterator[list[Span]]:
    """Group neighbouring spans of equal length."""
    group: list[Span] = []
    for span in spans:
        same = group and group[0].stop - group[0].start == span.stop - span.start
        if group and (len(group) == most or not same):
            yield group
            group = []
        group.append(span)
    yield group
