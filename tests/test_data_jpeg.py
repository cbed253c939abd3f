import io

import numpy as np
import pytest
from data_tools import plain_jpeg, smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from cir_data import jpeg
from cir_data.geometry import Window


def test_compress_is_one_plain_pillow_call():
    for image in (smooth_image(45, 51), smooth_image(45, 51, channels=1)):
        decoded, compression = jpeg.compress(image, 23)
        assert np.array_equal(decoded, plain_jpeg(image, 23))
        assert compression.quality == 23
        assert compression.codec.startswith(f"JPEG (Pillow {features.version('pil')}, libjpeg")
        assert compression.subsampling == ("4:2:0" if image.ndim == 3 else "4:0:0")


def crop_alone(image, window, quality, region):
    """Compress the region only and cut the crop out of it."""
    decoded, _ = jpeg.compress(region.cut(image), quality)
    return window.within(region).cut(decoded)


@st.composite
def crops(draw):
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    window_height, window_width = draw(st.integers(1, height)), draw(st.integers(1, width))
    top = draw(st.integers(0, height - window_height))
    left = draw(st.integers(0, width - window_width))
    return (height, width), Window(top, left, window_height, window_width)


@settings(max_examples=600, deadline=None)
@given(crops(), st.integers(1, 100), st.booleans(), st.booleans(), st.integers(0, 9))
def test_crop_equals_that_of_the_whole_compressed_image(case, quality, grey, noisy, seed):
    (height, width), window = case
    channels = 1 if grey else 3
    if noisy:
        shape = (height, width) if grey else (height, width, 3)
        image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    else:
        image = smooth_image(height, width, channels, seed).reshape(
            (height, width) if grey else (height, width, 3)
        )
    region = jpeg.exact_region(window, image, grey)
    crop = crop_alone(image, window, quality, region)
    assert np.array_equal(crop, window.cut(plain_jpeg(image, quality)))


@pytest.mark.parametrize("size", [(36, 21), (21, 36), (18, 53), (3, 40), (40, 5)])
def test_every_single_pixel_near_every_border(size):
    # widths such as 21 leave less than 5 pixels in the last unit: alone, it is decoded otherwise
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = plain_jpeg(image, 95)
    for top, left in np.ndindex(size):
        window = Window(top, left, 1, 1)
        crop = crop_alone(image, window, 95, jpeg.exact_region(window, image, grey=False))
        assert np.array_equal(crop, window.cut(whole)), window


def test_a_region_without_its_neighbours_is_not_exact():
    # what the two tests above would miss if chroma were not interpolated at all
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    window = Window(16, 16, 16, 16)
    crop = crop_alone(image, window, 95, region=window)
    assert not np.array_equal(crop, window.cut(plain_jpeg(image, 95)))


def test_region_costs_little():
    image = np.zeros((500, 500, 3), np.uint8)
    for start in range(100, 116):
        region = jpeg.exact_region(Window(start, start, 128, 128), image, grey=False)
        assert region.height <= 160
        assert region.width <= 160
    assert jpeg.exact_region(Window(8, 16, 8, 8), image, grey=True) == Window(8, 16, 8, 8)


def opened(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, options.pop("format", "JPEG"), **options)
    return Image.open(buffer)


def test_quality_of_a_file_is_read_from_its_tables():
    colour, grey = smooth_image(16, 16), smooth_image(16, 16, channels=1)
    for quality in range(1, 101):
        assert jpeg.compression_of(opened(colour, quality=quality)) == ("JPEG", quality, "4:2:0")
        assert jpeg.compression_of(opened(grey, quality=quality)) == ("JPEG", quality, "4:0:0")
    other = [range(1, 65), range(1, 65)]
    assert jpeg.compression_of(opened(colour, qtables=other)).quality == jpeg.UNKNOWN_QUALITY


def test_subsampling_of_a_file():
    image = smooth_image(16, 16)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        file = opened(image, quality=80, subsampling=subsampling)
        assert jpeg.compression_of(file).subsampling == subsampling
    assert jpeg.compression_of(opened(image, format="PNG")) == ("PNG", -1, "unknown")
