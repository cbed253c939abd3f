"""Metadata boxes of a JPEG 2000 file, which Pillow ignores."""

from collections.abc import Iterator
from dataclasses import dataclass

from cir_data.images.exif import EXIF_HEADER

_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_IPTC = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
_EXIF = b"JpgTiffExif->JP2"
_PROFILE_METHODS = (2, 3)


@dataclass(frozen=True)
class Boxes:
    """Metadata of a JPEG 2000 file; None where missing."""

    icc: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    exif: bytes | None = None
    """A TIFF structure."""


def read_boxes(data: bytes) -> Boxes:
    """Read the boxes of a file (JP2, ISO/IEC 15444-1 annex I)."""
    found: dict[str, bytes] = {}
    for kind, content in _boxes(data):
        if kind == b"jp2h":
            for inner, part in _boxes(content):
                if inner == b"colr" and part[:1] and part[0] in _PROFILE_METHODS:
                    found.setdefault("icc", part[3:])
        elif kind == b"uuid":
            for name, uuid in (("xmp", _XMP), ("iptc", _IPTC), ("exif", _EXIF)):
                if content.startswith(uuid):
                    found.setdefault(name, content[len(uuid) :])
    if "exif" in found:
        found["exif"] = found["exif"].removeprefix(EXIF_HEADER)
    return Boxes(**{name: content for name, content in found.items() if content})


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 0
    while offset + 8 <= len(data):
        size, kind = int.from_bytes(data[offset : offset + 4], "big"), data[offset + 4 : offset + 8]
        head = 8
        if size == 1:  # the size follows in 64 bits
            size, head = int.from_bytes(data[offset + 8 : offset + 16], "big"), 16
        elif size == 0:  # extends to the end of the file
            size = len(data) - offset
        if size < head:
            return
        yield kind, data[offset + head : offset + size]
        offset += size
