"""JPEG by Pillow: whole images, and the part that an exact crop needs."""

import io
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from PIL import Image, features

from cir_data.codecs.base import Codec, QualityScale
from cir_data.images.compression import UNKNOWN_QUALITY, Compression, Subsampling, Tables
from cir_data.images.geometry import Pixels, Size, Window

_UNITS: dict[str, Size] = {"4:0:0": (8, 8), "4:4:4": (8, 8), "4:2:2": (8, 16), "4:2:0": (16, 16)}
_NARROWEST = 5


@cache
def codec_name() -> str:
    """Return the name and version of the codec, to stand beside every figure measured with it."""
    if features.check("libjpeg_turbo"):
        library = f"libjpeg-turbo {features.version('libjpeg_turbo')}"
    else:
        library = f"libjpeg {features.version('jpg')}"
    return f"JPEG (Pillow {features.version('pil')}, {library})"


@dataclass(frozen=True)
class JPEG(Codec):
    """JPEG by Pillow; the defaults are Pillow's own: standard tables, baseline, 4:2:0."""

    subsampling: Subsampling = "4:2:0"
    tables: Tables | None = None
    """In place of the standard tables of a quality, which is then without effect."""
    progressive: bool = False
    """Store the same coefficients in another order: the decoded pixels are those of baseline."""

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
        """Return what to compress for an exact part: see :func:`exact_region`."""
        return exact_region(part, size, self._sampling(grey))

    def unit(self, grey: bool) -> Size:
        """Return height and width of a minimum coded unit (MCU) in pixels."""
        return _UNITS[self._sampling(grey)]

    def _sampling(self, grey: bool) -> str:
        return "4:0:0" if grey else self.subsampling

    def _encoded(self, image: Pixels, quality: int) -> io.BytesIO:
        # Pillow would scale given tables by a quality beside them
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
    """Return the part of an image to compress, for a crop as the whole compressed image has it.

    A pixel depends on its unit of blocks (8 x 8 for 4:4:4 and grey, 8 high and 16 wide for 4:2:2,
    16 x 16 for 4:2:0). In a direction in which chroma is subsampled, it depends too on the nearest
    chroma sample of the neighbouring unit, by which the decoder interpolates; one more pixel on
    each side reaches it. The decoder drops this interpolation in images narrower than 5 pixels, so
    that the region must not become one at the image's far border.

    Args:
        window: The crop.
        size: Height and width of the whole image.
        subsampling: ``4:4:4``, ``4:2:2``, ``4:2:0``, or ``4:0:0`` for grey.
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
