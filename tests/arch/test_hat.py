"""HAT and HFT: what the published numbers do not show."""

import inspect
import itertools

import pytest
import torch
import torch.nn.functional as F
from basicsr.archs import build_network
from naive_hat import NaiveHAT
from network_tools import assert_all_occur, gradients, restore
from torch import nn
from vector_tools import filled, image, parameter_count, shapes

from cir_arch.hat_arch import HAT
from cir_arch.hft_arch import HFT
from cir_host.errors import UserError

HAT_S = {"embed_dim": 144, "compress_ratio": 24, "squeeze_factor": 24}
HAT_L = {"depths": (6,) * 12, "num_heads": (6,) * 12}
PUBLISHED = {
    "hat_x4": (HAT, {}, 20_772_507),
    "hat_s_x2": (HAT, {**HAT_S, "upscale": 2}, 9_473_471),
    "hat_x1": (HAT, {"upscale": 1}, 20_477_083),
    "hft": (HFT, {}, 33_859_795),
}
SMALL = {
    "embed_dim": 12,
    "depths": (2, 3),
    "num_heads": (2, 3),
    "window_size": 4,
    "compress_ratio": 2,
    "squeeze_factor": 4,
    "num_feat": 8,
}
RATES = (0.0, 0.1, 0.2, 0.3, 0.4)


def small(network=HAT, **arguments):
    torch.manual_seed(0)
    return filled(network(**{**SMALL, "upscale": 1, **arguments}))


def test_options_of_the_release_build_the_network():
    """The section of the authors' options files, as YAML gives it."""
    section = {
        "type": "HAT",
        "upscale": 4,
        "in_chans": 3,
        "img_size": 64,
        "window_size": 16,
        "compress_ratio": 3,
        "squeeze_factor": 30,
        "conv_scale": 0.01,
        "overlap_ratio": 0.5,
        "img_range": 1.0,
        "depths": [6, 6, 6, 6, 6, 6],
        "embed_dim": 180,
        "num_heads": [6, 6, 6, 6, 6, 6],
        "mlp_ratio": 2,
        "upsampler": "pixelshuffle",
        "resi_connection": "1conv",
    }
    with torch.device("meta"):
        named, by_default = build_network(section), HAT()
    assert shapes(named) == shapes(by_default)
    assert repr(named) == repr(by_default)


def test_large_variant_has_twelve_groups():
    with torch.device("meta"):
        network = HAT(**HAT_L)
    assert len(network.layers) == 12
    assert parameter_count(network) == 40_846_575


def test_hft_names_its_arguments():
    """Options are checked against the signature."""
    hat, hft = inspect.signature(HAT).parameters, inspect.signature(HFT).parameters
    assert list(hft) == list(hat)
    changed = {name for name in hat if hft[name].default != hat[name].default}
    assert changed == {"depths", "num_heads", "upscale"}
    assert shapes(small(HFT)) == shapes(small())


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [(8, 12), (4, 4), (1, 1), (5, 18)])
def test_any_size_comes_back_enlarged(scale, size):
    network = small(upscale=scale)
    out = restore(network, image(*size))
    assert network.facts.scale == scale
    assert out.shape == (1, 3, size[0] * scale, size[1] * scale)
    assert out.isfinite().all()


@pytest.mark.parametrize(("window", "overlap"), [(4, 0.5), (8, 0.5), (5, 0.4), (4, 0.0)])
@pytest.mark.parametrize("cells", [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_equals_the_naive_form(window, overlap, cells):
    """Other windows, also where a map is one window high or wide."""
    arguments = {"window_size": window, "overlap_ratio": overlap, "upscale": 2, "img_range": 3.0}
    network, naive = small(**arguments), small(NaiveHAT, **arguments)
    x = image(cells[0] * window, cells[1] * window, seed=1, batch=2)
    torch.testing.assert_close(restore(network, x), restore(naive, x), rtol=0, atol=2e-5)


@pytest.mark.parametrize("scale", [1, 3, 8])
def test_equals_the_naive_form_at_scale(scale):
    x = image(8, 12, seed=1)
    expected = restore(small(NaiveHAT, upscale=scale), x)
    torch.testing.assert_close(restore(small(upscale=scale), x), expected, rtol=0, atol=2e-5)


def test_dim_image_equals_the_naive_form():
    """Layer norms with another epsilon would show where features hardly vary."""
    network, naive = small(), small(NaiveHAT)
    for model in (network, naive):
        for layer in (model.conv_first, model.patch_embed["norm"]):
            layer.weight.data *= 1e-2
            layer.bias.data.zero_()
    x = 0.02 * image(8, 12, seed=4)
    torch.testing.assert_close(restore(network, x), restore(naive, x), rtol=0, atol=1e-5)


def test_norms_have_the_published_epsilon():
    norms = [module for module in HAT(**SMALL).modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 + 2 * 5 + 2 * 2
    assert {norm.eps for norm in norms} == {1e-5}


def test_convolution_block_uses_the_exact_gelu():
    """Its weight of 0.01 hides the tanh form from whole images."""
    block = small().layers[0].residual_group.blocks[0].conv_block
    x = 3 * torch.randn(1, 6, 5, 12)
    first, second, gate = block.cab[0], block.cab[2], block.cab[3].attention
    hidden = F.conv2d(x.permute(0, 3, 1, 2), first.weight, first.bias, padding=1)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    y = F.conv2d(hidden, second.weight, second.bias, padding=1)
    expected = y * gate(y)
    torch.testing.assert_close(block(x).permute(0, 3, 1, 2), expected, rtol=1e-5, atol=1e-6)


def test_index_tables_by_their_definition():
    """Computed by the constructor: stored ones would hide a mistake here."""
    network = HAT(**{**SMALL, "window_size": 16})
    own = network.relative_position_index_SA
    overlap = network.relative_position_index_OCA
    assert own.dtype == overlap.dtype == torch.int64
    assert (own.shape, overlap.shape) == ((256, 256), (256, 576))
    for qr, qc, kr, kc in itertools.product((0, 1, 7, 15), repeat=4):
        assert own[16 * qr + qc, 16 * kr + kc] == 31 * (qr - kr + 15) + (qc - kc + 15)
    for qr, qc, kr, kc in itertools.product((0, 3, 15), (0, 3, 15), (0, 4, 23), (0, 4, 23)):
        assert overlap[16 * qr + qc, 24 * kr + kc] == 39 * (kr - qr - 7) + (kc - qc - 7)
    assert (overlap.min(), overlap.max()) == (-880, 640)


def test_checkpoint_may_lack_the_index_tables():
    network, other = small(), HAT(**SMALL, upscale=1).eval()
    state = network.state_dict()
    tables = {"relative_position_index_SA", "relative_position_index_OCA"}
    assert tables <= set(state)
    other.load_state_dict({key: value for key, value in state.items() if key not in tables})
    x = image(8, 8)
    torch.testing.assert_close(restore(other, x), restore(network, x), rtol=0, atol=0)


def test_checkpoint_of_another_window_is_named():
    with pytest.raises(UserError, match="window_size"):
        small(window_size=8).load_state_dict(small().state_dict())


def test_mean_is_no_entry_of_the_state_dict():
    assert "mean" not in small().state_dict()


def test_recomputed_blocks_drop_the_same_branches():
    networks = [small(drop_path_rate=0.5, use_checkpoint=used).train() for used in (False, True)]
    x, found = image(8, 8, batch=4), []
    for network in networks:
        torch.manual_seed(3)
        found.append(gradients(network, x))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_drop_path_rates_rise_through_the_groups():
    network = small(drop_path_rate=0.4)
    blocks = [block for group in network.layers for block in group.residual_group.blocks]
    assert [block.drop_path.rate for block in blocks] == pytest.approx(RATES)
    with torch.device("meta"):
        last = HAT().layers[5].residual_group.blocks[5]
    assert last.drop_path.rate == pytest.approx(0.1)


def test_block_drops_attention_and_feed_forward_apart():
    """Per sample; the convolution block and the residual stay; kept branches are scaled up."""
    network = small(drop_path_rate=0.4).train()
    block, positions = network.layers[1].residual_group.blocks[2], network.positions
    x = torch.randn(1, 8, 8, 12).expand(64, -1, -1, -1)
    with torch.no_grad():
        normed = block.norm1(x[:1])
        attended = block.attn(normed, positions)
        convolved = 0.01 * block.conv_block(normed)
        outcomes = []
        for keep_attention, keep_feed_forward in itertools.product((0, 1), repeat=2):
            y = x[:1] + keep_attention * attended / 0.6 + convolved
            outcomes.append(y + keep_feed_forward * block.feed_forward(y) / 0.6)
        out = block(x, positions)
    assert_all_occur(outcomes, out)


def test_training_drops_branches_and_testing_does_not():
    network, x = small(drop_path_rate=0.5), image(8, 8, batch=8)
    torch.testing.assert_close(network(x), network(x), rtol=0, atol=0)
    network.train()
    assert not torch.equal(network(x), network(x))


def test_starts_as_published():
    """Tables and linear weights from a narrow normal distribution, zero biases."""
    torch.manual_seed(0)
    network = HAT(**{**SMALL, "window_size": 16, "embed_dim": 60})
    for name, parameter in network.named_parameters():
        if "bias_table" in name or name.endswith(("qkv.weight", "fc1.weight", "fc2.weight")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith(("qkv.bias", "proj.bias", "fc1.bias", "fc2.bias")):
            assert not parameter.any(), name


def test_one_channel_has_no_mean():
    network = small(in_chans=1)
    assert not network.image_range.mean.any()
    assert restore(network, image(5, 9)[:, :1]).shape == (1, 1, 5, 9)


def test_image_of_other_channels_is_refused():
    """Subtracting the mean would turn a grey image into a coloured one."""
    with pytest.raises(UserError, match="in_chans"):
        small()(image(8, 8)[:, :1])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"upsampler": ""}, "upsampler"),
        ({"upsampler": None}, "upsampler"),
        ({"resi_connection": "3conv"}, "resi_connection"),
        ({"upscale": 5}, "upscale"),
        ({"upscale": 0}, "upscale"),
        ({"img_size": 4}, "img_size"),
        ({"img_size": (64, 4)}, "img_size"),
        ({"depths": (2, 2, 2)}, "depths"),
        ({"depths": (), "num_heads": ()}, "depths"),
        ({"depths": (2, 0)}, "depths"),
        ({"num_heads": (2, 5)}, "num_heads"),
        ({"window_size": 1}, "window_size"),
        ({"window_size": 7}, "overlap_ratio"),
        ({"overlap_ratio": -0.5}, "overlap_ratio"),
        ({"compress_ratio": 13}, "compress_ratio"),
        ({"squeeze_factor": 30}, "squeeze_factor"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"img_range": 0.0}, "img_range"),
        ({"num_feat": 0}, "num_feat"),
    ],
)
@pytest.mark.parametrize("network", [HAT, HFT])
def test_contradictory_arguments_are_named(network, arguments, named):
    with pytest.raises(UserError, match=f"^{named}"):
        network(**{**SMALL, **arguments})
