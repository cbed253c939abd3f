import pytest
import torch
import torch.nn.functional as F
from network_tools import (
    restore,
)
from vector_tools import filled, image, parameter_count

from cir_arch.scunet_arch import SCUNet, SwinBlock, SwinConvBlock, WindowMSA
from cir_host.errors import UserError


def small(**arguments):
    torch.manual_seed(0)
    sizes = {"config": (2, 1, 2, 2, 1, 2, 2), "dim": 8, "head_dim": 2, "window_size": 4}
    return SCUNet(**{**sizes, **arguments})


def swin_blocks(network):
    return [module for module in network.modules() if isinstance(module, SwinBlock)]


def test_original_network_by_arguments():
    with torch.device("meta"):
        network = SCUNet(dim=64, head_dim=32, config=[4] * 7)
    assert parameter_count(network) == 17_946_072
    assert [block.msa.heads for block in swin_blocks(network)[::4]] == [1, 2, 4, 8, 4, 2, 1]


def test_tile_is_the_whole_beyond_the_halo():
    """And the halo is needed: nearer to the cut the two differ."""
    network = filled(small())
    halo, start = network.facts.halo, 2 * network.facts.size_multiple
    x = image(32, start + halo + 40)
    whole = restore(network, x)[..., start:]
    tile = restore(network, x[..., start:])
    scale = whole.std()
    torch.testing.assert_close(tile[..., halo:] / scale, whole[..., halo:] / scale)
    assert ((tile - whole)[..., halo // 3 :] / scale).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(4, 4), (4, 12), (8, 12)])
@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention_by_its_definition(size, shifted):
    """Token by token; what only the roll brings together is not weighed, however well it fits."""
    module, (height, width) = WindowMSA(6, 2, 4, shifted), size
    shift = 2 * shifted
    torch.nn.init.normal_(module.relative_position_params, std=150)
    x = torch.randn(1, height, width, 6)
    q, k, v = (part[0].unflatten(-1, (2, 3)) for part in module.embedding_layer(x).chunk(3, -1))
    expected = torch.zeros(height, width, 2, 3)
    for head in range(2):
        for row in range(height):
            for column in range(width):
                seen = [
                    (key_row, key_column)
                    for key_row in _window(row, height, shift)
                    for key_column in _window(column, width, shift)
                ]
                scores = [
                    q[row, column, head] @ k[i, j, head] * 3**-0.5
                    + module.relative_position_params[head, row - i + 3, column - j + 3]
                    for i, j in seen
                ]
                weights = torch.stack(scores).softmax(0)
                values = torch.stack([v[i, j, head] for i, j in seen])
                expected[row, column, head] = weights @ values
    expected = module.linear(expected.flatten(2))[None]
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def _window(place, length, shift):
    """Places of the same window of 4, where windows begin at ``shift`` and end at the borders."""
    start = (place - shift) // 4 * 4 + shift
    return range(max(start, 0), min(start + 4, length))


def test_every_second_block_of_a_stage_shifts():
    shifted = [block.msa.shifted for block in swin_blocks(small(config=(2, 3, 1, 2, 2, 1, 2)))]
    assert shifted == [bool(i) for i in (0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1)]


def test_levels_no_larger_than_a_window_do_not_shift():
    network = small(config=[2] * 7, input_resolution=16)
    shifted = [block.msa.shifted for block in swin_blocks(network)[1::2]]
    assert shifted == [True, True, False, False, False, True, True]


def test_stochastic_depth_grows_over_all_blocks():
    rates = [block.drop_path.rate for block in swin_blocks(small(drop_path_rate=0.22))]
    assert rates == pytest.approx([0.02 * i for i in range(12)])
    torch.manual_seed(0)
    network = small(drop_path_rate=0.9)
    x = image(32, 32)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_block_of_a_dim_input_by_its_definition():
    """A dim input tells an epsilon of 1e-5 from 1e-6; the convolutions take the first half."""
    block = SwinConvBlock(8, 2, 4, True, 0.0)
    torch.nn.init.zeros_(block.conv1_1.bias)
    x = 0.005 * torch.randn(1, 8, 8, 8)
    local, distant = F.linear(x, block.conv1_1.weight[..., 0, 0]).chunk(2, -1)
    first, _, second = block.conv_block
    hidden = F.conv2d(local.permute(0, 3, 1, 2), first.weight, padding=1).clamp_min(0)
    local = local + F.conv2d(hidden, second.weight, padding=1).permute(0, 2, 3, 1)
    swin = block.trans_block
    distant = distant + swin.msa(_normed(distant))
    hidden = F.linear(_normed(distant), swin.mlp[0].weight, swin.mlp[0].bias)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    distant = distant + F.linear(hidden, swin.mlp[2].weight, swin.mlp[2].bias)
    both = torch.cat((local, distant), -1)
    expected = x + F.linear(both, block.conv1_2.weight[..., 0, 0], block.conv1_2.bias)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def _normed(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"config": [2] * 6}, "config"), ({"head_dim": 3}, "dim"), ({"window_size": 5}, "window")],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        small(**arguments)
