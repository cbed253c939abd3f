"""Windows, flips and rotations of images, and how they move JPEG's 8 x 8 block grid."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""An 8-bit image, (H, W) grey or (H, W, 3) RGB."""

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""

Boundary: TypeAlias = tuple[int, int]
"""Row and column, 0 to 7, of the first block boundary; 3 lies between pixels 2 and 3."""

BLOCK = 8
"""Edge of JPEG's transform blocks in pixels."""


def size_of(image: Pixels) -> Size:
    """Return height and width of an image."""
    return image.shape[0], image.shape[1]


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels in an image."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def random(
        cls, rng: np.random.Generator, size: Size, edge: int, grid: Size = (1, 1)
    ) -> "Window":
        """Draw a square in an image; all positions on a grid are equally likely.

        Args:
            rng: The random generator.
            size: Height and width of the image, at least ``edge``.
            edge: Edge of the square.
            grid: The first row and column are multiples of these.
        """
        top, left = (
            int(rng.integers((length - edge) // step + 1)) * step
            for length, step in zip(size, grid, strict=True)
        )
        return cls(top, left, edge, edge)

    def cut(self, image: Pixels) -> Pixels:
        """Return a view of the window in an image."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]

    def within(self, outer: "Window") -> "Window":
        """Return the same rectangle in the coordinates of an outer window."""
        return Window(self.top - outer.top, self.left - outer.left, self.height, self.width)

    def moved(self, rows: int, columns: int) -> "Window":
        """Return the rectangle shifted down and to the right."""
        return Window(self.top + rows, self.left + columns, self.height, self.width)

    def scaled(self, factor: int) -> "Window":
        """Return the rectangle in an image that is ``factor`` times as large."""
        return Window(*(factor * v for v in (self.top, self.left, self.height, self.width)))

    def move_boundary(self, boundary: Boundary) -> Boundary:
        """Return the first block boundary in the window, given that of the image."""
        return (boundary[0] - self.top) % BLOCK, (boundary[1] - self.left) % BLOCK


@dataclass(frozen=True)
class Orientation:
    """One of the eight orientations of an image: flips first, then the transposition."""

    horizontal_flip: bool = False
    vertical_flip: bool = False
    transpose: bool = False

    @classmethod
    def random(cls, rng: np.random.Generator, use_hflip: bool, use_rot: bool) -> "Orientation":
        """Draw each step with probability 1/2, with BasicSR's meaning of the two options.

        ``use_hflip`` allows the horizontal flip, ``use_rot`` the vertical flip and the
        transposition; together they allow all eight orientations.
        """
        horizontal, vertical, transpose = (bool(v) for v in rng.random(3) < 0.5)
        return cls(use_hflip and horizontal, use_rot and vertical, use_rot and transpose)

    @classmethod
    def upright(cls, exif_orientation: int) -> "Orientation":
        """Return the orientation that turns an image upright, by its EXIF tag (1 to 8)."""
        return _UPRIGHT.get(exif_orientation, cls())

    def apply(self, image: Pixels) -> Pixels:
        """Return a view of the image in this orientation."""
        if self.horizontal_flip:
            image = image[:, ::-1]
        if self.vertical_flip:
            image = image[::-1]
        return image.swapaxes(0, 1) if self.transpose else image

    def move_boundary(self, boundary: Boundary, image: Pixels) -> Boundary:
        """Return the first block boundary of ``image`` after :meth:`apply`."""
        row, column = boundary
        height, width = image.shape[:2]
        if self.horizontal_flip:
            column = (width - column) % BLOCK
        if self.vertical_flip:
            row = (height - row) % BLOCK
        return (column, row) if self.transpose else (row, column)


_UPRIGHT = {
    2: Orientation(horizontal_flip=True),
    3: Orientation(horizontal_flip=True, vertical_flip=True),
    4: Orientation(vertical_flip=True),
    5: Orientation(transpose=True),
    6: Orientation(vertical_flip=True, transpose=True),
    7: Orientation(horizontal_flip=True, vertical_flip=True, transpose=True),
    8: Orientation(horizontal_flip=True, transpose=True),
}
