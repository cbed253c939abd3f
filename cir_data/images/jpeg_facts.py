"""Quality and subsampling of a JPEG file, read from its quantisation tables and header."""

import io
from bisect import bisect_right
from functools import cache

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from cir_data.images.compression import UNKNOWN_QUALITY, Compression, Tables
from cir_data.images.errors import DECODING_ERRORS

_SUBSAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


def compression_of(image: Image.Image) -> Compression:
    """Return the compression of an opened file, as far as the file states it.

    Args:
        image: From ``PIL.Image.open``. For formats other than JPEG, only the name is known.
    """
    if not isinstance(image, JpegImageFile):
        return Compression(image.format or "unknown", UNKNOWN_QUALITY, "unknown")
    grey = image.layers == 1
    tables = stored_tables(image)
    quality = _standard_qualities(grey).get(tables, UNKNOWN_QUALITY)
    subsampling = "4:0:0" if grey else _SUBSAMPLING.get(get_sampling(image), "unknown")
    return Compression("JPEG", quality, subsampling)


@cache
def standard_tables(quality: int, grey: bool) -> Tables:
    """Return the quantisation tables that Pillow writes for a quality, clamped to 255.

    Args:
        quality: 1 to 100.
        grey: Return the luma table only.

    Example:
        >>> (luma,) = standard_tables(50, grey=True)
        >>> luma[:8]
        (16, 11, 10, 16, 24, 40, 51, 61)
    """
    buffer = io.BytesIO()
    Image.new("L" if grey else "RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
    return stored_tables(Image.open(buffer))


def stored_tables(image: Image.Image) -> Tables:
    """Return the quantisation tables of an opened JPEG file, ordered by number."""
    assert isinstance(image, JpegImageFile)
    return tuple(tuple(table) for _, table in sorted(image.quantization.items()))


@cache
def _standard_qualities(grey: bool) -> dict[Tables, int]:
    """Map standard quantisation tables to their quality."""
    return {standard_tables(quality, grey): quality for quality in range(1, 101)}


def equivalent_quality(image: Image.Image) -> int | None:
    """Return the standard quality that quantises as coarsely as an opened JPEG file.

    That is the highest quality whose standard luma table has at least the sum of the file's table.
    For the standard tables it is the quality itself; cameras and editors write their own tables.

    Args:
        image: From ``PIL.Image.open``.

    Returns:
        1 to 100, or None if the file is no JPEG.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (8, 8)).save(file, "JPEG", qtables=[[20] * 64])
        >>> equivalent_quality(Image.open(file))
        82
    """
    if not isinstance(image, JpegImageFile) or not image.quantization:
        return None
    first = sum(image.quantization[min(image.quantization)])
    return max(1, bisect_right(_standard_sums(), -first))


def jpeg_quality(image: Image.Image) -> tuple[int | None, bool]:
    """Return the quality of an opened JPEG, and whether its tables are the standard ones.

    For other tables it is the :func:`equivalent_quality`; None if the file is no JPEG.
    """
    if not isinstance(image, JpegImageFile) or not image.quantization:
        return None, False
    quality = compression_of(image).quality
    if quality != UNKNOWN_QUALITY:
        return quality, True
    return equivalent_quality(image), False


def equivalent_quality_of_file(data: bytes | memoryview) -> int | None:
    """Return the :func:`equivalent_quality` of a file's content; None if it is no JPEG."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return equivalent_quality(image)
    except DECODING_ERRORS:
        return None  # the decoder will report the error


@cache
def _standard_sums() -> tuple[int, ...]:
    """Return the negative sum of the luma table of each quality from 1 to 100, ascending."""
    return tuple(-sum(standard_tables(quality, grey=True)[0]) for quality in range(1, 101))
