"""The quality of pixels: the grid, and the estimate of the weights that the package carries."""

import io

import numpy as np
import pytest
import torch
from command_tools import photographs
from PIL import Image

from cir_arch import load_network
from cir_arch.layers.quality_head import QualityPredictor
from cir_arch.layers.residual_unet import ResidualSizes
from cir_model.restoring import pixel_quality as pixel_quality_module
from cir_model.restoring.block_grid import search
from cir_model.restoring.pixel_quality import estimator, pixel_quality, quality_network


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    files = sorted(photographs(tmp_path_factory.mktemp("quality") / "photos", size=256).iterdir())
    return [Image.open(file).convert("RGB") for file in files]


def compressed(photo, quality, row=0, column=0):
    """The pixels of a JPEG, (1, 3, H, W), without its first rows and columns."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    samples = np.array(Image.open(buffer))[row:, column:]
    return torch.from_numpy(samples).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("quality", [10, 50, 95])
def test_the_grid_is_found(photos, quality):
    for photo, (row, column) in zip(photos, [(0, 0), (3, 7), (5, 1)], strict=True):
        image = compressed(photo, quality, row, column)
        assert search(image)[0] == (-row % 8, -column % 8)
        assert search(image[:, 1:2])[0] == (-row % 8, -column % 8)  # grey


@pytest.mark.parametrize("name", ["cave_s_x1", "fbcnn_xs_x1", "fbcnn_s_x1"])
def test_the_shipped_weights_tell_the_quality(photos, name):
    """Three photographs of another source than the training's; the cards have the real test."""
    network = load_network(name)
    wrong = []
    for quality in (10, 30, 50, 70, 90):
        for photo, (row, column) in zip(photos, [(0, 0), (3, 7), (5, 1)], strict=True):
            found = pixel_quality(network, compressed(photo, quality, row, column))
            wrong.append(abs(found - quality))
    assert np.mean(wrong) < 6
    clean = torch.from_numpy(np.array(photos[0])).permute(2, 0, 1)[None] / 255
    assert pixel_quality(network, clean) > 90


class Brightness(QualityPredictor):
    """Takes the mean for the quality, and keeps the sizes that it saw."""

    def __init__(self, channels=3):
        super().__init__(ResidualSizes(channels, (8, 8, 8, 8), 1, (2, 2, 2), "R", False))
        self.seen = []

    def predict_quality(self, x):
        self.seen.append(tuple(x.shape))
        return 100 * x.mean((1, 2, 3))[:, None]


def test_a_network_with_a_head_estimates_itself():
    device, other, own = torch.device("cpu"), torch.nn.Identity(), Brightness(1)
    assert estimator([other, own], device) is own
    assert estimator([other, Brightness(2)], device) is quality_network(device)


def test_a_grey_network_gets_luma():
    network = Brightness(1)
    red = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 40, 48)
    assert pixel_quality(network, red) == pytest.approx(29.9)
    assert network.seen == [(1, 1, 40, 48)]


def test_small_grey_and_large_images(monkeypatch):
    network = Brightness()
    assert pixel_quality(network, torch.rand(1, 3, 31, 200)) is None
    grey = torch.full((1, 1, 40, 50), 0.5)
    assert pixel_quality(network, grey) == pytest.approx(50)
    assert network.seen.pop() == (1, 3, 40, 48)
    monkeypatch.setattr(pixel_quality_module, "WINDOW", 64)
    large = torch.zeros(1, 3, 400, 64)
    large[..., :320, :] = 1  # the lowest of three windows differs
    assert pixel_quality(network, large) == 100
    assert set(network.seen) == {(1, 3, 64, 64)}
    assert len(network.seen) == 3
