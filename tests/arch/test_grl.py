"""GRL: what the published numbers and the tests of all networks do not show."""

import itertools
import math

import pytest
import torch
from basicsr.archs import build_network
from naive_grl import NaiveGRL
from network_tools import assert_all_occur, reach, restore
from vector_tools import filled, image, parameter_count, shapes

from cir_arch import load_network, recognise
from cir_arch.grl_arch import GRL
from cir_arch.layers import bands
from cir_arch.layers.stripe_attention import Cells, CosineScores, seam_mask
from cir_host.checkpoint import read_checkpoint
from cir_host.errors import UserError

SMALL = {
    "embed_dim": 12,
    "depths": (4,),
    "num_heads_window": (2,),
    "num_heads_stripe": (3,),
    "window_size": 4,
    "stripe_size": (4, 8),
    "anchor_window_down_factor": 2,
}
SETTINGS = [  # window, stripe, factor
    (4, (4, 8), 2),
    (4, (4, 8), 4),  # stripes shift by less than an anchor
    (6, (6, 12), 3),  # by no whole number of anchors
    (8, (4, 4), 1),
    (3, (6, 2), 2),
]


def settings(window, stripe, factor):
    return {
        "window_size": window,
        "stripe_size": stripe,
        "anchor_window_down_factor": factor,
    }


def small(network=GRL, **arguments):
    torch.manual_seed(0)
    return filled(network(**{**SMALL, **arguments}))


def test_options_of_the_release_build_the_network():
    """The section of the authors' options for JPEG, as YAML gives it."""
    section = {
        "type": "GRL",
        "img_size": 288,
        "upscale": 1,
        "in_channels": 3,
        "embed_dim": 128,
        "upsampler": "",
        "depths": [4, 4, 4, 4],
        "num_heads_window": [2, 2, 2, 2],
        "num_heads_stripe": [2, 2, 2, 2],
        "window_size": 36,
        "stripe_size": [72, 144],
        "stripe_groups": [None, None],
        "stripe_shift": True,
        "mlp_ratio": 2,
        "qkv_proj_type": "linear",
        "anchor_proj_type": "avgpool",
        "anchor_one_stage": True,
        "anchor_window_down_factor": 4,
        "conv_type": "1conv",
        "init_method": "n",
        "local_connection": False,
    }
    with torch.device("meta"):
        named, by_default = build_network(section), GRL()
    assert repr(named) == repr(by_default)
    assert named.facts == by_default.facts
    assert parameter_count(named) == 3_120_227


@pytest.mark.parametrize(("window", "stripe", "factor"), SETTINGS)
@pytest.mark.parametrize("cells", [(1, 1), (2, 3)])
def test_equals_the_naive_form_in_every_setting(window, stripe, factor, cells):
    arguments = {**settings(window, stripe, factor), "local_connection": True, "embed_dim": 36}
    network, naive = (small(cls, **arguments).double() for cls in (GRL, NaiveGRL))
    side = network.facts.size_multiple
    x = image(cells[0] * side, cells[1] * side, seed=1, batch=2).double()
    torch.testing.assert_close(restore(network, x), restore(naive, x), rtol=0, atol=1e-9)


def test_one_state_dict_runs_in_every_setting_and_gives_other_images():
    state, x = small().state_dict(), image(24, 24)
    outputs = []
    for setting in SETTINGS:
        network = GRL(**{**SMALL, **settings(*setting)}).eval()
        network.load_state_dict(state)
        outputs.append(restore(network, x))
    for one, other in itertools.combinations(outputs, 2):
        assert (one - other).abs().max() > 0.01


@pytest.mark.parametrize("setting", SETTINGS)
def test_halo_in_every_setting(setting):
    """Also where anchors are shifted by less than pixels, and where windows exceed stripes."""
    network = small(**settings(*setting), depths=(3,)).double()
    assert reach(network, network.facts) == network.facts.halo


@pytest.mark.parametrize(("height", "width"), [(3, 9), (9, 3), (4, 16), (4, 8)])
def test_an_image_too_short_to_be_reflected_is_padded_with_zeros(height, width):
    """On both axes, before the mean is subtracted; no published number shows it."""
    network, x = small(), image(height, width)
    padded = torch.zeros(1, 3, -(-height // 8) * 8, -(-width // 8) * 8)
    padded[..., :height, :width] = x
    expected = restore(network, padded)[..., :height, :width]
    torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-6)


def test_bands_of_rows_change_nothing(monkeypatch):
    network, x = small().double(), image(24, 32, batch=2).double()
    expected = restore(network, x)
    monkeypatch.setattr(bands, "VALUES", 1)
    torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("transform", ["window_attn.attn_transform", "stripe_attn.attn_transform"])
def test_temperature_is_at_most_100(transform):
    """The published numbers have none above."""

    def restored(logarithm):
        network = small()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if transform in name and name.endswith("logit_scale"):
                    parameter.fill_(logarithm)
        return restore(network, image(8, 8))

    torch.testing.assert_close(restored(6.0), restored(math.log(100)), rtol=0, atol=1e-6)
    assert (restored(math.log(50)) - restored(math.log(100))).abs().max() > 1e-4


def test_pairs_across_both_borders_are_masked_once():
    """Scores differ by up to 216, so that twice as much would be another function."""
    cells = Cells((4, 4), (2, 2))
    mask = seam_mask(cells, cells._replace(backwards=True), (True, True), torch.zeros(1))
    assert set(mask.flatten().tolist()) == {0.0, -100.0}


def test_zero_vectors_are_no_division_by_zero_in_float16():
    scores, tokens = CosineScores(2).half(), torch.zeros(1, 4, 8).half()
    cells = Cells((2, 2))
    bias = scores.biases(cells, cells._replace(backwards=True))((False, False))
    with torch.no_grad():
        assert scores(tokens, tokens, tokens + 1, bias).isfinite().all()


COMPUTED = (
    *("table_w", "table_sh", "table_sv", "index_w", "mask_w"),
    *("index_sh_a2w", "index_sh_w2a", "index_sv_a2w", "index_sv_w2a"),
    *("mask_sh_a2w", "mask_sh_w2a", "mask_sv_a2w", "mask_sv_w2a"),
)


def with_computed(state):
    assert len(COMPUTED) == 13
    kinds = {"table": torch.rand(3, 2), "index": torch.arange(3), "mask": torch.rand(3)}
    return {**state, **{name: kinds[name.partition("_")[0]] for name in COMPUTED}}


@pytest.mark.parametrize("prefix", ["", "model.", "model_g."])
def test_files_of_the_release_s_training_load(prefix, tmp_path):
    """With its thirteen buffers, in Lightning's container, beside a discriminator and a loss."""
    network = small()
    state = {prefix + name: value for name, value in with_computed(network.state_dict()).items()}
    if prefix == "model_g.":
        state["model_d.weight"] = state["loss.weight"] = torch.zeros(2)
    content = {"state_dict": state, "pytorch-lightning_version": "1.8.0", "epoch": 3}
    torch.save(content, tmp_path / "net.ckpt")
    file = read_checkpoint(tmp_path / "net.ckpt")
    assert file.prefix == prefix
    assert recognise(file.state).type == "GRL"
    own = {"window_size": 4, "stripe_size": (4, 8), "anchor_window_down_factor": 2}
    loaded = load_network(tmp_path / "net.ckpt", **own)
    assert shapes(loaded) == shapes(network)
    x = image(9, 13)
    torch.testing.assert_close(restore(loaded, x), restore(network, x), rtol=0, atol=0)


def test_only_what_the_network_computes_is_ignored():
    network = small()
    network.load_state_dict(with_computed(network.state_dict()))
    assert not any(name.startswith(("table", "index", "mask")) for name in network.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected.*weights_w"):
        network.load_state_dict({**network.state_dict(), "weights_w": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Unexpected.*mask_w"):
        network.load_state_dict({**network.state_dict(), "layers.0.mask_w": torch.zeros(1)})


def test_networks_for_super_resolution_are_not_taken_for_this_one():
    state = small().state_dict()
    assert recognise(state).type == "GRL"
    for name in ("upsample.0.weight", "conv_before_upsample.0.weight", "conv_up1.weight"):
        assert recognise({**state, name: torch.zeros(12, 12, 3, 3)}) is None


def test_drop_path_rates_rise_through_the_stages():
    network = small(depths=(2, 3), num_heads_window=(2, 2), num_heads_stripe=(2, 2))
    assert [block.drop_path.rate for stage in network.layers for block in stage.blocks] == (
        pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    )


def test_block_drops_attention_and_feed_forward_apart():
    """Per sample; the convolution block and the residual stay; kept branches are scaled up."""
    network = small(embed_dim=36, local_connection=True, drop_path_rate=0.4).train()
    block = network.layers[0].blocks[3]
    x = torch.randn(1, 8, 8, 36).expand(64, -1, -1, -1)
    with torch.no_grad():
        attended, convolved = block.norm1(block.attn(x[:1])), block.conv(x[:1])
        outcomes = []
        for keep_attention, keep_feed_forward in itertools.product((0, 1), repeat=2):
            y = x[:1] + keep_attention * attended / 0.6 + convolved
            outcomes.append(y + keep_feed_forward * block.norm2(block.mlp(y)) / 0.6)
        out = block(x)
    assert_all_occur(outcomes, out)


def test_starts_as_published():
    torch.manual_seed(0)
    network = GRL(**{**SMALL, "embed_dim": 48})
    for name, parameter in network.named_parameters():
        if name.endswith("logit_scale"):
            assert torch.equal(parameter, torch.full_like(parameter, math.log(10)))
        elif name.endswith(("qkv.body.weight", "cpb_mlp.0.weight", "fc1.weight")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith(
            ("qkv.body.bias", "cpb_mlp.0.bias", "fc1.bias", "norm1.bias", "norm2.bias")
        ):
            assert not parameter.any(), name


def test_one_channel_has_no_mean():
    assert not small(in_channels=1).image_range.mean.any()
    assert restore(small(in_channels=1), image(5, 9)[:, :1]).shape == (1, 1, 5, 9)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"upscale": 2}, "upscale"),
        ({"upsampler": "pixelshuffle"}, "upsampler"),
        ({"stripe_groups": (None, 4)}, "stripe_groups"),
        ({"stripe_shift": False}, "stripe_shift"),
        ({"qkv_proj_type": "separable_conv"}, "qkv_proj_type"),
        ({"anchor_proj_type": "conv2d"}, "anchor_proj_type"),
        ({"anchor_one_stage": False}, "anchor_one_stage"),
        ({"conv_type": "3conv"}, "conv_type"),
        ({"init_method": "w"}, "init_method"),
        ({"window_size": 1}, "window_size"),
        ({"window_size": 3}, "window_size: 3 does not divide 8"),
        ({"window_size": 16, "stripe_size": (4, 6)}, "stripe_size: 6 does not divide 16"),
        ({"stripe_size": (4, 8, 8)}, "stripe_size"),
        ({"stripe_size": (1, 8)}, "stripe_size"),
        ({"anchor_window_down_factor": 3}, "anchor_window_down_factor"),
        ({"anchor_window_down_factor": 0}, "anchor_window_down_factor"),
        ({"embed_dim": 13}, "num_heads_window"),
        ({"num_heads_window": (4,)}, "num_heads_window: 4 heads cannot share 1/2 of embed_dim"),
        ({"num_heads_stripe": (5,)}, "num_heads_stripe"),
        ({"num_heads_stripe": (2, 2)}, "depths and num_heads_stripe"),
        ({"depths": ()}, "depths"),
        ({"depths": (0,)}, "depths"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"in_channels": 0}, "in_channels"),
        ({"img_range": 0.0}, "img_range"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"local_connection": True}, "embed_dim: 12 channels are too few"),
    ],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=f"^{named}"):
        GRL(**{**SMALL, **arguments})
