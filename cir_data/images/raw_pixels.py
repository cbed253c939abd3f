"""Raw pixels, so that a crop only reads its own rows and decodes nothing.

An entry is a header of 32 bytes (a magic number, height, width and channels as little-endian 32-bit
integers, zeros), followed by the samples row by row.
"""

import math
import struct

import numpy as np

from cir_data.images.geometry import Pixels

_MARK = b"CIRraw\x00\x01"
_HEADER = struct.Struct("<8s3I12x")


def pack(image: Pixels) -> bytes:
    """Return the entry of an image, (H, W) grey or (H, W, 3) RGB.

    Example:
        >>> unpack(pack(np.zeros((4, 6, 3), np.uint8))).shape
        (4, 6, 3)
    """
    height, width, channels = (*image.shape, 1)[:3]
    return _HEADER.pack(_MARK, height, width, channels) + image.tobytes()


def packed_size(height: int, width: int, channels: int) -> int:
    """Return the size of an entry in bytes."""
    return _HEADER.size + height * width * channels


def is_raw(data: bytes | memoryview) -> bool:
    """Whether this is such an entry, and not an image file."""
    return data[: len(_MARK)] == _MARK


def unpack(data: bytes | memoryview) -> Pixels:
    """Return the image as a read-only view of the entry, without reading any pixel.

    Raises:
        ValueError: The entry is damaged.
    """
    if len(data) < _HEADER.size:
        raise ValueError("raw pixels without their header")
    _, height, width, channels = _HEADER.unpack_from(data)
    shape = (height, width) if channels == 1 else (height, width, channels)
    if channels not in (1, 3) or 0 in shape or len(data) != packed_size(height, width, channels):
        raise ValueError(f"{len(data)} bytes of raw pixels, whose header says {shape}")
    return np.frombuffer(data, np.uint8, math.prod(shape), _HEADER.size).reshape(shape)
