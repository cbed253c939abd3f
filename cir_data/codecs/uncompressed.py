"""No compression, as a codec: for the share of clean images in training."""

from cir_data.codecs.codec import Codec, QualityScale
from cir_data.images.compression import Compression
from cir_data.images.geometry import Pixels, Size, Window

HIGHEST = 100
"""The only quality."""


class Uncompressed(Codec):
    """Returns images as they are, with quality 100."""

    takes_grey = True

    @property
    def scale(self) -> QualityScale:
        """The only quality is 100."""
        return QualityScale(HIGHEST, HIGHEST)

    @property
    def version(self) -> str:
        """The name in results."""
        return "not compressed"

    def encode(self, image: Pixels, quality: int) -> bytes:
        """Return the samples; see :meth:`Codec.encode`."""
        return image.tobytes()

    def decode(self, data: bytes, size: Size) -> Pixels:
        """Return the image; see :meth:`Codec.decode`."""
        raise NotImplementedError("use compress, which returns its input")

    def compress(self, image: Pixels, quality: int) -> Pixels:
        """Return the image unchanged; see :meth:`Codec.compress`."""
        return image

    def record(self, quality: int, grey: bool) -> Compression:
        """Return quality 100 and no subsampling."""
        return Compression(self.version, quality, "4:0:0" if grey else "4:4:4")

    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return the same part; see :meth:`Codec.needs`."""
        return part
