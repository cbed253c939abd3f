"""What every codec is to the data sets: pixels to bytes and back, and the facts of both."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from cir_data.images.compression import Compression
from cir_data.images.geometry import Pixels, Size, Window
from cir_host.errors import UserError


class CodecError(UserError):
    """A codec failed on an image. The message names the codec; who knows the image adds it."""


@dataclass(frozen=True)
class QualityScale:
    """The integers by which a codec is told how finely to quantise."""

    lowest: int
    highest: int

    def __contains__(self, quality: int) -> bool:
        return self.lowest <= quality <= self.highest


class Codec(ABC):
    """A codec with all its settings but the quality."""

    takes_grey: ClassVar[bool] = False
    """Whether it stores one channel. Otherwise a grey image goes through it as three equal ones."""

    @property
    @abstractmethod
    def scale(self) -> QualityScale:
        """The qualities that it takes; on some scales a higher one is worse, as a QP is."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Name and version of the codec, to stand beside every figure measured with it."""

    @abstractmethod
    def encode(self, image: Pixels, quality: int) -> bytes:
        """Compress an image.

        Args:
            image: (H, W, 3) RGB, or (H, W) grey where the codec takes it.
            quality: On the codec's :attr:`scale`.

        Raises:
            CodecError: The codec failed.
        """

    @abstractmethod
    def decode(self, data: bytes, size: Size) -> Pixels:
        """Return the image that :meth:`encode` compressed, in its shape.

        Args:
            data: The bitstream.
            size: Height and width of the image, which not every bitstream tells.

        Raises:
            CodecError: The codec failed.
        """

    def compress(self, image: Pixels, quality: int) -> Pixels:
        """Compress and decode an image, (H, W) grey or (H, W, 3) RGB; the shape stays.

        Raises:
            CodecError: The codec failed, or gave another size.
        """
        as_grey = image.ndim == 2 and not self.takes_grey
        given = np.repeat(image[..., None], 3, axis=2) if as_grey else image
        decoded = self.decode(self.encode(given, quality), _size(given))
        if decoded.shape != given.shape:
            raise CodecError(
                f"{self.version}: gave an image of shape {decoded.shape} for {given.shape}"
            )
        return np.asarray(Image.fromarray(decoded).convert("L")) if as_grey else decoded

    def record(self, quality: int, grey: bool) -> Compression:
        """Return the facts of an image that :meth:`compress` gives."""
        return Compression(self.version, quality, "unknown")

    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return what to compress of an image, for a part as the whole compressed image has it.

        Here that is all of it, as prediction and filters reach across the blocks of most codecs.

        Args:
            part: What is wanted of the compressed image.
            size: Height and width of the whole image.
            grey: Whether it is compressed as a grey image.
        """
        return Window(0, 0, *size)


def _size(image: Pixels) -> Size:
    return image.shape[0], image.shape[1]
