"""The option ``color``: clean images converted to RGB, Y or grey before compression."""

from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from cir_data.images.geometry import Pixels

Color: TypeAlias = Literal["rgb", "y", "gray"]


def to_color(image: Pixels, color: Color) -> Pixels:
    """Convert an image to the channels of the data set.

    Args:
        image: (H, W) grey, or (H, W, 3) RGB.
        color: ``rgb``: three channels; a grey image is repeated. ``y``: one channel, the
            studio-range luma of :func:`studio_luma`. ``gray``: one channel, the full-range luma of
            Pillow and OpenCV. With ``y`` and ``gray``, a grey image stays unchanged.

    Returns:
        (H, W, 3) for ``rgb``, else (H, W).

    Example:
        >>> white = np.full((4, 4, 3), 255, np.uint8)
        >>> int(to_color(white, "y")[0, 0]), int(to_color(white, "gray")[0, 0])
        (235, 255)
    """
    if color == "rgb":
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    if image.ndim == 2:
        return image
    if color == "y":
        return studio_luma(image)
    return np.asarray(Image.fromarray(image).convert("L"))


def studio_luma(image: Pixels) -> Pixels:
    """Return the Y, 16 to 235, of ITU-R BT.601, as by MATLAB's ``rgb2ycbcr`` for 8 bits.

    ``Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255``, rounded half up, exact (integers).

    Args:
        image: (H, W, 3) RGB.

    Returns:
        (H, W).
    """
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    total = 65481 * red + 128553 * green + 24966 * blue
    return (16 + (total + 127500) // 255000).astype(np.uint8)
