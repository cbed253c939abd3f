"""The weights that the package carries: found by name, and doing to real pictures what they say."""

import io
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import cir_weights
from cir_arch import load_network
from cir_arch.recognition import described
from cir_data.images.jpeg_coefficients import read_coefficients
from cir_data.images.reading import read
from cir_host.checkpoint import locate, read_checkpoint
from cir_host.errors import UserError
from cir_model.restoring.consistency import project
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_picture
from cir_model.restoring.settings import InferenceOptions

RESTORING = ("fbcnn_s_x1", "fbcnn_xs_x1", "promptcir_s_x1")

MOST_SHIFT = {
    "fbcnn_s_x1": {30: 2.0, 95: 0.5},
    "fbcnn_xs_x1": {30: 2.4, 95: 0.7},
    "promptcir_s_x1": {30: 0.5, 95: 0.5},
}
"""By how much the mean of a channel of a picture with text may move, by quality, in levels."""

MOST_SHIFT_OF_AREAS = {30: 2.3, 95: 0.6}
"""The same of flat areas, for all networks."""


@pytest.fixture(scope="module", params=RESTORING)
def restorer(request):
    network = load_network(request.param)
    return Restorer([network], InferenceOptions(), [request.param])


def compress(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def restored(restorer, data):
    """A JPEG's pixels, and those that `basicsr restore` makes of it, (H, W, 3) in 0..255."""
    picture = read(data, "photograph.jpg")
    hold = partial(project, coefficients=read_coefficients(data))
    output = restore_picture(restorer, picture, hold=hold, block_offset=(0, 0))
    return (p.samples.astype(float) for p in (picture, output))


def psnr(image, original):
    return 10 * np.log10(255**2 / np.mean((image - original) ** 2))


def gain(restorer, name, quality):
    source = Path(str(files("skimage.data"))) / name
    original = Image.open(source).convert("RGB").crop((128, 32, 320, 224))
    before, after = restored(restorer, compress(original, quality))
    pixels = np.asarray(original, dtype=float)
    return psnr(after, pixels) - psnr(before, pixels)


def graphics():
    """A window with a title bar, flat areas of strong colours, and text."""
    image = Image.new("RGB", (192, 160), (240, 240, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 191, 23), fill=(32, 84, 147))
    draw.text((8, 7), "Untitled document - Editor", fill="white")
    for index, fill in enumerate(((200, 30, 40), (250, 200, 0), (20, 150, 70), (0, 0, 0))):
        draw.rectangle((8 + 46 * index, 32, 45 + 46 * index, 79), fill=fill)
    for line in range(5):
        draw.text((8, 90 + 13 * line), "The quick brown fox jumps over 12", fill=(20, 20, 20))
    return image


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png"])
def test_a_photograph_gains(restorer, name):
    assert gain(restorer, name, 10) > 0.3


@pytest.mark.parametrize("quality", [90, 95])
def test_fine_photographs_gain_too(restorer, quality):
    assert all(gain(restorer, name, quality) > 0.2 for name in ("chelsea.png", "coffee.png"))


@pytest.mark.parametrize("quality", [30, 95])
def test_graphics_and_text_keep_their_colours(restorer, quality):
    """The means of the channels, in the whole and in each flat area, in levels of 255.

    A JPEG of quality 30 misses those of the saturated areas by up to 4 levels itself. Measured: the
    limits less a fifth or more; the FBCNNs move the mean of the whole most, as their cards say.
    """
    whole, area = MOST_SHIFT[restorer.names[0]][quality], MOST_SHIFT_OF_AREAS[quality]
    before, after = restored(restorer, compress(graphics(), quality))
    areas = [np.s_[40:72, 16 + 46 * i : 38 + 46 * i] for i in range(4)]
    for part, most in ((np.s_[:, :], whole), *((each, area) for each in areas)):
        shift = (after[part] - before[part]).mean((0, 1))
        assert abs(shift).max() < most, part


def test_the_bundled_weights_name_their_network():
    assert set(cir_weights.names()) == {*RESTORING, "cave_s_x1"}
    assert cir_weights.default_weights().stem == "fbcnn_xs_x1"
    assert cir_weights.best_weights().stem == "fbcnn_s_x1"
    for name in ("fbcnn_xs_x1", "fbcnn_s_x1"):
        assert described(read_checkpoint(name).metadata).type == "FBCNN"


def test_weights_are_small_and_have_a_whole_card():
    for name in cir_weights.names():
        assert cir_weights.path_of(name).stat().st_size < 16 * 2**20
        card = cir_weights.path_of(name).with_suffix(".md").read_text(encoding="utf-8")
        assert "BLANK" not in card, "fill in what is marked"


def test_half_precision_is_read_as_single(restorer):
    stored = read_checkpoint(restorer.names[0]).state
    assert {str(value.dtype) for value in stored.values() if value.is_floating_point()} == {
        "torch.float16"
    }
    assert {str(p.dtype) for p in restorer.networks[0].parameters()} == {"torch.float32"}


def test_a_name_without_a_folder_is_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cir_weights, "_FOLDER", tmp_path / "package")
    (tmp_path / "package").mkdir()
    shipped = tmp_path / "package" / "net.safetensors"
    shipped.touch()
    for name in ("net", "net.safetensors"):
        assert locate(Path(name)) == shipped
    for other in ("folder/net.safetensors", "net.pth"):
        with pytest.raises(UserError, match="no such file"):
            read_checkpoint(other)
    with pytest.raises(
        UserError, match=r"other: no such file, and no bundled weights .* \(there are: net\)"
    ):
        read_checkpoint("other.safetensors")
    Path("net.safetensors").write_bytes(b"mine")
    assert locate(Path("net.safetensors")) == Path("net.safetensors")
