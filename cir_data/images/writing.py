"""Writing a picture with its metadata, completely or not at all."""

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cir_data.images import deep_png
from cir_data.images.channels import join_alpha
from cir_data.images.exif import EXIF_HEADER
from cir_data.images.formats import SIXTEEN_BITS
from cir_data.images.metadata import Metadata
from cir_data.images.metadata_limits import (
    METRES_PER_INCH,
    PHOTOSHOP_HEADER,
    fit_metadata,
)
from cir_data.images.png_stream import chunk
from cir_data.images.reading import Picture
from cir_data.images.tiff_writing import TooLarge, encode_tiff
from cir_host.errors import UserError
from cir_host.files import write_bytes_whole

_PNG_LEVEL = 3
"""Of zlib: a 12 MP photograph takes half of the time of level 6 and is 7 % larger."""

_LARGEST = {"webp": 16383, "jpeg": 65500}


class UnwritablePicture(UserError):
    """A picture that the chosen format cannot hold."""


@dataclass(frozen=True)
class Encoding:
    r"""A format with its settings.

    Example:
        >>> picture = Picture(np.zeros((8, 6, 3), np.uint8), None, Metadata())
        >>> Encoding("png").encode(picture, "example")[:4]
        b'\x89PNG'
    """

    format: str
    """A key of :data:`cir_data.images.formats.SUFFIXES`."""
    quality: int = 95
    """Of JPEG (4:4:4), 1 to 100, and of WebP, where 100 is lossless."""

    def encode(self, picture: Picture, where: str) -> bytes:
        """Return the content of a file, with the picture upright.

        Args:
            picture: What to write, with as much of its metadata as :meth:`fitted` keeps.
            where: The input's path, for messages.

        Raises:
            UnwritablePicture: The format cannot hold the size, the alpha, or 16 bits.
        """
        picture = picture.upright()
        height, width = picture.samples.shape[:2]
        largest = _LARGEST.get(self.format)
        if largest is not None and max(height, width) > largest:
            raise UnwritablePicture(
                f"{where}: {self.format} holds at most {largest} pixels a side, and this is"
                f" {width} x {height}; write png or tiff"
            )
        if self.format == "jpeg" and picture.alpha is not None:
            raise UnwritablePicture(f"{where}: JPEG cannot hold its alpha; write png or webp")
        if picture.samples.dtype == np.uint16 and self.format not in SIXTEEN_BITS:
            raise UnwritablePicture(f"{where}: {self.format} cannot hold 16 bits; write png")
        metadata, _ = self.fitted(picture.metadata)
        try:
            return self._encode(picture, metadata)
        except TooLarge as error:
            raise UnwritablePicture(
                f"{where}: a TIFF file holds at most 4 GiB, and this takes {error}; write png"
            ) from error
        except (OSError, ValueError, struct.error) as error:  # what Pillow's writers raise
            raise UnwritablePicture(
                f"{where}: cannot be written as {self.format} ({error}); choose another --format"
            ) from error

    def fitted(self, metadata: Metadata) -> tuple[Metadata, tuple[str, ...]]:
        """Return the metadata that the format can hold, and name what is dropped.

        See :func:`cir_data.images.metadata_limits.fit_metadata`.
        """
        return fit_metadata(metadata, self.format)

    def _encode(self, picture: Picture, metadata: Metadata) -> bytes:
        samples, alpha = picture.samples, picture.alpha
        if self.format == "tiff":
            return encode_tiff(join_alpha(samples, alpha), alpha is not None, metadata)
        if samples.dtype == np.uint16:
            return _with_png_chunks(deep_png.encode(samples, alpha), metadata)
        buffer = io.BytesIO()
        image = Image.fromarray(join_alpha(samples, alpha))
        image.save(buffer, self.format.upper(), **self._arguments(metadata))
        data = buffer.getvalue()
        return _with_png_chunks(data, metadata) if self.format == "png" else data

    def _arguments(self, metadata: Metadata) -> dict[str, Any]:
        """Return the arguments of Pillow's writers of PNG, WebP and JPEG."""
        if self.format == "png":
            return {"compress_level": _PNG_LEVEL}
        arguments: dict[str, Any] = {"quality": self.quality, "icc_profile": metadata.icc}
        if metadata.exif:
            arguments["exif"] = EXIF_HEADER + metadata.exif
        if metadata.xmp:
            arguments["xmp"] = metadata.xmp
        if self.format == "webp":
            return arguments | {"lossless": self.quality == 100, "exact": True}
        arguments["subsampling"] = 0
        if metadata.dpi:
            arguments["dpi"] = metadata.dpi
        if metadata.comment:
            arguments["comment"] = metadata.comment
        if metadata.iptc:
            content = PHOTOSHOP_HEADER + metadata.iptc.as_resources()
            arguments["extra"] = b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
        return arguments


def write_file(path: Path, data: bytes, replace: bool = True) -> None:
    """Write a file completely or not at all, and create its folder if needed.

    Args:
        path: The file.
        data: The content.
        replace: Whether an existing file is replaced.

    Raises:
        FileExistsError: The path exists, and ``replace`` is not set.
        UserError: The disk is full, or the folder is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_whole(path, data, replace)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            raise  # not if a file has the name of the folder
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _with_png_chunks(data: bytes, metadata: Metadata) -> bytes:
    """Insert metadata after the header chunk of a PNG, where the standard wants the profile."""
    chunks = b""
    if metadata.icc:
        chunks += chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi:
        per_metre = [round(dpi / METRES_PER_INCH) for dpi in metadata.dpi]
        chunks += chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if metadata.exif:
        chunks += chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunks += _text_chunk("XML:com.adobe.xmp", metadata.xmp)
    for keyword, text in metadata.texts.items():
        chunks += _text_chunk(keyword, text.encode())
    if metadata.comment:
        chunks += _text_chunk("Comment", _as_utf_8(metadata.comment).replace(b"\0", b""))
    end_of_header = 8 + 25
    return data[:end_of_header] + chunks + data[end_of_header:]


def _as_utf_8(text: bytes) -> bytes:
    """Return a text in UTF-8; what is not UTF-8 is taken for Latin-1."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1").encode()
    return text


def _text_chunk(keyword: str, text: bytes) -> bytes:
    return chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text)
