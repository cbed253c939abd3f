"""How coarse a JPEG file is, by its quantisation tables."""

import io
from bisect import bisect_right
from functools import cache

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from cir_data.image_io import DECODING_ERRORS
from cir_data.jpeg import standard_tables


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
