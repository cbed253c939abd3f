"""What a JPEG file tells by its quantisation tables: quality, subsampling, how coarse it is."""

import io
from bisect import bisect_right
from functools import cache

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from cir_data.images.compression import UNKNOWN_QUALITY, Compression, Tables
from cir_data.images.errors import DECODING_ERRORS

_SUBSAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


def compression_of(image: Image.Image) -> Compression:
    """Return what an opened file tells about its compression.

    Args:
        image: As ``PIL.Image.open`` gives it: JPEG, or another format, which tells its name only.
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
    """Return the quantisation tables that Pillow writes for a quality, clamped to 255."""
    buffer = io.BytesIO()
    Image.new("L" if grey else "RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
    return stored_tables(Image.open(buffer))


def stored_tables(image: Image.Image) -> Tables:
    """Return the quantisation tables of an opened JPEG file, in the order of their numbers."""
    assert isinstance(image, JpegImageFile)
    return tuple(tuple(table) for _, table in sorted(image.quantization.items()))


@cache
def _standard_qualities(grey: bool) -> dict[Tables, int]:
    """Return the qualities by their standard quantisation tables."""
    return {standard_tables(quality, grey): quality for quality in range(1, 101)}


def equivalent_quality(image: Image.Image) -> int | None:
    """Return the standard quality that quantises as coarsely as an opened JPEG file.

    That is the highest quality whose standard luminance table has at least the sum of the file's.
    For the standard tables it is the quality itself; cameras and editors write tables of their own.

    Args:
        image: As ``PIL.Image.open`` gives it.

    Returns:
        1 to 100, or None where it is no JPEG.
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
    """Return the same for the content of any file; None too where it is no image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return equivalent_quality(image)
    except DECODING_ERRORS:
        return None  # whoever decodes it says what is wrong


@cache
def _standard_sums() -> tuple[int, ...]:
    """Return minus the sum of the luminance table of each quality from 1 to 100; it rises."""
    return tuple(-sum(standard_tables(quality, grey=True)[0]) for quality in range(1, 101))
