"""The three meanings of the option ``color``, taken from clean images before compression."""

from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from cir_data.images.geometry import Pixels

Color: TypeAlias = Literal["rgb", "y", "gray"]


def to_color(image: Pixels, color: Color) -> Pixels:
    """Convert an image to the channels that the data set gives.

    Args:
        image: (H, W) grey, or (H, W, 3) RGB.
        color: ``rgb``: three channels, a grey image three times. ``y``: one channel, the
            studio-range luma of :func:`studio_luma`. ``gray``: one channel, the full-range luma of
            Pillow and OpenCV. For the last two a grey image stays as it is stored.

    Returns:
        (H, W, 3) for ``rgb``, else (H, W).
    """
    if color == "rgb":
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    if image.ndim == 2:
        return image
    if color == "y":
        return studio_luma(image)
    return np.asarray(Image.fromarray(image).convert("L"))


def studio_luma(image: Pixels) -> Pixels:
    """Return the Y, 16 to 235, of ITU-R BT.601 as MATLAB's ``rgb2ycbcr`` forms it for 8 bits.

    ``Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255``, rounded half up; in integers, so exactly.

    Args:
        image: (H, W, 3) RGB.

    Returns:
        (H, W).
    """
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    total = 65481 * red + 128553 * green + 24966 * blue
    return (16 + (total + 127500) // 255000).astype(np.uint8)
