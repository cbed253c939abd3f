"""EXIF, a TIFF structure, read and edited in place so that all other bytes stay the same.

Maker notes contain offsets from the start of the structure. Rewriting the structure, or moving it
within its file, breaks the maker notes of Canon and others.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from PIL import ExifTags

EXIF_HEADER = b"Exif\0\0"
"""Stands before the structure in JPEG and WebP."""

ORIENTATION = int(ExifTags.Base.Orientation)

STORAGE_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291}
    | {292, 293, 297, 301, 317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341}
    | {342, 343, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 700, 33723}
    | {34377, 34675, 37724}
)
"""Tags that describe how a TIFF file stores its pixels, or that are copied separately."""

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ENTRY_SIZE = 12
_VALUE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHORT, _LONG = 3, 4


class DirectoryEntry(NamedTuple):
    """One entry of a directory."""

    tag: int
    start: int
    """Offset of its 12 bytes in the structure."""
    kind: int
    """Its type, a number of the TIFF specification."""


def byte_order(exif: bytes) -> str | None:
    """Return ``<`` or ``>`` for :mod:`struct`; None if this is no TIFF structure."""
    return _ORDERS.get(exif[:4])


def is_sound(exif: bytes) -> bool:
    """Whether the first directory and its values lie within the structure."""
    order = byte_order(exif)
    if order is None or len(exif) < 8:
        return False
    try:
        entries = list(main_entries(exif))
        _next_pointer(exif)
    except struct.error:
        return False
    for entry in entries:
        count, value = struct.unpack_from(order + "II", exif, entry.start + 4)
        size = count * _VALUE_SIZES.get(entry.kind, 1)
        if size > 4 and value + size > len(exif):
            return False
    return bool(entries)


def main_entries(exif: bytes) -> Iterator[DirectoryEntry]:
    """Yield the entries of the first directory, which describes the picture.

    Raises:
        struct.error: The directory reaches beyond the structure.
    """
    order = byte_order(exif) or "<"
    (start,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, start)
    for offset in range(start + 2, start + 2 + _ENTRY_SIZE * count, _ENTRY_SIZE):
        tag, kind, _, _ = struct.unpack_from(order + "HHII", exif, offset)
        yield DirectoryEntry(tag, offset, kind)


def upright(exif: bytes) -> bytes:
    """Set the orientation to 1, because the pixels were turned upright.

    If they were turned indeed, the thumbnail goes, which lies as the camera was held.
    """
    order = byte_order(exif)
    if order is None:
        return exif
    changed = bytearray(exif)
    turned = False
    try:
        for entry in main_entries(exif):
            if entry.tag == ORIENTATION:
                value = order + ("I" if entry.kind == _LONG else "H")
                turned = struct.unpack_from(value, exif, entry.start + 8) != (1,)
                struct.pack_into(value, changed, entry.start + 8, 1)
        if turned:
            struct.pack_into(order + "I", changed, _next_pointer(exif), 0)
    except struct.error:
        return exif
    return bytes(changed)


def has_tag(exif: bytes, tag: int) -> bool:
    """Whether the first directory of a valid structure has an entry for a tag."""
    return any(entry.tag == tag for entry in main_entries(exif))


def _next_pointer(exif: bytes) -> int:
    """Return the offset of the pointer to the next directory, which is the thumbnail's.

    Raises:
        struct.error: It lies beyond the structure.
    """
    order = byte_order(exif) or "<"
    (start,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, start)
    pointer: int = start + 2 + _ENTRY_SIZE * count
    struct.unpack_from(order + "I", exif, pointer)
    return pointer
