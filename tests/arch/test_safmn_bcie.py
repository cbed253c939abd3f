import math

import pytest
import torch
import torch.nn.functional as F
from network_tools import (
    padded,
    restore,
)
from vector_tools import image

from cir_arch.safmn_bcie_arch import SAFM, SAFMN_BCIE, AttBlock, ConvolutionalChannelMixer
from cir_host.errors import UserError


def small(**arguments):
    torch.manual_seed(0)
    return SAFMN_BCIE(**{"dim": 8, "n_blocks": 2, "num_layers": 2, **arguments})


@pytest.mark.parametrize("size", [(16, 16), (18, 50), (30, 22)])
def test_even_sides_from_16_on_are_not_padded(size):
    """Where the authors' code runs, the network sees the image as it is."""
    network, x = small(), image(*size)
    features = network.to_feat(x).permute(0, 2, 3, 1)
    expected = network.to_img((features + network.feats(features)).permute(0, 3, 1, 2))
    torch.testing.assert_close(network(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("size", "missing", "mode"),
    [((25, 32), (1, 0), "reflect"), ((10, 12), (6, 4), "reflect"), ((5, 16), (11, 0), "edge")],
)
def test_pads_other_sides(size, missing, mode):
    network, x = small(), image(*size)
    expected = restore(network, padded(x, *missing, mode))[..., : size[0], : size[1]]
    torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-6)


def test_features_may_be_smaller_still():
    network = small(upscaling_factor=4)
    assert network.facts.size_multiple == 32
    assert restore(network, image(37, 50)).shape == (1, 3, 37, 50)


@pytest.mark.parametrize("size", [(8, 16), (25, 35), (27, 38)])
def test_modulation_by_its_definition(size):
    """Pooling windows that overlap, and copies of the pixel at floor(y * small / large)."""
    module, (height, width) = SAFM(8), size
    x = torch.randn(2, 8, height, width)
    parts = []
    for i, (part, conv) in enumerate(zip(x.chunk(4, 1), module.mfr, strict=True)):
        rows, columns = height // 2**i, width // 2**i
        pooled = _pooled(_pooled(part, rows).mT, columns).mT
        made = F.conv2d(pooled, conv.weight, conv.bias, padding=1, groups=2)
        made = made[:, :, [y * rows // height for y in range(height)]]
        parts.append(made[..., [x * columns // width for x in range(width)]])
    gate = F.gelu(F.conv2d(torch.cat(parts, 1), module.aggr.weight, module.aggr.bias))
    found = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, gate * x, rtol=1e-5, atol=1e-6)


def _pooled(x, length):
    """Pool the rows of (B, C, H, W) to ``length`` rows."""
    height = x.shape[2]
    starts = [k * height // length for k in range(length)]
    ends = [math.ceil((k + 1) * height / length) for k in range(length)]
    return torch.stack([x[:, :, a:b].amax(2) for a, b in zip(starts, ends, strict=True)], 2)


def test_norm_has_the_small_epsilon():
    """A dim input tells 1e-6 from 1e-5."""
    block = AttBlock(8, 2.0)
    x = 1e-3 * torch.randn(1, 8, 8, 8)
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    for norm in (block.norm1, block.norm2):
        torch.testing.assert_close(norm(x), normed, rtol=1e-4, atol=1e-5)


def test_mixer_uses_the_exact_gelu():
    module = ConvolutionalChannelMixer(4, 8)
    x = 3 * torch.randn(1, 4, 6, 5)
    first, _, last = module.ccm
    hidden = F.conv2d(x, first.weight, first.bias, padding=1)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    found = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected = F.conv2d(hidden, last.weight, last.bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_width_that_cannot_be_cut_in_four_is_named():
    with pytest.raises(UserError, match="dim: 10"):
        small(dim=10)
