"""Swin2SR: what the published numbers and the tests of all networks do not show."""

import itertools
import math

import pytest
import torch
from basicsr.archs import build_network
from naive_swin2sr import NaiveSwin2SR
from network_tools import assert_all_occur, reach, restore
from vector_tools import filled, image, parameter_count, shapes

from cir_arch import load_network, recognise
from cir_arch.layers import bands
from cir_arch.recognition import about_assumed
from cir_arch.swin2sr_arch import Swin2SR
from cir_host.errors import UserError

SMALL = {
    "embed_dim": 12,
    "depths": (2, 1),
    "num_heads": (2, 3),
    "window_size": 4,
    "img_range": 1.0,
}
TAILS = [
    {"img_range": 255.0},
    {"upsampler": "pixelshuffle", "upscale": 3, "img_range": 2.0},
    {"upsampler": "pixelshuffledirect", "upscale": 3},
    {"upsampler": "nearest+conv", "upscale": 4},
]
AUX = {"upsampler": "pixelshuffle_aux", "upscale": 4}


def small(network=Swin2SR, **arguments):
    torch.manual_seed(0)
    return filled(network(**{**SMALL, **arguments}))


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


@pytest.mark.parametrize("arguments", [*TAILS, AUX, {"in_chans": 1}], ids=str)
@pytest.mark.parametrize("window", [2, 5])
@pytest.mark.parametrize("cells", [(1, 1), (2, 3)])
def test_equals_the_naive_form(arguments, window, cells):
    """In float64: another epsilon of a norm or the tanh form of GELU is another function."""
    arguments = {"window_size": window, **arguments}
    network, naive = small(**arguments).double(), small(NaiveSwin2SR, **arguments).double()
    x = image(cells[0] * window, cells[1] * window, seed=1, batch=2).double()
    x = x[:, : network.in_chans]
    torch.testing.assert_close(restore(network, x), restore(naive, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("tail", TAILS, ids=str)
def test_halo_is_exact_behind_every_tail(tail):
    network = small(**tail, depths=(2,), num_heads=(2,), window_size=2).double()
    assert reach(network, network.facts) == network.facts.halo


@pytest.mark.parametrize("tail", [*TAILS, AUX], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (8, 4)])
def test_any_size_comes_back_enlarged(tail, size):
    network = small(**tail)
    out = restore(network, image(*size))
    assert out.shape == (1, 3, size[0] * network.upscale, size[1] * network.upscale)
    assert out.isfinite().all()


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


def test_bands_of_rows_change_nothing(monkeypatch):
    network, x = small().double(), image(24, 32, batch=2).double()
    expected = restore(network, x)
    monkeypatch.setattr(bands, "VALUES", 1)
    torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-10)


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


def test_the_size_of_the_training_patches_has_no_effect():
    """The release shifts no windows if they are of one window."""
    x = image(4, 4)
    expected = restore(small(), x)
    torch.testing.assert_close(restore(small(img_size=4), x), expected, rtol=0, atol=0)


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


def test_drop_path_rates_rise_through_the_groups():
    network = small(depths=(2, 3))
    assert [
        block.drop_path.rate for group in network.layers for block in group.residual_group.blocks
    ] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])


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
    network = Swin2SR(**{**SMALL, "embed_dim": 48})
    for name, parameter in network.named_parameters():
        if name.endswith("logit_scale"):
            assert torch.equal(parameter, torch.full_like(parameter, math.log(10)))
        elif name.endswith(("qkv.weight", "cpb_mlp.0.weight", "fc1.weight")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith(("q_bias", "v_bias", "cpb_mlp.0.bias", "fc1.bias", "norm1.bias")):
            assert not parameter.any(), name
        elif name.endswith(("norm1.weight", "norm2.weight")):
            assert (parameter == 1).all(), name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"window_size": 1}, "window_size"),
        ({"embed_dim": 13}, "num_heads"),
        ({"num_heads": (2, 5)}, "num_heads"),
        ({"depths": (2, 2, 2)}, "depths"),
        ({"depths": (0, 1)}, "depths"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"in_chans": 0}, "in_chans"),
        ({"img_range": 0.0}, "img_range"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"upsampler": "pixelshuffle_hf"}, "upsampler: 'pixelshuffle_hf' is unknown; give ''"),
        ({"upscale": 2}, "upscale: without upsampler"),
        ({"upsampler": "pixelshuffle", "upscale": 5}, "upscale: 5"),
        ({"upsampler": "pixelshuffledirect", "upscale": 0}, "upscale: cannot enlarge by 0"),
        ({"upsampler": "nearest+conv", "upscale": 2}, "upscale: .* give 4"),
        ({"resi_connection": "3conv"}, "resi_connection"),
    ],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=f"^{named}"):
        Swin2SR(**{**SMALL, **arguments})
