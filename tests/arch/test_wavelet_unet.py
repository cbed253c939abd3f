"""WaveletUNet: the transform, the blending, and what the report of the MiAlgo team says."""

import numpy as np
import pytest
import torch
from naive_wavelet_unet import NaiveWaveletUNet
from network_tools import restore
from vector_tools import fill, image, parameter_count

from cir_arch import WaveletUNet
from cir_arch.wavelet_unet_arch import haar, inverse_haar
from cir_host.errors import UserError

SMALL = {**WaveletUNet.entry.small, "channel_attention": True, "squeeze_factor": 2}


def small(cls=WaveletUNet, **arguments):
    torch.manual_seed(0)
    network = cls(**{**SMALL, **arguments}).double().eval()
    network.load_state_dict(fill(network.state_dict()))
    return network


def test_bands_of_a_cell():
    a, b, c, d = 1.0, 3.0, 7.0, 19.0
    bands = haar(torch.tensor([[a, b], [c, d]]).expand(1, 1, 2, 2))
    expected = [a + b + c + d, -a + b - c + d, -a - b + c + d, a - b - c + d]
    assert bands.flatten().tolist() == [value / 2 for value in expected]


def test_a_band_holds_all_channels_of_every_cell():
    x = torch.randn(2, 3, 4, 6)
    bands = haar(x)
    assert bands.shape == (2, 12, 2, 3)
    torch.testing.assert_close(bands[:, 2, 1, 2], x[:, 2, 2:, 4:].sum((1, 2)) / 2)
    left, right = x[:, 1, :2, 2].sum(1), x[:, 1, :2, 3].sum(1)
    torch.testing.assert_close(bands[:, 3 + 1, 0, 1], (right - left) / 2)


def test_transform_is_orthonormal_and_its_inverse_exact():
    x = torch.randn(2, 3, 6, 10, dtype=torch.float64)
    bands = haar(x)
    np.testing.assert_allclose(bands.square().sum(), x.square().sum())
    torch.testing.assert_close(inverse_haar(bands), x, rtol=0, atol=1e-14)
    torch.testing.assert_close(haar(inverse_haar(bands)), bands, rtol=0, atol=1e-14)


def test_a_weight_of_zero_leaves_the_image_and_of_one_takes_the_other():
    network, x = small(), image(16, 24).double()
    with torch.no_grad():
        network.refine[4].bias.fill_(-1e4)
        assert torch.equal(restore(network, x), x)
        network.refine[4].bias.fill_(1e4)
        assert torch.equal(restore(network, x), network._unet(x))


@pytest.mark.parametrize(
    "arguments",
    [
        {"channel_attention": False},
        {"global_skip": False},
        {"blocks": 2, "widths": (4, 6)},
        {"in_channels": 1, "squeeze_factor": 3},
    ],
    ids=str,
)
def test_each_choice_by_its_formulas(arguments):
    network, naive = small(**arguments), small(NaiveWaveletUNet, **arguments)
    x = image(16, 24, batch=2).double()[:, : network.in_channels]
    torch.testing.assert_close(restore(network, x), restore(naive, x), rtol=0, atol=1e-10)


def test_image_added_to_out1():
    with_skip, without = small(), small(global_skip=False)
    x = image(8, 8).double()
    torch.testing.assert_close(with_skip._unet(x), without._unet(x) + x)


def test_attention_starts_as_the_identity():
    torch.manual_seed(0)
    network = WaveletUNet(**{**SMALL, "identity_start": True})
    attention, x = network.middle[0].att, torch.randn(1, 12, 3, 5)
    assert torch.equal(attention(x), x)
    torch.nn.init.normal_(attention.o.weight)
    assert not torch.equal(attention(x), x)


def test_size():
    """And eight residual blocks in each of six modules, eight pairs in the middle."""
    with torch.device("meta"):
        network = WaveletUNet()
        attending = WaveletUNet(channel_attention=True)
    assert parameter_count(network) == 83_352_916
    assert [len(level.body) for level in (*network.down, *network.up)] == [8] * 6
    assert len(network.middle) == 8
    assert attending.middle[0].res.attention.attention[1].out_channels == 32
    assert max(layer.out_channels for layer in network.refine[::2]) == 16
    assert network.facts.size_multiple == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (4,)}, r"widths: \[4\] has 1 numbers; give two or more"),
        ({"widths": (4, 0)}, "widths: leaves 0 channels"),
        ({"blocks": 0}, "blocks: 0 must be 1 or more"),
        ({"squeeze_factor": 5}, "squeeze_factor: leaves 0 channels"),
        ({"squeeze_factor": 0}, "squeeze_factor: leaves 0 channels"),
    ],
)
def test_arguments_that_the_network_cannot_have_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        small(**arguments)
