"""The interface of codecs: pixels to bytes and back, with the facts of the compression."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from cir_data.images.compression import Compression
from cir_data.images.geometry import Pixels, Size, Window, size_of
from cir_host.errors import UserError


class CodecError(UserError):
    """A codec failed on an image. The message names the codec; the caller adds the image."""


@dataclass(frozen=True)
class QualityScale:
    """The range of a codec's quality setting."""

    lowest: int
    highest: int

    def __contains__(self, quality: int) -> bool:
        return self.lowest <= quality <= self.highest


class Codec(ABC):
    """A codec with all its settings, except the quality."""

    takes_grey: ClassVar[bool] = False
    """Whether it stores one channel. If not, grey images are passed as three equal channels."""

    @property
    @abstractmethod
    def scale(self) -> QualityScale:
        """The range of qualities; on some scales, such as QP, higher means worse."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Name and version of the codec, recorded with every result."""

    @abstractmethod
    def encode(self, image: Pixels, quality: int) -> bytes:
        """Compress an image.

        Args:
            image: (H, W, 3) RGB, or (H, W) grey if the codec takes it.
            quality: On the codec's :attr:`scale`.

        Raises:
            CodecError: The codec failed.
        """

    @abstractmethod
    def decode(self, data: bytes, size: Size) -> Pixels:
        """Return the image that :meth:`encode` compressed, in its shape.

        Args:
            data: The bitstream.
            size: Height and width of the image, which not every bitstream contains.

        Raises:
            CodecError: The codec failed.
        """

    def compress(self, image: Pixels, quality: int) -> Pixels:
        """Compress and decode an image, (H, W) grey or (H, W, 3) RGB; keep its shape.

        Raises:
            CodecError: The codec failed, or changed the size.
        """
        as_grey = image.ndim == 2 and not self.takes_grey
        given = np.repeat(image[..., None], 3, axis=2) if as_grey else image
        decoded = self.decode(self.encode(given, quality), size_of(given))
        if decoded.shape != given.shape:
            raise CodecError(
                f"{self.version}: returned an image of shape {decoded.shape} for {given.shape}"
            )
        return np.asarray(Image.fromarray(decoded).convert("L")) if as_grey else decoded

    def record(self, quality: int, grey: bool) -> Compression:
        """Return the facts of an image that :meth:`compress` gives."""
        return Compression(self.version, quality, "unknown")

    def needs(self, part: Window, size: Size, grey: bool) -> Window:
        """Return the window to compress so that a part equals that of the whole compressed image.

        By default, that is the whole image: most codecs predict and filter across blocks.

        Args:
            part: The wanted part of the compressed image.
            size: Height and width of the whole image.
            grey: Whether it is compressed as a grey image.
        """
        return Window(0, 0, *size)
