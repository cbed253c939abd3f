"""From a restored image to the samples of a file: every value is the plain formula's."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cir_data.images.metadata import Metadata
from cir_data.images.reading import Picture
from cir_data.images.writing import Encoding
from cir_model.restoring.pictures import _to_samples


@pytest.mark.parametrize("height", [1, 63, 64, 65, 200])  # bands have 64 rows
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rounding_in_bands_is_that_of_the_whole_image(height, channels, dtype):
    image = torch.rand(1, channels, height, 17) * 1.4 - 0.2
    largest = np.iinfo(dtype).max
    expected = (image[0].numpy() * np.float32(largest)).clip(0, largest).round()
    expected = np.moveaxis(expected, 0, -1).astype(dtype)
    given = image.clone()
    samples = _to_samples(given, np.dtype(dtype))
    assert samples.dtype == dtype
    assert np.array_equal(samples, expected[..., 0] if channels == 1 else expected)
    assert torch.equal(given, image)


# Pillow does not read 16-bit colour
@pytest.mark.parametrize(
    ("channels", "alpha", "dtype"),
    [
        (1, False, np.uint8),
        (3, False, np.uint8),
        (1, True, np.uint8),
        (3, True, np.uint8),
        (1, False, np.uint16),
    ],
)
def test_png_holds_every_value(channels, alpha, dtype):
    draws = np.random.default_rng(0)
    values = draws.integers(0, np.iinfo(dtype).max + 1, (70, 50, channels + alpha), dtype)
    samples = values[..., 0] if channels == 1 else values[..., :channels]
    picture = Picture(samples, values[..., -1] if alpha else None, Metadata())
    with Image.open(io.BytesIO(Encoding("png").encode(picture, "noise"))) as image:
        read = np.asarray(image).astype(dtype)
    assert np.array_equal(np.atleast_3d(read), values)
