"""Degradations: sequences of steps that compute an exact crop from the pixels that it needs.

Each step says which part of its input it needs for a part of its output. Going through the steps
backwards gives the part of the clean image to start from. The result equals the same crop of the
whole degraded image bit for bit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cir_data.codecs.codec import Codec
from cir_data.images.color import Color, to_color
from cir_data.images.compression import Compression
from cir_data.images.geometry import Pixels, Size, Window, size_of

_CODING_UNIT = 64
"""Edge of the largest blocks of AVIF and HEVC at usual settings; contexts start at them."""


class Step(ABC):
    """One step of a degradation."""

    moves_pixels: bool = False
    """Whether the clean image goes through the step, too, so that both stay aligned."""

    def output_size(self, size: Size) -> Size:
        """Return height and width of the output, given those of the input."""
        return size

    def input_edge(self, edge: int) -> int:
        """Return the edge that the input needs for an edge of the output."""
        return edge

    @abstractmethod
    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return the part of the input that a part of the output needs.

        Args:
            part: The part of the output.
            size: Height and width of the whole input.
            grey: Whether the image has one channel.
        """

    @abstractmethod
    def apply(self, image: Pixels, given: Window, wanted: Window, size: Size) -> Pixels:
        """Return a part of the output.

        Args:
            image: The part ``given`` of the input, as :meth:`needs` returned it.
            given: Its window in the whole input.
            wanted: The window of the whole output to return.
            size: Height and width of the whole input.
        """


@dataclass(frozen=True)
class Compress(Step):
    """Compress and decode."""

    codec: Codec
    quality: int
    context: int | None = None
    """Most pixels to compress around a part; None: as many as an exact result needs."""

    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return what the codec needs, limited by ``context``; see :meth:`Step.needs`."""
        needed = self.codec.needs(part, size, grey)
        if self.context is None:
            return needed
        top, bottom = _span(part.top, part.height, self.context, needed.top, needed.height)
        left, right = _span(part.left, part.width, self.context, needed.left, needed.width)
        return Window(top, left, bottom - top, right - left)

    def apply(self, image: Pixels, given: Window, wanted: Window, size: Size) -> Pixels:
        """Compress the part and cut; see :meth:`Step.apply`."""
        return wanted.within(given).cut(self.codec.compress(image, self.quality))


def _span(
    start: int, length: int, context: int, needed_start: int, needed_length: int
) -> tuple[int, int]:
    """Return start and end of a part with its context, within what is needed."""
    first = max(0, start - context) // _CODING_UNIT * _CODING_UNIT
    last = start + length + context
    return max(first, needed_start), min(last, needed_start + needed_length)


@dataclass(frozen=True)
class CutOff(Step):
    """Drop rows at the top and columns at the left, which shifts the next block grid."""

    rows: int
    columns: int

    moves_pixels = True

    def output_size(self, size: Size) -> Size:
        """Return the remaining size; see :meth:`Step.output_size`."""
        return size[0] - self.rows, size[1] - self.columns

    def input_edge(self, edge: int) -> int:
        """Return the edge plus what is dropped; see :meth:`Step.input_edge`."""
        return edge + max(self.rows, self.columns)

    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return the same pixels; see :meth:`Step.needs`."""
        return part.moved(self.rows, self.columns)

    def apply(self, image: Pixels, given: Window, wanted: Window, size: Size) -> Pixels:
        """Return the pixels unchanged; see :meth:`Step.apply`."""
        return image


@dataclass(frozen=True)
class Resize(Step):
    """Pillow's bicubic resizing, with antialiasing when it reduces.

    It needs the whole image, because Pillow rounds coefficients that depend on the input's size.
    """

    factor: float

    moves_pixels = True

    def output_size(self, size: Size) -> Size:
        """Return the edges, rounded, at least 1 pixel; see :meth:`Step.output_size`."""
        return max(1, round(size[0] * self.factor)), max(1, round(size[1] * self.factor))

    def input_edge(self, edge: int) -> int:
        """Return an edge that gives at least this one; see :meth:`Step.input_edge`."""
        return math.ceil(edge / self.factor)

    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return the whole input; see :meth:`Step.needs`."""
        return Window(0, 0, *size)

    def apply(self, image: Pixels, given: Window, wanted: Window, size: Size) -> Pixels:
        """Resize the whole and cut; see :meth:`Step.apply`."""
        height, width = self.output_size(size)
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        return wanted.cut(np.asarray(resized))


@dataclass(frozen=True)
class Degradation:
    """The steps drawn for one image; the last one compresses.

    Example:
        >>> from cir_data.codecs.jpeg import JPEG
        >>> degradation = Degradation([Resize(0.5), Compress(JPEG(), quality=40)])
        >>> image = np.zeros((96, 128, 3), np.uint8)
        >>> lq, gt = degradation.apply(image, "rgb", Window(8, 8, 32, 32))
        >>> lq.shape, gt.shape, degradation.output_size((96, 128))
        ((32, 32, 3), (32, 32, 3), (48, 64))
    """

    steps: Sequence[Step]

    def output_size(self, size: Size) -> Size:
        """Return height and width of the degraded image."""
        for step in self.steps:
            size = step.output_size(size)
        return size

    def input_edge(self, edge: int) -> int:
        """Return the edge that an image needs to give ``edge`` pixels."""
        for step in reversed(self.steps):
            edge = step.input_edge(edge)
        return edge

    @property
    def last(self) -> Compress:
        """The last compression."""
        step = self.steps[-1]
        assert isinstance(step, Compress)
        return step

    def record(self, grey: bool) -> Compression:
        """Return the facts of the last compression."""
        return self.last.codec.record(self.last.quality, grey)

    def file(self, image: Pixels, color: Color, window: Window | None = None) -> bytes:
        """Return the file that the last compression makes of the image.

        Args:
            image: The clean image, as for :meth:`apply`.
            color: As for :meth:`apply`.
            window: The part of the image that is compressed; None: all of it.
        """
        before = Degradation(self.steps[:-1])
        window = window or Window(0, 0, *before.output_size(size_of(image)))
        degraded, _ = before.apply(image, color, window)
        return self.last.codec.encode(degraded, self.last.quality)

    def apply(self, image: Pixels, color: Color, window: Window) -> tuple[Pixels, Pixels]:
        """Degrade a part of an image.

        Args:
            image: The whole clean image, (H, W) grey or (H, W, 3) RGB; only a part is read.
            color: The image is converted to it before the first step.
            window: The wanted part of the degraded image.

        Returns:
            The degraded and the clean part; (h, w, 3) if ``color`` is ``rgb``, else (h, w).
        """
        grey = color != "rgb"
        height, width = image.shape[:2]
        sizes = [(height, width)]
        for step in self.steps:
            sizes.append(step.output_size(sizes[-1]))
        parts = [window]
        for step, size in zip(reversed(self.steps), sizes[-2::-1], strict=True):
            parts.insert(0, step.needs(parts[0], size, grey))
        degraded = clean = to_color(parts[0].cut(image), color)
        for step, size, given, wanted in zip(self.steps, sizes, parts, parts[1:], strict=False):
            before, degraded = degraded, step.apply(degraded, given, wanted, size)
            if clean is before and step.moves_pixels:
                clean = degraded
            elif step.moves_pixels:
                clean = step.apply(clean, given, wanted, size)
            else:
                clean = wanted.within(given).cut(clean)
        return degraded, clean
