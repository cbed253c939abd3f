"""JPEG 2000 of more than 8 bits, which Pillow reduces to 8 with wrong values for the brightest."""

import imagecodecs

from cir_data.images.channels import Samples, to_full_range

_START = b"\xff\x4f\xff\x51"
_DEPTH = 42
"""Where SIZ has the bits of the first component, counted from the start of the codestream."""

_YCC = b"colr\x01\0\0\0\0\0\x12"


def bits_of(data: bytes) -> int:
    """Return the bits of a sample of a JPEG 2000 file, 0 if it does not say."""
    start = data.find(_START)
    depth = data[start + _DEPTH : start + _DEPTH + 1] if start >= 0 else b""
    return (depth[0] & 0x7F) + 1 if depth else 0


def decode(data: bytes) -> Samples:
    """Decode a file of 9 to 16 bits into (H, W) or (H, W, C) of 16.

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
