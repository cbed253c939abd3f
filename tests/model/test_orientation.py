"""Pictures are restored as their file stores them, and turned upright afterwards."""

import io

import numpy as np
import pytest
from command_tools import photographs
from PIL import Image, ImageOps

from cir_arch import Identity
from cir_model.restoring.inference import Restorer
from cir_model.restoring.on_disk import restore_bytes
from cir_model.restoring.settings import InferenceOptions, RestoreOptions


class MarkedBlocks(Identity):
    """Blackens the first pixel of each 8 x 8 block, so its output shows where blocks begin."""

    def forward(self, x):
        x = x.clone()
        x[..., ::8, ::8] = 0
        return x


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_network_sees_the_stored_pixels(orientation, tmp_path):
    folder = photographs(tmp_path / "photos")
    image = Image.open(sorted(folder.iterdir())[0]).convert("RGB").crop((0, 0, 53, 37))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40, exif=exif)
    stored = Image.open(file)
    marked = np.array(stored)
    marked[::8, ::8] = 0
    expected = Image.fromarray(marked)
    expected.getexif()[0x0112] = orientation
    restorer = Restorer([MarkedBlocks().eval()], InferenceOptions())
    outcome = restore_bytes(file.getvalue(), "in", "png", restorer, RestoreOptions())
    turned = np.asarray(ImageOps.exif_transpose(expected))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(outcome.data))), turned)
    assert np.array_equal(outcome.after.samples, turned)
    assert np.array_equal(outcome.before.samples, np.asarray(ImageOps.exif_transpose(stored)))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_result_is_held_to_the_stored_coefficients(orientation, tmp_path):
    folder = photographs(tmp_path / "photos")
    image = Image.open(sorted(folder.iterdir())[0]).convert("RGB").crop((0, 0, 53, 37))
    restorer = Restorer([MarkedBlocks().eval()], InferenceOptions(consistency=True))
    results = []
    for value in (1, orientation):
        exif = Image.Exif()
        exif[0x0112] = value
        file = io.BytesIO()
        image.save(file, "JPEG", quality=40, exif=exif)
        outcome = restore_bytes(file.getvalue(), "in", "png", restorer, RestoreOptions())
        results.append(Image.fromarray(outcome.after.samples))
    results[0].getexif()[0x0112] = orientation
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(results[0])), np.asarray(results[1]))
