"""ART: what the published numbers do not show."""

import itertools

import pytest
import torch
from basicsr.archs import build_network
from naive_art import NaiveART
from network_tools import assert_all_occur, error, gradients, restore
from torch import nn
from vector_tools import fill, image, parameter_count, shapes

import cir_arch.art_arch as module
from cir_arch import recognise
from cir_arch.art_arch import ART, Biases, PositionNetwork, combs, groups_of, windows
from cir_arch.recognition import about_assumed
from cir_host.errors import UserError

SMALL = {
    "embed_dim": 48,
    "depths": (2, 3),
    "num_heads": (2, 3),
    "window_size": 4,
    "interval": (5, 2),
    "drop_path_rate": 0.0,
}
SR = {"upsampler": "pixelshuffle", "interval": [4] * 6}


def small(network=ART, **arguments):
    torch.manual_seed(0)
    made = network(**{**SMALL, **arguments})
    made.load_state_dict(fill(made.state_dict()))
    return made.eval()


def outlined(**arguments):
    with torch.device("meta"):
        return ART(**arguments)


def test_options_of_the_release_build_the_network():
    """The section of an options file of its kind, as YAML gives it."""
    section = {
        "type": "ART",
        "upscale": 2,
        "in_chans": 3,
        "img_size": 64,
        "window_size": 8,
        "img_range": 1.0,
        "depths": [6, 6, 6, 6, 6, 6],
        "embed_dim": 180,
        "num_heads": [6, 6, 6, 6, 6, 6],
        "mlp_ratio": 4,
        "interval": [4, 4, 4, 4, 4, 4],
        "upsampler": "pixelshuffle",
        "resi_connection": "1conv",
    }
    with torch.device("meta"):
        named = build_network(section)
    assert repr(named) == repr(outlined(upscale=2, **SR))
    assert named.interval == (4,) * 6


@pytest.mark.parametrize(
    ("arguments", "millions"),
    [
        ({"in_chans": 1}, 16.143301),
        ({**SR, "upscale": 2}, 16.40),
        ({**SR, "upscale": 3}, 16.58),
        ({**SR, "upscale": 4}, 16.55),
    ],
)
def test_variants_have_the_published_size(arguments, millions):
    digits = 6 if "in_chans" in arguments else 2
    assert round(parameter_count(outlined(**arguments)) / 1e6, digits) == millions


def test_weights_of_super_resolution_fit_but_for_the_tail():
    """So that ``oldfe666_x1.yml`` may begin with them."""
    kept, offered = shapes(outlined()), shapes(outlined(upscale=4, **SR))
    lacking = {key for key, shape in kept.items() if offered.get(key) != shape}
    assert lacking == {"conv_last.weight"}
    tail = {key.split(".")[0] for key in offered.keys() - kept.keys()}
    assert tail == {"conv_before_upsample", "upsample"}


@pytest.mark.parametrize(
    ("arguments", "assumed"),
    [
        ({}, (8, [16, 16, 12, 12, 8, 8], 1.0)),
        ({"in_chans": 1}, (7, [18, 18, 13, 13, 7, 7], 255.0)),
        ({**SR, "upscale": 3}, (8, [4] * 6, 1.0)),
        ({**SR, "mlp_ratio": 2.0, "upscale": 2}, (8, [8] * 6, 1.0)),
        ({**SR, "in_chans": 1}, (8, [4] * 6, 1.0)),
    ],
)
def test_what_no_file_tells_is_that_of_the_published_network(arguments, assumed):
    """And the values that are said are those that the network gets."""
    found = recognise(outlined(**arguments).state_dict())
    told = dict(zip(("window_size", "interval", "img_range"), assumed, strict=True))
    assert found.assumed == told
    assert f"interval: {told['interval']}" in about_assumed(found, "net.pth")
    built = found.outline()
    window, interval, img_range = assumed
    assert (built.window_size, built.interval) == (window, tuple(interval))
    assert built.image_range.img_range == img_range


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"window_size": 3, "interval": (7, 30)},
        {"window_size": 1, "interval": (1, 3)},
        {"img_range": 255.0, "in_chans": 1},
        {"upsampler": "pixelshuffle", "upscale": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (3, 11), (4, 9), (5, 5), (10, 8), (13, 22)])
def test_equals_the_naive_form(arguments, size):
    """Shorter and longer than window and interval, multiples of them and not."""
    network, naive = small(**arguments).double(), small(NaiveART, **arguments).double()
    x = image(*size, seed=1, batch=2)[:, : network.in_chans].double()
    torch.testing.assert_close(restore(network, x), restore(naive, x), rtol=0, atol=1e-9)


def test_a_small_image_leaves_the_network_as_it_was():
    network, large, flat = small(), image(11, 13, seed=2), image(3, 17, seed=3)
    expected = restore(small(), large)
    first = restore(network, flat)
    assert torch.equal(restore(network, large), expected)
    assert torch.equal(restore(network, flat), first)


@pytest.mark.parametrize(("cut", "size"), [(windows, 4), (combs, 5)])
@pytest.mark.parametrize(("height", "width"), [(8, 10), (9, 3), (1, 1), (5, 4)])
def test_every_token_is_in_one_group(cut, size, height, width):
    sizes = groups_of(cut, height, width, size, torch.device("cpu"))
    assert len({(groups.rows, groups.columns) for groups in sizes}) == len(sizes) <= 4
    tokens = torch.cat([groups.tokens.flatten() for groups in sizes])
    assert sorted(tokens.tolist()) == list(range(height * width))


def test_biases_of_a_grid_from_the_table_of_a_larger_one():
    network = PositionNetwork(3, 2)
    larger, own = network(5, 6), network(3, 4)
    for rows_at_once in (1, 2, 3):
        biases = Biases(Biases.of(larger, 3, 4).windows, rows_at_once)
        found = torch.cat(list(biases), dim=2)
        assert found.shape == (1, 2, 12, 12)
        for query, key in itertools.product(itertools.product(range(3), range(4)), repeat=2):
            down, right = key[0] - query[0], key[1] - query[1]
            of_pair = found[0, :, 4 * query[0] + query[1], 4 * key[0] + key[1]]
            torch.testing.assert_close(of_pair, own[:, down + 2, right + 3])


def test_without_gradients_a_large_map_is_processed_in_parts(monkeypatch):
    network, x = small(), image(21, 19, seed=4, batch=2)
    expected = network(x).detach()
    sizes = []
    real = module.attend

    def attend(q, k, v, bias, heads):
        sizes.append((q.shape[0] * k.shape[1], bias.numel()))
        return real(q, k, v, bias, heads)

    monkeypatch.setattr(module, "attend", attend)
    monkeypatch.setattr(module, "VALUES", 120 * 48)
    monkeypatch.setattr(module, "BIASES", 3 * 4000)
    torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-5)
    tokens, biases = zip(*sizes, strict=True)
    assert max(tokens) <= 2 * 110  # one group of the batch: 11 rows of 10 tokens
    assert max(biases) <= 3 * 4000 < 3 * 110**2


def test_on_a_gpu_the_scores_of_a_call_are_limited():
    """Counted on the meta device, which is none that the cache decides for."""
    x = torch.empty(2, 400, 400, 48, device="meta")
    (groups,) = groups_of(combs, 400, 400, 4, x.device)
    with torch.no_grad():
        biases = Biases.of(torch.empty(3, 199, 199, device="meta"), groups.rows, groups.columns)
        at_once = module._groups_at_once(x, groups, biases)
        scores = 2 * 3 * biases.rows_at_once * 100 * groups.tokens.shape[1]
        assert biases.rows_at_once < 100
        assert at_once * scores <= module.SCORES < (at_once + 1) * scores
    assert module._groups_at_once(x, groups, biases) == 16


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.bfloat16, 1e-4)])
def test_position_biases_are_not_rounded(dtype, atol):
    """Offsets of hundreds of steps are not exact in bfloat16."""
    torch.manual_seed(0)
    network = PositionNetwork(4, 2).to(dtype)
    found = network(300, 2)
    reference = network.double()(300, 2)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), reference, rtol=0, atol=atol)
    expected = network.float()(300, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(300, 2), expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_large_range(precision):
    """On a map of many positions; masks of -1e6, as in the release, would be infinite."""
    network = small(img_range=255.0, depths=(1, 2), interval=(5, 4))
    x = image(90, 203, seed=5)
    out = restore(network, x, precision)
    assert out.isfinite().all()
    assert error(out, restore(network, x)) < 0.02


def test_training_drops_branches_and_testing_does_not():
    network, x = small(drop_path_rate=0.5), image(9, 9, batch=8)
    rates = [block.drop_path.rate for g in network.layers for block in g.residual_group.blocks]
    assert rates == [0, 0.125, 0.25, 0.375, 0.5]
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_both_branches_of_a_block_are_dropped():
    block = small(drop_path_rate=0.5).layers[1].residual_group.blocks[2].train()
    groups = groups_of(windows, 4, 4, 4, torch.device("cpu"))
    x = torch.randn(1, 4, 4, 48).repeat(64, 1, 1, 1)
    with torch.no_grad():
        attended = block._attended(x[:1], groups)
        outcomes = []
        for first, second in itertools.product((0, 2), repeat=2):
            y = x[:1] + first * attended
            outcomes.append(y + second * block.mlp(block.norm2(y)))
        out = block(x, groups, groups)
    assert_all_occur(outcomes, out)


def test_starts_as_published():
    """Linear weights from a narrow normal distribution, zero biases."""
    torch.manual_seed(0)
    for name, layer in ART(**SMALL).named_modules():
        if isinstance(layer, nn.Linear):
            assert not layer.bias.any(), name
            if layer.weight.numel() > 1000:
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert layer.weight.abs().max() < 0.1, name


def test_norms_have_the_published_epsilon():
    norms = [layer for layer in ART(**SMALL).modules() if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == 2 + 5 * 5
    assert {norm.eps for norm in norms} == {1e-5}


def test_gradients_where_groups_differ_in_size():
    network, naive = small(), small(NaiveART)
    x = image(9, 13, seed=6, batch=2)
    expected = gradients(naive.double(), x.double())
    for key, gradient in gradients(network.double(), x.double()).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-6, atol=1e-8, msg=key)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"embed_dim": 12}, "embed_dim: 12 channels"),
        ({"depths": (2, 2, 2)}, "depths and num_heads"),
        ({"num_heads": (2, 5)}, "num_heads: 5"),
        ({"window_size": 0}, "window_size: 0"),
        ({"interval": (4, 4, 4)}, r"interval: \[4, 4, 4\] has 3 numbers for 2 groups"),
        ({"interval": (4, 0)}, r"interval: \[4, 0\] holds"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"in_chans": 0}, "in_chans"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"img_range": 0.0}, "img_range"),
        ({"upsampler": "nearest"}, "upsampler: 'nearest' is unknown; give '' or 'pixelshuffle'"),
        ({"upsampler": None}, "upsampler: None"),
        ({"upscale": 2}, "upscale: without upsampler.* enlarge by 2"),
        ({"upsampler": "pixelshuffle", "upscale": 5}, "upscale: 5 is unknown"),
        ({"resi_connection": "3conv"}, "resi_connection: '3conv'"),
    ],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=f"^{named}"):
        ART(**{**SMALL, **arguments})
