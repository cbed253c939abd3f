"""What FBCNN and CaVE have in common."""

import pytest
import torch
import torch.nn.functional as F
from vector_tools import fill, parameter_count

from cir_arch.cave_arch import CaVE
from cir_arch.fbcnn_arch import FBCNN
from cir_arch.layers.quality_head import QualityHead
from cir_arch.layers.residual_conv import ResBlock
from cir_host.errors import UserError


def block(act_mode="BR", use_checkpoint=False):
    made = ResBlock(3, act_mode, use_checkpoint)
    made.load_state_dict(fill(made.state_dict()))
    return made


def by_definition(module, x, mean, variance):
    """Batch norm with epsilon 1e-4 after the first convolution only, and an outer sum."""
    first, norm, _, second = module.res
    y = F.conv2d(x, first.weight, first.bias, padding=1)
    mean, variance = (z[:, None, None] for z in (mean(y), variance(y)))
    weight, bias = (z[:, None, None] for z in (norm.weight, norm.bias))
    y = (weight * (y - mean) / (variance + 1e-4).sqrt() + bias).clamp_min(0)
    return x + F.conv2d(y, second.weight, second.bias, padding=1)


def test_block_while_training_by_its_definition():
    """A dim input tells the epsilon from PyTorch's."""
    module, x = block(), 0.02 * torch.randn(2, 3, 5, 6)
    expected = by_definition(
        module, x, lambda y: y.mean((0, 2, 3)), lambda y: y.var((0, 2, 3), correction=0)
    )
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_block_while_testing_by_its_definition():
    module, x = block().eval(), torch.randn(2, 3, 5, 6)
    norm = module.res[1]
    torch.nn.init.constant_(norm.running_var, 1e-3)
    expected = by_definition(module, x, lambda _: norm.running_mean, lambda _: norm.running_var)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_running_statistics_are_nearly_those_of_the_last_batch():
    module, x = block(), torch.randn(2, 3, 5, 6)
    before = module.res[1].running_mean.clone()
    module(x)
    batch = module.res[0](x).mean((0, 2, 3))
    torch.testing.assert_close(module.res[1].running_mean, 0.1 * before + 0.9 * batch)


@pytest.mark.parametrize("act_mode", ["R", "BR"])
def test_recomputing_changes_neither_gradients_nor_statistics(act_mode):
    plain, recomputed = block(act_mode), block(act_mode, use_checkpoint=True)
    x = torch.randn(2, 3, 5, 6)
    for module in (plain, recomputed):
        module(x).square().sum().backward()
    for name, value in plain.state_dict().items():
        assert torch.equal(recomputed.state_dict()[name], value), name
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(recomputed.get_parameter(name).grad, parameter.grad)


def test_quality_head_takes_the_mean_over_the_image_after_its_blocks():
    head = QualityHead(3, 5, 1, "R", False).eval()
    x = torch.randn(2, 3, 4, 6)
    y = head[0](x).mean((2, 3))
    for layer in (head[3], head[5]):
        y = F.linear(y, layer.weight, layer.bias).clamp_min(0)
    expected = F.linear(y, head[7].weight, head[7].bias).sigmoid()
    torch.testing.assert_close(head(x), expected)
    assert expected.shape == (2, 1)


@pytest.mark.parametrize("network", [FBCNN, CaVE])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"nc": (4, 8, 8)}, "nc"), ({"strides": (2, 2)}, "strides"), ({"act_mode": "L"}, "act_mode")],
)
def test_unusable_arguments_are_named(network, arguments, named):
    with pytest.raises(UserError, match=named):
        network(**{"nc": (4, 4, 4, 4), "nb": 1, **arguments})


@pytest.mark.parametrize("network", [FBCNN, CaVE])
def test_every_size_is_an_argument(network):
    """Counted by hand for one block per stage."""
    made = network(1, 2, nc=(1, 2, 3, 4), nb=1, act_mode="R", strides=(2, 3, 1), quality_nc=5)

    def conv(wide, narrow, side):
        return wide * narrow * side**2 + narrow

    blocks = [2 * conv(c, c, 3) for c in (1, 2, 3, 4)]
    expected = conv(1, 1, 3) + conv(1, 2, 3) + 2 * sum(blocks) + blocks[3]
    for wide, narrow, side in ((1, 2, 2), (2, 3, 3), (3, 4, 1)):
        expected += conv(wide, narrow, side) + conv(narrow, wide, side)
    expected += conv(4, 5, 1) + conv(5, 5, 1) + conv(5, 1, 1)
    if network is FBCNN:
        expected += conv(1, 5, 1) + 2 * conv(5, 5, 1) + 2 * sum(conv(5, c, 1) for c in (1, 2, 3))
    assert parameter_count(made) == expected
    assert made.facts.size_multiple == 6
    assert made(torch.rand(1, 1, 7, 5)).shape == (1, 2, 7, 5)
