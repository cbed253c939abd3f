"""JPEG by Pillow: whole images, the part that an exact crop needs, and the facts of a file."""

import io
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image, features
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from cir_data.geometry import Pixels, Window

UNKNOWN_QUALITY = -1
"""Stands for the quality of a file whose tables are not those of a standard quality."""

Tables: TypeAlias = tuple[tuple[int, ...], ...]

_SUBSAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_NARROWEST = 5


class Compression(NamedTuple):
    """How an image was compressed, as far as it is known."""

    codec: str
    """Name and version of the codec that made it; the bare format where a file does not tell."""
    quality: int
    """1 to 100, or :data:`UNKNOWN_QUALITY`."""
    subsampling: str
    """``4:2:0`` and its like, ``4:0:0`` for grey, ``unknown`` where the format does not tell."""


@cache
def codec_name() -> str:
    """Return the name and version of the codec, to stand beside every figure measured with it."""
    if features.check("libjpeg_turbo"):
        library = f"libjpeg-turbo {features.version('libjpeg_turbo')}"
    else:
        library = f"libjpeg {features.version('jpg')}"
    return f"JPEG (Pillow {features.version('pil')}, {library})"


def compress(image: Pixels, quality: int) -> tuple[Pixels, Compression]:
    """Compress and decode an image with Pillow's defaults: standard tables, baseline, 4:2:0.

    Args:
        image: (H, W) grey, or (H, W, 3) RGB.
        quality: 1 to 100.

    Returns:
        The decoded image in the shape of ``image``, and what was done.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(buffer))
    return decoded, Compression(codec_name(), quality, "4:0:0" if image.ndim == 2 else "4:2:0")


def exact_region(window: Window, image: Pixels, grey: bool) -> Window:
    """Return the part of an image to compress, for a crop as the whole compressed image has it.

    A grey pixel depends on its 8 x 8 block. A colour pixel depends on its 16 x 16 unit, and on the
    nearest chroma sample of the neighbouring unit, by which the decoder interpolates; one more
    pixel on each side reaches it. The decoder drops this interpolation in images narrower than
    5 pixels, so that the region must not become one at the image's far border.

    Args:
        window: The crop.
        image: The whole image, of which the size alone is used.
        grey: Whether it is compressed as a grey image.
    """
    unit, reach = (8, 0) if grey else (16, 1)
    height, width = image.shape[:2]
    top, bottom = _exact_span(window.top, window.height, height, unit, reach)
    left, right = _exact_span(window.left, window.width, width, unit, reach)
    return Window(top, left, bottom - top, right - left)


def _exact_span(start: int, length: int, limit: int, unit: int, reach: int) -> tuple[int, int]:
    first = max(0, min(start - reach, limit - _NARROWEST))
    last = start + length + reach
    return first // unit * unit, min(-(-last // unit) * unit, limit)


def compression_of(image: Image.Image) -> Compression:
    """Return what an opened file tells about its compression.

    Args:
        image: As ``PIL.Image.open`` gives it: JPEG, or another format, which tells its name only.
    """
    if not isinstance(image, JpegImageFile):
        return Compression(image.format or "unknown", UNKNOWN_QUALITY, "unknown")
    grey = image.layers == 1
    tables = tuple(tuple(table) for _, table in sorted(image.quantization.items()))
    quality = _standard_tables(grey).get(tables, UNKNOWN_QUALITY)
    subsampling = "4:0:0" if grey else _SUBSAMPLING.get(get_sampling(image), "unknown")
    return Compression("JPEG", quality, subsampling)


@cache
def _standard_tables(grey: bool) -> dict[Tables, int]:
    """Return the qualities by their standard quantisation tables."""
    qualities: dict[Tables, int] = {}
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("L" if grey else "RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer)
        assert isinstance(image, JpegImageFile)
        tables = tuple(tuple(table) for _, table in sorted(image.quantization.items()))
        qualities[tables] = quality
    return qualities
