"""Tiles: where they lie, and that the image they make is the whole image's."""

from itertools import pairwise

import pytest
import torch
from basicsr.archs import build_network
from hypothesis import given
from hypothesis import strategies as st
from small_networks import SMALL
from torch import nn

import cir_arch  # noqa: F401
from cir_arch.facts import NetworkFacts
from cir_model.restoring.inference import restore_tensor
from cir_model.restoring.tiling import Tiling


def facts(multiple=1, halo=0, scale=1):
    return NetworkFacts(
        size_multiple=multiple,
        min_size=1,
        scale=scale,
        halo=halo,
        in_channels=3,
        precisions=frozenset({"fp32"}),
    )


class Blur(nn.Module):
    """Reaches ``halo`` pixels, and enlarges."""

    def __init__(self, halo, scale=1):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3 * scale**2, 2 * halo + 1, padding=halo)
        self.facts = facts(halo=halo, scale=scale)

    def forward(self, x):
        return nn.functional.pixel_shuffle(self.conv(x), self.facts.scale)


@given(
    length=st.integers(1, 700),
    tile=st.integers(0, 200),
    overlap=st.none() | st.integers(0, 120),
    multiple=st.sampled_from([1, 7, 8, 32]),
    halo=st.none() | st.integers(0, 60),
)
def test_spans_cover_the_axis_on_the_grid(length, tile, overlap, multiple, halo):
    tiling = Tiling.fitting(tile, overlap, [facts(multiple, halo)])
    assert tiling.tile >= tile
    assert tiling.overlap >= (overlap or 0)
    assert tiling.grid % 16 == 0
    assert tiling.tile % tiling.grid == tiling.stride % tiling.grid == 0
    assert tiling.tile % multiple == 0
    assert 2 * tiling.margin <= tiling.overlap
    spans = tiling.spans(length)
    assert spans[0].start == 0
    assert spans[-1].stop == length
    for left, right in pairwise(spans):
        assert right.start % tiling.grid == 0
        assert left.stop - right.start == tiling.overlap
        assert left.stop - left.start == spans[0].stop <= tiling.tile
    assert spans[-1].stop - spans[-1].start <= spans[0].stop
    assert len(spans) == max(1, -(-(length - tiling.overlap) // tiling.stride))


def test_tiles_repeat_as_few_pixels_as_their_number_allows():
    """Full tiles of 112 px would start at 0, 96 and 112, and the last would repeat the second."""
    tiling = Tiling(tile=112, overlap=16, grid=16, margin=4)
    assert tiling.spans(224) == [(0, 96), (80, 176), (160, 224)]
    assert tiling.spans(208) == [(0, 112), (96, 208)]


@pytest.mark.parametrize("size", [(1, 1), (16, 300), (97, 111), (130, 64), (161, 95)])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 0), (32, 16), (48, 0), (64, 40), (64, None)])
def test_identity_is_bit_for_bit(size, tile, overlap):
    image = torch.rand(2, 3, *size)
    out = restore_tensor(build_network({"type": "Identity"}), image, tile=tile, overlap=overlap)
    assert torch.equal(out, image)


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("halo", [1, 8, 11])
@pytest.mark.parametrize("extra", [0, 16])
def test_finite_halo_gives_the_whole_image(scale, halo, extra):
    network = Blur(halo, scale)
    image = torch.rand(1, 3, 97, 150)
    whole = restore_tensor(network, image)
    tiled = restore_tensor(network, image, tile=48, overlap=2 * halo + extra)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(restore_tensor(network, image, tile=64), whole, rtol=0, atol=1e-6)


def test_too_small_an_overlap_differs_only_at_the_seams():
    image = torch.rand(1, 3, 97, 150)
    network = Blur(11)
    error = restore_tensor(network, image, tile=64, overlap=16) - restore_tensor(network, image)
    assert error.abs().max() > 1e-4
    assert (error[..., :32, :32] == 0).all()


@pytest.mark.parametrize("name", ["SCUNet", "CaVE"])
def test_networks_of_finite_halo_give_the_whole_image(name):
    torch.manual_seed(0)
    network = build_network({"type": name, **SMALL[name]}).eval()
    halo, grid = network.facts.halo, max(16, network.facts.size_multiple)
    overlap = -(-2 * halo // grid) * grid
    image = torch.rand(1, 3, 40, overlap + 2 * grid + 9)
    whole = restore_tensor(network, image)
    tiled = restore_tensor(network, image, tile=overlap + grid, overlap=overlap)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_ensembles_of_tiles_are_those_of_the_whole_image():
    network, image = Blur(8), torch.rand(1, 3, 70, 90)
    whole = restore_tensor(network, image, self_ensemble="x8")
    tiled = restore_tensor(network, image, self_ensemble="x8", tile=48, overlap=16)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_tiles_pass_in_batches_of_one_shape():
    seen = []

    class Spy(nn.Module):
        facts = facts()

        def forward(self, x):
            seen.append(tuple(x.shape))
            return x

    tiling = Tiling.fitting(32, 0, [facts()])
    image = torch.rand(1, 3, 32, 150)
    assert torch.equal(tiling.restore(Spy(), image, 1, batch=3), image)
    assert seen == [(3, 3, 32, 32), (1, 3, 32, 32), (1, 3, 32, 22)]
