"""Swin2SR: what the published numbers and the tests of all networks do not show."""

import itertools
import math

import pytest
import swin_tools
import torch
from basicsr.archs import build_network
from network_tools import assert_all_occur, restore
from vector_tools import image, parameter_count, shapes

from cir_arch import load_network, recognise
from cir_arch.recognition import about_assumed
from cir_arch.swin2sr_arch import Swin2SR
from cir_host.errors import UserError

AUX = {"upsampler": "pixelshuffle_aux", "upscale": 4}


def small(**arguments):
    return swin_tools.small(Swin2SR, **arguments)


def outlined(**arguments):
    with torch.device("meta"):
        return Swin2SR(**arguments)


@pytest.mark.parametrize(
    ("section", "ours"),
    [
        ({"img_size": 126, "window_size": 7, "img_range": 255.0, "upsampler": ""}, {}),
        (
            {"img_size": 48, "window_size": 8, "img_range": 1.0, **AUX},
            {"window_size": 8, "img_range": 1.0, **AUX},
        ),
    ],
)
def test_settings_of_the_release_build_the_network(section, ours):
    section = {
        "type": "Swin2SR",
        "upscale": 1,
        "in_chans": 3,
        "depths": [6, 6, 6, 6, 6, 6],
        "embed_dim": 180,
        "num_heads": [6, 6, 6, 6, 6, 6],
        "mlp_ratio": 2,
        "resi_connection": "1conv",
        **section,
    }
    with torch.device("meta"):
        named = build_network(section)
    assert repr(named) == repr(outlined(**ours))
    assert named.facts == outlined(**ours).facts
    assert parameter_count(named) == parameter_count(outlined(**ours))


def test_the_second_image_is_small_and_padded():
    network, x = small(**AUX), image(6, 9)
    assert network.facts.extra_outputs == ("aux",)
    assert network.facts.halo is None
    with torch.no_grad():
        out, aux = network(x, return_aux=True)
    assert torch.equal(out, restore(network, x))
    assert (out.shape, aux.shape) == ((1, 3, 24, 36), (1, 3, 8, 12))


def test_there_is_a_second_image_only_with_its_tail():
    assert small().facts.extra_outputs == ()
    with pytest.raises(UserError, match="return_aux: only upsampler: pixelshuffle_aux"):
        small()(image(8, 8), return_aux=True)


def test_the_padded_image_is_squeezed_as_in_the_release():
    """What is added to the enlarged features is of the padded image, in the size of the result."""
    network, x = small(**AUX), image(6, 9)
    seen = []
    network.conv_bicubic.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    restore(network, x)
    padded = network.image_range.enter(network.padding.pad(x))
    expected = torch.nn.functional.interpolate(padded, (24, 36), mode="bicubic")
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=0)


def test_temperature_is_at_most_100():
    """The published numbers have none above."""

    def restored(logarithm):
        network = small()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("logit_scale"):
                    parameter.fill_(logarithm)
        return restore(network, image(8, 8))

    torch.testing.assert_close(restored(6.0), restored(math.log(100)), rtol=0, atol=1e-6)
    assert (restored(math.log(50)) - restored(math.log(100))).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("arguments", "window", "img_range"),
    [
        ({}, 7, 255.0),
        ({"in_chans": 1}, 7, 255.0),
        (AUX, 8, 1.0),
        ({"upsampler": "pixelshuffle", "upscale": 2}, 8, 1.0),
        ({"upsampler": "nearest+conv", "upscale": 4}, 8, 1.0),
    ],
    ids=str,
)
def test_what_no_file_tells_is_that_of_the_published_network(arguments, window, img_range):
    found = recognise(outlined(**arguments).state_dict())
    assert found.assumed == {"window_size": window, "img_range": img_range}
    assert f"window_size: {window}" in about_assumed(found, "net.pth")
    built = found.outline()
    assert (built.window_size, built.image_range.img_range) == (window, img_range)


def with_buffers(network):
    """Add the buffers of the release, of which the masks have another size."""
    state = network.state_dict()
    for name, value in network.tables_for_others().items():
        state[name] = torch.rand(9, *value.shape[1:]) if name.endswith("attn_mask") else value
    return state


@pytest.mark.parametrize("window", [7, 8])
def test_files_of_the_release_load_and_tell_their_window(window, tmp_path):
    network = small(window_size=window, img_range=255.0 if window == 7 else 1.0)
    torch.save(with_buffers(network), tmp_path / "net.pth")
    loaded = load_network(tmp_path / "net.pth")
    assert shapes(loaded) == shapes(network)
    x = image(9, 13)
    torch.testing.assert_close(restore(loaded, x), restore(network, x), rtol=0, atol=0)


def test_only_buffers_of_the_release_are_ignored():
    network = small()
    network.load_state_dict(with_buffers(network))
    assert network.state_dict().keys() == small().state_dict().keys()
    assert not dict(network.named_buffers()).keys() - {"image_range.mean"}
    for name in ("layers.0.residual_group.blocks.0.attn.table", "attn_mask", "norm.attn_mask"):
        with pytest.raises(RuntimeError, match="Unexpected"):
            network.load_state_dict({**network.state_dict(), name: torch.zeros(1)})


def test_tables_for_others_by_their_definition():
    tables = small(window_size=3, depths=(2,), num_heads=(2,)).tables_for_others()
    block = "layers.0.residual_group.blocks"
    assert sorted(tables) == [
        f"{block}.0.attn.relative_coords_table",
        f"{block}.0.attn.relative_position_index",
        f"{block}.1.attn.relative_coords_table",
        f"{block}.1.attn.relative_position_index",
        f"{block}.1.attn_mask",
    ]
    axis = [-math.log2(9) / 3, -math.log2(5) / 3, 0, math.log2(5) / 3, math.log2(9) / 3]
    places = tables[f"{block}.0.attn.relative_coords_table"]
    assert places.shape == (1, 5, 5, 2)
    assert places[0, :, 0, 0].tolist() == pytest.approx(axis)
    assert places[0, 0, :, 1].tolist() == pytest.approx(axis)
    index = tables[f"{block}.1.attn.relative_position_index"]
    assert (index[0, 8], index[8, 0]) == (0, 24)  # query minus key
    masks = tables[f"{block}.1.attn_mask"]  # rows and columns 2 of the last windows are wrapped
    assert masks.shape == (4, 9, 9)
    assert not masks[0].any()
    assert (masks[1, 0, 1], masks[1, 0, 2], masks[1, 0, 6]) == (0, -100, 0)
    assert (masks[2, 0, 2], masks[2, 0, 6], masks[3, 2, 6]) == (0, -100, -100)


def test_block_drops_attention_and_feed_forward_apart():
    block = small(drop_path_rate=0.4).train().layers[1].residual_group.blocks[0]
    x = torch.randn(1, 8, 8, 12).expand(64, -1, -1, -1)
    with torch.no_grad():
        attended = block.norm1(block.attn.attend(x[:1]))
        outcomes = []
        for keep_attention, keep_feed_forward in itertools.product((0, 1), repeat=2):
            y = x[:1] + keep_attention * attended / 0.6
            outcomes.append(y + keep_feed_forward * block.norm2(block.mlp(y)) / 0.6)
        out = block(x)
    assert_all_occur(outcomes, out)


def test_starts_as_published():
    torch.manual_seed(0)
    network = Swin2SR(**swin_tools.arguments_of(Swin2SR, embed_dim=48))
    for name, parameter in network.named_parameters():
        if name.endswith("logit_scale"):
            assert torch.equal(parameter, torch.full_like(parameter, math.log(10)))
        elif name.endswith(("qkv.weight", "cpb_mlp.0.weight", "fc1.weight")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith(("q_bias", "v_bias", "cpb_mlp.0.bias", "fc1.bias", "norm1.bias")):
            assert not parameter.any(), name
        elif name.endswith(("norm1.weight", "norm2.weight")):
            assert (parameter == 1).all(), name
