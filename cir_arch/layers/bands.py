"""A large map in bands of rows: what a block makes of each fits into a processor's cache."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

VALUES = 2**18
"""Values of a map per band: 1 MB in float32."""


class Band(NamedTuple):
    """Rows of a map (B, H, W, C), and those next to them that a result depends on."""

    rows: Tensor
    """(B, above + H' + below, W, C), a view."""
    above: int
    """Rows before the band's own; none at the top of the map."""
    below: int

    def own(self, result: Tensor) -> Tensor:
        """Cut what was made of ``rows`` to the band's own rows."""
        return result.narrow(1, self.above, result.shape[1] - self.above - self.below)


def bands(x: Tensor, halo: int = 0, multiple: int = 1) -> Iterator[Band]:
    """Cut a map (B, H, W, C) into bands; one alone where nothing would be won.

    Every operation writes memory that the system must first provide and the next operation must
    read again; a band's is in the cache still. GPUs want whole maps, compilers and exporters see to
    it themselves, and the backward pass needs all that was made.

    Args:
        x: The map.
        halo: Rows above and below that a band's result depends on.
        multiple: Of which a band's height is one, but for the last.
    """
    height = x.shape[1]
    size = height
    if x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        fitting = VALUES * height // max(1, x.numel())
        size = max(fitting // multiple, 1) * multiple
    for top in range(0, height, size):
        bottom = min(top + size, height)
        start, stop = max(top - halo, 0), min(bottom + halo, height)
        yield Band(x[:, start:stop], top - start, stop - bottom)


def in_bands(
    run: Callable[[Tensor], Tensor], x: Tensor, halo: int = 0, multiple: int = 1
) -> Tensor:
    """Return ``run(x)`` of a map (B, H, W, C), made by :func:`bands`; (B, H, W, C')."""
    return joined((band.own(run(band.rows)) for band in bands(x, halo, multiple)), x.shape[1])


def joined(parts: Iterable[Tensor], height: int) -> Tensor:
    """Put bands (B, H', W, C), which may be passed as they are made, together to a map."""
    whole: Tensor | None = None
    top = 0
    for part in parts:
        if part.shape[1] == height:
            return part
        if whole is None:
            whole = part.new_empty(part.shape[0], height, *part.shape[2:])
        whole.narrow(1, top, part.shape[1]).copy_(part)
        top += part.shape[1]
    assert whole is not None  # a map has a band
    return whole
