"""JPEG by Pillow, and the smallest window to compress for an exact crop."""

import io
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from PIL import Image, features

from cir_data.codecs.codec import Codec, QualityScale
from cir_data.images.compression import UNKNOWN_QUALITY, Compression, Subsampling, Tables
from cir_data.images.geometry import Pixels, Size, Window

_UNITS: dict[str, Size] = {"4:0:0": (8, 8), "4:4:4": (8, 8), "4:2:2": (8, 16), "4:2:0": (16, 16)}
LARGEST_UNIT = 16
"""Pixels between two positions at which an MCU of every subsampling begins."""

_NARROWEST = 5


@cache
def codec_name() -> str:
    """Return the name and version of the codec, recorded with every result."""
    if features.check("libjpeg_turbo"):
        library = f"libjpeg-turbo {features.version('libjpeg_turbo')}"
    else:
        library = f"libjpeg {features.version('jpg')}"
    return f"JPEG (Pillow {features.version('pil')}, {library})"


@dataclass(frozen=True)
class JPEG(Codec):
    """JPEG by Pillow; the defaults are Pillow's own: standard tables, baseline, 4:2:0.

    Example:
        >>> image = np.zeros((48, 64, 3), np.uint8)
        >>> codec = JPEG("4:4:4")
        >>> codec.compress(image, quality=40).shape
        (48, 64, 3)
        >>> codec.record(40, grey=False).subsampling
        '4:4:4'
    """

    subsampling: Subsampling = "4:2:0"
    tables: Tables | None = None
    """Used instead of the standard tables of the quality, which then has no effect."""
    progressive: bool = False
    """Store the same coefficients in another order; the decoded pixels are the same."""

    takes_grey: ClassVar[bool] = True

    @property
    def scale(self) -> QualityScale:
        """The qualities of libjpeg."""
        return QualityScale(1, 100)

    @property
    def version(self) -> str:
        """Name and version of the codec."""
        return codec_name()

    def encode(self, image: Pixels, quality: int) -> bytes:
        """Compress an image, (H, W) grey or (H, W, 3) RGB; see :meth:`Codec.encode`."""
        return self._encoded(image, quality).getvalue()

    def decode(self, data: bytes, size: Size) -> Pixels:
        """Return the image; see :meth:`Codec.decode`."""
        return np.asarray(Image.open(io.BytesIO(data)))

    def compress(self, image: Pixels, quality: int) -> Pixels:
        """Compress and decode an image; see :meth:`Codec.compress`."""
        return np.asarray(Image.open(self._encoded(image, quality)))

    def record(self, quality: int, grey: bool) -> Compression:
        """Return the facts of an image that :meth:`compress` gives."""
        known = quality if self.tables is None else UNKNOWN_QUALITY
        return Compression(self.version, known, self._sampling(grey))

    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return the window to compress for an exact part; see :func:`exact_region`."""
        return exact_region(part, size, self._sampling(grey))

    def _sampling(self, grey: bool) -> str:
        return "4:0:0" if grey else self.subsampling

    def _encoded(self, image: Pixels, quality: int) -> io.BytesIO:
        # Pillow would scale the tables if a quality was given, too
        settings: dict[str, Any] = (
            {"quality": quality} if self.tables is None else {"qtables": self.tables}
        )
        if image.ndim == 3:
            settings["subsampling"] = self.subsampling
        if self.progressive:
            settings["progressive"] = True
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", **settings)
        return buffer


def exact_region(window: Window, size: Size, subsampling: str) -> Window:
    """Return the window to compress so that a crop equals that of the whole compressed image.

    A pixel depends on its MCU (8 x 8 for 4:4:4 and grey, 8 high and 16 wide for 4:2:2, 16 x 16 for
    4:2:0). In a direction in which chroma is subsampled, it also depends on the nearest chroma
    sample of the next MCU, because the decoder interpolates; one more pixel on each side includes
    it. The decoder does not interpolate images narrower than 5 pixels, so the window must not
    become that narrow at the far border of the image.

    Args:
        window: The crop.
        size: Height and width of the whole image.
        subsampling: ``4:4:4``, ``4:2:2``, ``4:2:0``, or ``4:0:0`` for grey.

    Example:
        >>> exact_region(Window(20, 30, 8, 8), (480, 640), "4:4:4")
        Window(top=16, left=24, height=16, width=16)
    """
    (unit_height, unit_width), (height, width) = _UNITS[subsampling], size
    top, bottom = _exact_span(window.top, window.height, height, unit_height)
    left, right = _exact_span(window.left, window.width, width, unit_width)
    return Window(top, left, bottom - top, right - left)


def _exact_span(start: int, length: int, limit: int, unit: int) -> tuple[int, int]:
    first, last = start, start + length
    if unit == 16:
        first, last = max(0, min(start - 1, limit - _NARROWEST)), last + 1
    return first // unit * unit, min(-(-last // unit) * unit, limit)
