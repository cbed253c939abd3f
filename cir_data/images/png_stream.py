"""The chunks of a PNG file: find damaged ones, and build a valid file from the others.

A picture must survive a damaged colour profile or text, which Pillow refuses, and a missing end,
which Pillow shows as black without a warning.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cir_data.images.errors import DECODING_ERRORS

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Number of channels by colour type."""

_ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
"""First row, first column, row step and column step of each pass of an interlaced picture."""

_LAST_FILTER = 4

_MEANINGS = {
    b"iCCP": "colour profile",
    b"eXIf": "EXIF",
    b"tEXt": "text",
    b"zTXt": "text",
    b"iTXt": "text or XMP",
}

_METADATA = {*_MEANINGS, b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"cICP"}

_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


@dataclass(frozen=True)
class Header:
    """The chunk IHDR."""

    width: int
    height: int
    bits: int
    colour: int
    interlaced: bool

    @property
    def is_grey(self) -> bool:
        """Whether the picture is grey."""
        return self.colour in (0, 4)

    @property
    def passes(self) -> list[tuple[int, int]]:
        """Rows of each pass, and bytes per row, including one for the filter."""
        samples = self.bits * _CHANNELS[self.colour]
        grids = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        sizes = [
            (-(-(self.height - row) // row_step), -(-(self.width - column) // column_step))
            for row, column, row_step, column_step in grids
        ]
        return [(rows, 1 + -(-columns * samples // 8)) for rows, columns in sizes if columns > 0]


@dataclass(frozen=True)
class PngStream:
    """The undamaged chunks of a PNG file."""

    header: Header
    chunks: Sequence[tuple[bytes, bytes]]
    """Kind and content, with IDAT chunks joined into one, and without animation."""
    dropped: Sequence[str]
    """Names of damaged metadata."""
    intact: bool
    """Whether the checksums of the picture are correct."""
    lost: float = 0
    """Share of the picture that cannot be decoded, 0 to 1; set by :meth:`filled`."""

    def filled(self) -> "PngStream":
        """Replace missing data by zeros."""
        pixels, lost = _whole(dict(self.chunks)[b"IDAT"], self.header.passes)
        if not lost:
            return self
        chunks = [(k, pixels if k == b"IDAT" else content) for k, content in self.chunks]
        return replace(self, chunks=chunks, lost=lost)

    def file(self, *kinds: bytes) -> bytes:
        """Return a PNG file of the given kinds of chunks, by default of all."""
        return _file((k, content) for k, content in self.chunks if not kinds or k in kinds)

    def metadata_file(self) -> bytes:
        """Return a PNG file of one pixel with the same metadata, wherever it was stored."""
        return _with_one_pixel([(k, content) for k, content in self.chunks if k in _METADATA])

    @property
    def transparent(self) -> tuple[int, ...] | None:
        """The grey or colour that tRNS makes transparent, in the range of the decoded samples."""
        header = self.header
        for kind, content in self.chunks:
            if kind == b"tRNS" and header.colour in (0, 2) and len(content) in (2, 6):
                stored = struct.unpack(f">{len(content) // 2}H", content)
                scale = 1 if header.bits > 8 else 255 // (2**header.bits - 1)
                return tuple((value & (2**header.bits - 1)) * scale for value in stored)
        return None


def header_of(data: bytes) -> Header | None:
    """Return the header of a PNG file, None if it is invalid."""
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR" or len(data) < 29:
        return None
    width, height, bits, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if colour not in _CHANNELS or bits not in (1, 2, 4, 8, 16) or not width or not height:
        return None
    return Header(width, height, bits, colour, interlace == 1)


def parse(data: bytes) -> PngStream | None:
    """Split a PNG file into chunks; None if even its header is invalid."""
    header = header_of(data)
    if header is None:
        return None
    before: list[tuple[bytes, bytes]] = []
    stored: list[bytes] = []
    dropped: list[str] = []
    intact = True
    for kind, content, sound in _chunks(data):
        if kind == b"IEND":
            break
        if kind in (b"IHDR", b"PLTE", b"IDAT"):
            intact &= sound
            (stored.append(content) if kind == b"IDAT" else before.append((kind, content)))
        elif not sound and not kind[:1].islower():
            break  # not a chunk, but garbage in its place
        elif not sound or not _is_readable(kind, content):
            dropped.append(_MEANINGS.get(kind, f"chunk {kind.decode('latin-1')}"))
        elif kind not in _ANIMATION:
            before.append((kind, content))
    chunks = [*before, (b"IDAT", b"".join(stored)), (b"IEND", b"")]
    return PngStream(header, chunks, dropped, intact)


def opaque(samples: npt.NDArray[Any], transparent: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the alpha of a picture in which one grey or colour is transparent."""
    full = np.iinfo(samples.dtype).max
    same = samples.reshape(*samples.shape[:2], -1) == np.array(transparent, samples.dtype)
    return np.where(same.all(axis=2), 0, full).astype(samples.dtype)


def _whole(stored: bytes, passes: Sequence[tuple[int, int]]) -> tuple[bytes, float]:
    """Return data that inflate to a complete picture, and the share that was missing."""
    size = sum(rows * length for rows, length in passes)
    try:
        if sum(len(part) for part in _inflate(stored, size, 1 << 20)) == size:
            return stored, 0
    except zlib.error:
        pass
    pixels = bytearray()
    with suppress(zlib.error):
        for part in _inflate(stored, size, 256):  # small steps, because a failed step gives nothing
            pixels += part
    del pixels[_end_of_rows(pixels, passes) :]
    return zlib.compress(pixels.ljust(size, b"\0"), 1), 1 - len(pixels) / size


def _end_of_rows(pixels: bytearray, passes: Sequence[tuple[int, int]]) -> int:
    """Return the start of the first row with an invalid filter, which indicates damage."""
    start = 0
    for rows, length in passes:
        filters = np.frombuffer(pixels[start : start + rows * length : length], np.uint8)
        wrong = np.flatnonzero(filters > _LAST_FILTER)
        if len(wrong):
            return start + int(wrong[0]) * length
        start += rows * length
    return len(pixels)


def _inflate(stored: bytes, size: int, step: int) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    for offset in range(0, len(stored), step):
        content = stored[offset : offset + step]
        while content and size > 0:
            part = inflate.decompress(content, min(size, 1 << 24))
            size -= len(part)
            content = inflate.unconsumed_tail
            yield part


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield kind and content of each chunk, and whether its checksum is correct."""
    offset = len(SIGNATURE)
    while offset + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        content = data[offset + 8 : offset + 8 + length]
        checksum = data[offset + 8 + length : offset + 12 + length]
        yield kind, content, checksum == struct.pack(">I", zlib.crc32(kind + content))
        offset += 12 + length


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _is_readable(kind: bytes, content: bytes) -> bool:
    """Whether Pillow can read a chunk of metadata by itself; it has limits of its own."""
    if kind not in _MEANINGS:
        return True
    try:
        with Image.open(io.BytesIO(_with_one_pixel([(kind, content)]))) as image:
            image.load()
            image.getexif()
            profile, xmp = image.info.get("icc_profile"), image.info.get("xmp")
    except DECODING_ERRORS:
        return False
    if kind == b"iCCP":
        return bool(profile)
    return bool(xmp) or not content.startswith(b"XML:com.adobe.xmp\0")


def _with_one_pixel(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0\0\0\0")
    return _file([(b"IHDR", header), *chunks, (b"IDAT", pixel), (b"IEND", b"")])


def _file(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return SIGNATURE + b"".join(chunk(kind, content) for kind, content in chunks)
