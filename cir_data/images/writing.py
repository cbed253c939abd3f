"""Writing a picture with all that is known beside its pixels, whole or not at all."""

import io
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cir_data.images.exif import has_thumbnail, states
from cir_data.images.formats import SIXTEEN_BITS
from cir_data.images.metadata import THUMBNAIL, Metadata
from cir_data.images.reading import Picture, Samples
from cir_data.images.tiff_writing import TooLarge, encode_tiff
from cir_data.images.xmp import with_iptc
from cir_host.errors import UserError
from cir_host.files import write_whole

_LARGEST = {"webp": 16383, "jpeg": 65500}

_EXIF_HEADER = b"Exif\0\0"
_PHOTOSHOP = b"Photoshop 3.0\0"

_SEGMENT = 65533
"""Bytes that a segment of a JPEG file holds."""

_PNG_TEXT = 1 << 20
"""Bytes of a profile or a text beyond which Pillow, and so this package, refuses a PNG file."""

_LIMITS: dict[str, dict[str, int]] = {
    "jpeg": {
        "exif": _SEGMENT - len(_EXIF_HEADER),
        "xmp": _SEGMENT - len("http://ns.adobe.com/xap/1.0/ "),
        "iptc": _SEGMENT - len(_PHOTOSHOP) - 13,  # the resource's header and padding
        "icc": 255 * (_SEGMENT - 14),
        "comment": _SEGMENT,
    },
    "png": {"icc": _PNG_TEXT, "xmp": _PNG_TEXT, "comment": _PNG_TEXT},
}
"""The most bytes of each part of the metadata."""

_PARTS = {
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "icc": "the colour profile",
    "comment": "the comment",
}

_PNG_KEYWORD = 79

_X_RESOLUTION = 282

_METRES_PER_INCH = 0.0254

_DPI = {
    "jpeg": (0.5, (1 << 16) - 1),
    "png": (_METRES_PER_INCH / 2, ((1 << 31) - 1) * _METRES_PER_INCH),
    "tiff": (1e-4, (1 << 32) - 1),
}
"""The least and the largest resolution."""


class UnwritablePicture(UserError):
    """A picture that the chosen format cannot hold."""


@dataclass(frozen=True)
class Encoding:
    """A format with its settings."""

    format: str
    """A key of :data:`SUFFIXES`."""
    quality: int = 95
    """Of JPEG (4:4:4), 1 to 100, and of WebP, where 100 is lossless."""

    def encode(self, picture: Picture, where: str) -> bytes:
        """Return the content of a file.

        Args:
            picture: What to write, with as much of its metadata as :meth:`fitted` keeps.
            where: The input's path, for messages.

        Raises:
            UnwritablePicture: The format cannot hold the size, the alpha, or 16 bits.
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
        """Return what the format can hold of a picture's metadata, and name the rest.

        Returns:
            The metadata, and what is dropped, in words that follow "dropped".
        """
        dropped: list[str] = []
        if metadata.iptc and self.format in ("png", "webp"):
            xmp, lost = with_iptc(metadata.xmp, metadata.iptc)
            metadata = replace(metadata, xmp=xmp, iptc=None)
            dropped += [f"IPTC's {', '.join(lost)}"] if lost else []
        for name, limit in _LIMITS.get(self.format, {}).items():
            value = getattr(metadata, name)
            size = len(value.data if name == "iptc" and value else value or b"")
            if size > limit:
                metadata = replace(metadata, **{name: None})  # type: ignore[arg-type]
                dropped.append(
                    f"{_PARTS[name]} ({size / 1e3:.0f} kB, while {self.format} files hold"
                    f" {limit / 1e3:.0f} kB)"
                )
        if metadata.xmp and self.format == "png" and not _is_utf_8(metadata.xmp):
            metadata = replace(metadata, xmp=None)
            dropped.append("XMP that is not UTF-8")
        texts = {k: v for k, v in metadata.texts.items() if self.format == "png" and _fits(k, v)}
        if lost := sorted(metadata.texts.keys() - texts.keys()):
            metadata = replace(metadata, texts=texts)
            dropped.append(f"PNG's texts {', '.join(lost)}")
        if metadata.comment and self.format in ("webp", "tiff"):
            metadata = replace(metadata, comment=None)
            dropped.append(f"the comment, which {self.format} files do not have")
        if metadata.exif and self.format == "tiff" and has_thumbnail(metadata.exif):
            dropped.append(THUMBNAIL)  # it would be a second page
        if metadata.dpi and self.format == "webp":
            if not (metadata.exif and states(metadata.exif, _X_RESOLUTION)):
                dropped.append("the resolution, which webp files state in EXIF alone")
            metadata = replace(metadata, dpi=None)
        elif metadata.dpi:
            least, most = _DPI[self.format]
            if not all(least <= dpi <= most for dpi in metadata.dpi):
                dropped.append(f"the resolution of {metadata.dpi[0]:g} x {metadata.dpi[1]:g} dpi")
                metadata = replace(metadata, dpi=None)
        return metadata, tuple(dropped)

    def _encode(self, picture: Picture, metadata: Metadata) -> bytes:
        samples, alpha = picture.samples, picture.alpha
        if self.format == "tiff":
            return encode_tiff(_joined(samples, alpha), alpha is not None, metadata)
        if samples.dtype == np.uint16:
            return _with_png_chunks(_encode_16_bits(samples, alpha), metadata)
        buffer = io.BytesIO()
        image = Image.fromarray(_joined(samples, alpha))
        image.save(buffer, self.format.upper(), **self._arguments(metadata))
        data = buffer.getvalue()
        return _with_png_chunks(data, metadata) if self.format == "png" else data

    def _arguments(self, metadata: Metadata) -> dict[str, Any]:
        """Return the arguments of Pillow's writers of WebP and JPEG."""
        if self.format == "png":
            return {}
        arguments: dict[str, Any] = {"quality": self.quality, "icc_profile": metadata.icc}
        if metadata.exif:
            arguments["exif"] = _EXIF_HEADER + metadata.exif
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
            content = _PHOTOSHOP + metadata.iptc.as_resources()
            arguments["extra"] = b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
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


def _encode_16_bits(samples: Samples, alpha: Samples | None) -> bytes:
    """Return a PNG file of 16 bits, which Pillow cannot write in colour."""
    if samples.ndim == 3:
        samples = samples[..., ::-1]
    elif alpha is not None:  # OpenCV has no grey with alpha
        samples = np.repeat(samples[..., None], 3, axis=2)
    import cv2  # for 16 bits alone

    done, encoded = cv2.imencode(".png", _joined(samples, alpha))
    assert done  # it fails on unknown formats alone
    return bytes(encoded)


def _is_utf_8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fits(keyword: str, text: str) -> bool:
    latin = all(ord(letter) < 256 for letter in keyword)
    return latin and 0 < len(keyword) <= _PNG_KEYWORD and len(text.encode()) <= _PNG_TEXT


def _with_png_chunks(data: bytes, metadata: Metadata) -> bytes:
    """Put metadata behind the header chunk of a PNG, where the standard wants the profile."""
    chunks = b""
    if metadata.icc:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi:
        per_metre = [round(dpi / _METRES_PER_INCH) for dpi in metadata.dpi]
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunks += _text_chunk("XML:com.adobe.xmp", metadata.xmp)
    for keyword, text in metadata.texts.items():
        chunks += _text_chunk(keyword, text.encode())
    if metadata.comment:
        comment = metadata.comment.decode("utf-8", "replace").replace("\0", "")
        chunks += _text_chunk("Comment", comment.encode())
    end_of_header = 8 + 25
    return data[:end_of_header] + chunks + data[end_of_header:]


def _text_chunk(keyword: str, text: bytes) -> bytes:
    return _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
