"""Drawn pages of text, shapes and gradients: clean graphics without end, for training and tests."""

import random
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cir_data.images.geometry import Pixels

TRAINING_PAGES = 96
"""Training draws pages of the seeds below this; tests use others."""

_SIDE = 512
_TEXT_SIZES = (9, 10, 11, 12, 13, 14, 16, 18, 22, 28, 40, 60)
_WORDS = (
    "the of and to in is page image price 12.50 2026 Total File Edit View Help signal noise 37 %"
    " A-17 OK Cancel http www menu chapter figure archive Monday x = 3 (see below) No. 8 & Sons"
).split()
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")
"""Fonts of matplotlib, used where it is installed, beside the one of Pillow."""


@lru_cache(TRAINING_PAGES)
def drawn_page(seed: int) -> Pixels:
    """Draw a page.

    Args:
        seed: The same seed gives the same page, with the same fonts and version of Pillow.

    Returns:
        (512, 512, 3), read-only.

    Example:
        >>> drawn_page(3).shape
        (512, 512, 3)
    """
    rng = random.Random(seed)
    dark = rng.random() < 0.25
    page = _background(rng, dark)
    draw = ImageDraw.Draw(page)
    for _ in range(rng.randint(2, 14)):
        _draw_shape(rng, draw)
    top = rng.randint(0, 20)
    while top < _SIDE:
        size = rng.choice(_TEXT_SIZES)
        line = " ".join(rng.choice(_WORDS) for _ in range(rng.randint(1, 12)))
        ink = (0, 0, 0) if not dark and rng.random() < 0.4 else _shade(rng, dark)
        font = _font(rng.choice(_font_files()), size)
        draw.text((rng.randint(-10, 200), top), line, fill=ink, font=font)
        top += round(size * rng.uniform(1.1, 2.2))
    return np.asarray(page)


def _background(rng: random.Random, dark: bool) -> Image.Image:
    if rng.random() < 0.3:
        ends = np.array([_colour(rng), _colour(rng)], float)
        share = np.linspace(0, 1, _SIDE)[:, None, None]
        ramp = np.broadcast_to(ends[0] * (1 - share) + ends[1] * share, (_SIDE, _SIDE, 3))
        if rng.random() < 0.5:
            ramp = ramp.transpose(1, 0, 2)
        return Image.fromarray(ramp.round().astype(np.uint8))
    plain = (255, 255, 255) if rng.random() < 1 / 3 else _shade(rng, not dark)
    return Image.new("RGB", (_SIDE, _SIDE), plain)


def _draw_shape(rng: random.Random, draw: ImageDraw.ImageDraw) -> None:
    left, top = rng.randint(-40, _SIDE), rng.randint(-40, _SIDE)
    box = (left, top, left + rng.randint(8, 240), top + rng.randint(8, 200))
    outline = _colour(rng) if rng.random() < 0.5 else None
    kind = rng.choice(("rectangle", "rectangle", "ellipse", "line", "polygon"))
    if kind == "rectangle":
        draw.rectangle(box, _colour(rng), outline, rng.randint(1, 4))
    elif kind == "ellipse":
        draw.ellipse(box, _colour(rng), outline, rng.randint(1, 4))
    elif kind == "line":
        draw.line(_points(rng, rng.randint(2, 5)), _colour(rng), rng.randint(1, 5))
    else:
        draw.polygon(_points(rng, 3), _colour(rng))


def _points(rng: random.Random, count: int) -> list[tuple[float, float]]:
    return [(rng.randrange(_SIDE), rng.randrange(_SIDE)) for _ in range(count)]


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _shade(rng: random.Random, light: bool) -> tuple[int, int, int]:
    """Return a colour that is light, or dark."""
    red, green, blue = (200 + v * 55 // 255 if light else v * 80 // 255 for v in _colour(rng))
    return red, green, blue


@lru_cache
def _font_files() -> tuple[Path | None, ...]:
    """Return font files; None stands for the font of Pillow."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return (None,)
    folder = Path(found.origin).parent / "mpl-data/fonts/ttf"
    return (None, *filter(Path.is_file, (folder / f"{name}.ttf" for name in _FONTS)))


@lru_cache
def _font(file: Path | None, size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)
