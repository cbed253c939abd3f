"""How coarse a JPEG file is, by its quantisation tables."""

import io
from bisect import bisect_right
from functools import cache

from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile


def equivalent_quality(data: bytes | memoryview) -> int | None:
    """Return the standard quality that quantises as coarsely as a JPEG file.

    That is the highest quality whose standard luminance table has at least the sum of the file's.
    For the standard tables it is the quality itself; cameras and editors write tables of their own.

    Args:
        data: The content of any file.

    Returns:
        1 to 100, or None where it is no JPEG.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if not isinstance(image, JpegImageFile) or not image.quantization:
                return None
            first = sum(image.quantization[min(image.quantization)])
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None  # whoever decodes it says what is wrong
    return max(1, bisect_right(_standard_sums(), -first))


@cache
def _standard_sums() -> tuple[int, ...]:
    """Return minus the sum of the luminance table of each quality from 1 to 100; it rises."""
    sums = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer)
        assert isinstance(image, JpegImageFile)
        sums.append(-sum(image.quantization[0]))
    return tuple(sums)
