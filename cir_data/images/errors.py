"""Errors of image files that cannot be decoded."""

import struct
import zlib

from PIL import Image

from cir_host.errors import UserError

DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Errors that Pillow's format plugins raise on damaged data."""


class UnreadableImage(UserError):
    """An image file whose content cannot be decoded."""
