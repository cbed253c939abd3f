"""The images that are not compressed, as a codec: they keep every pixel."""

from typing import ClassVar

import numpy as np

from cir_data.codecs.codec import Codec, QualityScale
from cir_data.images.compression import Compression
from cir_data.images.geometry import Pixels, Size, Window

FULL_QUALITY = 100
"""The quality that samples state, so that losses and networks know these images as clean."""


class Uncompressed(Codec):
    """Returns images as they are."""

    takes_grey: ClassVar[bool] = True

    @property
    def scale(self) -> QualityScale:
        """The only quality."""
        return QualityScale(FULL_QUALITY, FULL_QUALITY)

    @property
    def version(self) -> str:
        """The name in samples."""
        return "none"

    def encode(self, image: Pixels, quality: int) -> bytes:
        """Return the samples row by row; see :meth:`Codec.encode`."""
        return image.tobytes()

    def decode(self, data: bytes, size: Size) -> Pixels:
        """Return the image; see :meth:`Codec.decode`."""
        pixels = np.frombuffer(data, np.uint8)
        return pixels.reshape(size if len(data) == size[0] * size[1] else (*size, 3))

    def compress(self, image: Pixels, quality: int) -> Pixels:
        """Return the image itself."""
        return image

    def record(self, quality: int, grey: bool) -> Compression:
        """Return the facts of an image that is not compressed."""
        return Compression(self.version, FULL_QUALITY, "4:0:0" if grey else "4:4:4")

    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return the part itself."""
        return part
