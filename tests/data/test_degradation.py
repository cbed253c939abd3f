import numpy as np
import pytest
from data_tools import plain_jpeg, smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cir_data.codecs.jpeg import JPEG
from cir_data.degradations.degradation import Compress, CutOff, Degradation, Resize
from cir_data.images.geometry import Window

SAMPLINGS = st.sampled_from(("4:4:4", "4:2:2", "4:2:0"))


def noise(height, width):
    return np.random.default_rng(height * 100 + width).integers(
        0, 256, (height, width, 3), np.uint8
    )


def plain_double(image, first, last, rows=0, columns=0, size=None):
    """Both compressions of the whole image, and what becomes of the original; none of our code."""
    lq = plain_jpeg(image, first[0], subsampling=first[1])
    if size is not None:
        lq, image = (
            np.array(Image.fromarray(i).resize(size[::-1], Image.Resampling.BICUBIC))
            for i in (lq, image)
        )
    lq, image = lq[rows:, columns:], image[rows:, columns:]
    return plain_jpeg(lq, last[0], subsampling=last[1]), image


@st.composite
def cases(draw):
    rows, columns = draw(st.integers(0, 15)), draw(st.integers(0, 15))
    height, width = draw(st.integers(rows + 1, 70)), draw(st.integers(columns + 1, 70))
    part_height = draw(st.integers(1, height - rows))
    part_width = draw(st.integers(1, width - columns))
    top = draw(st.integers(0, height - rows - part_height))
    left = draw(st.integers(0, width - columns - part_width))
    return (height, width), (rows, columns), Window(top, left, part_height, part_width)


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(1, 100), st.integers(1, 100), SAMPLINGS, SAMPLINGS)
def test_crop_of_a_double_jpeg_is_exact_at_every_shift(case, quality, second, sampling, other):
    size, (rows, columns), window = case
    image = noise(*size)
    steps = [
        Compress(JPEG(sampling), quality),
        CutOff(rows, columns),
        Compress(JPEG(other), second),
    ]
    lq, gt = Degradation(steps).apply(image, "rgb", window)
    whole, clean = plain_double(image, (quality, sampling), (second, other), rows, columns)
    assert np.array_equal(lq, window.cut(whole))
    assert np.array_equal(gt, window.cut(clean))


@pytest.mark.parametrize("factor", [0.5, 0.73, 1.4])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_crop_of_a_resized_double_jpeg_is_exact(factor, color):
    image = smooth_image(61, 83)
    steps = [Compress(JPEG(), 30), Resize(factor), CutOff(2, 5), Compress(JPEG(), 60)]
    degradation = Degradation(steps)
    size = (round(61 * factor), round(83 * factor))
    assert degradation.output_size((61, 83)) == (size[0] - 2, size[1] - 5)
    grey = np.array(Image.fromarray(image).convert("L"))
    clean = image if color == "rgb" else grey
    settings_ = [(30, "4:2:0"), (60, "4:2:0")]
    whole, original = plain_double(clean, *settings_, 2, 5, size)
    window = Window(3, 7, 20, 21)
    lq, gt = degradation.apply(image, color, window)
    assert np.array_equal(lq, window.cut(whole))
    assert np.array_equal(gt, window.cut(original))


def test_one_margin_is_not_enough_for_two_compressions():
    # what the property test would miss if the second compression hid the first one's neighbours
    image = noise(96, 96)
    window = Window(32, 32, 16, 16)
    codec = JPEG()
    region = codec.needs(window, (96, 96), grey=False)
    part = codec.compress(codec.compress(region.cut(image), 90), 90)
    whole, _ = plain_double(image, (90, "4:2:0"), (90, "4:2:0"))
    assert not np.array_equal(window.within(region).cut(part), window.cut(whole))


@given(st.integers(1, 60), st.floats(0.1, 4), st.integers(0, 15), st.integers(0, 15))
def test_an_image_of_the_input_edge_is_large_enough(edge, factor, rows, columns):
    degradation = Degradation(
        [Compress(JPEG(), 30), Resize(factor), CutOff(rows, columns), Compress(JPEG(), 60)]
    )
    needed = degradation.input_edge(edge)
    assert min(degradation.output_size((needed, needed))) >= edge
