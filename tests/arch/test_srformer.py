"""SRFormer: what the published numbers and the tests of all networks do not show."""

import itertools

import pytest
import swin_tools
import torch
from basicsr.archs import build_network
from network_tools import assert_all_occur, restore
from vector_tools import image, parameter_count, shapes

from cir_arch import load_network, recognise
from cir_arch.srformer_arch import SRFormer


def small(**arguments):
    return swin_tools.small(SRFormer, **arguments)


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


def test_a_map_of_one_window_is_shifted():
    shifted = small().layers[0].residual_group.blocks[1].attn
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
    network = SRFormer(**swin_tools.arguments_of(SRFormer, embed_dim=48, window_size=16))
    for name, parameter in network.named_parameters():
        if name.endswith(("bias_table", "q.weight", "kv.weight", "fc1.weight")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith(("q.bias", "kv.bias", "proj.bias", "fc1.bias", "norm1.bias")):
            assert not parameter.any(), name
