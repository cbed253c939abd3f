"""Drawn pages of text and shapes, as in screenshots and documents, each from a seed.

Photographs teach a network little about them: flat areas, hard edges, small coloured text. The text
uses the fonts of matplotlib where it is installed, and otherwise the one that Pillow brings, so a
page depends on the installed packages besides its seed.
"""

import random
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cir_data.images.geometry import Pixels, Size

FIRST_OF_TRAINING = 1 << 32
"""Training draws seeds from here up to :data:`LAST_SEED`; smaller ones are left for tests."""

LAST_SEED = 1 << 63

_Colour: TypeAlias = tuple[int, int, int]
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SIZES = (8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 24, 30, 42, 64)
_WORDS = """
a to of in is the and for was with on at by from File Edit View Help Search Open Save Cancel OK Menu
Page Total Price Invoice Chapter Figure Table Section compressed picture quality artefact block
colour network restore 0 1 7 12.50 37% 2024-05-17 18:30 A4 #42 $9.99 (see) final; next: Yes No [x]
https://example.org/index.html user@example.org +49 1/2 "quoted"
""".split()  # noqa: SIM905


def drawn_page(seed: int, size: Size) -> Pixels:
    """Draw a page: a background, shapes, and lines of text over them.

    Args:
        seed: The page's number; below :data:`FIRST_OF_TRAINING` for pages that no training sees.
        size: Height and width in pixels.

    Returns:
        (H, W, 3) RGB.

    Example:
        >>> drawn_page(7, (96, 160)).shape
        (96, 160, 3)
    """
    return np.asarray(_Page(random.Random(seed), size).draw())


class _Page:
    def __init__(self, rng: random.Random, size: Size) -> None:
        self._rng = rng
        self._height, self._width = size
        self._dark = rng.random() < 0.25
        self._image = self._background()
        self._pen = ImageDraw.Draw(self._image)

    def draw(self) -> Image.Image:
        # as many shapes as a page of 256 x 256 pixels has room for
        room = self._height * self._width / 65536
        shapes: tuple[Callable[[], None], ...] = (
            *(self._rectangle,) * 4,
            *(self._ellipse,) * 2,
            *(self._lines,) * 2,
            self._triangle,
            self._grid,
        )
        for _ in range(round(self._rng.uniform(0, 7) * room)):
            self._rng.choice(shapes)()
        if self._rng.random() < 0.9:
            self._text()
        return self._image

    def _background(self) -> Image.Image:
        kind = self._rng.random()
        if kind < 0.25:
            return self._gradient()
        plain = (24, 24, 24) if self._dark else (255, 255, 255)
        colour = plain if kind < 0.6 else self._colour(light=not self._dark)
        return Image.new("RGB", (self._width, self._height), colour)

    def _gradient(self) -> Image.Image:
        ends = np.array([self._colour(light=not self._dark) for _ in range(2)], float)
        across = self._rng.random() < 0.5
        steps = np.linspace(0, 1, self._width if across else self._height)[:, None]
        ramp = (ends[0] * (1 - steps) + ends[1] * steps).round().astype(np.uint8)
        shaped = ramp[None] if across else ramp[:, None]
        return Image.fromarray(np.ascontiguousarray(np.broadcast_to(shaped, self._shape)))

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self._height, self._width, 3

    def _colour(self, light: bool | None = None) -> _Colour:
        low, high = {None: (0, 255), True: (190, 255), False: (0, 90)}[light]
        red, green, blue = (self._rng.randint(low, high) for _ in range(3))
        return red, green, blue

    def _point(self) -> tuple[int, int]:
        return self._rng.randrange(self._width), self._rng.randrange(self._height)

    def _box(self) -> tuple[int, int, int, int]:
        left, top = (value - 20 for value in self._point())
        return left, top, left + self._rng.randint(6, 160), top + self._rng.randint(6, 120)

    def _outline(self) -> _Colour | None:
        return self._colour() if self._rng.random() < 0.5 else None

    def _rectangle(self) -> None:
        self._pen.rounded_rectangle(
            self._box(),
            radius=self._rng.choice((0, 0, 3, 8)),
            fill=self._colour(),
            outline=self._outline(),
            width=self._rng.randint(1, 4),
        )

    def _ellipse(self) -> None:
        self._pen.ellipse(
            self._box(),
            fill=self._colour(),
            outline=self._outline(),
            width=self._rng.randint(1, 4),
        )

    def _lines(self) -> None:
        points = [self._point() for _ in range(self._rng.randint(2, 5))]
        self._pen.line(points, fill=self._colour(), width=self._rng.randint(1, 5))

    def _triangle(self) -> None:
        self._pen.polygon([self._point() for _ in range(3)], fill=self._colour())

    def _grid(self) -> None:
        left, top, right, bottom = self._box()
        colour, step = self._colour(), self._rng.randint(6, 30)
        for x in range(left, right + 1, step):
            self._pen.line((x, top, x, bottom), fill=colour)
        for y in range(top, bottom + 1, step):
            self._pen.line((left, y, right, y), fill=colour)

    def _text(self) -> None:
        plain = (235, 235, 235) if self._dark else (0, 0, 0)
        y = self._rng.randint(-8, 20)
        while y < self._height:
            size = self._rng.choice(_SIZES)
            words = [self._rng.choice(_WORDS) for _ in range(self._rng.randint(1, 10))]
            fill = plain if self._rng.random() < 0.5 else self._colour(light=self._dark)
            x = self._rng.randint(-10, self._width // 2)
            font = _font(self._rng.randrange(1 << 16), size)
            self._pen.text((x, y), " ".join(words), fill=fill, font=font)
            y += int(size * self._rng.uniform(1.1, 2.4))


@cache
def _font_files() -> tuple[Path, ...]:
    """Return the text fonts of matplotlib, found without importing it."""
    package = find_spec("matplotlib")
    if package is None or package.origin is None:
        return ()
    folder = Path(package.origin).parent / "mpl-data/fonts/ttf"
    return tuple(sorted([*folder.glob("DejaVuS*.ttf"), *folder.glob("STIXGeneral*.ttf")]))


def _font(number: int, size: int) -> _Font:
    files = _font_files()
    return _opened_font(number % (len(files) + 1), size)


@lru_cache(maxsize=512)
def _opened_font(number: int, size: int) -> _Font:
    files = _font_files()
    if number == len(files):
        return ImageFont.load_default(size)
    return ImageFont.truetype(files[number], size)
