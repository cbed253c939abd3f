"""The block grid: found from pixels, at the corner for the network, and cut back exactly."""

import io

import numpy as np
import pytest
import torch
from command_tools import photographs
from PIL import Image

from cir_arch import Identity
from cir_model.restoring.block_grid import block_offset
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    folder = photographs(tmp_path_factory.mktemp("grid") / "photos", size=128)
    return Image.open(sorted(folder.iterdir())[0]).convert("RGB")


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def compressed(photo):
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=40)
    return tensor(Image.open(file))


class MarkedBlocks(Identity):
    """Adds 2 at each block corner, and 1 at all other edges of blocks."""

    def forward(self, x):
        rows, columns = (torch.arange(side) % 8 for side in x.shape[-2:])
        top, left = (rows == 0) | (rows == 7), (columns == 0) | (columns == 7)
        return x + top[:, None] + left


@pytest.mark.parametrize("ensemble", ["none", "transpose", "flips", "x8"])
@pytest.mark.parametrize("tile", [None, 48])
def test_every_pass_has_the_blocks_at_the_corner(photo, ensemble, tile):
    image = compressed(photo)[..., 3:-2, 5:-7]
    options = InferenceOptions(self_ensemble=ensemble, tile=tile, overlap=16)
    added = Restorer([MarkedBlocks().eval()], options)(image) - image
    rows, columns = torch.arange(3, 126) % 8, torch.arange(5, 121) % 8
    expected = ((rows == 0) | (rows == 7)).float()[:, None] + ((columns == 0) | (columns == 7))
    assert torch.allclose(added, expected.expand_as(added), atol=1e-5)


def test_without_the_grid_the_image_is_left_as_it_is(photo):
    image = compressed(photo)[..., 3:, 5:]
    network = MarkedBlocks().eval()
    found = Restorer([network], InferenceOptions(grid="none"))(image)
    assert torch.equal(found, network(image))


def test_images_without_blocks_show_none(photo):
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 80, 96)
    noise = torch.rand(1, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    for image in (tensor(photo)[..., 3:, 5:], ramp, noise, torch.full_like(ramp, 0.5)):
        assert block_offset(image) is None
    assert block_offset(compressed(photo)[..., 3:, 5:]) == (5, 3)
