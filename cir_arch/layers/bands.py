"""Processes a large map in bands of rows, so that intermediate results fit into the cache."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

VALUES = 2**18
"""Values of a map per band: 1 MB in float32."""


class Band(NamedTuple):
    """Rows of a map (B, H, W, C), and the neighbouring rows that the result depends on."""

    rows: Tensor
    """(B, above + H' + below, W, C), a view."""
    above: int
    """Rows before the band's own; none at the top of the map."""
    below: int

    def own(self, result: Tensor) -> Tensor:
        """Crop a result computed from ``rows`` to the band's own rows."""
        if not (self.above or self.below):
            return result
        return result.narrow(1, self.above, result.shape[1] - self.above - self.below)


def bands(x: Tensor, halo: int = 0, multiple: int = 1) -> list[Band]:
    """Cut a map (B, H, W, C) into bands; returns one band where cutting gains nothing.

    Every operation writes memory that the system must allocate and the next operation must read;
    the memory of a band is still in the cache. GPUs work best on whole maps, compilers and
    exporters handle memory themselves, and the backward pass needs all intermediate results.

    Args:
        x: The map.
        halo: Rows above and below that a band's result depends on.
        multiple: The height of every band but the last is a multiple of this.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return [Band(x, 0, 0)]
    height = x.shape[1]
    size = max(VALUES * height // x.numel() // multiple, 1) * multiple
    parts = []
    for top in range(0, height, size):
        bottom = min(top + size, height)
        start, stop = max(top - halo, 0), min(bottom + halo, height)
        parts.append(Band(x[:, start:stop], top - start, stop - bottom))
    return parts


def in_bands(
    run: Callable[[Tensor], Tensor], x: Tensor, halo: int = 0, multiple: int = 1
) -> Tensor:
    """Return ``run(x)`` of a map (B, H, W, C), computed band by band; (B, H, W, C')."""
    return joined(lambda band: band.own(run(band.rows)), bands(x, halo, multiple))


def in_linked_bands(
    first: Callable[[Tensor], Tensor],
    second: Callable[[Tensor], Tensor],
    x: Tensor,
    multiple: int,
    halo: int = 1,
) -> Tensor:
    """Return ``second(first(x))`` of a map (B, H, W, C), computed band by band; (B, H, W, C').

    ``first`` maps rows in groups of ``multiple``, each group for itself. ``second`` depends on
    ``halo`` rows of its input above and below: the rows at the seams are kept, not computed twice.
    ``multiple`` is at least ``2 * halo``.
    """
    parts = bands(x, multiple=multiple)
    kept: Tensor | None = None

    def run(band: Band) -> Tensor:
        """Return the rows that are now complete: all but the last ``halo``, at the end all."""
        nonlocal kept
        rows = first(band.rows)
        above, below = (0 if kept is None else halo), (0 if band is parts[-1] else halo)
        if kept is not None:
            rows = torch.cat((kept, rows), dim=1)
        kept = rows[:, -2 * halo :].clone() if below else None
        return Band(rows, above, below).own(second(rows))

    return joined(run, parts)


def joined(run: Callable[[Band], Tensor], parts: Sequence[Band]) -> Tensor:
    """Join what ``run`` returns for each band's own rows, (B, H', W, C'), to a map."""
    if len(parts) == 1:
        return run(parts[0])
    height = sum(band.rows.shape[1] - band.above - band.below for band in parts)
    whole: Tensor | None = None
    top = 0
    for band in parts:
        made = run(band)
        if whole is None:
            whole = made.new_empty(made.shape[0], height, *made.shape[2:])
        whole.narrow(1, top, made.shape[1]).copy_(made)
        top += made.shape[1]
    assert whole is not None  # there is at least one band
    return whole
