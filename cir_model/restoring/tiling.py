"""Passing an image in tiles: where they lie, and how they become one image again."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cir_arch.facts import NetworkFacts

BLOCK_PERIOD = 16
"""Period in pixels of JPEG's blocks with halved chroma: tiles on it look alike to a network."""

_OVERLAP = 64
"""Most that tiles of a network without a fitting halo overlap by default."""

Run = Callable[[Tensor], Tensor]
"""Passes (B, C, H, W) through a network; float32, finite."""


class Span(NamedTuple):
    """A tile along one axis."""

    start: int
    stop: int


@dataclass(frozen=True)
class Tiling:
    """Tiles of one size on a grid that suits the network and the JPEG blocks.

    Where two tiles overlap, the weight of the later one rises linearly from 0 to 1, and is 0 or 1
    within ``margin`` pixels of either's edge. A network of a finite halo that fits into the margin
    then gives the whole image's result.
    """

    tile: int
    overlap: int
    grid: int
    margin: int

    @classmethod
    def fitting(cls, tile: int, overlap: int | None, facts: Sequence[NetworkFacts]) -> "Tiling":
        """Round a wish up to what suits all networks.

        Args:
            tile: Height and width of a tile.
            overlap: Pixels that neighbours share; at least the tile less one step of the grid is
                kept as stride, by a larger tile if need be. None: twice the halo where that is at
                most half of the tile, else an eighth of the tile, and at most 64.
            facts: Those of the networks that the tiles will pass through.
        """
        grid = grid_of(facts)
        tile = _round_up(tile, grid)
        halos = [fact.halo for fact in facts]
        halo = None if None in halos else max(halo for halo in halos if halo is not None)
        if overlap is None:
            exact = halo is not None and 4 * halo <= tile
            overlap = 2 * halo if exact and halo is not None else min(tile // 8, _OVERLAP)
        overlap = _round_up(overlap, grid)
        # what a global network lacks at the edge of a tile fades with the distance from it
        margin = overlap // 4 if halo is None else min(halo, overlap // 2)
        return cls(max(tile, overlap + grid), overlap, grid, margin)

    @property
    def stride(self) -> int:
        """Distance between tiles."""
        return self.tile - self.overlap

    def covers(self, height: int, width: int) -> bool:
        """Whether an image is a single tile."""
        return max(height, width) <= self.tile

    def spans(self, length: int) -> list[Span]:
        """Cover an axis; all tiles begin on the grid, and the last one ends with the image."""
        if length <= self.tile:
            return [Span(0, length)]
        last = _round_up(length - self.tile, self.grid)
        starts = [*range(0, last, self.stride), last]
        return [Span(start, min(start + self.tile, length)) for start in starts]

    def middle(self, image: Tensor) -> Tensor:
        """Cut a tile out of the middle of an image (..., H, W), on the grid."""
        for axis in (-2, -1):
            length = image.shape[axis]
            start = max(length - self.tile, 0) // 2 // self.grid * self.grid
            image = image.narrow(axis, start, min(self.tile, length))
        return image

    def restore(self, run: Run, image: Tensor, scale: int, batch: int = 1) -> Tensor:
        """Pass an image through ``run`` tile by tile.

        Args:
            run: The network.
            image: (B, C, H, W), on any device.
            scale: What ``run`` multiplies height and width by.
            batch: Tiles of one shape that go through ``run`` at once.

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
        """Write a piece into ``whole``, which is filled up to ``filled`` along the axis.

        By differences, so that equal values stay as they are to the last bit.
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
    """Return the common multiple of :data:`BLOCK_PERIOD` and the size rules of networks."""
    return math.lcm(BLOCK_PERIOD, *(fact.size_multiple for fact in facts))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _batches(spans: Sequence[Span], most: int) -> Iterator[list[Span]]:
    """Group neighbouring spans of one length."""
    group: list[Span] = []
    for span in spans:
        same = group and group[0].stop - group[0].start == span.stop - span.start
        if group and (len(group) == most or not same):
            yield group
            group = []
        group.append(span)
    yield group
