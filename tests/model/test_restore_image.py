"""``restore_image``: what comes in, comes out restored, of the same kind."""

import numpy as np
import pytest
from command_tools import photographs
from PIL import Image

from cir_arch import Identity
from cir_host.errors import UserError
from cir_model import restore_file, restore_image
from cir_model.restoring.in_memory import default_restorer
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions


@pytest.fixture
def identity():
    return Restorer([Identity().eval()], InferenceOptions())


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_modes_come_back(mode, identity):
    grey = np.arange(35 * 20).reshape(20, 35) % 256
    image = Image.fromarray(grey.astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray((grey * 257).astype(np.uint16))
    elif mode != "L":
        image = image.convert(mode)
    if mode.endswith("A"):
        image.putalpha(77)
    image.info["dpi"] = (300, 300)
    restored = restore_image(image, identity)
    assert (restored.mode, restored.size) == (mode, (35, 20))
    assert restored.info == image.info
    assert np.array_equal(np.asarray(restored), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_come_back_as_grey_or_rgb(mode, identity):
    image = Image.new("RGB", (9, 5), (255, 0, 0)).convert(mode)
    restored = restore_image(image, identity)
    wanted = "L" if mode == "1" else "RGB"
    assert restored.mode == wanted
    assert np.array_equal(np.asarray(restored), np.asarray(image.convert(wanted)))


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3), (8, 9, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_arrays_come_back(shape, dtype, identity):
    array = np.random.default_rng(0).random(shape)
    if not dtype.startswith("float"):
        array = array * np.iinfo(dtype).max
    array = array.astype(dtype)
    before = array.copy()
    restored = restore_image(array, identity)
    assert (restored.shape, restored.dtype) == (array.shape, array.dtype)
    assert np.allclose(restored, array, rtol=0, atol=1 / 65535)
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
        Image.new("F", (4, 4)),
        Image.new("I", (4, 4)),
    ],
)
def test_what_is_no_picture_is_refused(image, identity):
    with pytest.raises(UserError, match=r"is not an image|range is unknown"):
        restore_image(image, identity)


def test_the_bundled_weights_improve_a_photograph(tmp_path):
    path = photographs(tmp_path / "photos", ["coffee"], 128) / "coffee.png"
    original = Image.open(path).convert("RGB")
    original.save(tmp_path / "jpeg.jpg", quality=10)
    jpeg = Image.open(tmp_path / "jpeg.jpg")
    restored = restore_image(jpeg)
    reference = np.asarray(original, float)
    errors = [np.square(np.asarray(i, float) - reference).mean() for i in (jpeg, restored)]
    assert errors[1] < 0.9 * errors[0]
    assert default_restorer() is default_restorer()


def test_a_file_is_restored_in_python(tmp_path, identity):
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "a.jpg", quality=30)
    outcome = restore_file(tmp_path / "a.jpg", tmp_path / "a.webp", identity)
    assert (outcome.action, outcome.pixels) == ("restored", 256 * 256)
    with Image.open(outcome.output) as image:
        assert (image.format, image.size) == ("WEBP", (256, 256))
    again = restore_file(str(tmp_path / "a.jpg"), str(tmp_path / "a.webp"), identity)
    assert again.action == "skipped"
    with pytest.raises(UserError, match="suffix must be one of"):
        restore_file(tmp_path / "a.jpg", tmp_path / "a.bmp", identity)
