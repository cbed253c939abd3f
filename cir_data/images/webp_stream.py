"""The chunks of a WebP file: whether it is lossy, and whether its picture is complete."""

import struct
from collections.abc import Iterator

_EXIF, _XMP = 8, 4
"""Bits of VP8X that declare the metadata after the picture."""


def is_webp(data: bytes) -> bool:
    """Whether a file starts like WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def size_of(data: bytes) -> int:
    """Return the declared size of a WebP file in bytes."""
    return int.from_bytes(data[4:8], "little") + 8


def has_loss(data: bytes) -> bool:
    """Whether any frame of a WebP file is lossy."""
    for kind, content, _ in _chunks(data, 12):
        frames = _chunks(content, 16) if kind == b"ANMF" else [(kind, content, True)]
        if any(frame == b"VP8 " for frame, _, _ in frames):
            return True
    return False


def missing_bytes(data: bytes) -> int:
    """Return how many bytes of the picture are missing at the end."""
    for kind, _, whole in _chunks(data, 12):
        if not whole and kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF", b"VP8X"):
            return size_of(data) - len(data)
    return 0


def without_metadata(data: bytes) -> bytes:
    """Return the file without EXIF and XMP."""
    body = b"".join(
        kind + struct.pack("<I", len(content)) + _marked(kind, content) + b"\0" * (len(content) % 2)
        for kind, content, whole in _chunks(data, 12)
        if whole and kind not in (b"EXIF", b"XMP ")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _marked(kind: bytes, content: bytes) -> bytes:
    if kind == b"VP8X" and content:
        return bytes([content[0] & ~(_EXIF | _XMP)]) + content[1:]
    return content


def _chunks(data: bytes, offset: int) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield kind and content of each chunk, and whether it is complete."""
    while offset + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, offset)
        content = data[offset + 8 : offset + 8 + size]
        yield kind, content, len(content) == size
        offset += 8 + size + size % 2
