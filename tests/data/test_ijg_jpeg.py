import sys

import numpy as np
import pytest
from data_tools import make, plain_jpeg, save, smooth_image, to_uint8
from hypothesis import given, settings
from hypothesis import strategies as st

from cir_data.codecs.jpeg import JPEG
from cir_data.images.geometry import Window
from cir_host.errors import OptionsError, UserError

jpeglib = pytest.importorskip("jpeglib", reason="extra libjpeg is not installed")

from cir_data.codecs.ijg_jpeg import IJGJpeg  # noqa: E402


def test_files_have_pillows_tables_and_sampling():
    image = smooth_image(40, 56)
    for quality in (1, 10, 71):
        for sampling in ("4:4:4", "4:2:2", "4:2:0"):
            data = IJGJpeg(sampling).encode(image, quality)
            # the headers of both have equal tables, in the same order
            start = data.index(b"\xff\xdb")
            other = JPEG(sampling).encode(image, quality)
            assert data[start : start + 134] == other[other.index(b"\xff\xdb") :][:134]
            assert np.array_equal(
                JPEG().decode(data, (40, 56)).shape, IJGJpeg().decode(data, (40, 56)).shape
            )


def test_grey_is_that_of_libjpeg_turbo_and_subsampled_colour_is_not():
    grey, colour = smooth_image(45, 51, channels=1), smooth_image(45, 51)
    assert np.array_equal(IJGJpeg().compress(grey, 30), plain_jpeg(grey, 30))
    ours, theirs = IJGJpeg().compress(colour, 60), plain_jpeg(colour, 60)
    assert ours.shape == colour.shape
    assert not np.array_equal(ours, theirs)
    assert np.abs(ours.astype(int) - theirs).mean() < 3


def test_the_release_is_the_one_asked_for():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    first = IJGJpeg(release="9").compress(image, 50)
    second = IJGJpeg(release="9d").compress(image, 50)
    assert not np.array_equal(first, second)
    assert np.abs(first.astype(int) - second).max() == 1
    assert np.array_equal(first, IJGJpeg(release="9").compress(image, 50))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crop_is_exact(data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    window = Window(
        top := data.draw(st.integers(0, height - 1)),
        left := data.draw(st.integers(0, width - 1)),
        data.draw(st.integers(1, height - top)),
        data.draw(st.integers(1, width - left)),
    )
    codec = IJGJpeg(data.draw(st.sampled_from(("4:4:4", "4:2:2", "4:2:0"))))
    quality = data.draw(st.integers(1, 100))
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    region = codec.needs(window, (height, width), grey=False)
    crop = window.within(region).cut(codec.compress(region.cut(image), quality))
    assert np.array_equal(crop, window.cut(codec.compress(image, quality)))


def test_data_set_compresses_by_the_release(tmp_path):
    image = smooth_image(40, 56)
    save(tmp_path / "a.png", image)
    options = {"dataroot_gt": str(tmp_path), "quality": 20, "library": "libjpeg-9a"}
    sample = make("JPEGRestorationDataset", phase="val", **options)[0]
    assert np.array_equal(to_uint8(sample["lq"]), IJGJpeg(release="9a").compress(image, 20))
    assert sample["codec"] == f"JPEG (jpeglib {jpeglib.__version__}, libjpeg 9a)"
    with pytest.raises(OptionsError, match=r"library: .*libjpeg-9f.*libjpeg-8"):
        make("JPEGRestorationDataset", phase="val", **{**options, "library": "libjpeg-8"})
    with pytest.raises(OptionsError, match=r"progressive needs library: pillow"):
        make("JPEGRestorationDataset", phase="val", progressive=True, **options)


def test_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    with pytest.raises(UserError, match=r"jpeglib.*pip install 'basicsr-cir\[libjpeg\]'"):
        IJGJpeg()
