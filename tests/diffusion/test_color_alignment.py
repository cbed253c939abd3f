"""What the alignment of colours keeps, and what it takes over."""

import pytest
import torch

from cir_diffusion.color_alignment import ALIGNMENTS, adain, wavelet


def test_adain_takes_over_mean_and_deviation_of_each_channel():
    image, reference = 0.2 + 0.1 * torch.rand(2, 3, 20, 30), 0.3 + 0.3 * torch.rand(2, 3, 20, 30)
    aligned = adain(image, reference)
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(
            statistic(aligned, (-2, -1)), statistic(reference, (-2, -1)), rtol=0.01, atol=1e-3
        )


def test_wavelet_takes_over_low_frequencies_and_keeps_the_others():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    checks = ((rows + columns) % 2 * 0.2).expand(1, 3, -1, -1)
    ramp = (0.3 + 0.4 * columns / 64).expand(1, 3, -1, -1)
    aligned = wavelet(checks + 0.1, ramp)
    wanted = ramp + checks - 0.1
    middle = (..., slice(32, 40), slice(32, 40))  # the edges of an image are blurred otherwise
    torch.testing.assert_close(aligned[middle], wanted[middle], rtol=0, atol=0.01)


@pytest.mark.parametrize("way", sorted(ALIGNMENTS))
def test_an_image_that_needs_no_alignment_stays(way):
    image = torch.rand(1, 3, 7, 5)
    torch.testing.assert_close(ALIGNMENTS[way](image, image), image)
