"""Tiles of latents cover an image and end, whatever their overlap."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d, interpolate

from cir_diffusion.latent_tiles import LatentTiles

LENGTHS = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, LENGTHS, LENGTHS, st.integers(0, 60))
def test_a_network_that_changes_nothing_gives_the_image(height, width, tile, overlap):
    x = torch.rand(2, 3, height, width) + 1
    sizes = set()

    def network(part):
        sizes.add(tuple(part.shape[-2:]))
        return part

    torch.testing.assert_close(LatentTiles(tile, overlap).run(network, x), x)
    whole = height * width <= tile**2
    assert sizes == ({(height, width)} if whole else {(min(tile, height, width),) * 2})


def test_input_and_output_may_have_several_pixels_for_a_latent():
    tiles = LatentTiles(4, 1)
    latents = torch.rand(1, 2, 6, 11)
    wide = interpolate(latents, scale_factor=8.0)
    torch.testing.assert_close(tiles.run(lambda x: avg_pool2d(x, 8), wide, 8, 1), latents)
    larger = tiles.run(lambda x: interpolate(x, scale_factor=8.0), latents, 1, 8)
    torch.testing.assert_close(larger, wide)


@pytest.mark.parametrize(
    "tile, overlap, length, starts",
    [
        (96, 32, 200, [0, 64, 104]),  # the release's tiles
        (96, 32, 160, [0, 64]),
        (96, 32, 161, [0, 64, 65]),
        (32, 32, 64, [0, 16, 32]),  # with which the release never ends
        (1, 9, 3, [0, 1, 2]),
    ],
)
def test_where_the_tiles_of_an_axis_begin(tile, overlap, length, starts):
    assert LatentTiles(tile, overlap).starts(length, tile) == starts
