"""JPEG by the Independent JPEG Group's libjpeg 9, through the package ``jpeglib``.

It differs from libjpeg-turbo in subsampled chroma, which it resizes by DCTs of another length, not
by averaging and interpolation. The quantisation tables are those that Pillow writes for the same
quality. On the 29 images of LIVE1 at qualities 10, 20, 30, 40 (jpeglib 1.0.2 with 9d; Pillow 13.0.0
with libjpeg-turbo 3.2.0), the mean PSNR of the compressed images is 25.598, 27.957, 29.252, 30.164
dB, where libjpeg-turbo gives 25.693, 28.061, 29.366, 30.280; 14, 24, 30, 34 % of the pixels differ.
Grey images are identical.
"""

import threading
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from cir_data.codecs.codec import CodecError
from cir_data.codecs.jpeg import JPEG
from cir_data.images.geometry import Pixels, Size, size_of
from cir_data.images.jpeg_facts import standard_tables
from cir_data.images.jpeglib_files import require_jpeglib, temporary_jpeg

_selected = threading.Lock()
"""Locks the choice of a release while it is used: jpeglib has one choice per process."""


@dataclass(frozen=True)
class IJGJpeg(JPEG):
    """Baseline JPEG by one release of libjpeg 9.

    ``jpeglib`` only reads and writes files; they are placed in memory if the system supports that.
    Its choice of a release is not restored after a call.
    """

    release: str = "9d"
    """``9``, or ``9a`` to ``9f``."""

    def __post_init__(self) -> None:
        _jpeglib()  # report a missing package now, not in a worker

    @property
    def version(self) -> str:
        """Name and version of the codec."""
        return f"JPEG (jpeglib {_jpeglib().__version__}, libjpeg {self.release})"

    def encode(self, image: Pixels, quality: int) -> bytes:
        """Compress an image, (H, W) grey or (H, W, 3) RGB; see :meth:`Codec.encode`."""
        grey = image.ndim == 2
        tables = (self.tables or standard_tables(quality, grey))[: 1 if grey else 2]
        with _selected, temporary_jpeg() as path:
            jpeg = self._library().from_spatial(image[..., None] if grey else image)
            if not grey:
                jpeg.samp_factor = self.subsampling
            try:
                jpeg.write_spatial(str(path), qt=np.array(tables, np.uint16).reshape(-1, 8, 8))
                return path.read_bytes()
            except OSError as error:
                raise CodecError(f"{self.version}: {error}") from error

    def decode(self, data: bytes, size: Size) -> Pixels:
        """Return the image; see :meth:`Codec.decode`."""
        with _selected, temporary_jpeg() as path:
            path.write_bytes(data)
            try:
                decoded: Pixels = self._library().read_spatial(str(path)).spatial
            except OSError as error:
                raise CodecError(f"{self.version}: {error}") from error
        return decoded[..., 0] if decoded.shape[2] == 1 else decoded

    def compress(self, image: Pixels, quality: int) -> Pixels:
        """Compress and decode an image; see :meth:`Codec.compress`."""
        return self.decode(self.encode(image, quality), size_of(image))

    def _library(self) -> ModuleType:
        library = _jpeglib()
        if library.version.get() != self.release:
            library.version.set(self.release)
        return library


def _jpeglib() -> ModuleType:
    return require_jpeglib("library: libjpeg-9 and its like")
