"""JPEG 2000 of more than 8 bits; Pillow reduces it to 8 and gets the brightest values wrong."""

import imagecodecs

from cir_data.images.channels import Samples, to_full_range

_START = b"\xff\x4f\xff\x51"
_DEPTH = 42
"""Offset in the codestream of the bit depth of the first component, in SIZ."""

_YCC = b"colr\x01\0\0\0\0\0\x12"


def bits_of(data: bytes) -> int:
    """Return the bits per sample of a JPEG 2000 file, 0 if unknown."""
    start = data.find(_START)
    depth = data[start + _DEPTH : start + _DEPTH + 1] if start >= 0 else b""
    return (depth[0] & 0x7F) + 1 if depth else 0


def decode(data: bytes) -> Samples:
    """Decode a file of 9 to 16 bits into 16-bit samples, (H, W) or (H, W, C).

    Raises:
        ValueError: It is not grey or RGB, or cannot be decoded.
    """
    if _YCC in data:
        raise ValueError("a JPEG 2000 in YCC of more than 8 bits")
    try:
        decoded = imagecodecs.jpeg2k_decode(data)
    except RuntimeError as error:
        raise ValueError(
            f"a JPEG 2000 of more than 8 bits that cannot be decoded ({error})"
        ) from error
    if decoded.dtype != "uint16":
        raise ValueError(f"a JPEG 2000 of samples ({decoded.dtype}) that have no stated range")
    return to_full_range(decoded, bits_of(data))
