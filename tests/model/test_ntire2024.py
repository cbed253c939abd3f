"""The rule of the NTIRE 2024 winner against a plain form of it."""

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from torch import nn

import cir_arch  # noqa: F401
from cir_arch.facts import NetworkFacts
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions


class Global(nn.Sequential):
    """Depends on the whole of what it is given, so that tiles and padding show."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 5, padding=2), nn.InstanceNorm2d(8), nn.Conv2d(8, 3, 3, padding=1)
        )
        self.facts = NetworkFacts(
            size_multiple=32,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=3,
            precisions=frozenset({"fp32"}),
        )

    def forward(self, x):
        assert x.shape[2] % 32 == x.shape[3] % 32 == 0
        return x + 0.3 * super().forward(x)


def plain_form(networks, image, tile, overlap, multiple=32):
    """Two networks, the image and its transpose, as the rule's text says, in loops."""
    outputs = []
    for network in networks:
        for transposed in (False, True):
            x = image.transpose(2, 3) if transposed else image
            height, width = x.shape[2:]
            below, beside = multiple - height % multiple, multiple - width % multiple
            x = torch.from_numpy(
                np.pad(x.numpy(), ((0, 0), (0, 0), (0, below), (0, beside)), "symmetric")
            )
            side = min(tile, *x.shape[2:])
            tops = [*range(0, x.shape[2] - side, side - overlap), x.shape[2] - side]
            lefts = [*range(0, x.shape[3] - side, side - overlap), x.shape[3] - side]
            total, count = torch.zeros_like(x), torch.zeros_like(x)
            for top in tops:
                for left in lefts:
                    piece = network(x[:, :, top : top + side, left : left + side])
                    total[:, :, top : top + side, left : left + side] += piece
                    count[:, :, top : top + side, left : left + side] += 1
            out = (total / count)[:, :, :height, :width].clamp(0, 1)
            outputs.append(out.transpose(2, 3) if transposed else out)
    return torch.stack(outputs).mean(0)


@pytest.mark.parametrize("size", [(64, 96), (70, 101), (33, 65), (200, 131)])
@torch.no_grad()
def test_the_rule_is_the_plain_form(size):
    """Sides that are multiples are padded too."""
    torch.manual_seed(0)
    networks = [Global().eval() for _ in range(2)]
    image = torch.rand(1, 3, *size)
    options = InferenceOptions(tile=64, overlap=32, tiling="ntire2024", self_ensemble="transpose")
    restorer = Restorer(networks, options)
    expected = plain_form(networks, image, 64, 32)
    torch.testing.assert_close(restorer(image), expected, rtol=0, atol=1e-5)
    described = restorer.describe()
    assert "NTIRE 2024 winner, tiles of 64 px, stride 32" in described["inference"]
    assert described["networks averaged"] == "2"


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (30, 31)])
def test_images_that_are_smaller_than_the_overlap_pass_whole(size):
    options = InferenceOptions(tile=384, overlap=96, tiling="ntire2024")
    image = torch.rand(1, 3, *size)
    restorer = Restorer([build_network({"type": "Identity"})], options)
    assert torch.allclose(restorer(image), image, atol=1e-6)
