"""Images for data sets, decoded by Pillow to 8-bit RGB or grey.

The rules, for every format:

- Palettes become RGB. Alpha is dropped, not composited: transparent pixels show their stored
  colour, as in OpenCV and therefore in BasicSR's own data sets.
- 16-bit images keep the high byte of each sample; for colour, Pillow itself does so.
- CMYK, YCbCr and other colour models become RGB by Pillow's formulas; ICC profiles are not applied.
- Black and white becomes 0 and 255. Grey stays grey.
- The image is turned upright by its EXIF orientation.
- Of several frames, the first is taken.
- 32-bit and floating-point samples are refused: the file does not state their range.

Entries of :mod:`cir_data.images.raw_pixels` are decoded, too, as views of their buffer.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from cir_data.images import raw_pixels
from cir_data.images.compression import UNKNOWN_QUALITY, Compression
from cir_data.images.errors import DECODING_ERRORS, UnreadableImage
from cir_data.images.geometry import Boundary, Orientation, Pixels
from cir_data.images.jpeg_facts import compression_of
from cir_data.images.opening import add_plugin, not_misread
from cir_host.errors import UserError

_START = 132
"""Bytes that tell the format."""


@dataclass(frozen=True)
class CompressedImage:
    """A decoded file with the facts of its compression."""

    pixels: Pixels
    compression: Compression
    boundary: Boundary
    """The first block boundary in ``pixels``; (0, 0) unless the EXIF orientation moved it."""
    upright_jpeg: bytes | memoryview = b""
    """The content of the file if it is a JPEG whose EXIF does not turn it; else empty."""


def decode(data: bytes | memoryview, where: str) -> Pixels:
    """Decode an image file.

    Args:
        data: The file's content, or an entry of raw pixels.
        where: Its path, for messages.

    Returns:
        (H, W) grey, or (H, W, 3) RGB; read-only.

    Raises:
        UnreadableImage: The content is damaged, or its format is unknown.
        UserError: JPEG XL or HEIC without the package that reads it.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (64, 48)).save(file, "PNG")
        >>> decode(file.getvalue(), "photo.png").shape
        (48, 64)
    """
    if raw_pixels.is_raw(data):
        return _unpack(data, where)
    with _opened(data, where) as image:
        return _orientation(image).apply(_to_8_bits(image))


def decode_compressed(data: bytes | memoryview, where: str) -> CompressedImage:
    """Decode an image file with the facts of its compression; see :func:`decode`."""
    if raw_pixels.is_raw(data):
        pixels = _unpack(data, where)
        return CompressedImage(pixels, Compression("raw", UNKNOWN_QUALITY, "unknown"), (0, 0))
    with _opened(data, where) as image:
        compression = compression_of(image)
        stored = _to_8_bits(image)
        upright = _orientation(image)
        boundary = upright.move_boundary((0, 0), stored)
        same = isinstance(image, JpegImageFile) and upright == Orientation()
        jpeg = data if same else b""
        return CompressedImage(upright.apply(stored), compression, boundary, jpeg)


def _unpack(data: bytes | memoryview, where: str) -> Pixels:
    try:
        return raw_pixels.unpack(data)
    except ValueError as error:
        raise UnreadableImage(f"{where}: cannot be read as an image: {error}") from error


def add_reader(data: bytes | memoryview, where: str) -> None:
    """Make Pillow read a file of JPEG XL or HEIC.

    Raises:
        UserError: The package that reads it is not installed.
    """
    try:
        add_plugin(bytes(data[:_START]))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


@contextmanager
def _opened(data: bytes | memoryview, where: str) -> Iterator[Image.Image]:
    add_reader(data, where)
    try:
        with not_misread(Image.open(io.BytesIO(data))) as image:
            image.load()  # now, because the TIFF reader turns the image and drops the orientation
            yield image
    except DECODING_ERRORS as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no format that Pillow knows" if unknown else str(error) or type(error).__name__
        raise UnreadableImage(f"{where}: cannot be read as an image: {reason}") from error


def _orientation(image: Image.Image) -> Orientation:
    return Orientation.upright(image.getexif().get(ExifTags.Base.Orientation, 1))


def _to_8_bits(image: Image.Image) -> Pixels:
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode.startswith("I"):
        return _high_byte(np.asarray(image))
    elif image.mode == "F":
        raise ValueError("floating-point samples have no stated range; convert it to 8 or 16 bits")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return np.asarray(image)


def _high_byte(samples: np.ndarray) -> Pixels:
    """Reduce 16 bits, which some versions of Pillow return as 32, to 8."""
    if samples.min() < 0 or samples.max() > 0xFFFF:
        raise ValueError("32-bit samples have no stated range; convert it to 8 or 16 bits")
    return (samples >> 8).astype(np.uint8)
