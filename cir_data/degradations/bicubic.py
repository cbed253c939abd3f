"""MATLAB's bicubic downscaling by an integer factor, the usual one of super-resolution.

The weights are BasicSR's. Its ``imresize`` applies them in single precision, row by row in Python.
Here double precision is used, in which sums for factors of 2 and 4 are exact: a part of an image
equals that part of the whole downscaled image. It is faster, too.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from basicsr.utils.matlab_functions import calculate_weights_indices

from cir_data.degradations.degradation import Step
from cir_data.images.geometry import Pixels, Size, Window

_REACH = 3
"""Radius of the filter in pixels of the small image, rounded up."""


def reduce(image: Pixels, factor: int) -> Pixels:
    """Downscale an image like ``imresize(image, 1/factor)``, rounded to 8 bits.

    Args:
        image: (H, W) or (H, W, 3); the edges must be multiples of ``factor``.
        factor: 2 or more.

    Returns:
        (H / factor, W / factor) or (H / factor, W / factor, 3).

    Example:
        >>> reduce(np.zeros((48, 64, 3), np.uint8), 4).shape
        (12, 16, 3)
    """
    small = _reduce_rows(_reduce_rows(image, factor).swapaxes(0, 1), factor).swapaxes(0, 1)
    rounded: Pixels = np.floor(small + 0.5).clip(0, 255).astype(np.uint8)
    return rounded


def _reduce_rows(image: npt.NDArray[Any], factor: int) -> npt.NDArray[np.float64]:
    """Filter along the first axis; pixels beyond the borders are mirrored."""
    weights, before = _filter(factor)
    count = len(image) // factor
    after = len(weights) - before - factor
    padding = [(before, after)] + [(0, 0)] * (image.ndim - 1)
    padded = np.pad(image, padding, mode="symmetric")
    result = np.zeros((count, *image.shape[1:]))
    for tap, weight in enumerate(weights):
        result += weight * padded[tap : tap + count * factor : factor]
    return result


@cache
def _filter(factor: int) -> tuple[list[float], int]:
    """Return the weights, the same for all pixels, and how many precede the pixel's own span."""
    count = 8  # any number, because an integer factor gives all pixels the same weights
    weights, indices, before, _ = calculate_weights_indices(
        count * factor, count, 1 / factor, "cubic", 4, antialiasing=True
    )
    return weights[0].tolist(), before - int(indices[0, 0])


@dataclass(frozen=True)
class Reduce(Step):
    """MATLAB's bicubic downscaling as a step of a degradation."""

    factor: int

    moves_pixels = True

    def output_size(self, size: Size) -> Size:
        """Return height and width of the small image; see :meth:`Step.output_size`."""
        return size[0] // self.factor, size[1] // self.factor

    def input_edge(self, edge: int) -> int:
        """Return the edge in the large image; see :meth:`Step.input_edge`."""
        return edge * self.factor

    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return the part in the large image, with the filter's radius; see :meth:`Step.needs`."""
        height, width = self.output_size(size)
        top, left = max(0, part.top - _REACH), max(0, part.left - _REACH)
        bottom = min(height, part.top + part.height + _REACH)
        right = min(width, part.left + part.width + _REACH)
        return Window(top, left, bottom - top, right - left).scaled(self.factor)

    def apply(self, image: Pixels, given: Window, wanted: Window, size: Size) -> Pixels:
        """Downscale the part and cut; see :meth:`Step.apply`."""
        small = reduce(image, self.factor)
        top, left = given.top // self.factor, given.left // self.factor
        return wanted.within(Window(top, left, *small.shape[:2])).cut(small)
