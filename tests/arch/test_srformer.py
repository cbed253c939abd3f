"""SRFormer: what the published numbers and the tests of all networks do not show."""

import itertools

import pytest
import torch
from basicsr.archs import build_network
from naive_srformer import NaiveSRFormer
from network_tools import assert_all_occur, reach, restore
from vector_tools import filled, image, parameter_count, shapes

from cir_arch import load_network, recognise
from cir_arch.layers import bands
from cir_arch.srformer_arch import SRFormer
from cir_host.errors import UserError

SMALL = {
    "embed_dim": 24,
    "depths": (2, 1),
    "num_heads": (2, 3),
    "window_size": 4,
    "mlp_ratio": 2.0,
}
TAILS = [
    {"img_range": 255.0},
    {"upsampler": "pixelshuffle", "upscale": 3, "img_range": 2.0},
    {"upsampler": "pixelshuffledirect", "upscale": 3},
    {"upsampler": "nearest+conv", "upscale": 4},
]


def small(network=SRFormer, **arguments):
    torch.manual_seed(0)
    return filled(network(**{**SMALL, **arguments}))


def test_options_of_the_release_build_the_network():
    """The section of an options file of the authors', as YAML gives it."""
    section = {
        "type": "SRFormer",
        "upscale": 2,
        "in_chans": 3,
        "img_size": 48,
        "window_size": 22,
        "img_range": 1.0,
        "depths": [6, 6, 6, 6, 6, 6],
        "embed_dim": 180,
        "num_heads": [6, 6, 6, 6, 6, 6],
        "mlp_ratio": 2,
        "upsampler": "pixelshuffle",
        "resi_connection": "1conv",
    }
    with torch.device("meta"):
        named = build_network(section)
    assert parameter_count(named) == 10_376_783
    assert (named.facts.size_multiple, named.facts.scale) == (22, 2)


@pytest.mark.parametrize("arguments", [*TAILS, {"in_chans": 1}], ids=str)
@pytest.mark.parametrize("window", [2, 4, 6])
@pytest.mark.parametrize("cells", [(1, 1), (2, 3)])
def test_equals_the_naive_form(arguments, window, cells):
    """Also where cells straddle the seam of a shifted map (6), and where a map is one window.

    In float64: another epsilon of a norm or the tanh form of GELU is another function.
    """
    arguments = {"window_size": window, **arguments}
    network, naive = small(**arguments).double(), small(NaiveSRFormer, **arguments).double()
    x = image(cells[0] * window, cells[1] * window, seed=1, batch=2).double()
    x = x[:, : network.in_chans]
    torch.testing.assert_close(restore(network, x), restore(naive, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("tail", TAILS, ids=str)
def test_halo_is_exact_behind_every_tail(tail):
    network = small(**tail, depths=(2,), num_heads=(2,), window_size=2).double()
    assert reach(network, network.facts) == network.facts.halo


@pytest.mark.parametrize("tail", TAILS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (8, 4)])
def test_any_size_comes_back_enlarged(tail, size):
    network = small(**tail)
    out = restore(network, image(*size))
    assert out.shape == (1, 3, size[0] * network.upscale, size[1] * network.upscale)
    assert out.isfinite().all()


@pytest.mark.parametrize("width", [8, 100])
def test_bands_of_rows_change_nothing(monkeypatch, width):
    network, x = small().double(), image(28, width, batch=2).double()
    expected = restore(network, x)
    monkeypatch.setattr(bands, "VALUES", 1)
    torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-10)


def test_a_map_of_one_window_is_shifted_whatever_the_patches():
    """The release shifts no windows if patches are of one window."""
    x = image(4, 4)
    expected = restore(small(), x)
    torch.testing.assert_close(restore(small(img_size=4), x), expected, rtol=0, atol=0)
    network = small()
    shifted = network.layers[0].residual_group.blocks[1].attn
    inputs = torch.randn(1, 4, 4, 24)
    with torch.no_grad():
        before = shifted(inputs)
        inputs[0, 3, 3] += 1  # on the other side of the seam from all but three pixels
        changed = (shifted(inputs) - before).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def with_buffers(network):
    """Add the buffers of the release: indices in each block, float masks in the shifted ones."""
    state = network.state_dict()
    for name in list(state):
        block, key, _ = name.partition(".attn.kv.weight")
        if key:
            state[f"{block}.attn.aligned_relative_position_index"] = torch.arange(64)
            if block.endswith(".1"):
                state[f"{block}.attn_mask"] = torch.rand(9, 16, 4)
    return state


def test_files_of_the_release_load(tmp_path):
    network = small()
    state = with_buffers(network)
    assert len(state) == len(network.state_dict()) + 4
    small().load_state_dict(state)
    torch.save({"params_ema": state}, tmp_path / "net.pth")
    loaded = load_network(tmp_path / "net.pth")
    assert shapes(loaded) == shapes(network)
    x = image(9, 13)
    torch.testing.assert_close(restore(loaded, x), restore(network, x), rtol=0, atol=0)


def test_swinir_is_not_taken_for_this_one_nor_this_one_for_swinir():
    """Both have tables of position biases under the same names."""
    state = small().state_dict()
    assert recognise(state).type == "SRFormer"
    kv = "layers.0.residual_group.blocks.0.attn.kv.weight"
    assert recognise({name: value for name, value in state.items() if name != kv}) is None


def test_a_file_with_three_convolutions_behind_the_groups_is_of_no_network():
    state = small().state_dict()
    state["conv_after_body.0.weight"] = state.pop("conv_after_body.weight")
    assert recognise(state) is None


def test_drop_path_rates_rise_through_the_groups():
    network = small(depths=(2, 3))
    assert [
        block.drop_path.rate for group in network.layers for block in group.residual_group.blocks
    ] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])


def test_block_drops_attention_and_feed_forward_apart():
    block = small(drop_path_rate=0.4).train().layers[1].residual_group.blocks[0]
    x = torch.randn(1, 8, 8, 24).expand(64, -1, -1, -1)
    with torch.no_grad():
        attended = block.attn(block.norm1(x[:1]))
        outcomes = []
        for keep_attention, keep_feed_forward in itertools.product((0, 1), repeat=2):
            y = x[:1] + keep_attention * attended / 0.6
            outcomes.append(y + keep_feed_forward * block.mlp(y, block.norm2) / 0.6)
        out = block(x)
    assert_all_occur(outcomes, out)


def test_starts_as_published():
    torch.manual_seed(0)
    network = SRFormer(**{**SMALL, "embed_dim": 48, "window_size": 16})
    for name, parameter in network.named_parameters():
        if name.endswith(("bias_table", "q.weight", "kv.weight", "fc1.weight")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith(("q.bias", "kv.bias", "proj.bias", "fc1.bias", "norm1.bias")):
            assert not parameter.any(), name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"window_size": 0}, "window_size"),
        ({"window_size": 7}, "window_size: 7 .* even"),
        ({"embed_dim": 18}, "embed_dim: 18 .* multiple of 4"),
        ({"num_heads": (2, 5)}, "num_heads"),
        ({"depths": (2, 2, 2)}, "depths"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"in_chans": 0}, "in_chans"),
        ({"img_range": 0.0}, "img_range"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"upsampler": "pixelshuffle_aux", "upscale": 4}, "upsampler: 'pixelshuffle_aux'"),
        ({"upscale": 2}, "upscale: without upsampler"),
        ({"upsampler": "pixelshuffle", "upscale": 5}, "upscale: 5"),
        ({"upsampler": "nearest+conv", "upscale": 2}, "upscale: .* give 4"),
        ({"resi_connection": "3conv"}, "resi_connection"),
    ],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=f"^{named}"):
        SRFormer(**{**SMALL, **arguments})
