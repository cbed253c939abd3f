import numpy as np
from PIL import Image
from skimage.color import rgb2ycbcr

from cir_data.images.color import to_color

EVERY_COLOUR = (
    np.stack(np.meshgrid(np.arange(0, 256, 3), np.arange(0, 256, 3), np.arange(0, 256, 3)), axis=-1)
    .reshape(86, -1, 3)
    .astype(np.uint8)
)


def test_y_is_matlabs_luma_rounded():
    exact = rgb2ycbcr(EVERY_COLOUR)[..., 0]
    y = to_color(EVERY_COLOUR, "y")
    assert y.dtype == np.uint8
    # half a step, reached only where the exact value lies between two integers
    assert np.abs(y - exact).max() <= 0.5 + 1e-9
    assert (y.min(), y.max()) == (16, 235)


def test_gray_is_pillows():
    assert np.array_equal(
        to_color(EVERY_COLOUR, "gray"), np.array(Image.fromarray(EVERY_COLOUR).convert("L"))
    )


def test_grey_images_stay_as_stored_or_fill_three_channels():
    grey = EVERY_COLOUR[..., 0]
    assert np.array_equal(to_color(grey, "y"), grey)
    assert np.array_equal(to_color(grey, "gray"), grey)
    assert np.array_equal(to_color(grey, "rgb"), np.dstack([grey] * 3))
    assert np.array_equal(to_color(EVERY_COLOUR, "rgb"), EVERY_COLOUR)
