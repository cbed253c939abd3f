import io

import numpy as np
import pytest
from data_tools import plain_jpeg, smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from cir_data.codecs import jpeg
from cir_data.images.compression import UNKNOWN_QUALITY
from cir_data.images.geometry import Window
from cir_data.images.jpeg_facts import compression_of


def test_compress_is_one_plain_pillow_call():
    for image in (smooth_image(45, 51), smooth_image(45, 51, channels=1)):
        codec = jpeg.JPEG()
        assert np.array_equal(codec.compress(image, 23), plain_jpeg(image, 23))
        assert np.array_equal(
            codec.decode(codec.encode(image, 23), (45, 51)), plain_jpeg(image, 23)
        )
        compression = codec.record(23, grey=image.ndim == 2)
        assert compression.quality == 23
        assert compression.codec.startswith(f"JPEG (Pillow {features.version('pil')}, libjpeg")
        assert compression.subsampling == ("4:2:0" if image.ndim == 3 else "4:0:0")


SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


def crop_alone(image, window, quality, codec, region=None):
    """Compress the region only and cut the crop out of it."""
    if region is None:
        region = codec.needs(window, image.shape[:2], grey=image.ndim == 2)
    return window.within(region).cut(codec.compress(region.cut(image), quality))


@st.composite
def crops(draw):
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    window_height, window_width = draw(st.integers(1, height)), draw(st.integers(1, width))
    top = draw(st.integers(0, height - window_height))
    left = draw(st.integers(0, width - window_width))
    return (height, width), Window(top, left, window_height, window_width)


@settings(max_examples=600, deadline=None)
@given(
    crops(),
    st.integers(1, 100),
    st.sampled_from(("grey", *SAMPLINGS)),
    st.booleans(),
    st.integers(0, 9),
)
def test_crop_equals_that_of_the_whole_compressed_image(case, quality, sampling, noisy, seed):
    (height, width), window = case
    grey = sampling == "grey"
    channels = 1 if grey else 3
    if noisy:
        shape = (height, width) if grey else (height, width, 3)
        image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    else:
        image = smooth_image(height, width, channels, seed).reshape(
            (height, width) if grey else (height, width, 3)
        )
    codec = jpeg.JPEG() if grey else jpeg.JPEG(sampling)
    whole = plain_jpeg(image, quality, **({} if grey else {"subsampling": sampling}))
    assert np.array_equal(crop_alone(image, window, quality, codec), window.cut(whole))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", [(36, 21), (21, 36), (18, 53), (3, 40), (40, 5)])
def test_every_single_pixel_near_every_border(size, sampling):
    # widths such as 21 leave less than 5 pixels in the last unit: alone, it is decoded otherwise
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = plain_jpeg(image, 95, subsampling=sampling)
    for top, left in np.ndindex(size):
        window = Window(top, left, 1, 1)
        crop = crop_alone(image, window, 95, jpeg.JPEG(sampling))
        assert np.array_equal(crop, window.cut(whole)), window


@pytest.mark.parametrize(
    ("sampling", "exact"), [("4:4:4", True), ("4:2:2", False), ("4:2:0", False)]
)
def test_a_region_without_its_neighbours_is_not_exact(sampling, exact):
    # what the two tests above would miss if chroma were not interpolated at all
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    window = Window(16, 16, 16, 16)
    crop = crop_alone(image, window, 95, jpeg.JPEG(sampling), region=window)
    whole = plain_jpeg(image, 95, subsampling=sampling)
    assert np.array_equal(crop, window.cut(whole)) == exact


def test_region_costs_little():
    size = (500, 500)
    for start in range(100, 116):
        region = jpeg.exact_region(Window(start, start, 128, 128), size, "4:2:0")
        assert region.height <= 160
        assert region.width <= 160
    for sampling in ("4:0:0", "4:4:4"):
        assert jpeg.exact_region(Window(8, 16, 8, 8), size, sampling) == Window(8, 16, 8, 8)
    assert jpeg.exact_region(Window(8, 16, 8, 16), size, "4:2:2") == Window(8, 0, 8, 48)


TABLES = (tuple(range(1, 65)), tuple(range(64, 0, -1)))


def test_custom_tables_are_stored_as_they_are_and_keep_crops_exact():
    image = smooth_image(45, 51)
    codec = jpeg.JPEG(tables=TABLES)
    file = Image.open(io.BytesIO(codec.encode(image, 100)))
    assert [tuple(table) for table in file.quantization.values()] == list(TABLES)
    assert codec.record(100, grey=False).quality == -1
    whole = plain_jpeg(image, None, qtables=TABLES)
    window = Window(17, 3, 21, 40)
    assert np.array_equal(crop_alone(image, window, 100, codec), window.cut(whole))
    grey = smooth_image(45, 51, channels=1)
    assert np.array_equal(codec.compress(grey, 100), plain_jpeg(grey, None, qtables=TABLES))


def test_progressive_changes_the_file_and_no_pixel():
    image = smooth_image(45, 51)
    codec = jpeg.JPEG(progressive=True)
    assert Image.open(io.BytesIO(codec.encode(image, 30))).info["progressive"]
    assert np.array_equal(codec.compress(image, 30), plain_jpeg(image, 30))


def opened(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, options.pop("format", "JPEG"), **options)
    return Image.open(buffer)


def test_quality_of_a_file_is_read_from_its_tables():
    colour, grey = smooth_image(16, 16), smooth_image(16, 16, channels=1)
    for quality in range(1, 101):
        assert compression_of(opened(colour, quality=quality)) == ("JPEG", quality, "4:2:0")
        assert compression_of(opened(grey, quality=quality)) == ("JPEG", quality, "4:0:0")
    other = [range(1, 65), range(1, 65)]
    assert compression_of(opened(colour, qtables=other)).quality == UNKNOWN_QUALITY


def test_subsampling_of_a_file():
    image = smooth_image(16, 16)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        file = opened(image, quality=80, subsampling=subsampling)
        assert compression_of(file).subsampling == subsampling
    assert compression_of(opened(image, format="PNG")) == ("PNG", -1, "unknown")
