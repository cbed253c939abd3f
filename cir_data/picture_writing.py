"""Writing a picture with all that is known beside its pixels, whole or not at all."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from cir_data.metadata import Metadata
from cir_data.picture import Picture, Samples
from cir_host.errors import UserError
from cir_host.files import write_whole

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg", "tiff": ".tif"}
"""Formats that can be written, with the suffix of their files."""

SIXTEEN_BITS = {"png", "tiff"}
"""Formats that can hold 16 bits."""

_LARGEST = {"webp": 16383, "jpeg": 65500}
_XMP_IN_TIFF = 700
_EXIF_HEADER = b"Exif\0\0"


class UnwritablePicture(UserError):
    """A picture that the chosen format cannot hold."""


@dataclass(frozen=True)
class Encoding:
    """A format with its settings."""

    format: str
    """A key of :data:`SUFFIXES`."""
    quality: int = 95
    """Of JPEG (4:4:4), 1 to 100, and of WebP, where 100 is without loss."""

    def encode(self, picture: Picture, where: str) -> bytes:
        """Return the content of a file.

        Args:
            picture: What to write; its metadata go with it.
            where: The input's path, for messages.

        Raises:
            UnwritablePicture: The format cannot hold the size, the alpha, or 16 bits with metadata.
        """
        height, width = picture.samples.shape[:2]
        largest = _LARGEST.get(self.format)
        if largest is not None and max(height, width) > largest:
            raise UnwritablePicture(
                f"{where}: {self.format} holds at most {largest} pixels a side, and this is"
                f" {width} x {height}; write png or tiff"
            )
        if self.format == "jpeg" and picture.alpha is not None:
            raise UnwritablePicture(f"{where}: JPEG cannot hold its alpha; write png or webp")
        if picture.samples.dtype == np.uint16:
            return _encode_16_bits(picture, self.format, where)
        buffer = io.BytesIO()
        image = Image.fromarray(_joined(picture.samples, picture.alpha))
        image.save(buffer, self.format.upper(), **self._arguments(picture.metadata))
        return buffer.getvalue()

    def _arguments(self, metadata: Metadata) -> dict[str, Any]:
        arguments: dict[str, Any] = {"icc_profile": metadata.icc}
        if metadata.exif:
            arguments["exif"] = _EXIF_HEADER + metadata.exif
        if metadata.dpi and self.format != "webp":
            arguments["dpi"] = metadata.dpi
        if self.format == "jpeg":
            arguments |= {"quality": self.quality, "subsampling": 0}
            arguments |= {"comment": metadata.comment} if metadata.comment else {}
        elif self.format == "webp":
            arguments |= {"quality": self.quality, "lossless": self.quality == 100, "exact": True}
        elif self.format == "tiff":
            # Pillow's compressing writer cannot write EXIF's own directories
            arguments |= {"compression": None if metadata.exif else "tiff_adobe_deflate"}
        if metadata.xmp and self.format == "png":
            text = PngImagePlugin.PngInfo()
            text.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
            arguments["pnginfo"] = text
        elif metadata.xmp and self.format == "tiff":
            tags = Image.Exif()  # Pillow's TIFF writer takes one source of tags
            tags.load(arguments.get("exif", b""))
            tags[_XMP_IN_TIFF] = metadata.xmp
            arguments["exif"] = tags
        elif metadata.xmp:
            arguments["xmp"] = metadata.xmp
        return arguments


def write_file(path: Path, data: bytes) -> None:
    """Write a file in its folder, which is made, so that it is there whole or not at all.

    Raises:
        UserError: The disk is full, or the folder may not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(data))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _joined(samples: Samples, alpha: Samples | None) -> Samples:
    return samples if alpha is None else np.dstack([samples, alpha])


def _encode_16_bits(picture: Picture, file_format: str, where: str) -> bytes:
    if file_format not in SIXTEEN_BITS:
        raise UnwritablePicture(f"{where}: {file_format} cannot hold 16 bits; write png")
    metadata = picture.metadata
    if file_format == "tiff" and (metadata.exif or metadata.icc or metadata.xmp):
        raise UnwritablePicture(
            f"{where}: its metadata cannot be kept in a 16-bit TIFF; write png, or 8 bits"
        )
    samples, alpha = picture.samples, picture.alpha
    if samples.ndim == 3:
        samples = samples[..., ::-1]
    elif alpha is not None:  # OpenCV has no grey with alpha
        samples = np.repeat(samples[..., None], 3, axis=2)
    done, encoded = cv2.imencode("." + file_format, _joined(samples, alpha))
    assert done  # it fails on unknown formats alone
    data = bytes(encoded)
    return _with_png_chunks(data, metadata) if file_format == "png" else data


def _with_png_chunks(data: bytes, metadata: Metadata) -> bytes:
    """Put metadata behind the header chunk of a PNG, where the standard wants the profile."""
    chunks = b""
    if metadata.icc:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi:
        per_metre = [round(dpi / 0.0254) for dpi in metadata.dpi]
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    end_of_header = 8 + 25
    return data[:end_of_header] + chunks + data[end_of_header:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
