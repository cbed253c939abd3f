import io

import cv2
import numpy as np
import pytest
from data_tools import coordinate_image, encoded, first_boundary, smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cir_data.images.decoding import decode, decode_compressed
from cir_data.images.errors import UnreadableImage

RGB = smooth_image(20, 30)
GREY = smooth_image(20, 30, channels=1)


def encoded_16_bits(samples, suffix):
    done, data = cv2.imencode(suffix, samples)
    assert done
    return data.tobytes()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats(kind, options):
    assert np.array_equal(decode(encoded(RGB, kind, **options), "x"), RGB)
    if kind != "WEBP":  # which has no grey
        assert np.array_equal(decode(encoded(GREY, kind, **options), "x"), GREY)


def test_jpeg_is_decoded_as_pillow_does():
    for image in (RGB, GREY):
        data = encoded(image, "JPEG", quality=50)
        assert np.array_equal(decode(data, "x"), np.array(Image.open(io.BytesIO(data))))


def test_palette_becomes_rgb():
    image = Image.fromarray(RGB).quantize(32)
    assert np.array_equal(decode(encoded(image, "PNG"), "x"), np.array(image.convert("RGB")))
    transparent = encoded(image, "PNG", transparency=0)
    assert np.array_equal(decode(transparent, "x"), np.array(image.convert("RGB")))


def test_alpha_is_dropped():
    alpha = np.arange(600, dtype=np.uint8).reshape(20, 30, 1)
    assert np.array_equal(decode(encoded(np.dstack([RGB, alpha]), "PNG"), "x"), RGB)
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha[..., 0])])
    assert np.array_equal(decode(encoded(grey, "PNG"), "x"), GREY)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_keep_the_high_byte(suffix):
    low = np.arange(600, dtype=np.uint16).reshape(20, 30) % 256
    grey = GREY.astype(np.uint16) * 256 + low
    assert np.array_equal(decode(encoded_16_bits(grey, suffix), "x"), GREY)
    if suffix == ".png":  # Pillow does not read 16-bit colour from every kind of TIFF
        colour = RGB[..., ::-1].astype(np.uint16) * 256 + low[..., None]
        assert np.array_equal(decode(encoded_16_bits(colour, suffix), "x"), RGB)


def test_black_and_white():
    image = Image.fromarray(GREY).convert("1")
    assert np.array_equal(decode(encoded(image, "PNG"), "x"), np.array(image) * np.uint8(255))


def test_cmyk_becomes_rgb():
    image = Image.fromarray(RGB).convert("CMYK")
    assert np.array_equal(decode(encoded(image, "TIFF"), "x"), RGB)
    jpeg = decode(encoded(image, "JPEG", quality=95), "x")
    assert jpeg.shape == RGB.shape
    assert np.abs(jpeg.astype(int) - RGB).mean() < 4


def test_samples_without_a_range_are_refused():
    for image in (GREY.astype(np.float32), GREY.astype(np.int32) * 70000):
        with pytest.raises(UnreadableImage, match=r"^a/b\.tif: .*no stated range"):
            decode(encoded(image, "TIFF"), "a/b.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(RGB, kind, exif=exif, **options)
    stored = Image.fromarray(RGB) if kind != "JPEG" else Image.open(io.BytesIO(data))
    stored.getexif()[0x0112] = orientation
    assert np.array_equal(decode(data, "x"), np.array(ImageOps.exif_transpose(stored)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_block_grid_of_a_turned_file(orientation):
    coordinates = coordinate_image(37, 54)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_compressed(encoded(coordinates, "PNG", exif=exif), "x")
    assert image.boundary == first_boundary(image.pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_truncated_file_is_named(kind):
    data = encoded(RGB, kind)
    for length in (0, 3, len(data) // 2):
        with pytest.raises(UnreadableImage, match=r"^sub/a\.png: cannot be read as an image: \S"):
            decode(data[:length], "sub/a.png")


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12),
)
@pytest.mark.filterwarnings("ignore")
def test_damage_gives_an_image_or_a_named_error(kind, damage):
    data = bytearray(encoded(RGB, kind))
    for position, value in damage:
        data[position % len(data)] = value
    try:
        image = decode(bytes(data), "x")
    except UnreadableImage:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 2 or image.shape[2] == 3
