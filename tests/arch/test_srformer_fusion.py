"""What the report on SRFormerFusion says: inputs, what is kept and what is restored."""

import pytest
import torch
from network_tools import restore
from small_networks import SMALL
from vector_tools import filled, image, parameter_count

from cir_arch.layers.image_range import RGB_MEAN
from cir_arch.srformer_arch import SRFormer
from cir_arch.srformer_fusion_arch import SRFormerFusion
from cir_host.errors import UserError

MEAN = torch.tensor(RGB_MEAN)[:, None, None]


def small(**arguments):
    return filled(SRFormerFusion(**{**SMALL["SRFormerFusion"], **arguments})).eval()


def inputs(height=16, width=24):
    """Images of low quality, a soft mask, other images."""
    mask = image(height, width, seed=1, batch=2)[:, :1]
    return image(height, width, batch=2), mask, image(height, width, seed=2, batch=2)


def fused(network, *arguments, **named):
    with torch.inference_mode():
        return network(*arguments, **named)


def silent(network):
    """Let the network add nothing."""
    torch.nn.init.zeros_(network.conv_last.weight)
    torch.nn.init.zeros_(network.conv_last.bias)
    return network


def test_size_of_the_reported_network():
    with torch.device("meta"):
        network = SRFormerFusion()
    assert parameter_count(network) == 41_133_783
    assert network.conv_first.weight.shape == (360, 7, 3, 3)
    assert {len(group.residual_group.blocks) for group in network.layers} == {6}
    assert network.facts.size_multiple == 24


@pytest.mark.parametrize("skip_from", ["mixture", "lr"])
@pytest.mark.parametrize("paste", [False, True])
def test_it_is_srformer_on_three_inputs(skip_from, paste):
    """SRFormer of seven channels, whose mean is zero, gives the same features."""
    network = small(skip_from=skip_from, paste=paste)
    arguments = {k: v for k, v in SMALL["SRFormerFusion"].items() if k != "in_chans"}
    base = SRFormer(in_chans=7, upsampler="", **arguments).eval()
    state = network.state_dict()
    last = {key: state.pop(key) for key in ("conv_last.weight", "conv_last.bias")}
    assert base.load_state_dict(state, strict=False).missing_keys == list(last)
    x, mask, other = inputs()
    mixture = mask * x + (1 - mask) * other
    with torch.inference_mode():
        features = base.features(torch.cat([x - MEAN, mask, mixture - MEAN], 1))
        added = torch.conv2d(features, *last.values(), padding=1)
    expected = added + {"mixture": mixture, "lr": x}[skip_from]
    if paste:
        expected = mask * expected + (1 - mask) * mixture
    torch.testing.assert_close(fused(network, x, mask, other), expected, rtol=0, atol=1e-5)


def test_what_the_mask_keeps_starts_as_the_other_image():
    x, _, other = inputs(7, 13)
    mask = (image(7, 13, seed=3, batch=2)[:, :1] > 0.5).float()
    out = fused(silent(small()), x, mask, other)
    torch.testing.assert_close(out, torch.where(mask > 0, x, other), rtol=0, atol=1e-6)
    out = fused(silent(small(skip_from="lr")), x, mask, other)
    torch.testing.assert_close(out, x, rtol=0, atol=1e-6)


def test_paste_keeps_the_other_image_to_the_bit():
    x, _, other = inputs(7, 13)
    mask = (image(7, 13, seed=3, batch=2)[:, :1] > 0.5).float()
    kept = (mask == 0).expand_as(x)
    assert torch.equal(fused(small(paste=True), x, mask, other)[kept], other[kept])
    assert not torch.equal(fused(small(), x, mask, other)[kept], other[kept])


def test_an_image_alone_is_restored_everywhere():
    network = small()
    x, mask, _ = inputs()
    expected = restore(network, x)
    assert torch.equal(fused(network, x, torch.ones_like(mask), image(16, 24, 5, 2)), expected)
    assert torch.equal(fused(network, x, other=x), expected)
    assert not torch.equal(fused(network, x, torch.zeros_like(mask)), expected)


def test_arguments_and_inputs_that_cannot_be_meant():
    with pytest.raises(UserError, match="skip_from: 'gt' is not one of mixture, lr"):
        SRFormerFusion(skip_from="gt")
    network = small()
    x, mask, other = inputs()
    with pytest.raises(
        UserError, match=r"mask: its shape is \(2, 1, 16, 23\), .* \(2, 1, 16, 24\)"
    ):
        network(x, mask[..., :-1])
    with pytest.raises(
        UserError, match=r"other: its shape is \(1, 3, 16, 24\), .* \(2, 3, 16, 24\)"
    ):
        network(x, mask, other[:1])
