"""TIFF files that keep EXIF at its offset, so that the offsets in maker notes stay valid.

Pillow and tifffile rewrite EXIF. Here the EXIF structure, which begins like a TIFF file, becomes
the start of the file. The pixels and the directory that describes them follow, and the header
points to that directory.
"""

import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from cir_data.images.exif import STORAGE_TAGS, byte_order, main_entries
from cir_data.images.metadata import Metadata

_STRIP_BYTES = 1 << 18
_LARGEST_FILE = (1 << 32) - 1
_ROOM_FOR_METADATA = 1 << 28
_BYTE, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 3, 4, 5, 7
_FORMATS = {_BYTE: "B", _SHORT: "H", _LONG: "I", _RATIONAL: "II", _UNDEFINED: "B"}

_DEFLATE, _DIFFERENCES = 8, 2
_GREY, _RGB = 1, 2
_UNASSOCIATED_ALPHA = 2
_INCH = 2


class TooLarge(ValueError):
    """A picture that exceeds the 4 GiB of a TIFF file."""


def encode_tiff(samples: npt.NDArray[Any], has_alpha: bool, metadata: Metadata) -> bytes:
    """Return a TIFF file with lossless compression.

    Args:
        samples: (H, W) or (H, W, C) of ``uint8`` or ``uint16``: grey or RGB, then alpha.
        has_alpha: Whether the last channel is alpha.
        metadata: Its EXIF must be valid; see :func:`cir_data.images.exif.is_sound`.

    Raises:
        TooLarge: The file would be larger than TIFF allows.
    """
    pixels = np.atleast_3d(samples)
    height, width, channels = pixels.shape
    exif = metadata.exif or b"II*\0\0\0\0\0"
    order = byte_order(exif) or "<"
    rows = max(1, _STRIP_BYTES // (width * channels * pixels.itemsize))
    body = bytearray(exif)
    offsets, sizes = [], []
    for top in range(0, height, rows):
        strip = _strip(pixels[top : top + rows], order)
        offsets.append(_append(body, strip))
        sizes.append(len(strip))
        if len(body) > _LARGEST_FILE - _ROOM_FOR_METADATA:
            raise TooLarge(f"more than {len(body)} bytes")
    directory: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [8 * pixels.itemsize] * channels),
        259: (_SHORT, [_DEFLATE]),
        262: (_SHORT, [_GREY if channels - has_alpha == 1 else _RGB]),
        273: (_LONG, offsets),
        277: (_SHORT, [channels]),
        278: (_LONG, [rows]),
        279: (_LONG, sizes),
        284: (_SHORT, [1]),
        317: (_SHORT, [_DIFFERENCES]),
    }
    if has_alpha:
        directory[338] = (_SHORT, [_UNASSOCIATED_ALPHA])
    for tag, kind, content in (
        (700, _BYTE, metadata.xmp),
        (33723, _UNDEFINED, metadata.iptc.data if metadata.iptc else None),
        (34675, _UNDEFINED, metadata.icc),
    ):
        if content:
            directory[tag] = (kind, content)
    kept = _kept_entries(exif) if metadata.exif else {}
    if metadata.dpi and 282 not in kept:
        across, down = (_ratio(value) for value in metadata.dpi)
        directory |= {282: (_RATIONAL, across), 283: (_RATIONAL, down), 296: (_SHORT, [_INCH])}
        kept.pop(283, None)
        kept.pop(296, None)
    entries = kept | {tag: _entry(body, order, tag, *value) for tag, value in directory.items()}
    table = struct.pack(order + "H", len(entries)) + b"".join(e for _, e in sorted(entries.items()))
    start = _append(body, table + b"\0\0\0\0")  # no next directory, so thumbnails are dropped
    struct.pack_into(order + "I", body, 4, start)
    return bytes(body)


def _kept_entries(exif: bytes) -> dict[int, bytes]:
    """Return the entries of EXIF's first directory, except those about pixel storage."""
    return {
        entry.tag: exif[entry.start : entry.start + 12]
        for entry in main_entries(exif)
        if entry.tag not in STORAGE_TAGS - {274}
    }


def _strip(rows: npt.NDArray[Any], order: str) -> bytes:
    """Compress differences between neighbouring pixels, which are smaller."""
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]
    return zlib.compress(differences.astype(differences.dtype.newbyteorder(order)).tobytes())


def _entry(body: bytearray, order: str, tag: int, kind: int, values: Sequence[int]) -> bytes:
    """Return a directory entry; large values are appended to the file."""
    letters = _FORMATS[kind]
    packed = (
        values
        if isinstance(values, bytes)
        else struct.pack(f"{order}{len(values)}{letters[0]}", *values)
    )
    count = len(values) // len(letters)
    if len(packed) > 4:
        packed = struct.pack(order + "I", _append(body, packed))
    return struct.pack(order + "HHI", tag, kind, count) + packed.ljust(4, b"\0")


def _append(body: bytearray, data: bytes) -> int:
    """Append data on a word boundary, return its offset."""
    body += b"\0" * (len(body) % 2)
    offset = len(body)
    body += data
    return offset


def _ratio(value: float) -> list[int]:
    ratio = Fraction(value).limit_denominator(10_000)
    return [min(ratio.numerator, _LARGEST_FILE), ratio.denominator]
