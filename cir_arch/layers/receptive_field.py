"""Receptive fields, computed along one axis from an output pixel back to the input."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The pixels ``first`` to ``last`` of one layer that an output pixel depends on.

    Each method returns the span in the input of a layer, given the span in its output. Borders of
    the image are left out: inside it the span is largest.
    """

    first: int
    last: int

    def convolutions(self, count: int) -> "Span":
        """Go back through so many 3x3 convolutions of stride 1."""
        return Span(self.first - count, self.last + count)

    def windows(self, size: int, start: int = 0) -> "Span":
        """Go back through windows of so many pixels, one of which begins at ``start``."""
        first = (self.first - start) // size * size + start
        last = (self.last - start) // size * size + start + size - 1
        return Span(first, last)

    def reduction(self, factor: int) -> "Span":
        """Go back through a layer that makes one pixel of ``factor`` pixels."""
        return Span(self.first * factor, self.last * factor + factor - 1)

    def enlargement(self, factor: int) -> "Span":
        """Go back through a layer that makes ``factor`` pixels of one pixel."""
        return Span(self.first // factor, self.last // factor)

    def union(self, other: "Span") -> "Span":
        """Join the spans of two branches."""
        return Span(min(self.first, other.first), max(self.last, other.last))


def radius(network: Callable[[Span], Span], period: int, scale: int = 1) -> int:
    """Return the receptive-field radius of a network, the largest over all positions.

    Args:
        network: Returns the span in the input, given an output pixel as a span.
        period: Distance in input pixels after which positions are alike.
        scale: Output size over input size.
    """
    found = 0
    for position in range(period * scale):
        span = network(Span(position, position))
        below = position // scale
        found = max(found, below - span.first, span.last - below)
    return found
